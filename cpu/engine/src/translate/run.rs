//! Running translated code, and what lies between one piece of it and the next.
//!
//! Code leaves for what it cannot do itself: another translation that it is not linked to, an instruction of the
//! interpreter's, a memory operand that is not plain RAM. Most of that is done here, and the code entered again at once; the
//! run loop of the vCPU takes over where something is up.

use super::exit::{Exit, ExitKind, LOOKUP, Within};
use super::frame::{Code, unit};
use super::mode::Mode;
use super::{Link, Translator, thunks};
use crate::cpu::{CodeSize, Cpu, alert, seg, slot};
use crate::decode::BlockCache;
use crate::history::History;
use crate::mmu::is_canonical;
use crate::options::Translate;
use crate::smp::Mailbox;
use motu_x86::flags::rflags;

/// What a way out costs of the stress mode's budget, in backward jumps.
const EXIT_COST: u32 = 4;

/// What the run loop does after translated code has run, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Goes on as always.
    Continue,
    /// Has the interpreter run the block at RIP.
    Block,
    /// Has the interpreter run the instruction at RIP.
    Instruction,
    /// Looks up.
    Attend,
}

impl Translator {
    /// Runs translated code from RIP on, if there is any, until there is something else to do.
    #[inline(always)]
    pub fn run(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, history: &mut History, mailbox: &Mailbox) -> Next {
        loop {
            let Some(mut code) = self.code_at_rip(cpu, cache) else { return Next::Block };
            history.note(cpu.rip, cpu);
            self.load_wanted(cpu);
            let next = loop {
                self.enter(cpu, code);
                match self.after(cpu, cache, mailbox) {
                    Ok(again) => code = again,
                    Err(next) => break next,
                }
            };
            let next = if next == Next::Continue && !self.pay() { Next::Attend } else { next };
            if next == Next::Attend {
                self.renew_budget();
            }
            if next != Next::Continue {
                return next;
            }
            if !is_quiet(cpu, mailbox) || !Self::may_run(cpu) {
                return Next::Continue;
            }
        }
    }

