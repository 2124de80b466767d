//! Handlers of the integer instructions: data, arithmetic, bits, branches, strings.

use super::operands::{Kind, kind, size};
use super::widths::{wide, widths};
use super::{Handler, Op};
use crate::exec::operand::{Dst, Imm, Mem, Src};
use crate::exec::{arithmetic as a, bits, branch, data, decimal, flag_ops, string};
use iced_x86::{Code, CodeSize, Instruction, Mnemonic as M, OpKind};

/// `$e` with the place `$D` as the first operand's shape.
macro_rules! place {
    ($kind:expr, $D:ident => $e:expr) => {
        match $kind {
            Kind::Register => {
                type $D = Dst;
                $e
            }
            Kind::Memory => {
                type $D = Mem;
                $e
            }
            _ => None,
        }
    };
}

/// `$e` with the source `$S` as a second operand's shape.
macro_rules! source {
    ($kind:expr, $S:ident => $e:expr) => {
        match $kind {
            Kind::Register => {
                type $S = Src;
                $e
            }
            Kind::Memory => {
                type $S = Mem;
                $e
            }
            Kind::Immediate => {
                type $S = Imm;
                $e
            }
            Kind::None => None,
        }
    };
}

/// `$e` with both; at most one is memory.
macro_rules! pair {
    ($kinds:expr, $D:ident, $S:ident => $e:expr) => {
        match $kinds {
            (Kind::Register, Kind::Register) => {
                type $D = Dst;
                type $S = Src;
                $e
            }
            (Kind::Register, Kind::Memory) => {
                type $D = Dst;
                type $S = Mem;
                $e
            }
            (Kind::Register, Kind::Immediate) => {
                type $D = Dst;
                type $S = Imm;
                $e
            }
            (Kind::Memory, Kind::Register) => {
                type $D = Mem;
                type $S = Src;
                $e
            }
            (Kind::Memory, Kind::Immediate) => {
                type $D = Mem;
                type $S = Imm;
                $e
            }
            _ => None,
        }
    };
}

