//! Runs an instruction directly on a guest's state, and makes up instructions and states.
//!
//! The oracle knows nothing of what an instruction reads or writes: it loads all general registers, the
//! flags and the whole XSAVE state, runs the instruction on memory that ends at an unmapped page, and
//! stores all of it again. So it also finds registers that a stub forgets and operands that are longer
//! than believed.

use iced_x86::code_asm::*;
use iced_x86::{Code, Encoder, Instruction, InstructionInfoFactory, OpCodeOperandKind, OpKind, Register};
use motu_x86::flags::rflags;

use super::*;

const PAGE: usize = 4096;

/// What the oracle's code works on; RSP points at it while the instruction runs, so room for a signal frame
/// lies below.
#[repr(C, align(64))]
struct Frame {
    below: [u8; 16 * PAGE],
    gpr: [u64; 16],
    flags: u64,
    host_rsp: u64,
    memory: u64,
    host_mxcsr: u64,
    align: [u64; 4],
    fpu: [u8; 1024],
}

const FLAGS: i32 = 128;
const HOST_RSP: i32 = 136;
const MEMORY: i32 = 144;
const HOST_MXCSR: i32 = 152;
const FPU: i32 = 192;

pub(super) struct Oracle {
    arena: Arena,
    frame: Box<Frame>,
    /// A page, followed by one that faults.
    window: *mut u8,
}