    /// The way into the code for RIP, if it is translated.
    #[inline(always)]
    fn code_at_rip(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> Option<Code> {
        self.keep_up(cpu, cache);
        let missed = std::mem::take(&mut self.missed) || self.runs_next;
        let listed = Mode::of(cpu).filter(|_| !missed).and_then(|mode| self.jumps.get(mode, cpu.rip));
        if listed.is_some() {
            return listed;
        }
        let number = self.find(cpu, cache).ok()??;
        Some(self.indirect(number))
    }

    /// Makes units the host's on the way in.
    fn set_units(&mut self, units: u32) {
        // SAFETY: no translated code runs; the frame is plain data.
        unsafe { (*self.frame.as_ptr()).units = units };
    }

    /// A program that uses vector registers does so in the next block, too.
    #[inline(always)]
    pub fn load_wanted(&mut self, cpu: &mut Cpu) {
        let wants = cpu.cpl == 3 && self.wanted != 0 && self.wanted_in == cpu.mmu.local_epoch;
        if wants && cpu.vectors_usable(self.wanted & unit::AVX != 0) {
            self.set_units(self.wanted);
        }
    }

    pub(super) fn indirect(&self, number: u32) -> Code {
        let offset = self.translations.get(number as usize).map_or(0, |t| t.indirect);
        self.code.executable(offset)
    }

    /// In the stress mode: takes what a way out costs from the budget. False if that uses it up: then the CPU looks up.
    #[inline(always)]
    fn pay(&mut self) -> bool {
        if self.options.stress.is_none() {
            return true;
        }
        // SAFETY: translated code has left; the frame is plain data.
        let budget = unsafe { (*self.frame.as_ptr()).budget };
        if budget > EXIT_COST {
            self.set_budget(budget - EXIT_COST);
        }
        budget > EXIT_COST
    }

    /// Code counts it down and leaves at zero, so that it is never entered with less than one.
    pub fn set_budget(&mut self, budget: u32) {
        // SAFETY: no translated code runs; the frame is plain data.
        unsafe { (*self.frame.as_ptr()).budget = budget };
    }

    pub(super) fn enter(&mut self, cpu: &mut Cpu, code: Code) {
        let frame = self.frame();
        cpu.system_flags &= !rflags::RF;
        let rip = cpu.rip;
        // SAFETY: the frame is the CPU's own; its pointers lead to the CPU, which nothing else uses until `enter` returns.
        // `code` is an entry of the code cache or the lookup thunk.
        unsafe {
            (*frame).fs_base = cpu.bases[seg::FS];
            (*frame).gs_base = cpu.bases[seg::GS];
            // 64-bit code looks at no segment's limit.
            if cpu.code_size == CodeSize::Bits32 {
                (*frame).fs_bar = bar(cpu, seg::FS);
                (*frame).gs_bar = bar(cpu, seg::GS);
            }
            (*frame).arith = cpu.arith.into();
            (*frame).vectors = cpu.fpu.0.as_mut_ptr();
            (*frame).registers = cpu.gprs_mut().as_mut_ptr();
            (*frame).cpu = std::ptr::from_mut(cpu).cast();
            thunks::enter(frame, code, rip);
            cpu.arith = (*frame).arith as crate::exec::width::Arith;
        }
    }

    /// Looks at why translated code left. Gives where to enter again at once, or what comes next.
    #[inline(always)]
    pub fn after(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, mailbox: &Mailbox) -> Result<Code, Next> {
        // SAFETY: translated code has left; the frame is plain data.
        let (number, target) = unsafe { ((*self.frame.as_ptr()).exit, (*self.frame.as_ptr()).target) };
        let counts = &mut self.stats.exits;
        if number == LOOKUP {
            counts.lookup += 1;
            cpu.rip = target;
            self.missed = true;
            return Err(match is_canonical(target) {
                true if cpu.mmu.tlb.workspace().is_disturbed() => {
                    self.note_disturbed(self.last_branch(), cache);
                    Next::Attend
                }
                true => Next::Continue,
                false => self.take_back(cpu),
            });
        }
        let Some(&exit) = self.exits.get(number as usize) else { return Err(Next::Block) };
        cpu.rip = exit.rip;
        match exit.kind {
            ExitKind::Lookup | ExitKind::Branch { .. } => {
                counts.lookup += 1;
                Err(Next::Continue)
            }
            ExitKind::Link { patch } => {
                counts.link += 1;
                Err(self.link(cpu, cache, exit.translation, patch))
            }
            ExitKind::Interpret(at) => {
                counts.interpret += 1;
                self.interpret(cpu, cache, mailbox, exit.translation, at)
            }
            ExitKind::Access(at) => {
                counts.refill_failed += 1;
                self.interpret(cpu, cache, mailbox, exit.translation, at)
            }
            ExitKind::Poll => {
                counts.poll += 1;
                self.note_disturbed(Some(exit.translation), cache);
                Err(Next::Attend)
            }
            ExitKind::Units(units) => {
                counts.fpu += 1;
                if !cpu.vectors_usable(units & unit::AVX != 0) {
                    return Err(Next::Block);
                }
                if cpu.cpl == 3 {
                    (self.wanted, self.wanted_in) = (units, cpu.mmu.local_epoch);
                }
                self.set_units(units);
                Ok(self.indirect(exit.translation))
            }
            ExitKind::Single { op, patch } => {
                counts.refill_failed += 1;
                self.go_on_single(cpu, cache, (exit.translation, op), patch)
            }
        }
    }

    /// The translation of the last indirect branch.
    fn last_branch(&self) -> Option<u32> {
        // SAFETY: translated code has left; the frame is plain data.
        let number = unsafe { (*self.frame.as_ptr()).branch };
        self.exits.get(number as usize).map(|exit| exit.translation)
    }

    /// Runs one operation of the interpreter's, at which a translation has left. Gives where the translation goes on, if it
    /// does.
    fn interpret(
        &mut self,
        cpu: &mut Cpu,
        cache: &mut BlockCache,
        mailbox: &Mailbox,
        number: u32,
        at: Within,
    ) -> Result<Code, Next> {
        let Some(translation) = self.translations.get(number as usize) else { return Err(Next::Instruction) };
        if at.resume == 0 {
            return Err(Next::Instruction);
        }
        let (units, start, mode) = (translation.units, translation.rip, translation.mode);
        let block = cache.get(translation.block);
        let changes = cpu.mmu.changes();
        let next = block.ops.get(usize::from(at.op) + 1);
        let behind = match next {
            Some(next) => next.begin(start),
            None => block.ops.get(usize::from(at.op)).map_or(0, |op| op.end(start)),
        };
        let has_next = next.is_some();
        let again = cpu.run_ops(block, start, at.op.into(), 1);
        if !cpu.code_writes.is_empty() {
            cache.forget_own_writes(cpu);
        }
        if again {
            return Err(Next::Attend);
        }
        // What a translation has found out about its memory holds as long as paging does.
        let straight = cpu.rip == behind && changes == cpu.mmu.changes();
        if !straight || cache.has_dropped() {
            return Err(Next::Continue);
        }
        if !self.pay() {
            return Err(Next::Attend);
        }
        if cpu.alerts == alert::SHADOW && has_next {
            // The next instruction comes before anything else can.
            cpu.set_alert(alert::SHADOW, false);
        } else if !is_quiet(cpu, mailbox) {
            return Err(Next::Continue);
        }
        if Mode::of(cpu) != Some(mode) || (units != 0 && !cpu.vectors_usable(units & unit::AVX != 0)) {
            return Err(Next::Continue);
        }
        self.set_units(units);
        Ok(self.code.executable(at.resume))
    }

    /// In the stress mode: how many backward jumps may pass before the next look.
    pub fn renew_budget(&mut self) {
        // A linear congruential generator's upper bits (Knuth's MMIX constants).
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.set_budget(1 + (self.random >> 61) as u32);
        if self.options.stress.is_some() {
            self.watch();
        }
    }

    /// An indirect branch led to no address: it is the branch that faults (SDM vol. 2, CALL, JMP and RET). The interpreter runs
    /// it from the beginning.
    #[cold]
    fn take_back(&mut self, cpu: &mut Cpu) -> Next {
        // SAFETY: translated code has left; the frame is plain data.
        let (number, pushed_over) = unsafe { ((*self.frame.as_ptr()).branch, (*self.frame.as_ptr()).pushed_over) };
        if let Some(&Exit { kind: ExitKind::Branch { moved }, rip, .. }) = self.exits.get(number as usize) {
            let rsp = cpu.gpr(slot::RSP).wrapping_sub(i64::from(moved) as u64);
            if moved < 0 && cpu.store(rsp.wrapping_sub(8), pushed_over).is_err() {
                return Next::Continue;
            }
            cpu.set_gpr(slot::RSP, rsp);
            cpu.rip = rip;
        }
        Next::Instruction
    }

    /// A direct jump wants to know where its target's code is.
    fn link(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, from: u32, patch: u32) -> Next {
        let has = self.translations.get(from as usize).map_or(0, |t| if t.dropped { 0 } else { t.units });
        let generation = self.generation;
        let found = self.find(cpu, cache);
        if generation != self.generation {
            return Next::Continue;
        }
        match found {
            Ok(Some(_)) if self.options.translate == Translate::Lockstep => Next::Continue,
            Ok(Some(number)) => {
                if let Some(translation) = self.translations.get_mut(number as usize).filter(|t| !t.straddles) {
                    let entry = if translation.units & !has == 0 { translation.inner } else { translation.direct };
                    let distance = entry.wrapping_sub(patch + 4);
                    translation.links.push(Link { at: patch, before: self.code.word(patch) });
                    self.code.patch(patch, &distance.to_le_bytes());
                }
                Next::Continue
            }
            Ok(None) | Err(_) => Next::Block,
        }
    }
}

/// What keeps 32-bit code from addresses in a segment that not everything may be done with.
#[inline(always)]
fn bar(cpu: &Cpu, segment: usize) -> u64 {
    // No sum with 32 bits is canonical.
    if cpu.has_whole_segment(segment) { 0 } else { 1 << 63 }
}

/// Whether the CPU may run on without a look at what waits.
#[inline(always)]
fn is_quiet(cpu: &Cpu, mailbox: &Mailbox) -> bool {
    let waiting = cpu.alerts != 0 && (cpu.alerts != alert::EVENT || cpu.has_event());
    !waiting && !mailbox.has_post()
}
