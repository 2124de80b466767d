//! Writes the machine code around one guest instruction.
//!
//! A stub is `extern "sysv64" fn(gpr, fpu, _, _, memory, flags) -> raised`: RDI points at the general
//! registers, RSI at the XSAVE image, R8 at the staged memory operand, R9 at RFLAGS. The instruction
//! itself may use RAX, RCX, RDX and R10 (its operands are renamed into them), any vector register and,
//! through FXRSTOR and FXSAVE, the x87 stack. R11 and the red zone are scratch.
//!
//! ```text
//!   [save host MXCSR] [FXRSTOR] [guest MXCSR, all masked] [flags] [registers]  -> the instruction ->
//!   [new MXCSR flags: return them if one is unmasked] [registers] [flags] [FXSAVE, FNINIT]  -> return 0
//! ```

use iced_x86::code_asm::*;
use iced_x86::{
    Code, EncodingKind, IcedError, Instruction, InstructionInfoFactory, MemoryOperand, OpAccess, Register, RflagsBits,
};
use motu_x86::XsaveArea;
use motu_x86::flags::rflags;

use super::classify::{Unit, general_operand};

/// Host registers that the instruction may use. None is saved by a callee, none holds a pointer of the stub.
/// The first three have high-byte halves.
const POOL: [Register; 4] = [Register::RAX, Register::RCX, Register::RDX, Register::R10];

/// Offset of MXCSR in the image.
const MXCSR: i32 = 24;
/// Host MXCSR at entry, below RSP in the red zone.
const HOST_MXCSR: i32 = -8;
/// What is in force when the instruction begins.
const START_MXCSR: i32 = -16;
const SCRATCH: i32 = -24;
/// All exceptions masked, round to nearest, no flags: what Rust code runs with.
const MXCSR_DEFAULT: i32 = 0x1f80;
/// Masks, rounding control, FZ and DAZ without the flags.
const MXCSR_CONTROL: i32 = 0xffc0;
const MXCSR_FLAGS: i32 = 0x3f;

/// A general register that the stub carries in and out.
struct General {
    guest: usize,
    host: Register,
    written: bool,
}

/// A vector register that the stub carries in and out; it keeps its number.
struct Vector {
    number: u32,
    loaded: bool,
    /// The instruction names it as YMM, so that its high half matters as a source.
    wide: bool,
    written: bool,
}

/// Everything the stub of one instruction has to do.
pub(super) struct Plan {
    instruction: Instruction,
    general: Vec<General>,
    vectors: Vec<Vector>,
    vex: bool,
    /// The state goes through FXRSTOR and FXSAVE: x87 and MMX.
    fxsave: bool,
    simd: bool,
    flags_read: bool,
    flags_written: u64,
}

/// The instruction with its memory operand reduced to `[0]`: equal for all addressing forms, the key of the
/// cache.
pub(super) fn without_address(instruction: &Instruction) -> Instruction {
    let mut plain = *instruction;
    plain.set_ip(0);
    plain.set_segment_prefix(Register::None);
    plain.set_has_rep_prefix(false);
    plain.set_has_repne_prefix(false);
    plain.set_memory_base(Register::None);
    plain.set_memory_index(Register::None);
    plain.set_memory_index_scale(1);
    plain.set_memory_displacement64(0);
    plain.set_memory_displ_size(4);
    plain
}