/// `$e` with the constant `$C` as the condition.
macro_rules! conditions {
    ($number:expr, $C:ident => $e:expr) => {
        conditions!(@arms $number, $C, $e, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@arms $number:expr, $C:ident, $e:expr, $($n:literal)*) => {
        match $number {
            $($n => { const $C: u8 = $n; $e })*
            _ => None,
        }
    };
}

/// `$e` with the constant `$P` as the repeat prefix.
macro_rules! repeats {
    ($instruction:expr, $P:ident => $e:expr) => {
        if $instruction.has_repne_prefix() {
            const $P: u8 = string::REPNE;
            $e
        } else if $instruction.has_rep_prefix() {
            const $P: u8 = string::REP;
            $e
        } else {
            const $P: u8 = string::ONCE;
            $e
        }
    };
}

/// The handler of an integer instruction; fills in what `op` lacks.
pub fn handler(i: &Instruction, op: &mut Op) -> Option<Handler> {
    arithmetic(i).or_else(|| transfer(i, op)).or_else(|| bit(i)).or_else(|| control(i, op)).or_else(|| strings(i))
}

fn arithmetic(i: &Instruction) -> Option<Handler> {
    let kinds = (kind(i, 0), kind(i, 1));
    let bytes = size(i, 0);
    macro_rules! binary {
        ($O:ty) => {
            pair!(kinds, D, S => widths!(bytes, W => a::binary::<$O, W, D, S>))
        };
    }
    macro_rules! unary {
        ($O:ty) => {
            place!(kinds.0, D => widths!(bytes, W => a::unary::<$O, W, D>))
        };
    }
    macro_rules! shift {
        ($O:ty) => {
            if kinds.1 == Kind::Immediate {
                place!(kinds.0, D => widths!(bytes, W => a::shift::<$O, W, D, Imm>))
            } else {
                place!(kinds.0, D => widths!(bytes, W => a::shift::<$O, W, D, a::Cl>))
            }
        };
    }
    macro_rules! double_shift {
        ($left:literal) => {
            if kind(i, 2) == Kind::Immediate {
                place!(kinds.0, D => wide!(bytes, W => a::double_shift::<$left, W, D, Imm>))
            } else {
                place!(kinds.0, D => wide!(bytes, W => a::double_shift::<$left, W, D, a::Cl>))
            }
        };
    }
    match i.mnemonic() {
        M::Add => binary!(a::Add),
        M::Or => binary!(a::Or),
        M::Adc => binary!(a::Adc),
        M::Sbb => binary!(a::Sbb),
        M::And => binary!(a::And),
        M::Sub => binary!(a::Sub),
        M::Xor => binary!(a::Xor),
        M::Cmp => binary!(a::Cmp),
        M::Test => binary!(a::Test),
        M::Inc => unary!(a::Inc),
        M::Dec => unary!(a::Dec),
        M::Neg => unary!(a::Neg),
        M::Not => unary!(a::Not),
        M::Shl | M::Sal => shift!(a::Shl),
        M::Shr => shift!(a::Shr),
        M::Sar => shift!(a::Sar),
        M::Rol => shift!(a::Rol),
        M::Ror => shift!(a::Ror),
        M::Rcl => shift!(a::Rcl),
        M::Rcr => shift!(a::Rcr),
        M::Shld => double_shift!(true),
        M::Shrd => double_shift!(false),
        M::Imul => match (i.op_count(), kinds.1, kind(i, 2)) {
            (1, ..) => place!(kinds.0, S => widths!(bytes, W => a::multiply::<true, W, S>)),
            (2, Kind::Register, _) => wide!(bytes, W => a::imul::<W, Dst, Src>),
            (2, Kind::Memory, _) => wide!(bytes, W => a::imul::<W, Dst, Mem>),
            (3, Kind::Register, Kind::Immediate) => wide!(bytes, W => a::imul::<W, Src, Imm>),
            (3, Kind::Memory, Kind::Immediate) => wide!(bytes, W => a::imul::<W, Mem, Imm>),
            _ => None,
        },
        M::Mul => place!(kinds.0, S => widths!(bytes, W => a::multiply::<false, W, S>)),
        M::Div => place!(kinds.0, S => widths!(bytes, W => a::divide::<false, W, S>)),
        M::Idiv => place!(kinds.0, S => widths!(bytes, W => a::divide::<true, W, S>)),
        M::Daa => Some(decimal::after_packed::<false>),
        M::Das => Some(decimal::after_packed::<true>),
        M::Aaa => Some(decimal::after_unpacked::<false>),
        M::Aas => Some(decimal::after_unpacked::<true>),
        M::Aam => Some(decimal::before_division),
        M::Aad => Some(decimal::into_binary),
        M::Salc => Some(decimal::carry_to_al),
        M::Arpl => place!(kinds.0, D => Some(decimal::adjust_rpl::<D> as Handler)),
        M::Cbw => Some(a::extend_accumulator::<u16>),
        M::Cwde => Some(a::extend_accumulator::<u32>),
        M::Cdqe => Some(a::extend_accumulator::<u64>),
        M::Cwd => Some(a::sign_to_rdx::<u16>),
        M::Cdq => Some(a::sign_to_rdx::<u32>),
        M::Cqo => Some(a::sign_to_rdx::<u64>),
        _ => None,
    }
}

/// Bytes that PUSH and POP move, by the stack pointer's increment that the decoder knows.
fn stack_bytes(i: &Instruction) -> usize {
    i.stack_pointer_increment().unsigned_abs() as usize
}

fn transfer(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let kinds = (kind(i, 0), kind(i, 1));
    let bytes = size(i, 0);
    let general = (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Register || i.op_register(n).is_gpr());
    if !general {
        return None;
    }
    match i.mnemonic() {
        M::Mov => pair!(kinds, D, S => widths!(bytes, W => data::mov::<W, D, S>)),
        M::Movzx => extend::<false>(i),
        M::Movsx | M::Movsxd => extend::<true>(i),
        M::Lea => wide!(bytes, W => data::lea::<W>),
        M::Xchg => widths!(bytes, W => data::xchg::<W, Dst>),
        M::Bswap => wide!(bytes, W => data::bswap::<W>),
        M::Movbe if kinds.0 == Kind::Memory => wide!(bytes, W => data::movbe::<W, Mem, Src>),
        M::Movbe => wide!(bytes, W => data::movbe::<W, Dst, Mem>),
        M::Xlatb => {
            op.address_mask = super::operands::address_mask(i.memory_base().size());
            op.segment = super::operands::segment_index(i.memory_segment());
            Some(data::xlat)
        }
        M::Push => match kinds.0 {
            Kind::Register => wide!(stack_bytes(i), W => data::push::<W, Dst>),
            Kind::Memory => wide!(stack_bytes(i), W => data::push::<W, Mem>),
            Kind::Immediate => wide!(stack_bytes(i), W => data::push::<W, Imm>),
            Kind::None => None,
        },
        M::Pop if kinds.0 == Kind::Register => wide!(stack_bytes(i), W => data::pop_register::<W>),
        M::Pop => wide!(stack_bytes(i), W => data::pop_memory::<W>),
        M::Pusha => Some(data::push_all::<u16>),
        M::Pushad => Some(data::push_all::<u32>),
        M::Popa => Some(data::pop_all::<u16>),
        M::Popad => Some(data::pop_all::<u32>),
        M::Leave => wide!(leave_bytes(i), W => data::leave::<W>),
        M::Enter => {
            op.imm = u64::from(i.immediate16()) | u64::from(i.immediate8_2nd()) << 16;
            let bytes = match i.code() {
                Code::Enterw_imm16_imm8 => 2,
                Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            };
            wide!(bytes, W => data::enter::<W>)
        }
        M::Nop | M::Endbr64 | M::Endbr32 | M::Reservednop => Some(data::nop),
        M::Pause => Some(data::pause),
        _ if i.is_jcc_short_or_near() => None,
        _ => conditional(i, kinds, bytes),
    }
}

fn leave_bytes(i: &Instruction) -> usize {
    match i.code() {
        Code::Leavew => 2,
        Code::Leaved => 4,
        _ => 8,
    }
}

/// MOVZX and MOVSX: the source's width is the narrow one.
fn extend<const SIGNED: bool>(i: &Instruction) -> Option<Handler> {
    let narrow = size(i, 1);
    macro_rules! from {
        ($N:ty) => {
            match kind(i, 1) {
                Kind::Register => wide!(size(i, 0), W => data::extend::<SIGNED, W, $N, Src>),
                Kind::Memory => wide!(size(i, 0), W => data::extend::<SIGNED, W, $N, Mem>),
                _ => None,
            }
        };
    }
    match narrow {
        1 => from!(u8),
        2 => from!(u16),
        4 => from!(u32),
        _ => None,
    }
}

/// The condition of Jcc, SETcc and CMOVcc as their opcodes number it; 16 for anything else.
pub fn condition(i: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match i.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
        C::None => 16,
    }
}

