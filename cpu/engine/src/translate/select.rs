//! Which instructions are translated, and into what.
//!
//! An allow list: whatever is not named here is left to the interpreter, one instruction at a time.

use crate::decode::Op;
use crate::exec::system;
use crate::native::Unit;
use iced_x86::{
    Code, CodeSize, FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpCodeOperandKind,
    OpKind, Register,
};

use super::frame::unit;
use super::mode::Mode;

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Encoded again with other registers and another address.
    Copy,
    /// Does nothing.
    Nothing,
    Lea,
    Push,
    Pop,
    Leave,
    /// DIV or IDIV of 32 or 64 bits.
    Divide,
    Jump,
    JumpIf,
    /// JRCXZ, LOOP and its kin.
    JumpShort,
    Call,
    JumpIndirect,
    CallIndirect,
    Return,
    /// CLI, STI, CLD, STD.
    Flag(FlagChange),
    SwapGs,
    /// PUSHFQ or PUSHFD.
    PushFlags,
    Repeat(Repeated),
    /// Not translated: the interpreter runs it.
    Interpret,
}

impl Kind {
    pub fn ends_block(self) -> bool {
        matches!(
            self,
            Self::Jump
                | Self::JumpIf
                | Self::JumpShort
                | Self::Call
                | Self::JumpIndirect
                | Self::CallIndirect
                | Self::Return
        )
    }
}

/// A flag beside the arithmetic ones, by its bit in RFLAGS, and what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagChange {
    pub bit: u8,
    pub to: bool,
}

/// REP STOS or REP MOVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    pub moves: bool,
    /// log2 of an element's bytes.
    pub shift: u8,
    /// By ECX, ESI and EDI.
    pub narrow: bool,
}

impl Repeated {
    /// Without a segment and with addresses as the mode has them.
    fn of(instruction: &Instruction, narrow: bool) -> Option<Self> {
        let (moves, shift) = match instruction.code() {
            Code::Stosb_m8_AL => (false, 0),
            Code::Stosw_m16_AX => (false, 1),
            Code::Stosd_m32_EAX => (false, 2),
            Code::Stosq_m64_RAX => (false, 3),
            Code::Movsb_m8_m8 => (true, 0),
            Code::Movsw_m16_m16 => (true, 1),
            Code::Movsd_m32_m32 => (true, 2),
            Code::Movsq_m64_m64 => (true, 3),
            _ => return None,
        };
        let (to, from) = match narrow {
            true => (OpKind::MemoryESEDI, OpKind::MemorySegESI),
            false => (OpKind::MemoryESRDI, OpKind::MemorySegRSI),
        };
        let plain = instruction.op0_kind() == to
            && (!moves || instruction.op1_kind() == from)
            && !matches!(instruction.segment_prefix(), Register::CS | Register::FS | Register::GS)
            && instruction.has_rep_prefix();
        plain.then_some(Self { moves, shift, narrow })
    }

    pub fn number(self) -> usize {
        let sizes = if self.narrow { 3 } else { 4 };
        usize::from(self.narrow) * 8 + usize::from(self.moves) * sizes + usize::from(self.shift)
    }
}

/// Chooses for an instruction that does its work on the CPU's state beside registers, or on more memory than one operand.
pub fn system(instruction: &Instruction, mode: Mode) -> Option<Kind> {
    let user = mode.user;
    let flag = |bit, to| Some(Kind::Flag(FlagChange { bit, to }));
    match instruction.code() {
        Code::Cli if !user => flag(9, false),
        Code::Sti if !user => flag(9, true),
        Code::Cld => flag(10, false),
        Code::Std => flag(10, true),
        Code::Swapgs if !user => Some(Kind::SwapGs),
        Code::Pushfq | Code::Pushfd => Some(Kind::PushFlags),
        _ => Repeated::of(instruction, mode.narrow).map(Kind::Repeat),
    }
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// In bytes.
    pub size: u32,
    pub write: bool,
    /// In bytes, a power of two: the instruction faults elsewhere.
    pub alignment: u32,
}

/// What is known of an instruction before anything is emitted.
#[derive(Clone, Copy, Debug)]
pub struct Selected {
    pub kind: Kind,
    pub operand: Option<Operand>,
    /// Bits of [`mod@unit`] that it needs.
    pub units: u32,
}

/// The interpreter's.
pub const INTERPRET: Selected = Selected { kind: Kind::Interpret, operand: None, units: 0 };

