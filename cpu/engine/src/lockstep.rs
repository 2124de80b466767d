//! Lock-step: every translated block runs interpreted first, then translated from the same state.
//!
//! The interpreter looks ahead, instruction by instruction, up to what it cannot take back: a fault, a device, an instruction
//! that is its own in translated code, too. What each instruction overwrites in memory is kept. Then memory and registers are
//! put back, the translation runs up to wherever it leaves, and the state is compared with the interpreter's there. What the
//! translation left for is done as it always is; where the code is entered again behind it, the interpreter looks ahead
//! from there. The machine goes on with the translation's state, or ends at the first difference.
//!
//! Flags that are dead where the two are compared may differ. The interpreter then goes on with its own, so that a flag which
//! is not dead after all makes a difference later.

mod kept;
#[cfg(test)]
mod tests;

use crate::cpu::{Cpu, Flow, alert, seg, slot};
use crate::exec::width::{Arith, arith};
use crate::mmu::{Access, ENTRIES, PAGE, PAGE_MASK, is_canonical};
use crate::translate::{Comparable, Left, Next, Step, in_rflags};
use crate::vcpu::SoftVcpu;
use iced_x86::{Mnemonic, Register};
use kept::Log;
use motu_x86::XsaveArea;
use motu_x86::flags::rflags;
use std::fmt::Write;

/// Bytes of one access at most.
const LONGEST: u64 = 64;
/// Bytes that a repeated instruction moves at most while the interpreter looks ahead: translated code goes as far as the TLB does.
const LONGEST_REPEATED: u64 = ENTRIES as u64 * PAGE;

/// What a block may change of the CPU beside vector registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Snapshot {
    gprs: [u64; 16],
    arith: Arith,
    rip: u64,
    system_flags: u64,
    /// GS' base where addresses are made, in the segment register, and the other one's.
    gs: [u64; 3],
    alerts: u8,
    /// Which of [`Lockstep::vectors`] it has.
    vectors: usize,
    /// Flags that were dead and wrong where the interpreter began, and have not been written since.
    wrong: Arith,
}

impl Snapshot {
    fn of(cpu: &Cpu, vectors: usize) -> Self {
        Self {
            gprs: *cpu.gprs(),
            arith: cpu.arith,
            rip: cpu.rip,
            system_flags: cpu.system_flags,
            gs: [cpu.bases[seg::GS], cpu.segments[seg::GS].base, cpu.msrs.kernel_gs_base],
            alerts: cpu.alerts,
            vectors,
            wrong: 0,
        }
    }

    fn put(&self, cpu: &mut Cpu) {
        *cpu.gprs_mut() = self.gprs;
        cpu.arith = self.arith;
        cpu.rip = self.rip;
        cpu.system_flags = self.system_flags;
        [cpu.bases[seg::GS], cpu.segments[seg::GS].base, cpu.msrs.kernel_gs_base] = self.gs;
        cpu.alerts = self.alerts;
    }
}

/// What is known from one piece of code to the next, and room for one.
#[derive(Debug, Default)]
pub struct Lockstep {
    /// The interpreter's state before each instruction, from the one of number `first` on, and behind the last.
    states: Vec<Snapshot>,
    first: usize,
    vectors: Vec<XsaveArea>,
    log: Log,
    /// Pages that the interpreter was the first to need.
    filled: Vec<u64>,
    /// Dead flags that the CPU has not as the interpreter has, and where: RIP, and the count of interpreted instructions.
    wrong: Arith,
    wrong_at: (u64, u64),
}

/// A state that translated code may have left with.
#[derive(Clone, Copy, Debug)]
struct Expected {
    state: Snapshot,
    /// Instructions of the block before it.
    done: usize,
    /// Bytes that the one behind these has written: a repeated one.
    partly: u64,
    /// Flags that matter, and those that do not.
    live: Arith,
    dead: Arith,
}

impl SoftVcpu {
    /// Runs the block at RIP both ways, if it is translated.
    pub(crate) fn run_lockstep(&mut self) -> Next {
        let Some(translator) = &mut self.translator else { return Next::Block };
        let Some(block) = translator.comparable(&mut self.cpu, &mut self.cache) else { return Next::Block };
        let mut lockstep = self.lockstep.take().unwrap_or_default();
        let next = self.run_both(&block, &mut lockstep);
        lockstep.wrong_at = (self.cpu.rip, self.cpu.stats.instructions);
        self.lockstep = Some(lockstep);
        next
    }