impl Plan {
    /// `plain` is the result of [`without_address`]. `None` when its registers do not fit the scheme.
    pub(super) fn new(plain: &Instruction, unit: Unit, simd: bool, info: &mut InstructionInfoFactory) -> Option<Self> {
        let used = info.info(plain);
        let mut general: Vec<General> = Vec::new();
        let mut vectors: Vec<Vector> = Vec::new();
        for register in used.used_registers() {
            let (name, access) = (register.register(), register.access());
            let written = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            if name.is_gpr() {
                let guest = name.full_register().number();
                match general.iter_mut().find(|g| g.guest == guest) {
                    Some(known) => known.written |= written,
                    None => general.push(General { guest, host: Register::None, written }),
                }
            } else if name.is_vector_register() {
                let number = u32::try_from(name.number()).ok().filter(|&n| n < 16)?;
                let loaded = access != OpAccess::Write;
                match vectors.iter_mut().find(|v| v.number == number) {
                    Some(known) => {
                        known.written |= written;
                        known.loaded |= loaded;
                    }
                    None => vectors.push(Vector { number, loaded, wide: false, written }),
                }
            }
        }
        let vex = plain.code().encoding() == EncodingKind::VEX;
        for vector in &mut vectors {
            vector.wide = (0..plain.op_count()).any(|i| plain.op_register(i) == Register::YMM0 + vector.number);
            // A VEX destination is replaced as a whole; a legacy one may be merged into.
            vector.loaded |= !vex;
        }
        let instruction = rename(plain, &mut general)?;
        let modified = plain.rflags_modified();
        Some(Self {
            instruction,
            general,
            vectors,
            vex,
            fxsave: matches!(unit, Unit::X87 | Unit::Mmx),
            simd,
            flags_read: arithmetic_flags(plain.rflags_read()) != 0,
            flags_written: arithmetic_flags(modified),
        })
    }

