//! The host's debugger at one software CPU.
//!
//! Breakpoints are no part of guest memory: an instruction that has one is decoded into an operation that stops instead
//! ([`held`]), and that the translator leaves to the interpreter, so that all other code runs as fast as ever. Watched data
//! makes the CPU interpret with guards, as data breakpoints of the guest's do ([`crate::exec::guard`]); a step makes it look up
//! before each instruction.

use crate::cpu::{Cpu, Done, Flow, alert};
use crate::decode::Op;
use crate::mmu::PAGE_MASK;
use crate::vcpu::SoftVcpu;
use motu_hv::{DebugStop, Debugging, Exit, Watchpoint};
use motu_x86::flags::rflags;

/// Not of DR6: the running instruction has accessed what the debugger watches.
const HIT: u64 = 1 << 63;

/// What the debugger wants, and what of it has come.
#[derive(Debug, Default)]
pub struct Debugger {
    asked: Debugging,
    /// Offsets in their pages of the instructions that have breakpoints.
    offsets: Vec<u64>,
    step: Step,
    /// What the running instruction has accessed.
    hit: Option<Watchpoint>,
    stop: Option<DebugStop>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    No,
    /// The instruction is yet to come.
    Asked,
    /// It has begun.
    Begun,
}

impl Debugger {
    fn new(asked: Debugging) -> Self {
        let step = if asked.step { Step::Asked } else { Step::No };
        let mut offsets: Vec<_> = asked.breakpoints.iter().map(|at| at & PAGE_MASK).collect();
        offsets.sort_unstable();
        offsets.dedup();
        Self { asked, offsets, step, hit: None, stop: None }
    }

    pub fn watches(&self) -> bool {
        !self.asked.watchpoints.is_empty()
    }

    pub fn has_no_breakpoints(&self) -> bool {
        self.offsets.is_empty()
    }

    pub fn steps(&self) -> bool {
        self.step != Step::No
    }

    /// Whether an instruction may have a breakpoint, by its offset in the page.
    pub fn may_stop_at(&self, offset: u64) -> bool {
        self.offsets.binary_search(&offset).is_ok()
    }
}

impl Cpu {
    /// Notes what of a data access is watched; gives a bit for [`Cpu::watch_hits`].
    pub fn watch_for_debugger(&mut self, linear: u64, bytes: u64, write: bool) -> u64 {
        let watched = self.debugger.asked.watchpoints.iter().find(|watched| watched.is_hit(linear, bytes, write));
        let Some(&watched) = watched else { return 0 };
        self.debugger.hit = Some(watched);
        HIT
    }

    /// Takes the debugger's bit out of what an instruction has hit, now that it is complete.
    pub fn note_debugger_hit(&mut self, hits: u64) -> u64 {
        if hits & HIT != 0 {
            self.debugger.stop = self.debugger.hit.take().map(DebugStop::Watchpoint);
            // The run loop is to look up.
            self.set_alert(alert::BREAKPOINT, true);
            self.limit = 0;
        }
        hits & !HIT
    }

    /// An instruction is about to run: if a step was asked for, it is done when it has.
    pub fn begin_step(&mut self) {
        if self.debugger.step == Step::Asked {
            self.debugger.step = Step::Begun;
        }
    }

    /// Why the CPU stops here, between two instructions, for its debugger.
    pub fn debug_exit(&mut self) -> Option<Exit> {
        let stepped = (self.debugger.step == Step::Begun).then_some(DebugStop::Step);
        let stop = self.debugger.stop.take().or(stepped)?;
        if stop == DebugStop::Breakpoint {
            // It is there for iterations of an instruction that has begun, which this one has not.
            self.system_flags &= !rflags::RF;
        }
        self.debugger.step = Step::No;
        self.breakpoints_changed();
        Some(Exit::Debug(stop))
    }

    /// The step ends without an instruction: an event was delivered that had to come first.
    pub fn end_step(&mut self) -> Option<Exit> {
        self.begin_step();
        self.debug_exit()
    }
}

/// In place of an instruction that may have a breakpoint: stops, or runs it.
pub fn held(cpu: &mut Cpu, op: &Op) -> Done {
    let Some(run) = op.extra.as_ref().and_then(|extra| extra.held) else { return cpu.undefined() };
    let at = cpu.code_linear(op.rip(cpu));
    if cpu.debugger.steps() || !cpu.debugger.asked.breakpoints.contains(&at) {
        return run(cpu, op);
    }
    cpu.debugger.stop = Some(DebugStop::Breakpoint);
    // Nothing has run that a trap could be due behind.
    cpu.no_step = true;
    Ok(Flow::Again)
}

impl SoftVcpu {
    /// Takes over what the debugger asks for.
    pub(crate) fn debug(&mut self, debugging: Option<&Debugging>) {
        let cpu = &mut self.cpu;
        let new = Debugger::new(debugging.cloned().unwrap_or_default());
        let old = std::mem::replace(&mut cpu.debugger, new);
        let differ = |one: &[u64], other: &[u64]| one.iter().copied().filter(|at| !other.contains(at)).collect();
        let mut changed: Vec<u64> = differ(&old.offsets, &cpu.debugger.offsets);
        changed.extend::<Vec<u64>>(differ(&cpu.debugger.offsets, &old.offsets));
        self.cache.forget_offsets(&changed, cpu);
        // A debugger looks at flags that no instruction does.
        if let Some(translator) = &mut self.translator {
            translator.show_flags(debugging.is_some(), cpu, &mut self.cache);
        }
        cpu.breakpoints_changed();
    }
}

#[cfg(test)]
mod tests;