impl Oracle {
    pub(super) fn new() -> Self {
        // SAFETY: a new private mapping; its second page is made inaccessible.
        let window = unsafe {
            let window = libc::mmap(
                std::ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(window, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(window.add(PAGE), PAGE, libc::PROT_NONE), 0);
            window.cast::<u8>()
        };
        assert_eq!(std::mem::offset_of!(Frame, fpu) - std::mem::offset_of!(Frame, gpr), FPU as usize);
        let frame = Box::new(Frame {
            below: [0; 16 * PAGE],
            gpr: [0; 16],
            flags: 0,
            host_rsp: 0,
            memory: 0,
            host_mxcsr: 0,
            align: [0; 4],
            fpu: [0; 1024],
        });
        Self { arena: Arena::new(1 << 20).expect("executable memory"), frame, window }
    }

    /// `pointer` is the register that addresses the memory operand.
    pub(super) fn compile(&mut self, instruction: Instruction, pointer: Register) -> u32 {
        let mut a = CodeAssembler::new(64).unwrap();
        let features = if is_x86_feature_detected!("avx") { 7 } else { 3 };
        let number = |n: u32| Register::RAX + n;
        let carried = |n: &u32| number(*n) != Register::RSP && number(*n) != pointer;
        let saved = [rbx, rbp, r12, r13, r14, r15];
        for register in saved {
            a.push(register).unwrap();
        }
        a.mov(qword_ptr(rdi + HOST_RSP), rsp).unwrap();
        a.mov(rsp, rdi).unwrap();
        a.stmxcsr(dword_ptr(rsp + HOST_MXCSR)).unwrap();
        a.mov(eax, features).unwrap();
        a.xor(edx, edx).unwrap();
        a.xrstor64(ptr(rsp + FPU)).unwrap();
        a.push(qword_ptr(rsp + FLAGS)).unwrap();
        a.popfq().unwrap();
        let slot = |n: u32| iced_x86::MemoryOperand::with_base_displ(Register::RSP, i64::from(n) * 8);
        for n in (0..16).filter(carried) {
            a.add_instruction(Instruction::with2(Code::Mov_r64_rm64, number(n), slot(n)).unwrap()).unwrap();
        }
        let memory = iced_x86::MemoryOperand::with_base_displ(Register::RSP, i64::from(MEMORY));
        a.add_instruction(Instruction::with2(Code::Mov_r64_rm64, pointer, memory).unwrap()).unwrap();
        a.add_instruction(instruction).unwrap();
        for n in (0..16).filter(carried) {
            a.add_instruction(Instruction::with2(Code::Mov_rm64_r64, slot(n), number(n)).unwrap()).unwrap();
        }
        a.pushfq().unwrap();
        a.pop(qword_ptr(rsp + FLAGS)).unwrap();
        a.mov(eax, features).unwrap();
        a.xor(edx, edx).unwrap();
        a.xsave64(ptr(rsp + FPU)).unwrap();
        a.fninit().unwrap();
        if is_x86_feature_detected!("avx") {
            a.vzeroupper().unwrap();
        }
        a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR)).unwrap();
        a.mov(rsp, qword_ptr(rsp + HOST_RSP)).unwrap();
        for register in saved.into_iter().rev() {
            a.pop(register).unwrap();
        }
        a.ret().unwrap();
        let code = a.assemble(0).unwrap();
        self.arena.push(&code).unwrap_or_else(|| {
            self.arena.clear();
            self.arena.push(&code).expect("room for one")
        })
    }

    /// Runs the code at `offset` on `memory`, which ends at the unmapped page; the address register points
    /// `origin` bytes into it.
    pub(super) fn run(&mut self, offset: u32, memory: &mut [u8], origin: usize, guest: &mut Guest) {
        let frame = &mut *self.frame;
        frame.gpr = guest.gpr;
        frame.flags = guest.flags;
        frame.fpu[..832].copy_from_slice(&guest.fpu.0);
        frame.fpu[512..576].fill(0);
        frame.fpu[512] = if is_x86_feature_detected!("avx") { 7 } else { 3 };
        let window = self.window.wrapping_add(PAGE - memory.len());
        frame.memory = window.wrapping_add(origin) as u64;
        type Code = unsafe extern "sysv64" fn(*mut u64);
        // SAFETY: `compile` put code of this signature there; the operand lies in the window's first page.
        unsafe {
            std::ptr::copy_nonoverlapping(memory.as_ptr(), window, memory.len());
            let code = std::mem::transmute::<*const u8, Code>(self.arena.executable(offset));
            code(frame.gpr.as_mut_ptr());
            std::ptr::copy_nonoverlapping(window, memory.as_mut_ptr(), memory.len());
        }
        guest.gpr = frame.gpr;
        guest.flags = frame.flags;
        guest.fpu.0.copy_from_slice(&frame.fpu[..832]);
    }
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    /// Eight bytes that are likely to be interesting as integers, floats or doubles.
    pub(super) fn lanes(&mut self) -> u64 {
        const SINGLE: [u32; 10] = [
            0,
            0x8000_0000,
            0x3f80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x7fa0_0000,
            1,
            0x007f_ffff,
            0x7f7f_ffff,
        ];
        const DOUBLE: [u64; 10] = [
            0,
            1 << 63,
            0x3ff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0x7ff8_0000_0000_0000,
            0x7ff4_0000_0000_0000,
            1,
            0x000f_ffff_ffff_ffff,
            0x7fef_ffff_ffff_ffff,
            0x41df_ffff_ffc0_0000,
        ];
        match self.below(5) {
            0 => u64::from(SINGLE[self.below(10) as usize]) | u64::from(SINGLE[self.below(10) as usize]) << 32,
            1 => DOUBLE[self.below(10) as usize],
            2 => (self.next() & 0x000f_ffff_ffff_ffff) | (0x3f0 + self.below(32)) << 52,
            3 => [0, 1, u64::MAX, 0x8000_0000, 0x7fff_ffff, 0x80][self.below(6) as usize],
            _ => self.next(),
        }
    }

    fn extended(&mut self) -> [u8; 10] {
        let exponent = match self.below(4) {
            0 => [0, 1, 0x7ffe, 0x7fff, 0x8000, 0xffff][self.below(6) as usize],
            1 => self.next() as u16,
            _ => 0x3ff0 + self.below(0x40) as u16,
        };
        let significand = match self.below(4) {
            0 => [0, 1 << 63, 3 << 62, u64::MAX, 1][self.below(5) as usize],
            1 => self.next(),
            _ => self.next() | 1 << 63,
        };
        let mut value = [0; 10];
        value[..8].copy_from_slice(&significand.to_le_bytes());
        value[8..].copy_from_slice(&exponent.to_le_bytes());
        value
    }

    /// State in which no exception is pending and no SIMD exception is unmasked.
    pub(super) fn guest(&mut self) -> Guest {
        let mut guest = Guest::new();
        for register in &mut guest.gpr {
            *register = self.lanes();
        }
        guest.flags = 2 | (self.next() & rflags::ARITHMETIC);
        for start in (160..416).chain(576..832).step_by(8) {
            guest.fpu.0[start..start + 8].copy_from_slice(&self.lanes().to_le_bytes());
        }
        for bytes in guest.memory.0.chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.lanes().to_le_bytes());
        }
        let control = [MXCSR_DEFAULT, MXCSR_DEFAULT, MXCSR_DEFAULT | self.next() as u32 & 0xe040];
        let flags = [0, 0x20, self.next() as u32 & 0x3f];
        set_mxcsr(&mut guest.fpu, control[self.below(3) as usize] | flags[self.below(3) as usize]);
        for index in 0..8 {
            x87::set_register(&mut guest.fpu, index, self.extended());
        }
        let word = [0x37f, 0x37f, 0x40 | self.next() as u16 & 0xf3f][self.below(3) as usize];
        x87::set_control(&mut guest.fpu, word);
        x87::set_status(&mut guest.fpu, self.next() as u16 & 0x7f7f & !(0x3f & !word));
        x87::set_tags(&mut guest.fpu, [0xff, 0xff, self.next() as u8][self.below(3) as usize]);
        guest
    }
}

