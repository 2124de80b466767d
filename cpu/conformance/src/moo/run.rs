//! Runs cases on an engine.
//!
//! One machine runs them all: between two cases the bytes that they name are set back to zero. A case is
//! over when the CPU comes to a HLT, which lies behind the instruction or, where that jumps or
//! faults, where it ends according to the suite: a suite's own machine put one there as well.

use super::{Case, Register, Registers, Suite};
use motu_hv::{Exit, GuestBus, HvError, Hypervisor, Kick, RecentInstruction, TracedEvent, Tracer, Vcpu, Vm, VmConfig};
use motu_memory::{GuestRam, MemoryError};
use motu_x86::flags::cr0;
use motu_x86::{Activity, CpuState, DescriptorTable, Gpa, Nanos, Segment};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The suites' machines had 16 MiB, all of it RAM.
const RAM: u64 = 16 << 20;
const CONTRACT: &str = "v2-2026";
const HLT: u8 = 0xf4;
/// Instructions, and repetitions of string instructions, after which a case has gone astray. The suites have
/// at most 127 repetitions.
const MOST_STEPS: u32 = 1000;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Differs(Vec<Mismatch>),
    /// It cannot be run: the end lies in memory that the machine has not, or in the instruction itself.
    Unsuitable,
}

/// One thing that is not as the suite has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    Register {
        register: Register,
        expected: u32,
        got: u32,
    },
    Memory {
        address: u32,
        expected: u8,
        got: u8,
    },
    /// No HLT was reached.
    Astray {
        rip: u64,
    },
    /// The processor shut down.
    Shutdown,
}

/// A machine for cases.
pub struct Runner {
    ram: GuestRam,
    vcpu: Box<dyn Vcpu>,
    steps: Arc<AtomicU32>,
    _vm: Arc<dyn Vm>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

/// Why a case could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Hypervisor(#[from] HvError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Runner {
    /// # Errors
    /// The host lacks what the machine needs.
    pub fn new(hypervisor: &dyn Hypervisor) -> Result<Self, RunError> {
        let ram = GuestRam::new(RAM)?;
        let vm = hypervisor.create_vm(VmConfig { ram: ram.clone(), contract: CONTRACT, vcpus: 1 })?;
        let mut vcpu = vm.create_vcpu(0)?;
        let steps = Arc::new(AtomicU32::new(0));
        vcpu.set_tracer(Some(Box::new(UntilHlt { kick: vcpu.kicker(), steps: Arc::clone(&steps) })));
        Ok(Self { ram, vcpu, steps, _vm: vm })
    }

    /// Runs one case of a suite.
    ///
    /// # Errors
    /// The engine refuses the start state, or the host fails.
    pub fn run(&mut self, suite: &Suite, case: &Case) -> Result<Verdict, RunError> {
        let Some(end) = End::of(suite, case) else { return Ok(Verdict::Unsuitable) };
        let named = || case.before.ram.iter().chain(&case.after.ram);
        if named().any(|(address, _)| u64::from(*address) >= RAM) {
            return Ok(Verdict::Unsuitable);
        }
        for (address, byte) in &case.before.ram {
            self.ram.write(gpa(*address), &[*byte])?;
        }
        self.ram.write(gpa(end.address), &[HLT])?;
        self.vcpu.restore(&start(&case.before.registers), Nanos(0))?;
        self.steps.store(0, Ordering::Relaxed);
        let exit = self.vcpu.run(&NoBoard);
        let state = self.vcpu.save(Nanos(0));
        let verdict = if exit == Exit::Shutdown {
            Verdict::Differs(vec![Mismatch::Shutdown])
        } else if self.steps.load(Ordering::Relaxed) > MOST_STEPS {
            Verdict::Differs(vec![Mismatch::Astray { rip: state.rip }])
        } else {
            self.judge(suite, case, &end, &state)?
        };
        for (address, _) in named().chain([&(end.address, 0)]) {
            self.ram.write(gpa(*address), &[0])?;
        }
        Ok(verdict)
    }

