//! The seam between a machine and what runs its instructions.
//!
//! An engine implements [`Hypervisor`], [`Vm`] and [`Vcpu`]; the board implements [`GuestBus`].
//! Port and memory-mapped accesses complete by callback through [`GuestBus`], so [`Vcpu::run`]
//! always returns at an instruction boundary, where [`Vcpu::save`] is legal.
//!
//! The local APIC belongs to the engine; every other interrupt controller is the board's, which
//! reaches the CPUs by [`Vm::signal_msi`] and [`Vm::set_ext_int`].
#![forbid(unsafe_code)]

mod debug;
mod profile;
mod report;
mod trace;

pub use debug::{DebugStop, Debugging, WatchKind, Watchpoint};
pub use profile::{Frames, GuestSample, MAX_CALLERS, Profiler, Ticks};
pub use report::{CrashReport, ExitCounts, HardwareStats, RecentInstruction, Stats, SwitchStats, TranslatorStats};
pub use trace::{EventKind, TracedEvent, Tracer};

use motu_memory::{DirtyPages, GuestRam};
use motu_x86::flags::{cr0, efer};
use motu_x86::{CpuState, Gpa, Nanos};
use std::sync::Arc;

/// What an engine can do on this host.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// As `--engine` names it.
    pub name: &'static str,
    pub max_vcpus: u32,
    /// Contracts that this host can keep, highest first.
    pub contracts: Vec<&'static str>,
}

/// What a VM is made from.
#[derive(Clone, Debug)]
pub struct VmConfig {
    pub ram: GuestRam,
    /// A name from [`Capabilities::contracts`].
    pub contract: &'static str,
    pub vcpus: u32,
}

/// What went wrong on the host's side. A guest's own mistakes are never errors.
#[derive(Debug, thiserror::Error)]
pub enum HvError {
    #[error("the CPU contract {name:?} needs {missing}, which this host's CPU has not")]
    Contract { name: String, missing: String },
    #[error("{asked} virtual CPUs asked for; the {engine} engine runs at most {max}")]
    TooManyVcpus { engine: &'static str, asked: u32, max: u32 },
    #[error("{doing}: {source}")]
    Host { doing: String, source: std::io::Error },
    #[error("the CPU state cannot be restored: {0}")]
    State(String),
    /// The engine cannot be told of something that is gone an instruction later; the CPU is as it was.
    #[error("the CPU state cannot be restored between these two instructions: {0}")]
    NotYet(String),
    #[error("the debugger asks for more than the {engine} engine can do: {limit}")]
    Debugging { engine: &'static str, limit: String },
    #[error("the guest cannot go on at RIP {rip:#x}: {trouble}")]
    Stuck { rip: u64, trouble: Trouble },
}

/// Refuses a state that is in no mode of operation (SDM vol. 3, 2.2), which not every hypervisor does by itself.
///
/// # Errors
/// CR0 and IA32_EFER do not fit together.
pub fn check_mode(state: &CpuState) -> Result<(), HvError> {
    let paging = state.cr0 & cr0::PG != 0;
    let long = state.msrs.efer & efer::LMA != 0;
    if (paging && state.cr0 & cr0::PE == 0) || (long && !paging) {
        return Err(HvError::State(format!(
            "CR0 {:#x} with IA32_EFER {:#x} is no mode of operation",
            state.cr0, state.msrs.efer
        )));
    }
    Ok(())
}

/// Something that runs guest instructions on this host.
pub trait Hypervisor: Send + Sync {
    fn capabilities(&self) -> Capabilities;
    /// # Errors
    /// The contract or the number of CPUs cannot be kept, or the host lacks a resource.
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError>;
}

/// A message-signalled interrupt (SDM vol. 3, 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
}

/// Memory and CPUs that belong together. Every method may be called from any thread.
pub trait Vm: Send + Sync {
    /// # Errors
    /// `id` is not below the configured number of CPUs, or the host lacks a resource.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError>;
    /// Delivers a message-signalled interrupt to the local APICs it addresses.
    fn signal_msi(&self, msi: Msi);
    /// The level of the INTR line from the 8259 pair to LINT0 of the boot processor. While it is
    /// high and accepted, the CPU asks for the vector by [`GuestBus::acknowledge_interrupt`].
    fn set_ext_int(&self, level: bool);
    /// Begins to note which pages of RAM are written, by CPUs and devices, or ends it. While it is off it costs nothing.
    ///
    /// # Errors
    /// The host lacks a resource.
    fn log_writes(&self, on: bool) -> Result<(), HvError>;
    /// The pages that were written since the log began or was last taken; what is read of them behind this call is at least as new.
    /// Accessed and dirty bits of page tables are writes, too. While CPUs run, a write may be told of by the next call instead, and
    /// a page twice for one write; once they stand still, a last call tells of all that is left.
    ///
    /// # Errors
    /// The host's kernel refuses, which it has no reason to.
    fn take_dirty(&self) -> Result<DirtyPages, HvError>;
}

/// Why [`Vcpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// [`Kick::kick`] was called.
    Kicked,
    /// The guest shut the processor down (triple fault).
    Shutdown,
    /// What [`Vcpu::set_debugging`] asked for has come.
    Debug(DebugStop),
    /// The engine cannot go on, and it is not the guest's doing. The state is that between two instructions.
    Stuck(Trouble),
}