    fn run_both(&mut self, block: &Comparable, lockstep: &mut Lockstep) -> Next {
        let start = self.cpu.rip;
        if lockstep.wrong_at != (start, self.cpu.stats.instructions) {
            lockstep.wrong = 0;
        }
        if let Some(translator) = &mut self.translator
            && block.steps.iter().any(|step| step.vectors)
        {
            translator.load_wanted(&mut self.cpu);
        }
        let (mut code, mut from) = (block.code, 0);
        loop {
            self.look_ahead(start, block, from, lockstep);
            let Some(translator) = &mut self.translator else { return Next::Block };
            translator.renew_budget();
            let left = translator.run_piece(&mut self.cpu, code);
            // A branch to nowhere is one that did not happen.
            let taken_back = match left {
                Left::Nowhere => Some(translator.after(&mut self.cpu, &mut self.cache, &self.mailbox)),
                _ => None,
            };
            match lockstep.compare(&self.cpu, left, &block.steps) {
                Ok(wrong) => lockstep.wrong = wrong,
                Err(difference) => {
                    self.report(&difference, lockstep, &block.steps);
                    return Next::Continue;
                }
            }
            let next = match taken_back {
                Some(next) => next,
                None => translator.after(&mut self.cpu, &mut self.cache, &self.mailbox),
            };
            from = match left {
                Left::Before(n) => n + 1,
                Left::Single(n) => n,
                Left::Again | Left::Behind | Left::Nowhere => from,
            };
            if let Left::Before(n) = left
                && let Some(step) = block.steps.get(n)
            {
                // What the instruction does not change is as wrong as it was; where it went elsewhere, nothing is known.
                lockstep.wrong &= if next.is_ok() { !in_arith(step.written) } else { 0 };
            }
            match next {
                Ok(again) => code = again,
                Err(next) => return next,
            }
        }
    }

    /// Runs operations of the block at `start` from RIP on, which is at that of number `from`, as the interpreter does, and takes
    /// everything back but what is kept of it.
    fn look_ahead(&mut self, start: u64, block: &Comparable, from: usize, lockstep: &mut Lockstep) {
        let Lockstep { states, first, vectors, log, filled, wrong, .. } = lockstep;
        let translated = self.cpu.arith;
        self.cpu.arith ^= *wrong;
        self.cpu.system_flags &= !rflags::RF;
        states.clear();
        vectors.clear();
        log.clear();
        *first = from;
        let rest = block.steps.get(from..).unwrap_or_default();
        if rest.iter().any(|step| step.vectors) {
            vectors.push((*self.cpu.fpu).clone());
        }
        let mut wrong = *wrong;
        states.push(Snapshot { wrong, ..Snapshot::of(&self.cpu, 0) });
        self.cpu.set_gpr(slot::BLOCK, start);
        for (n, step) in block.steps.iter().enumerate().skip(from) {
            if !step.translated {
                break;
            }
            let Some(whole) = self.keep(step, n, log, filled) else { break };
            let Some(rip) = self.interpret_one(start, block, n) else { break };
            if let Some(rest) = whole {
                // Of a repeated instruction whose rest cannot be taken back.
                self.cpu.set_gpr(slot::RCX, self.cpu.gpr(slot::RCX).wrapping_add(rest));
                break;
            }
            // Where nothing waits, nothing comes between STI and the instruction behind it.
            self.cpu.set_alert(alert::SHADOW, false);
            self.cpu.rip = rip;
            if step.vectors {
                vectors.push((*self.cpu.fpu).clone());
            }
            wrong &= !in_arith(step.written);
            states.push(Snapshot { wrong, ..Snapshot::of(&self.cpu, vectors.len().saturating_sub(1)) });
            if block.steps.get(n + 1).is_none_or(|next| next.instruction.ip() != rip) {
                break;
            }
        }
        log.take_back();
        if let Some(begin) = states.first() {
            begin.put(&mut self.cpu);
        }
        if let Some(image) = vectors.first() {
            (*self.cpu.fpu).clone_from(image);
        }
        self.cpu.arith = translated;
        for page in filled.drain(..) {
            // Translated code is to find it as it would have been.
            self.cpu.mmu.tlb.forget(page);
        }
    }