/// SETcc and CMOVcc.
fn conditional(i: &Instruction, kinds: (Kind, Kind), bytes: usize) -> Option<Handler> {
    match i.mnemonic() {
        M::Seto
        | M::Setno
        | M::Setb
        | M::Setae
        | M::Sete
        | M::Setne
        | M::Setbe
        | M::Seta
        | M::Sets
        | M::Setns
        | M::Setp
        | M::Setnp
        | M::Setl
        | M::Setge
        | M::Setle
        | M::Setg => {
            place!(kinds.0, D => conditions!(condition(i), CC => Some(data::setcc::<CC, D> as Handler)))
        }
        M::Cmovo
        | M::Cmovno
        | M::Cmovb
        | M::Cmovae
        | M::Cmove
        | M::Cmovne
        | M::Cmovbe
        | M::Cmova
        | M::Cmovs
        | M::Cmovns
        | M::Cmovp
        | M::Cmovnp
        | M::Cmovl
        | M::Cmovge
        | M::Cmovle
        | M::Cmovg => {
            source!(kinds.1, S => conditions!(condition(i), CC => wide!(bytes, W => data::cmov::<CC, W, S>)))
        }
        _ => None,
    }
}

fn bit(i: &Instruction) -> Option<Handler> {
    let kinds = (kind(i, 0), kind(i, 1));
    let bytes = size(i, 0);
    macro_rules! bits {
        ($O:expr) => {
            match kinds {
                (Kind::Register, Kind::Register) => wide!(bytes, W => bits::bit::<{ $O }, W, Dst, Src>),
                (Kind::Register, Kind::Immediate) => wide!(bytes, W => bits::bit::<{ $O }, W, Dst, Imm>),
                (Kind::Memory, Kind::Immediate) => wide!(bytes, W => bits::bit::<{ $O }, W, Mem, Imm>),
                (Kind::Memory, Kind::Register) => wide!(bytes, W => bits::bit_string::<{ $O }, false, W>),
                _ => None,
            }
        };
    }
    match i.mnemonic() {
        M::Bt => bits!(bits::TEST),
        M::Bts => bits!(bits::SET),
        M::Btr => bits!(bits::RESET),
        M::Btc => bits!(bits::COMPLEMENT),
        M::Bsf => source!(kinds.1, S => wide!(bytes, W => bits::scan::<false, W, S>)),
        M::Bsr => source!(kinds.1, S => wide!(bytes, W => bits::scan::<true, W, S>)),
        M::Cmpxchg if kinds.0 == Kind::Register => widths!(bytes, W => bits::cmpxchg_register::<W>),
        M::Cmpxchg => widths!(bytes, W => bits::cmpxchg_memory::<W, Mem>),
        M::Xadd if kinds.0 == Kind::Register => widths!(bytes, W => bits::xadd_register::<W>),
        M::Xadd => widths!(bytes, W => bits::xadd_memory::<W, Mem>),
        M::Cmpxchg8b => Some(bits::cmpxchg8b::<Mem>),
        M::Cmpxchg16b => Some(bits::cmpxchg16b),
        _ => None,
    }
}

