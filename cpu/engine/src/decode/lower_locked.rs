//! Handlers of instructions that read, change and write memory in one step (Intel SDM vol. 3, 9.1.2): those with LOCK, and XCHG.

use super::operands::{Kind, kind, size};
use super::widths::{wide, widths};
use super::{Handler, Op};
use crate::exec::operand::{Imm, Locked, Src};
use crate::exec::{arithmetic as a, bits, data};
use iced_x86::{Instruction, Mnemonic as M};

/// The handler of an instruction whose memory operand is locked; fills in what `op` lacks.
pub fn handler(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let bytes = size(i, 0);
    if i.mnemonic() == M::Xchg {
        return exchange(i, op);
    }
    if !i.has_lock_prefix() || kind(i, 0) != Kind::Memory {
        return None;
    }
    let by_register = kind(i, 1) == Kind::Register;
    macro_rules! binary {
        ($O:ty) => {
            if by_register {
                widths!(bytes, W => a::binary::<$O, W, Locked, Src>)
            } else {
                widths!(bytes, W => a::binary::<$O, W, Locked, Imm>)
            }
        };
    }
    macro_rules! unary {
        ($O:ty) => {
            widths!(bytes, W => a::unary::<$O, W, Locked>)
        };
    }
    macro_rules! bit {
        ($O:expr) => {
            if by_register {
                wide!(bytes, W => bits::bit_string::<{ $O }, true, W>)
            } else {
                wide!(bytes, W => bits::bit::<{ $O }, W, Locked, Imm>)
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
        M::Inc => unary!(a::Inc),
        M::Dec => unary!(a::Dec),
        M::Neg => unary!(a::Neg),
        M::Not => unary!(a::Not),
        M::Bts => bit!(bits::SET),
        M::Btr => bit!(bits::RESET),
        M::Btc => bit!(bits::COMPLEMENT),
        M::Cmpxchg => widths!(bytes, W => bits::cmpxchg_memory::<W, Locked>),
        M::Xadd => widths!(bytes, W => bits::xadd_memory::<W, Locked>),
        M::Cmpxchg8b => Some(bits::cmpxchg8b::<Locked>),
        // It is whole without LOCK, too.
        M::Cmpxchg16b => Some(bits::cmpxchg16b),
        _ => None,
    }
}

/// XCHG with memory, which is locked with and without LOCK.
fn exchange(i: &Instruction, op: &mut Op) -> Option<Handler> {
    match (kind(i, 0), kind(i, 1)) {
        (Kind::Register, Kind::Memory) => op.src = op.dst,
        (Kind::Memory, Kind::Register) => {}
        _ => return None,
    }
    widths!(size(i, 0), W => data::xchg::<W, Locked>)
}