    /// Runs operation `n` of the block to its end. Gives where the program goes on, or `None` where it faults.
    fn interpret_one(&mut self, start: u64, block: &Comparable, n: usize) -> Option<u64> {
        let block = self.cache.get(block.block);
        let op = block.ops.get(n)?;
        self.cpu.limit = block.ops.len();
        loop {
            self.cpu.rip = start;
            match (op.run)(&mut self.cpu, op) {
                Ok(Flow::Jump) => return Some(self.cpu.rip),
                Ok(Flow::Next | Flow::Stop) => {
                    return Some(op.end(start));
                }
                Ok(Flow::Again) => {}
                // The translation leaves before what faults.
                Err(_) => return None,
            }
        }
    }

    /// Keeps what an instruction is about to overwrite. `None` if it cannot be taken back: it faults, or accesses a device or
    /// decoded code. Of a repeated instruction RCX becomes what can be; the rest is in what it gives.
    fn keep(&mut self, step: &Step, by: usize, log: &mut Log, filled: &mut Vec<u64>) -> Option<Option<u64>> {
        if let Some(repeated) = step.repeated {
            let count = self.cpu.gpr(slot::RCX);
            let mut bytes = (count.min(LONGEST_REPEATED >> repeated.shift)) << repeated.shift;
            if self.cpu.direction_down() && count != 0 {
                return None;
            }
            let [from, to] = [slot::RSI, slot::RDI].map(|register| self.cpu.gpr(register));
            if repeated.moves {
                bytes = self.keep_bytes((from, bytes), Access::Read, by, log, filled);
            }
            bytes = self.keep_bytes((to, bytes), Access::Write, by, log, filled);
            let elements = bytes >> repeated.shift;
            if elements == 0 && count != 0 {
                return None;
            }
            self.cpu.set_gpr(slot::RCX, elements);
            return Some((elements != count).then_some(count - elements));
        }
        for touched in &step.memory {
            let (address, bytes) = (touched.address(&self.cpu), touched.bytes);
            if bytes > LONGEST {
                return None;
            }
            let access = if touched.write { Access::Write } else { Access::Read };
            if self.keep_bytes((address, bytes), access, by, log, filled) != bytes {
                return None;
            }
        }
        if matches!(step.instruction.mnemonic(), Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq) {
            log.excuse(by, in_rflags(!step.defined));
        }
        Some(None)
    }

    /// Keeps as many of the bytes from an address on as are plain memory, and gives how many those are.
    fn keep_bytes(
        &mut self,
        (address, bytes): (u64, u64),
        access: Access,
        by: usize,
        log: &mut Log,
        filled: &mut Vec<u64>,
    ) -> u64 {
        let mut done = 0;
        while done < bytes {
            let at = address.wrapping_add(done) & self.cpu.linear_mask;
            let piece = (PAGE - (at & PAGE_MASK)).min(bytes - done);
            let Some(host) = self.plain_memory(at, access, filled) else { break };
            if access == Access::Write {
                log.keep(kept::Place { address: at, host, bytes: piece as usize, by, from: done });
            }
            done += piece;
        }
        done
    }

    /// Where the host has what lies at an address, up to its page's end.
    fn plain_memory(&mut self, at: u64, access: Access, filled: &mut Vec<u64>) -> Option<*mut u8> {
        let known = |cpu: &Cpu| {
            let entry = cpu.mmu.tlb.entry(at);
            entry.lookup(if access == Access::Write { entry.write } else { entry.read }, at, 1)
        };
        if let Some(host) = known(&self.cpu) {
            return Some(host);
        }
        if !is_canonical(at) || !self.cpu.fill_for(at, 1, access) {
            return None;
        }
        filled.push(at);
        known(&self.cpu)
    }

    /// Tells of a difference, and ends the machine.
    fn report(&mut self, difference: &str, lockstep: &Lockstep, steps: &[Step]) {
        let mut text = format!("lock-step: {difference}\n");
        for step in steps {
            let mut line = String::new();
            iced_x86::Formatter::format(&mut iced_x86::IntelFormatter::new(), &step.instruction, &mut line);
            let own = if step.translated { "" } else { " (interpreted)" };
            let _ = writeln!(text, "  {:x}: {line}{own}", step.instruction.ip());
        }
        let now = Snapshot::of(&self.cpu, 0);
        let states = lockstep.states.iter().map(|state| ("interpreted", state));
        for (name, state) in states.chain([("translated", &now)]) {
            let flags = arith::to_rflags(state.arith) | state.system_flags;
            let _ = writeln!(text, "{name}: rip {:x} flags {flags:x} gpr {:x?}", state.rip, state.gprs);
        }
        tracing::error!("{text}");
        self.cpu.set_alert(alert::SHUTDOWN, true);
    }
}

