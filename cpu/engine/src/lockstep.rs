//! Lock-step: every translated block runs interpreted first, then translated from the same state.
//!
//! The interpreter goes instruction by instruction, and what each is about to overwrite in memory is kept. Then
//! memory and registers are put back, the translation runs up to wherever it leaves, and the state is compared with
//! the interpreter's there. The machine goes on with the translation's state, or ends at the first difference.

use crate::cpu::{Cpu, Flow, alert, slot};
use crate::exec::width::{Arith, arith};
use crate::mmu::{Access, PAGE_MASK};
use crate::translate::{Step, in_rflags};
use crate::vcpu::SoftVcpu;
use iced_x86::{OpAccess, Register};
use motu_x86::XsaveArea;
use motu_x86::flags::rflags;
use std::fmt::Write;

/// Bytes of one access at most.
const LONGEST: usize = 64;

/// Bytes about to be overwritten.
#[derive(Debug)]
struct Kept {
    address: u64,
    host: *mut u8,
    len: usize,
    old: [u8; LONGEST],
    new: [u8; LONGEST],
    /// The instruction that writes them, counted from the block's first.
    by: usize,
}

/// What a block may change of the CPU.
#[derive(Clone, Debug)]
struct Snapshot {
    gprs: [u64; 16],
    arith: Arith,
    rip: u64,
    /// Of a block with vector instructions.
    fpu: Option<Box<XsaveArea>>,
}

impl Snapshot {
    fn of(cpu: &Cpu, vectors: bool) -> Self {
        Self { gprs: *cpu.gprs(), arith: cpu.arith, rip: cpu.rip, fpu: vectors.then(|| cpu.fpu.clone()) }
    }

    fn put(&self, cpu: &mut Cpu) {
        *cpu.gprs_mut() = self.gprs;
        cpu.arith = self.arith;
        cpu.rip = self.rip;
        if let Some(fpu) = &self.fpu {
            cpu.fpu = fpu.clone();
        }
    }
}

/// What one block needs, kept for the next.
#[derive(Debug, Default)]
pub struct Lockstep {
    /// The interpreter's state before each instruction and behind the last.
    states: Vec<Snapshot>,
    kept: Vec<Kept>,
}

// SAFETY: the pointers lead into guest RAM, which the CPU keeps mapped; they are used while a block runs.
unsafe impl Send for Lockstep {}

impl SoftVcpu {
    /// Runs the block at RIP both ways. False if it is the interpreter's alone.
    pub(crate) fn run_lockstep(&mut self) -> bool {
        let Some(translator) = &mut self.translator else { return false };
        let Some((index, steps)) = translator.steps(&mut self.cpu, &mut self.cache) else { return false };
        let vectors = steps.iter().any(|step| step.vectors);
        let start = Snapshot::of(&self.cpu, vectors);
        let Lockstep { mut states, mut kept } = std::mem::take(&mut self.lockstep).unwrap_or_default();
        states.clear();
        kept.clear();
        states.push(start.clone());
        self.cpu.set_gpr(slot::BLOCK, start.rip);
        self.cpu.system_flags &= !rflags::RF;
        for (n, step) in steps.iter().enumerate() {
            if !step.translated || !self.keep_overwritten(step, n, &mut kept) {
                break;
            }
            let block = self.cache.get(index);
            let Some(op) = block.ops.get(n) else { break };
            self.cpu.limit = block.ops.len();
            self.cpu.rip = start.rip;
            let rip = match (op.run)(&mut self.cpu, op) {
                Ok(Flow::Jump) => self.cpu.rip,
                Ok(Flow::Next | Flow::Stop) => step.instruction.next_ip(),
                // The translation leaves before what faults.
                Ok(Flow::Again) | Err(_) => break,
            };
            self.cpu.rip = rip;
            states.push(Snapshot::of(&self.cpu, vectors));
        }
        for bytes in kept.iter_mut().rev() {
            bytes.new = bytes.exchange();
        }
        start.put(&mut self.cpu);
        if !kept.is_empty() {
            // What was written may be paging structures, whose accessed and dirty bits are set once more.
            self.cpu.mmu.tlb.flush_all();
        }
        let ran = self.compare(&start, &states, &kept, &steps);
        self.lockstep = Some(Lockstep { states, kept });
        ran
    }

    /// Runs the translation at RIP and compares.
    fn compare(&mut self, start: &Snapshot, states: &[Snapshot], kept: &[Kept], steps: &[Step]) -> bool {
        let Some(translator) = &mut self.translator else { return false };
        if translator.try_once(&mut self.cpu, &mut self.cache, &self.mailbox).is_none() {
            return false;
        }
        // A loop's block may be left where it also passes through.
        let mut same = Some(format!("it came to {:x}, which the interpreter did not", self.cpu.rip));
        for (n, state) in states.iter().enumerate().filter(|(_, state)| state.rip == self.cpu.rip) {
            same = self.difference(state, steps, n, kept);
            if same.is_none() {
                break;
            }
        }
        if let Some(difference) = same {
            self.report(&difference, start, states.last().unwrap_or(start), steps);
        }
        // What it left to the interpreter at its beginning has yet to run.
        self.cpu.rip != start.rip || states.iter().skip(1).any(|state| state.rip == start.rip)
    }