/// Gives an instruction of 32-bit code the form that 64-bit code has for it, where that is another one.
pub fn widen(instruction: &mut Instruction) {
    let code = match instruction.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        code => code,
    };
    instruction.set_code(code);
}

/// Chooses for one instruction of 64-bit code, or one of 32-bit code after [`widen`], which the interpreter has as `op`.
pub fn select(instruction: &Instruction, op: &Op, info: &mut InstructionInfoFactory) -> Selected {
    let plain = |kind| Selected { kind, operand: None, units: 0 };
    if instruction.is_invalid() || std::ptr::fn_addr_eq(op.run, system::undefined as crate::decode::Handler) {
        return INTERPRET;
    }
    let narrow = instruction.code_size() == CodeSize::Code32;
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    if narrow && memory && !has_flat_address(instruction) {
        return INTERPRET;
    }
    if instruction.flow_control() != FlowControl::Next {
        return branch(instruction);
    }
    let thunk = op.extra.as_ref().and_then(|extra| extra.thunk);
    if let Some(thunk) = thunk {
        let units = match thunk.unit() {
            Unit::Integer => 0,
            Unit::Sse => unit::SSE,
            Unit::Avx => unit::SSE | unit::AVX,
            Unit::X87 | Unit::Wait | Unit::Mmx => return INTERPRET,
        };
        if !thunk.is_computation() {
            return match instruction.mnemonic() {
                // Eight of the host's sixteen registers.
                M::Vzeroupper | M::Vzeroall if narrow => INTERPRET,
                M::Vzeroupper | M::Vzeroall => Selected { units, ..plain(Kind::Copy) },
                M::Lfence | M::Mfence | M::Sfence => plain(Kind::Copy),
                M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => plain(Kind::Nothing),
                _ => INTERPRET,
            };
        }
        let operand =
            thunk.memory().map(|m| Operand { size: m.size.into(), write: m.writes, alignment: m.alignment.into() });
        return copy(instruction, operand, units);
    }
    integer(instruction, info)
}

fn branch(instruction: &Instruction) -> Selected {
    let of = |kind, operand| Selected { kind, operand, units: 0 };
    let word = word_bytes(instruction);
    let near = matches!(instruction.op0_kind(), OpKind::NearBranch32 | OpKind::NearBranch64);
    let indirect = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size() == word as usize,
        OpKind::Memory => instruction.memory_size().size() == word as usize,
        _ => false,
    };
    let from_memory = instruction.op0_kind() == OpKind::Memory;
    let source = from_memory.then_some(Operand { size: word, write: false, alignment: 1 });
    match instruction.mnemonic() {
        M::Jmp if near => of(Kind::Jump, None),
        M::Call if near => of(Kind::Call, None),
        _ if instruction.is_jcc_short_or_near() && near => of(Kind::JumpIf, None),
        M::Jrcxz | M::Jecxz | M::Loop | M::Loope | M::Loopne if near && !uses_cx(instruction) => {
            of(Kind::JumpShort, None)
        }
        M::Jmp if instruction.is_jmp_near_indirect() && indirect => of(Kind::JumpIndirect, source),
        M::Call if instruction.is_call_near_indirect() && indirect => of(Kind::CallIndirect, source),
        M::Ret if instruction.code_size() == CodeSize::Code64 && instruction.stack_pointer_increment() >= 8 => {
            of(Kind::Return, None)
        }
        M::Ret if matches!(instruction.code(), Code::Retnd | Code::Retnd_imm16) => of(Kind::Return, None),
        _ => INTERPRET,
    }
}