    /// The machine code of the stub.
    pub(super) fn assemble(&self) -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        if self.simd || self.fxsave {
            a.stmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
        }
        if self.fxsave {
            a.fxrstor64(ptr(rsi))?;
        }
        if self.simd {
            self.guest_mxcsr(&mut a)?;
        }
        if self.flags_read {
            load_flags(&mut a)?;
        }
        self.load_registers(&mut a)?;
        a.add_instruction(self.instruction)?;
        // Only the ordered comparisons have flags and MXCSR, and they write no general register.
        let flags_early = self.simd && self.flags_written != 0;
        if flags_early {
            capture_flags(&mut a)?;
        }
        if self.simd {
            self.check_mxcsr(&mut a)?;
        }
        self.store_registers(&mut a)?;
        if self.flags_written != 0 {
            if !flags_early {
                capture_flags(&mut a)?;
            }
            merge_flags(&mut a, self.flags_written as i32)?;
        }
        if self.fxsave {
            // The MXCSR that is in force now is not the guest's; neither is the host's MXCSR_MASK.
            a.mov(r11d, dword_ptr(rsi + MXCSR))?;
            a.fxsave64(ptr(rsi))?;
            a.mov(dword_ptr(rsi + MXCSR), r11d)?;
            a.mov(dword_ptr(rsi + (MXCSR + 4)), super::simd::MXCSR_MASK as i32)?;
            a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
            a.fninit()?;
        }
        self.leave(&mut a)?;
        a.xor(eax, eax)?;
        a.ret()?;
        a.assemble(0)
    }

    /// Puts the guest's rounding and denormal control in force, with all exceptions masked. LDMXCSR followed
    /// by STMXCSR is slow on many CPUs, so nothing is loaded in the usual case: both sides have the default
    /// control, and the host's sticky flags are some of the guest's, so that what the instruction adds to
    /// them can simply be added to the guest's as well. Host code cares for no flags.
    fn guest_mxcsr(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        let mut load = a.create_label();
        let mut ready = a.create_label();
        a.mov(eax, dword_ptr(rsi + MXCSR))?;
        if !self.fxsave {
            a.mov(ecx, dword_ptr(rsp + HOST_MXCSR))?;
            a.mov(dword_ptr(rsp + START_MXCSR), ecx)?;
            for value in [eax, ecx] {
                a.mov(edx, value)?;
                a.or(edx, MXCSR_FLAGS)?;
                a.cmp(edx, MXCSR_DEFAULT | MXCSR_FLAGS)?;
                a.jne(load)?;
            }
            a.mov(edx, eax)?;
            a.not(edx)?;
            a.test(ecx, edx)?;
            a.je(ready)?;
        }
        a.set_label(&mut load)?;
        a.and(eax, MXCSR_CONTROL)?;
        a.or(eax, MXCSR_DEFAULT)?;
        a.mov(dword_ptr(rsp + START_MXCSR), eax)?;
        a.ldmxcsr(dword_ptr(rsp + START_MXCSR))?;
        a.set_label(&mut ready)?;
        a.zero_bytes()
    }

    /// Leaves with the raised flags if the guest has one of them unmasked; otherwise adds them to the guest's.
    /// R11 is the only register free here.
    fn check_mxcsr(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        let mut unchanged = a.create_label();
        let mut masked = a.create_label();
        let mut commit = a.create_label();
        a.stmxcsr(dword_ptr(rsp + SCRATCH))?;
        a.mov(r11d, dword_ptr(rsp + SCRATCH))?;
        a.cmp(r11d, dword_ptr(rsp + START_MXCSR))?;
        a.je(unchanged)?;
        a.and(r11d, MXCSR_FLAGS)?;
        a.mov(dword_ptr(rsp + SCRATCH), r11d)?;
        a.mov(r11d, dword_ptr(rsi + MXCSR))?;
        a.not(r11d)?;
        a.shr(r11d, 7)?;
        a.and(r11d, dword_ptr(rsp + SCRATCH))?;
        a.je(masked)?;
        a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
        a.mov(eax, dword_ptr(rsp + SCRATCH))?;
        if self.fxsave {
            a.fninit()?;
        }
        self.leave(a)?;
        a.ret()?;
        a.set_label(&mut masked)?;
        a.mov(r11d, dword_ptr(rsp + SCRATCH))?;
        a.or(dword_ptr(rsi + MXCSR), r11d)?;
        a.set_label(&mut unchanged)?;
        // The default control is the host's own: it may stay, with its flags.
        a.mov(r11d, dword_ptr(rsp + START_MXCSR))?;
        a.or(r11d, MXCSR_FLAGS)?;
        a.cmp(r11d, MXCSR_DEFAULT | MXCSR_FLAGS)?;
        a.je(commit)?;
        a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
        a.set_label(&mut commit)?;
        a.zero_bytes()
    }

    fn load_registers(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        for general in &self.general {
            a.add_instruction(Instruction::with2(
                Code::Mov_r64_rm64,
                general.host,
                slot(Register::RDI, general.guest * 8),
            )?)?;
        }
        if self.fxsave {
            return Ok(());
        }
        for vector in self.vectors.iter().filter(|v| v.loaded) {
            let (low, high) = (low_half(vector.number), high_half(vector.number));
            let (x, y) = (Register::XMM0 + vector.number, Register::YMM0 + vector.number);
            if !self.vex {
                a.add_instruction(Instruction::with2(Code::Movaps_xmm_xmmm128, x, low)?)?;
                continue;
            }
            a.add_instruction(Instruction::with2(Code::VEX_Vmovaps_xmm_xmmm128, x, low)?)?;
            if vector.wide {
                a.add_instruction(Instruction::with4(Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8, y, y, high, 1)?)?;
            }
        }
        Ok(())
    }

    fn store_registers(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        for general in self.general.iter().filter(|g| g.written) {
            a.add_instruction(Instruction::with2(
                Code::Mov_rm64_r64,
                slot(Register::RDI, general.guest * 8),
                general.host,
            )?)?;
        }
        if self.fxsave {
            return Ok(());
        }
        for vector in self.vectors.iter().filter(|v| v.written) {
            let (low, high) = (low_half(vector.number), high_half(vector.number));
            let (x, y) = (Register::XMM0 + vector.number, Register::YMM0 + vector.number);
            if !self.vex {
                a.add_instruction(Instruction::with2(Code::Movaps_xmmm128_xmm, low, x)?)?;
                continue;
            }
            a.add_instruction(Instruction::with2(Code::VEX_Vmovaps_xmmm128_xmm, low, x)?)?;
            a.add_instruction(Instruction::with3(Code::VEX_Vextractf128_xmmm128_ymm_imm8, high, y, 1)?)?;
        }
        Ok(())
    }

    /// Host code is compiled for SSE: it must not find dirty upper halves.
    fn leave(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        if self.vex && !self.vectors.is_empty() { a.vzeroupper() } else { Ok(()) }
    }
}