    /// Keeps what an instruction is about to overwrite. False if it cannot be compared: a fault, a device.
    fn keep_overwritten(&mut self, step: &Step, by: usize, kept: &mut Vec<Kept>) -> bool {
        for memory in &step.memory {
            let bytes = memory.memory_size().size() as u64;
            let cpu = &self.cpu;
            let value = |register: Register, _, _| {
                Some(match register {
                    Register::FS => cpu.bases[crate::cpu::seg::FS],
                    Register::GS => cpu.bases[crate::cpu::seg::GS],
                    _ if register.is_segment_register() => 0,
                    _ => {
                        let value = cpu.gpr(register.full_register().number() as u8);
                        if register.size() == 4 { value & 0xffff_ffff } else { value }
                    }
                })
            };
            let Some(address) = memory.virtual_address(0, value) else { return false };
            if matches!(memory.access(), OpAccess::None | OpAccess::NoMemAccess) || bytes == 0 || bytes > LONGEST as u64
            {
                continue;
            }
            let write = !matches!(memory.access(), OpAccess::Read | OpAccess::CondRead);
            let access = if write { Access::Write } else { Access::Read };
            let mut at = address;
            let end = address.wrapping_add(bytes);
            while at != end {
                let piece = (PAGE_MASK + 1 - (at & PAGE_MASK)).min(end.wrapping_sub(at));
                if !crate::mmu::is_canonical(at) || !self.cpu.fill_for(at, 1, access) {
                    return false;
                }
                if write {
                    let entry = self.cpu.mmu.tlb.entry(at);
                    let Some(host) = entry.lookup(entry.write, at, piece) else { return false };
                    let len = piece as usize;
                    let mut bytes = Kept { address: at, host, len, old: [0; LONGEST], new: [0; LONGEST], by };
                    bytes.old = bytes.now();
                    kept.push(bytes);
                }
                at = at.wrapping_add(piece);
            }
        }
        true
    }

    /// How the CPU and memory differ from the interpreter's after `n` instructions.
    fn difference(&self, expected: &Snapshot, steps: &[Step], n: usize, kept: &[Kept]) -> Option<String> {
        let cpu = &self.cpu;
        for register in 0..16u8 {
            let (is, should) = (cpu.gpr(register), expected.gprs[usize::from(register)]);
            if is != should {
                let name = Register::RAX + u32::from(register);
                return Some(format!("{name:?} is {is:x} and should be {should:x}"));
            }
        }
        let flags = steps.get(n).map_or_else(|| self.flags_behind(steps), |step| step.flags);
        let mask = arith::from_rflags(in_rflags(flags));
        if (cpu.arith ^ expected.arith) & mask != 0 {
            let (is, should) = (arith::to_rflags(cpu.arith & mask), arith::to_rflags(expected.arith & mask));
            return Some(format!("the flags are {is:x} and should be {should:x}"));
        }
        let bytes = 24..XsaveArea::YMM_HIGH + 256;
        if expected.fpu.as_ref().is_some_and(|fpu| cpu.fpu.0.get(bytes.clone()) != fpu.0.get(bytes)) {
            return Some("the vector registers differ".to_owned());
        }
        // Where one byte is written twice, the later write counts.
        for (index, bytes) in kept.iter().enumerate() {
            let overwritten = kept.iter().skip(index + 1).any(|other| other.by < n && other.overlaps(bytes));
            let should = if bytes.by < n { bytes.new } else { bytes.old };
            let earlier = kept.iter().take(index).any(|other| other.overlaps(bytes));
            let unsure = overwritten || (bytes.by >= n && earlier);
            if !unsure && bytes.now() != should {
                return Some(format!("memory at {:x} is {:x?} and should be {should:x?}", bytes.address, bytes.now()));
            }
        }
        None
    }

    /// The flags that matter where the block has led.
    fn flags_behind(&self, steps: &[Step]) -> u32 {
        let Some(last) = steps.last() else { return 0 };
        let way = last.ways.iter().find(|&&(rip, _)| rip == self.cpu.rip);
        last.defined & way.map_or(u32::MAX, |&(_, flags)| flags)
    }

    /// Tells of a difference, and ends the machine.
    fn report(&mut self, difference: &str, start: &Snapshot, expected: &Snapshot, steps: &[Step]) {
        let mut text = format!("lock-step: {difference}\n");
        for step in steps {
            let mut line = String::new();
            iced_x86::Formatter::format(&mut iced_x86::IntelFormatter::new(), &step.instruction, &mut line);
            let _ = writeln!(
                text,
                "  {:x}: {line}{}",
                step.instruction.ip(),
                if step.translated { "" } else { " (interpreted)" }
            );
        }
        let now = Snapshot::of(&self.cpu, false);
        for (name, state) in [("before", start), ("interpreted", expected), ("translated", &now)] {
            let flags = arith::to_rflags(state.arith);
            let _ = writeln!(text, "{name}: rip {:x} flags {flags:x} gpr {:x?}", state.rip, state.gprs);
        }
        tracing::error!("{text}");
        self.cpu.set_alert(alert::SHUTDOWN, true);
    }
}

impl Kept {
    fn now(&self) -> [u8; LONGEST] {
        let mut bytes = [0; LONGEST];
        // SAFETY: `host` leads to that many bytes, at most LONGEST, inside one page of guest RAM, which stays mapped.
        unsafe { std::ptr::copy_nonoverlapping(self.host, bytes.as_mut_ptr(), self.len.min(LONGEST)) };
        bytes
    }

    /// Puts the old bytes back, and gives what was there.
    fn exchange(&self) -> [u8; LONGEST] {
        let now = self.now();
        // SAFETY: as above; the page is writable.
        unsafe { std::ptr::copy_nonoverlapping(self.old.as_ptr(), self.host, self.len.min(LONGEST)) };
        now
    }

    fn overlaps(&self, other: &Kept) -> bool {
        let (a, b) = (self.host as usize, other.host as usize);
        a < b + other.len && b < a + self.len
    }
}
