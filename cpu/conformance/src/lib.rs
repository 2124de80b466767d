//! Tiny guests that every engine must run identically.
//!
//! A guest is a few instructions with page tables, GDT, IDT and TSS of its own, and says of a rule of the Intel SDM
//! whether it is kept. It starts in 64-bit mode, or where [`bench::Bench::real`], [`bench::Bench::protected`] and the
//! like put it. It meets the engine through `motu-hv` alone. [`all`] lists them; [`run`] runs one:
//!
//! ```text
//!   guests/*  --builds-->  Bench: RAM, tables, CpuState
//!                            | run
//!              Hypervisor -> Vm -> Vcpu <-> Board: log, end, interrupts
//!                            |
//!                          Run: events, end, final state  --checked by the guest's function-->
//! ```
#![forbid(unsafe_code)]

pub mod bench;
pub mod board;
mod compare;
mod guests;
pub mod handlers;
pub mod layout;
pub mod moo;

pub use compare::differences;

use bench::{Bench, Checked, Problem, Run};
use motu_hv::Hypervisor;
use std::time::Duration;

/// A guest that has not ended by then never will, also where several processors share a busy host's CPU.
const PATIENCE: Duration = Duration::from_secs(30);

/// One rule, and how to see that it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    pub name: &'static str,
    /// Where the rule stands in the Intel SDM.
    pub manual: &'static str,
    check: fn(&mut Bench<'_>) -> Checked,
}

/// Every guest, by theme.
pub fn all() -> impl Iterator<Item = &'static Guest> {
    guests::THEMES.iter().copied().flatten()
}

/// A guest that did not run as the manual says.
#[derive(Debug, thiserror::Error)]
#[error("{name} ({manual}): {problem}{}", last.as_deref().map_or(String::new(), describe))]
pub struct Failure {
    pub name: &'static str,
    pub manual: &'static str,
    pub problem: Problem,
    /// The run that was looked at.
    pub last: Option<Box<Run>>,
}

/// Builds and runs a guest.
///
/// # Errors
/// It did not do what the manual says, or the engine could not run it.
pub fn run(guest: &Guest, hypervisor: &dyn Hypervisor) -> Result<(), Failure> {
    observe(guest, hypervisor, PATIENCE).map(|_| ())
}

/// As [`run`], giving every run that the guest made; one that takes longer than `patience` is endless.
///
/// # Errors
/// As [`run`].
pub fn observe(guest: &Guest, hypervisor: &dyn Hypervisor, patience: Duration) -> Result<Vec<Run>, Failure> {
    let failure = |problem, last: Option<Run>| Failure {
        name: guest.name,
        manual: guest.manual,
        problem,
        last: last.map(Box::new),
    };
    let mut bench = Bench::new(hypervisor, patience).map_err(|problem| failure(problem, None))?;
    match (guest.check)(&mut bench) {
        Ok(()) => Ok(bench.runs),
        Err(problem) => Err(failure(problem, bench.runs.pop())),
    }
}

/// The end of a run for a person to read.
fn describe(run: &Run) -> String {
    let state = &run.report.state;
    // A guest that went astray may have told of very much.
    let told = run.events.get(..64).unwrap_or(&run.events);
    let mut text = format!(
        "\n  end {:x?}\n  {} events {told:x?}\n  rip {:x} rflags {:x} cs {:x} ss {:x} cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x}\n  gpr {:x?}",
        run.end,
        run.events.len(),
        state.rip,
        state.rflags,
        state.segments.cs.selector,
        state.segments.ss.selector,
        state.cr0,
        state.cr2,
        state.cr3,
        state.cr4,
        state.gpr,
    );
    for instruction in run.report.recent.iter().rev().take(16).rev() {
        text += &format!("\n  {:x}: {}", instruction.rip, instruction.text);
    }
    text
}
