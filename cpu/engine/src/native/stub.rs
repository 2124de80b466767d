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

use iced_x86::{
    Code, Encoder, EncodingKind, IcedError, Instruction, InstructionInfoFactory, MemoryOperand, OpAccess, Register,
    RflagsBits,
};
use motu_x86::XsaveArea;
use motu_x86::flags::rflags;

use super::classify::{Unit, general_operand};
use super::templates::{Frame, Templates};

/// Host registers that the instruction may use. None is saved by a callee, none holds a pointer of the stub.
/// The first three have high-byte halves.
const POOL: [Register; 4] = [Register::RAX, Register::RCX, Register::RDX, Register::R10];

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
    frame: Frame,
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
            frame: Frame { fxsave: matches!(unit, Unit::X87 | Unit::Mmx), simd, vex: vex && !vectors.is_empty() },
            vectors,
            flags_read: arithmetic_flags(plain.rflags_read()) != 0,
            flags_written: arithmetic_flags(modified),
        })
    }

    /// The machine code of the stub.
    pub(super) fn assemble(&self, templates: &mut Templates) -> Result<Vec<u8>, IcedError> {
        // Only the ordered comparisons have flags and MXCSR, and they write no general register.
        let flags_early = self.frame.simd && self.flags_written != 0;
        let flags_late = !flags_early && self.flags_written != 0;
        let mut code = templates.blocks(self.frame)?.enter.clone();
        if self.flags_read {
            code.extend_from_slice(&templates.load_flags);
        }
        let mut encoder = Encoder::new(64);
        self.load_registers(&mut encoder)?;
        encoder.encode(&self.instruction, 0)?;
        code.append(&mut encoder.take_buffer());
        if flags_early {
            code.extend_from_slice(&templates.capture_flags);
        }
        code.extend_from_slice(&templates.blocks(self.frame)?.check);
        self.store_registers(&mut encoder)?;
        code.append(&mut encoder.take_buffer());
        if flags_late {
            code.extend_from_slice(&templates.capture_flags);
        }
        if self.flags_written != 0 {
            code.extend_from_slice(templates.merge_flags(self.flags_written)?);
        }
        code.extend_from_slice(&templates.blocks(self.frame)?.leave);
        Ok(code)
    }

    fn load_registers(&self, encoder: &mut Encoder) -> Result<(), IcedError> {
        for general in &self.general {
            encoder.encode(
                &Instruction::with2(Code::Mov_r64_rm64, general.host, slot(Register::RDI, general.guest * 8))?,
                0,
            )?;
        }
        if self.frame.fxsave {
            return Ok(());
        }
        for vector in self.vectors.iter().filter(|v| v.loaded) {
            let (low, high) = (low_half(vector.number), high_half(vector.number));
            let (x, y) = (Register::XMM0 + vector.number, Register::YMM0 + vector.number);
            if !self.frame.vex {
                encoder.encode(&Instruction::with2(Code::Movaps_xmm_xmmm128, x, low)?, 0)?;
                continue;
            }
            encoder.encode(&Instruction::with2(Code::VEX_Vmovaps_xmm_xmmm128, x, low)?, 0)?;
            if vector.wide {
                encoder.encode(&Instruction::with4(Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8, y, y, high, 1)?, 0)?;
            }
        }
        Ok(())
    }

    fn store_registers(&self, encoder: &mut Encoder) -> Result<(), IcedError> {
        for general in self.general.iter().filter(|g| g.written) {
            encoder.encode(
                &Instruction::with2(Code::Mov_rm64_r64, slot(Register::RDI, general.guest * 8), general.host)?,
                0,
            )?;
        }
        if self.frame.fxsave {
            return Ok(());
        }
        for vector in self.vectors.iter().filter(|v| v.written) {
            let (low, high) = (low_half(vector.number), high_half(vector.number));
            let (x, y) = (Register::XMM0 + vector.number, Register::YMM0 + vector.number);
            if !self.frame.vex {
                encoder.encode(&Instruction::with2(Code::Movaps_xmmm128_xmm, low, x)?, 0)?;
                continue;
            }
            encoder.encode(&Instruction::with2(Code::VEX_Vmovaps_xmmm128_xmm, low, x)?, 0)?;
            encoder.encode(&Instruction::with3(Code::VEX_Vextractf128_xmmm128_ymm_imm8, high, y, 1)?, 0)?;
        }
        Ok(())
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

/// Whether the stub of `instruction` reads or writes the arithmetic flags.
pub(super) fn touches_flags(instruction: &Instruction) -> bool {
    arithmetic_flags(instruction.rflags_read() | instruction.rflags_modified()) != 0
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