impl Lockstep {
    /// Compares the CPU and memory with what the interpreter found where translated code has left. Gives the dead flags that
    /// differ, or tells of what does besides.
    fn compare(&self, cpu: &Cpu, left: Left, steps: &[Step]) -> Result<Arith, String> {
        let mut found = None;
        for (n, state) in self.states.iter().enumerate() {
            // A loop's block may be left where it also passes through.
            let here = match left {
                Left::Before(op) | Left::Single(op) => self.first + n == op,
                _ => state.rip == cpu.rip,
            };
            if here {
                let expected = self.expected(cpu, left, n, steps);
                match self.difference(cpu, &expected) {
                    None => return Ok((cpu.arith ^ expected.state.arith) & expected.dead),
                    difference => found = difference,
                }
            }
        }
        Err(found.unwrap_or_else(|| format!("it came to {:x}, which the interpreter did not", cpu.rip)))
    }

    /// The state before instruction `n`, counted from the first that was interpreted.
    fn expected(&self, cpu: &Cpu, left: Left, n: usize, steps: &[Step]) -> Expected {
        let done = self.first + n;
        let mut state = self.states.get(n).copied().unwrap_or_else(|| Snapshot::of(cpu, 0));
        let step = steps.get(done);
        let mut partly = 0;
        if let (Left::Before(_), Some(repeated)) = (left, step.and_then(|step| step.repeated)) {
            // It stops where it likes; its registers say where.
            let elements = state.gprs[usize::from(slot::RCX)].wrapping_sub(cpu.gpr(slot::RCX));
            partly = elements.wrapping_shl(repeated.shift.into());
            let moved: &[u8] = if repeated.moves { &[slot::RSI, slot::RDI] } else { &[slot::RDI] };
            state.gprs[usize::from(slot::RCX)] = cpu.gpr(slot::RCX);
            for &register in moved {
                let pointer = &mut state.gprs[usize::from(register)];
                *pointer = pointer.wrapping_add(partly) & if repeated.narrow { u32::MAX.into() } else { u64::MAX };
            }
        }
        // A conditional jump inside the block may have been taken.
        let straight = step.filter(|step| step.instruction.ip() == state.rip);
        let (live, defined) = match straight {
            Some(step) => (step.live, step.defined),
            None => done.checked_sub(1).and_then(|last| steps.get(last)).map_or((0, 0), |last| {
                let way = last.ways.iter().find(|&&(rip, _)| rip == cpu.rip);
                (way.map_or(u32::MAX, |&(_, flags)| flags), last.defined_behind)
            }),
        };
        let (live, defined) = (in_arith(live) & !state.wrong, in_arith(defined));
        Expected { state, done, partly, live: live & defined, dead: defined & !live }
    }

    fn difference(&self, cpu: &Cpu, expected: &Expected) -> Option<String> {
        let state = &expected.state;
        let now = Snapshot { alerts: state.alerts, wrong: state.wrong, ..Snapshot::of(cpu, state.vectors) };
        if (now.arith ^ state.arith) & expected.live != 0 {
            let [is, should] = [now.arith, state.arith].map(|flags| arith::to_rflags(flags & expected.live));
            return Some(format!("the flags are {is:x} and should be {should:x}"));
        }
        if now != (Snapshot { arith: now.arith, ..*state }) {
            return Some(now.difference(state));
        }
        // The x87 control words and pointers before MXCSR are nothing of the translator's.
        if self.vectors.get(state.vectors).is_some_and(|image| image.0.get(24..) != cpu.fpu.0.get(24..)) {
            return Some("the vector registers differ".to_owned());
        }
        self.log.difference(expected.done, expected.partly)
    }
}

/// Flags as the translator has them.
fn in_arith(flags: u32) -> Arith {
    arith::from_rflags(in_rflags(flags))
}

impl Snapshot {
    /// How it differs from what it should be.
    fn difference(&self, should: &Self) -> String {
        for (n, (is, should)) in self.gprs.iter().zip(should.gprs).enumerate() {
            if *is != should {
                let name = Register::RAX + n as u32;
                return format!("{name:?} is {is:x} and should be {should:x}");
            }
        }
        if self.system_flags != should.system_flags {
            return format!("RFLAGS has {:x} and should have {:x}", self.system_flags, should.system_flags);
        }
        format!("GS' bases are {:x?} and should be {:x?}; RIP is {:x}", self.gs, should.gs, self.rip)
    }
}