/// Moves the instruction's general registers into [`POOL`] and its memory operand to `[r8]`.
fn rename(plain: &Instruction, general: &mut [General]) -> Option<Instruction> {
    let explicit = |guest: usize| {
        (0..plain.op_count()).any(|i| general_operand(plain, i).is_some_and(|r| r.full_register().number() == guest))
    };
    let mut free = POOL.to_vec();
    for general in general.iter_mut() {
        let same = Register::RAX + u32::try_from(general.guest).ok()?;
        if let Some(position) = free.iter().position(|&r| r == same) {
            general.host = free.remove(position);
        }
    }
    for general in general.iter_mut().filter(|g| g.host == Register::None) {
        if !explicit(general.guest) || free.is_empty() {
            return None;
        }
        general.host = free.remove(0);
    }
    let mut renamed = *plain;
    for operand in 0..plain.op_count() {
        if let Some(register) = general_operand(plain, operand) {
            let guest = register.full_register().number();
            let host = general.iter().find(|g| g.guest == guest)?.host;
            renamed.set_op_register(operand, sized_like(host, register)?);
        }
    }
    if plain.op_kinds().any(|kind| kind == iced_x86::OpKind::Memory) {
        renamed.set_memory_base(Register::R8);
        renamed.set_memory_displ_size(0);
    }
    Some(renamed)
}

/// The part of 64-bit register `host` that `like` is of its own register.
fn sized_like(host: Register, like: Register) -> Option<Register> {
    let number = u32::try_from(host.number()).ok()?;
    if like.is_gpr64() {
        return Some(host);
    }
    if like.is_gpr32() {
        return Some(Register::EAX + number);
    }
    if like.is_gpr16() {
        return Some(Register::AX + number);
    }
    let high = matches!(like, Register::AH | Register::CH | Register::DH | Register::BH);
    match (host, high) {
        (Register::RAX, false) => Some(Register::AL),
        (Register::RCX, false) => Some(Register::CL),
        (Register::RDX, false) => Some(Register::DL),
        (Register::R10, false) => Some(Register::R10L),
        (Register::RAX, true) => Some(Register::AH),
        (Register::RCX, true) => Some(Register::CH),
        (Register::RDX, true) => Some(Register::DH),
        _ => None,
    }
}

fn slot(base: Register, offset: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, offset as i64)
}

fn low_half(number: u32) -> MemoryOperand {
    slot(Register::RSI, XsaveArea::XMM + number as usize * 16)
}

fn high_half(number: u32) -> MemoryOperand {
    slot(Register::RSI, XsaveArea::YMM_HIGH + number as usize * 16)
}

/// From iced's flag bits to RFLAGS; the x87 condition bits live in FSW.
fn arithmetic_flags(bits: u32) -> u64 {
    [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ]
    .into_iter()
    .filter(|&(bit, _)| bits & bit != 0)
    .fold(0, |all, (_, flag)| all | flag)
}

/// All six flags from `[r9]`, without POPF: nothing but arithmetic flags can come from there.
fn load_flags(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, dword_ptr(r9))?;
    a.bt(eax, 11)?;
    a.mov(ah, al)?;
    a.setb(al)?;
    // 1 + 127 overflows, 0 + 127 does not.
    a.add(al, 127)?;
    a.sahf()
}

/// OF to AL, the other five to AH.
fn capture_flags(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.seto(al)?;
    a.lahf()
}

/// Replaces the bits of `mask` at `[r9]` by the captured ones.
fn merge_flags(a: &mut CodeAssembler, mask: i32) -> Result<(), IcedError> {
    a.movzx(ecx, ah)?;
    a.movzx(eax, al)?;
    a.shl(eax, 11)?;
    a.or(eax, ecx)?;
    a.and(eax, mask)?;
    a.mov(rcx, qword_ptr(r9))?;
    a.and(rcx, !mask)?;
    a.or(rcx, rax)?;
    a.mov(qword_ptr(r9), rcx)
}