    fn judge(&self, suite: &Suite, case: &Case, end: &End, state: &CpuState) -> Result<Verdict, RunError> {
        let mut mismatches = Vec::new();
        let got = registers(state, end);
        for register in Register::ALL {
            let Some(before) = case.before.registers.get(register) else { continue };
            let expected = case.after.registers.get(register).unwrap_or(before);
            let got = got.get(register).unwrap_or(0);
            let mask = defined(suite, case, register);
            if expected & mask != got & mask {
                mismatches.push(Mismatch::Register { register, expected: expected & mask, got: got & mask });
            }
        }
        let flags = defined(suite, case, Register::Eflags);
        for &(address, expected) in &case.after.ram {
            let mask = match case.exception.map(|exception| address.wrapping_sub(exception.flags_at)) {
                Some(0) => flags as u8,
                Some(1) => (flags >> 8) as u8,
                _ => 0xff,
            };
            let got = self.byte(address)?;
            if address != end.address && expected & mask != got & mask {
                mismatches.push(Mismatch::Memory { address, expected: expected & mask, got: got & mask });
            }
        }
        Ok(if mismatches.is_empty() { Verdict::Same } else { Verdict::Differs(mismatches) })
    }

    fn byte(&self, address: u32) -> Result<u8, MemoryError> {
        let mut byte = [0];
        self.ram.read(gpa(address), &mut byte)?;
        let [byte] = byte;
        Ok(byte)
    }
}

fn gpa(address: u32) -> Gpa {
    Gpa(u64::from(address))
}

/// Where the HLT is, and whether the suite's EIP lies behind it.
struct End {
    address: u32,
    behind: bool,
}

impl End {
    fn of(suite: &Suite, case: &Case) -> Option<Self> {
        let at_end = |register| case.after.registers.get(register).or_else(|| case.before.registers.get(register));
        let (cs, eip) = (at_end(Register::Cs)? & 0xffff, at_end(Register::Eip)?);
        let offset = if suite.halts() { eip.wrapping_sub(1) } else { eip };
        let address = (cs << 4).wrapping_add(offset & 0xffff);
        // The instruction would be another one if it lay there.
        let start = (case.before.registers.get(Register::Cs)? & 0xffff) << 4;
        let start = start.wrapping_add(case.before.registers.get(Register::Eip)? & 0xffff);
        let within = address.wrapping_sub(start) < u32::try_from(case.bytes.len()).ok()?;
        let own = case.before.ram.iter().any(|&(at, byte)| at == address && byte == HLT);
        ((own || !within) && u64::from(address) < RAM).then_some(Self { address, behind: suite.halts() })
    }
}

/// Bits that every processor since the 80386 has alike, as far as the suite says that they are defined.
fn defined(suite: &Suite, case: &Case, register: Register) -> u32 {
    let alike = match register {
        Register::Cr0 => cr0::PE as u32 | 0xe,
        Register::Cr3 | Register::Dr7 => 0xffff_f3ff,
        Register::Cs | Register::Ds | Register::Es | Register::Fs | Register::Gs | Register::Ss => 0xffff,
        // AC, VIF, VIP and ID came later; reserved bits read as ones on some.
        Register::Eflags if suite.cpu == "386E" => 0x0003_7fd5,
        // IOPL and NT came with the 80286, and its real mode has them as zeros.
        Register::Eflags => 0x0fd5,
        _ => !0,
    };
    [suite.defined, case.after.defined].iter().fold(alike, |mask, chunk| mask & chunk.get(register).unwrap_or(!0))
}