/// Why an engine cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The instruction at RIP is one that what runs the guest cannot execute; nothing of it was done.
    #[error("the host's KVM cannot execute the instruction there")]
    Instruction,
    /// The host's hypervisor failed; the code is its own.
    #[error("the host's hypervisor failed with code {code:#x}")]
    Host { code: u64 },
}

/// Makes a running [`Vcpu::run`] return soon, from any thread. A kick that comes while the CPU
/// does not run makes the next `run` return at once: without an instruction of the guest's, but with everything taken in that
/// was sent to the CPU before, so that it is in the state that is then saved.
pub trait Kick: Send + Sync {
    fn kick(&self);
}

/// One virtual CPU; it runs on the thread that calls [`Vcpu::run`].
pub trait Vcpu: Send {
    /// Runs guest instructions until there is a reason to return.
    fn run(&mut self, bus: &dyn GuestBus) -> Exit;
    fn kicker(&self) -> Arc<dyn Kick>;
    /// The state at the machine's time `now` (as [`GuestBus::now`] has it). CPUs that are saved with the same `now` are
    /// saved at the same moment: their TSCs differ by what they always do.
    fn save(&self, now: Nanos) -> CpuState;
    /// Takes over a state that is as of the machine's time `now`; what time moves goes on from then. If it is what
    /// [`Vcpu::save`] gave with that `now`, changed or not, and the CPU has not run since, then what was sent to it meanwhile
    /// stays.
    ///
    /// # Errors
    /// The state is not one that a processor can be in.
    fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError>;
    fn stats(&self) -> Stats;
    /// Registers at the machine's time `now` and the last instructions, for a person to read after a crash.
    fn crash_report(&self, now: Nanos) -> CrashReport;
    /// Tells `tracer` from now on what the CPU does; `None` tells nobody.
    fn set_tracer(&mut self, tracer: Option<Box<dyn Tracer>>);
    /// Tells `profiler` from now on where the CPU's time goes; `None` tells nobody.
    ///
    /// # Errors
    /// The host lacks a resource.
    fn set_profiler(&mut self, profiler: Option<Box<dyn Profiler>>) -> Result<(), HvError>;
    /// Stops from now on where `debugging` says, in place of what was said before; `None` when no debugger is attached.
    ///
    /// # Errors
    /// The engine cannot do so much at once; then it stops as before.
    fn set_debugging(&mut self, debugging: Option<&Debugging>) -> Result<(), HvError>;
    /// The machine stands still from its time `now` on, for a debugger: all its CPUs have left `run`, and each is told. What the
    /// engine makes of [`GuestBus::now`] stands still by itself; clocks that it takes from elsewhere are to do so as well as they can.
    fn stand_still(&mut self, now: Nanos) {
        let _ = now;
    }
    /// The machine is about to go on, from the same `now`: each CPU that was told so is told, before any runs.
    fn go_on(&mut self, now: Nanos) {
        let _ = now;
    }
}

/// The board as a CPU sees it. Every method may be called from any vCPU thread.
pub trait GuestBus: Sync {
    /// Reads 1, 2 or 4 bytes (the length of `data`) from an I/O port.
    fn io_read(&self, port: u16, data: &mut [u8]);
    /// Writes 1, 2 or 4 bytes to an I/O port.
    fn io_write(&self, port: u16, data: &[u8]);
    /// Reads 1 to 8 bytes of guest-physical space where no RAM is; all ones where nothing answers.
    fn mmio_read(&self, address: Gpa, data: &mut [u8]);
    /// Writes 1 to 8 bytes of guest-physical space where no RAM is.
    fn mmio_write(&self, address: Gpa, data: &[u8]);
    /// The interrupt-acknowledge cycle of the 8259 pair: the vector, and the line goes in service.
    fn acknowledge_interrupt(&self) -> u8;
    /// A local APIC ended a level-triggered interrupt (the EOI broadcast to the IOAPIC).
    fn end_of_interrupt(&self, vector: u8);
    /// Monotonic time since the machine was made; stands still while it is paused. The guest's
    /// TSC and APIC timers are made from it.
    fn now(&self) -> Nanos;
}