/// Chooses operands for `code`; `None` when it has no form of the asked kind.
pub(super) fn build(code: Code, memory: bool, random: &mut Random) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let mut has_memory = false;
    for operand in 0..info.op_count() {
        let kind = info.op_kind(operand);
        let name = format!("{kind:?}");
        if kind == K::mem || (name.ends_with("_or_mem") && memory) {
            has_memory = true;
            instruction.set_op_kind(operand, OpKind::Memory);
            instruction.set_memory_base(Register::RBX);
            continue;
        }
        if name.starts_with("imm8") {
            instruction.set_op_kind(operand, OpKind::Immediate8);
            instruction.set_immediate8(random.next() as u8);
            continue;
        }
        let base = match name.split('_').next()? {
            "xmm" => Register::XMM0 + random.below(16) as u32,
            "ymm" => Register::YMM0 + random.below(16) as u32,
            "mm" => Register::MM0 + random.below(8) as u32,
            "r8" => Register::AL + random.below(20) as u32,
            "r16" => Register::AX + random.below(16) as u32,
            "r32" => Register::EAX + random.below(16) as u32,
            "r64" => Register::RAX + random.below(16) as u32,
            "sti" => Register::ST0 + random.below(8) as u32,
            "st0" => Register::ST0,
            "ax" => Register::AX,
            other => panic!("operand kind {other} of {code:?}"),
        };
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, base);
    }
    // The oracle cannot carry RSP.
    let stack = |r: Register| r.is_gpr() && r.full_register() == Register::RSP;
    if has_memory != memory || (0..info.op_count()).any(|i| stack(instruction.op_register(i))) {
        return None;
    }
    Some(instruction)
}

/// A general register that the instruction does not use, for the address.
pub(super) fn address_register(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Register {
    let plain = stub::without_address(instruction);
    let used = info.info(&plain);
    (0..16)
        .map(|n| Register::RAX + n)
        .find(|&r| r != Register::RSP && used.used_registers().iter().all(|u| u.register().full_register() != r))
        .expect("an unused register")
}

/// AH to BH cannot be encoded with a REX prefix, so not every choice of operands has an encoding.
pub(super) fn encodes(instruction: &Instruction) -> Option<Instruction> {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, 0).ok()?;
    Some(decode(&encoder.take_buffer()))
}

pub(super) fn compare(what: &str, before: &Guest, thunk: &Guest, oracle: &Guest, undefined: u64) {
    let context = |part: &str| {
        format!("{part} of {what}: gpr {:x?} flags {:#x} mxcsr {:#x}", before.gpr, before.flags, mxcsr(&before.fpu))
    };
    assert_eq!(thunk.gpr, oracle.gpr, "{}", context("general registers"));
    let flags = rflags::ARITHMETIC & !undefined;
    assert_eq!(thunk.flags & flags, oracle.flags & flags, "{}", context("flags"));
    assert_eq!(thunk.flags & !rflags::ARITHMETIC, before.flags & !rflags::ARITHMETIC);
    assert_eq!(mxcsr(&thunk.fpu), mxcsr(&oracle.fpu), "{}", context("MXCSR"));
    assert_eq!(thunk.fpu.0[0..6], oracle.fpu.0[0..6], "{}", context("x87 control, status, tags"));
    assert_eq!(thunk.fpu.0[32..160], oracle.fpu.0[32..160], "{}", context("x87 registers"));
    assert_eq!(thunk.fpu.0[160..416], oracle.fpu.0[160..416], "{}", context("XMM"));
    assert_eq!(thunk.fpu.0[576..832], oracle.fpu.0[576..832], "{}", context("YMM"));
}