/// The state before a case: real-address mode.
fn start(registers: &Registers) -> CpuState {
    let value = |register| registers.get(register).unwrap_or(0);
    let segment = |register, kind: u32| {
        let selector = value(register) as u16;
        let attributes = kind | Segment::S | Segment::PRESENT;
        Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes }
    };
    let mut state = CpuState::default();
    use Register::{Eax, Ebp, Ebx, Ecx, Edi, Edx, Esi, Esp};
    for (to, from) in state.gpr.iter_mut().zip([Eax, Ecx, Edx, Ebx, Esp, Ebp, Esi, Edi]) {
        *to = u64::from(value(from));
    }
    state.rip = u64::from(value(Register::Eip));
    // What the processors since have not: VM cannot be set in real mode, and bits above it came later.
    state.rflags = u64::from(value(Register::Eflags) & 0x7fd5 | 2);
    state.cr0 = cr0::ET | u64::from(value(Register::Cr0)) & 0xe;
    state.segments.cs = segment(Register::Cs, 0xb);
    state.segments.ds = segment(Register::Ds, 3);
    state.segments.es = segment(Register::Es, 3);
    state.segments.fs = segment(Register::Fs, 3);
    state.segments.gs = segment(Register::Gs, 3);
    state.segments.ss = segment(Register::Ss, 3);
    state.segments.ldtr = Segment { limit: 0xffff, attributes: 2 | Segment::PRESENT, ..Segment::default() };
    state.segments.tr = Segment { limit: 0xffff, attributes: 0xb | Segment::PRESENT, ..Segment::default() };
    state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
    state.gdtr = DescriptorTable { base: 0, limit: 0xffff };
    state
}

/// The registers after a case. EIP is where the suite has it, whether or not the HLT has run.
fn registers(state: &CpuState, end: &End) -> Registers {
    use Register::{Eax, Ebp, Ebx, Ecx, Edi, Edx, Esi, Esp};
    let mut registers = Registers::default();
    for (from, to) in state.gpr.iter().zip([Eax, Ecx, Edx, Ebx, Esp, Ebp, Esi, Edi]) {
        registers.set(to, *from as u32);
    }
    let segments = &state.segments;
    for (register, segment) in [
        (Register::Cs, segments.cs),
        (Register::Ds, segments.ds),
        (Register::Es, segments.es),
        (Register::Fs, segments.fs),
        (Register::Gs, segments.gs),
        (Register::Ss, segments.ss),
    ] {
        registers.set(register, u32::from(segment.selector));
    }
    let rip = state.rip as u32;
    registers.set(
        Register::Eip,
        match (state.activity == Activity::Halted, end.behind) {
            (true, true) | (false, false) => rip,
            (true, false) => rip.wrapping_sub(1),
            (false, true) => rip.wrapping_add(1),
        },
    );
    registers.set(Register::Eflags, state.rflags as u32);
    registers.set(Register::Cr0, state.cr0 as u32);
    registers.set(Register::Cr3, state.cr3 as u32);
    let [.., dr6, dr7] = state.dr;
    registers.set(Register::Dr6, dr6 as u32);
    registers.set(Register::Dr7, dr7 as u32);
    registers
}

/// Kicks the CPU when it comes to a HLT.
struct UntilHlt {
    kick: Arc<dyn Kick>,
    steps: Arc<AtomicU32>,
}

impl Tracer for UntilHlt {
    fn wants_instructions(&self) -> bool {
        true
    }

    fn instruction(&mut self, instruction: &RecentInstruction) {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed);
        if instruction.text == "hlt" || steps >= MOST_STEPS {
            self.kick.kick();
        }
    }

    fn event(&mut self, _: &TracedEvent) {}
}

/// No device answers: reads are all ones.
struct NoBoard;

impl GuestBus for NoBoard {
    fn io_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn io_write(&self, _: u16, _: &[u8]) {}

    fn mmio_read(&self, _: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&self, _: Gpa, _: &[u8]) {}

    fn acknowledge_interrupt(&self) -> u8 {
        0xff
    }

    fn end_of_interrupt(&self, _: u8) {}

    fn now(&self) -> Nanos {
        Nanos(0)
    }
}