fn integer(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Selected {
    let of = |kind, operand| Selected { kind, operand, units: 0 };
    let general = (0..instruction.op_count())
        .all(|n| instruction.op_kind(n) != OpKind::Register || instruction.op_register(n).is_gpr());
    if !general || instruction.is_privileged() {
        return INTERPRET;
    }
    let memory = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory);
    let operand = memory.map(|n| Operand {
        size: instruction.memory_size().size() as u32,
        write: !matches!(info.info(instruction).op_access(n), OpAccess::Read | OpAccess::CondRead),
        alignment: if instruction.mnemonic() == M::Cmpxchg16b { 16 } else { 1 },
    });
    let word = instruction.stack_pointer_increment().unsigned_abs() == word_bytes(instruction);
    match instruction.mnemonic() {
        M::Nop | M::Endbr64 | M::Endbr32 | M::Reservednop | M::Prefetchw => of(Kind::Nothing, None),
        M::Lea if instruction.op0_register().size() >= 4 => of(Kind::Lea, None),
        M::Push if word && memory.is_none() => of(Kind::Push, None),
        M::Push if word => of(Kind::Push, operand),
        M::Pop if word && memory.is_none() => of(Kind::Pop, None),
        M::Leave if word_leave(instruction) => of(Kind::Leave, None),
        M::Div | M::Idiv if divisor_bytes(instruction) >= 4 => of(Kind::Divide, operand),
        M::Bt | M::Bts | M::Btr | M::Btc if memory.is_some() && instruction.op1_kind() == OpKind::Register => INTERPRET,
        M::Pause | M::Lahf | M::Sahf | M::Clc | M::Stc | M::Cmc => of(Kind::Copy, None),
        _ if is_computation(instruction.mnemonic()) || is_conditional(instruction) => copy(instruction, operand, 0),
        _ => INTERPRET,
    }
}

fn word_leave(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Leaveq | Code::Leaved)
}

/// Bytes of what PUSH and CALL push without a prefix.
fn word_bytes(instruction: &Instruction) -> u32 {
    if instruction.code_size() == CodeSize::Code64 { 8 } else { 4 }
}

/// Whether a memory operand of 32-bit code has an address of 32 bits, in no segment that is read-only.
fn has_flat_address(instruction: &Instruction) -> bool {
    let registers = [instruction.memory_base(), instruction.memory_index()];
    let named = registers.into_iter().find(|&register| register != Register::None);
    let bytes = named.map_or(instruction.memory_displ_size() as usize, Register::size);
    bytes == 4 && instruction.memory_segment() != Register::CS
}

/// LOOP and its kin with a count of 16 bits.
fn uses_cx(instruction: &Instruction) -> bool {
    use Code as C;
    matches!(instruction.code(), C::Loop_rel8_32_CX | C::Loope_rel8_32_CX | C::Loopne_rel8_32_CX)
}

/// Bytes of the operand of DIV and IDIV.
pub fn divisor_bytes(instruction: &Instruction) -> usize {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    }
}

fn is_conditional(instruction: &Instruction) -> bool {
    // SETcc and CMOVcc; Jcc was seen before.
    instruction.condition_code() != iced_x86::ConditionCode::None
}

/// Instructions that compute on explicit operands, RAX, RCX, RDX and RBX and the arithmetic flags, and nothing else.
fn is_computation(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Mul
            | M::Imul
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Xchg
            | M::Bswap
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Bsf
            | M::Bsr
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Cmpxchg16b
            | M::Xadd
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
    )
}

/// A copy, if the registers that translated code has suffice for it.
fn copy(instruction: &Instruction, operand: Option<Operand>, units: u32) -> Selected {
    let mut spilled = 0u32;
    let (mut high, mut moved) = (false, operand.is_some());
    for n in 0..instruction.op_count() {
        match instruction.op_kind(n) {
            OpKind::Register => {
                let register = instruction.op_register(n);
                if register.is_gpr() {
                    let number = register.full_register().number();
                    high |= matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
                    moved |= number == 4;
                    if (9..=11).contains(&number) {
                        spilled |= 1 << number;
                    }
                }
            }
            OpKind::Memory | OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32 => {}
            OpKind::Immediate64 | OpKind::Immediate8to16 | OpKind::Immediate8to32 | OpKind::Immediate8to64 => {}
            OpKind::Immediate32to64 | OpKind::Immediate8_2nd => {}
            _ => return INTERPRET,
        }
    }
    if !instruction.op_code().mode64() {
        return INTERPRET;
    }
    // MOV with an address of 64 bits has no form with registers.
    let absolute = operand.is_some() && (0..2).any(|n| instruction.op_code().op_kind(n) == OpCodeOperandKind::mem_offs);
    if absolute {
        return INTERPRET;
    }
    // AH and its kin cannot be named beside registers that only a REX prefix reaches.
    let scratch = if operand.is_some() { 1 } else { 2 };
    if (high && moved) || spilled.count_ones() > scratch || instruction.is_vsib() {
        return INTERPRET;
    }
    if operand.is_some() && instruction.memory_base().is_vector_register() {
        return INTERPRET;
    }
    Selected { kind: Kind::Copy, operand, units }
}