/// Operand size of a near branch: 8 in 64-bit mode whatever the prefix, as on Intel's CPUs.
fn branch_bytes(i: &Instruction) -> usize {
    if i.code_size() == CodeSize::Code64 {
        return 8;
    }
    match i.op_kind(0) {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::Register => i.op_register(0).size(),
        OpKind::Memory => i.memory_size().size(),
        _ if i.code_size() == CodeSize::Code16 => 2,
        _ => 4,
    }
}

fn control(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let bytes = branch_bytes(i);
    if matches!(i.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64) && i.op_count() > 0 {
        let start = i.ip().wrapping_sub(op.offset as u64);
        op.imm = i.near_branch_target().wrapping_sub(start);
    }
    if i.is_jcc_short_or_near() {
        return conditions!(condition(i), CC => wide!(bytes, W => branch::jcc::<CC, W>));
    }
    match i.mnemonic() {
        M::Jmp if i.is_jmp_short_or_near() => wide!(bytes, W => branch::jmp::<W>),
        M::Jmp if i.is_jmp_near_indirect() => place!(kind(i, 0), S => wide!(bytes, W => branch::jmp_indirect::<W, S>)),
        M::Call if i.is_call_near() => wide!(bytes, W => branch::call::<W>),
        M::Call if i.is_call_near_indirect() => {
            place!(kind(i, 0), S => wide!(bytes, W => branch::call_indirect::<W, S>))
        }
        M::Ret => {
            let bytes = match i.code() {
                Code::Retnw | Code::Retnw_imm16 => 2,
                Code::Retnd | Code::Retnd_imm16 => 4,
                _ => 8,
            };
            wide!(bytes, W => branch::ret::<W>)
        }
        M::Jcxz | M::Jecxz | M::Jrcxz => {
            op.address_mask = counter_mask(i);
            wide!(bytes, W => branch::jrcxz::<W>)
        }
        M::Loop => {
            op.address_mask = counter_mask(i);
            wide!(bytes, W => branch::loop_::<0, W>)
        }
        M::Loope => {
            op.address_mask = counter_mask(i);
            wide!(bytes, W => branch::loop_::<1, W>)
        }
        M::Loopne => {
            op.address_mask = counter_mask(i);
            wide!(bytes, W => branch::loop_::<2, W>)
        }
        M::Clc => Some(flag_ops::clc),
        M::Stc => Some(flag_ops::stc),
        M::Cmc => Some(flag_ops::cmc),
        M::Cld => Some(flag_ops::cld),
        M::Std => Some(flag_ops::std),
        M::Cli => Some(flag_ops::cli),
        M::Sti => Some(flag_ops::sti),
        M::Lahf => Some(flag_ops::lahf),
        M::Sahf => Some(flag_ops::sahf),
        M::Pushf => Some(flag_ops::pushf::<u16>),
        M::Pushfd => Some(flag_ops::pushf::<u32>),
        M::Pushfq => Some(flag_ops::pushf::<u64>),
        M::Popf => Some(flag_ops::popf::<u16>),
        M::Popfd => Some(flag_ops::popf::<u32>),
        M::Popfq => Some(flag_ops::popf::<u64>),
        _ => None,
    }
}

