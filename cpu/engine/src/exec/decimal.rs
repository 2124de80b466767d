//! Decimal adjustment, and its contemporaries that 64-bit mode dropped (Intel SDM vol. 2).

use super::operand::{Place, Source};
use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Flow};
use crate::decode::Op;
use motu_x86::Exception;

const AL: u8 = 0;
const AH: u8 = 1;

/// Sets SF, ZF and PF by `al`, and CF and AF as given; OF is undefined and becomes zero.
fn adjusted(cpu: &mut Cpu, al: u8, carry: bool, auxiliary: bool) -> Done {
    cpu.set_register(AL, al);
    let (_, flags) = Width::and(al, al);
    let kept = flags & (arith::SF | arith::ZF | arith::PF);
    cpu.arith = kept | if carry { arith::CF } else { 0 } | if auxiliary { arith::AF } else { 0 };
    Ok(Flow::Next)
}

/// DAA, and DAS where `SUBTRACT`.
pub fn after_packed<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    let step = |value: u8, by: u8| if SUBTRACT { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    let old = cpu.register::<u8>(AL);
    let carry = cpu.arith & arith::CF != 0;
    let auxiliary = old & 0xf > 9 || cpu.arith & arith::AF != 0;
    let high = old > 0x99 || carry;
    let mut al = old;
    if auxiliary {
        al = step(al, 6);
    }
    if high {
        al = step(al, 0x60);
    }
    // DAS also carries what its first step borrows.
    let borrowed = SUBTRACT && auxiliary && old < 6;
    adjusted(cpu, al, high || borrowed, auxiliary)
}

/// AAA, and AAS where `SUBTRACT`.
pub fn after_unpacked<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    let ax = cpu.register::<u16>(AL);
    let adjust = ax & 0xf > 9 || cpu.arith & arith::AF != 0;
    let moved = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        // AL is taken from first, so that its borrow goes into AH as well.
        (true, true) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    cpu.set_register::<u16>(AL, moved & 0xff0f);
    cpu.set_flags(arith::CF | arith::AF, adjust);
    Ok(Flow::Next)
}

/// AAM: #DE with a base of zero.
pub fn before_division(cpu: &mut Cpu, op: &Op) -> Done {
    let al = cpu.register::<u8>(AL);
    let base = op.imm as u8;
    let (Some(tens), Some(units)) = (al.checked_div(base), al.checked_rem(base)) else {
        return cpu.raise(Exception::plain(Exception::DE));
    };
    cpu.set_register(AH, tens);
    adjusted(cpu, units, false, false)
}

/// AAD.
pub fn into_binary(cpu: &mut Cpu, op: &Op) -> Done {
    let (al, ah) = (cpu.register::<u8>(AL), cpu.register::<u8>(AH));
    let value = al.wrapping_add(ah.wrapping_mul(op.imm as u8));
    cpu.set_register(AH, 0u8);
    adjusted(cpu, value, false, false)
}

/// SALC: AL from CF; undocumented, and on every CPU.
pub fn carry_to_al(cpu: &mut Cpu, _: &Op) -> Done {
    let value = if cpu.arith & arith::CF != 0 { 0xffu8 } else { 0 };
    cpu.set_register(AL, value);
    Ok(Flow::Next)
}

/// ARPL: the first selector's RPL becomes at least the second's.
pub fn adjust_rpl<D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    if !cpu.protected_mode() {
        return cpu.undefined();
    }
    let wanted = cpu.register::<u16>(op.src) & 3;
    let in_memory = D::IN_MEMORY;
    let offset = op.effective(cpu);
    if in_memory {
        cpu.guard_access(op.segment.into(), offset, 2, false)?;
    }
    let selector = <D as Source>::get::<u16>(cpu, op)?;
    let lower = selector & 3 < wanted;
    if lower {
        if in_memory {
            cpu.guard_access(op.segment.into(), offset, 2, true)?;
        }
        D::set(cpu, op, (selector & !3) | wanted)?;
    }
    cpu.set_flags(arith::ZF, lower);
    cpu.note_watch_hits();
    Ok(Flow::Next)
}