/// The counter register that JrCXZ and LOOP use, as a mask: for LOOP only the code names it.
fn counter_mask(i: &Instruction) -> u64 {
    use Code as C;
    super::operands::address_mask(match i.code() {
        C::Jcxz_rel8_16 | C::Jcxz_rel8_32 => 2,
        C::Loop_rel8_16_CX | C::Loop_rel8_32_CX => 2,
        C::Loope_rel8_16_CX | C::Loope_rel8_32_CX => 2,
        C::Loopne_rel8_16_CX | C::Loopne_rel8_32_CX => 2,
        C::Jecxz_rel8_16 | C::Jecxz_rel8_32 | C::Jecxz_rel8_64 => 4,
        C::Loop_rel8_16_ECX | C::Loop_rel8_32_ECX | C::Loop_rel8_64_ECX => 4,
        C::Loope_rel8_16_ECX | C::Loope_rel8_32_ECX | C::Loope_rel8_64_ECX => 4,
        C::Loopne_rel8_16_ECX | C::Loopne_rel8_32_ECX | C::Loopne_rel8_64_ECX => 4,
        _ => 8,
    })
}

fn strings(i: &Instruction) -> Option<Handler> {
    if !i.is_string_instruction() {
        return None;
    }
    let bytes = i.memory_size().size();
    match i.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => {
            repeats!(i, P => widths!(bytes, W => string::movs::<W, P>))
        }
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
            repeats!(i, P => widths!(bytes, W => string::stos::<W, P>))
        }
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {
            repeats!(i, P => widths!(bytes, W => string::lods::<W, P>))
        }
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
            repeats!(i, P => widths!(bytes, W => string::scas::<W, P>))
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => {
            repeats!(i, P => widths!(bytes, W => string::cmps::<W, P>))
        }
        M::Insb | M::Insw | M::Insd => repeats!(i, P => widths!(bytes, W => string::ins::<W, P>)),
        M::Outsb | M::Outsw | M::Outsd => repeats!(i, P => widths!(bytes, W => string::outs::<W, P>)),
        _ => None,
    }
}
