//! Bit tests, scans, and the compare-and-exchange family (Intel SDM vol. 2).

use super::operand::{Place, Source, in_segment};
use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Flow, slot};
use crate::decode::Op;

/// What the BT family does to the bit.
pub const TEST: u8 = 0;
pub const SET: u8 = 1;
pub const RESET: u8 = 2;
pub const COMPLEMENT: u8 = 3;

fn apply<const O: u8>(value: u64, bit: u64) -> u64 {
    match O {
        SET => value | bit,
        RESET => value & !bit,
        COMPLEMENT => value ^ bit,
        _ => value,
    }
}

/// BT family with the bit number cut to the operand's width: registers, and memory with an immediate.
pub fn bit<const O: u8, W: Width, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let mask = 1u64 << (S::get::<u64>(cpu, op)? & u64::from(W::BITS - 1));
    if O == TEST {
        let value = D::get::<W>(cpu, op)?.to_u64();
        cpu.set_flags(arith::CF, value & mask != 0);
        return Ok(Flow::Next);
    }
    D::update::<W>(cpu, op, |cpu, value| {
        let value = value.to_u64();
        cpu.set_flags(arith::CF, value & mask != 0);
        W::from_u64(apply::<O>(value, mask))
    })?;
    Ok(Flow::Next)
}

/// BT family, memory with a register: the bit string reaches as far as the register's signed range.
pub fn bit_string<const O: u8, const LOCKED: bool, W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let number = cpu.register::<W>(op.src).sign_extend() as i64;
    let unit = (number >> W::BITS.trailing_zeros()).wrapping_mul(W::BYTES as i64) as u64;
    let base = cpu.bases[(op.segment & 7) as usize];
    let effective = op.effective(cpu).wrapping_add(unit) & op.address_mask;
    let address = effective.wrapping_add(base) & cpu.linear_mask;
    cpu.guard_access(op.segment.into(), effective, W::BYTES, O != TEST)?;
    let mask = 1u64 << (number as u64 & u64::from(W::BITS - 1));
    if O == TEST {
        let value = cpu.load::<W>(address).map_err(|fault| in_segment(cpu, op, fault))?.to_u64();
        cpu.set_flags(arith::CF, value & mask != 0);
        cpu.note_watch_hits();
        return Ok(Flow::Next);
    }
    let change = |cpu: &mut Cpu, value: W| {
        let value = value.to_u64();
        cpu.set_flags(arith::CF, value & mask != 0);
        W::from_u64(apply::<O>(value, mask))
    };
    let changed = if LOCKED { cpu.modify_locked(address, change) } else { cpu.modify(address, change) };
    changed.map_err(|fault| in_segment(cpu, op, fault))?;
    cpu.note_watch_hits();
    Ok(Flow::Next)
}

/// BSF, and BSR where `REVERSE`. A zero source sets ZF and leaves the destination, as every CPU does.
/// Hardware zeroes the other five flags or leaves them by model; they are undefined.
pub fn scan<const REVERSE: bool, W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = S::get::<W>(cpu, op)?.to_u64();
    if value == 0 {
        cpu.arith |= arith::ZF;
        return Ok(Flow::Next);
    }
    cpu.arith &= !arith::ZF;
    let index = if REVERSE { 63 - value.leading_zeros() } else { value.trailing_zeros() };
    cpu.set_register(op.dst, W::from_u64(u64::from(index)));
    Ok(Flow::Next)
}

/// CMPXCHG m, r: the destination is written either way (SDM vol. 2, CMPXCHG).
pub fn cmpxchg_memory<W: Width, D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    let expected = cpu.register::<W>(0);
    let new = cpu.register::<W>(op.src);
    let mut found = expected;
    D::update::<W>(cpu, op, |cpu, value| {
        found = value;
        cpu.arith = Width::sub(expected, value).1;
        if value == expected { new } else { value }
    })?;
    if found != expected {
        cpu.set_register(0, found);
    }
    Ok(Flow::Next)
}

/// CMPXCHG r, r: a register that is not exchanged keeps its upper half.
pub fn cmpxchg_register<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let expected = cpu.register::<W>(0);
    let found = cpu.register::<W>(op.dst);
    cpu.arith = Width::sub(expected, found).1;
    if found == expected {
        let new = cpu.register::<W>(op.src);
        cpu.set_register(op.dst, new);
    } else {
        cpu.set_register(0, found);
    }
    Ok(Flow::Next)
}

pub fn xadd_memory<W: Width, D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    let addend = cpu.register::<W>(op.src);
    let mut old = addend;
    D::update::<W>(cpu, op, |cpu, value| {
        old = value;
        let (sum, flags) = Width::add(value, addend);
        cpu.arith = flags;
        sum
    })?;
    cpu.set_register(op.src, old);
    Ok(Flow::Next)
}

/// XADD r, r: with one register twice the sum is what stays.
pub fn xadd_register<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let old = cpu.register::<W>(op.dst);
    let (sum, flags) = Width::add(old, cpu.register::<W>(op.src));
    cpu.set_register(op.src, old);
    cpu.set_register(op.dst, sum);
    cpu.arith = flags;
    Ok(Flow::Next)
}

/// CMPXCHG8B.
pub fn cmpxchg8b<D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    let pair = |high: u64, low: u64| (high << 32) | (low & 0xffff_ffff);
    let expected = pair(cpu.gpr(slot::RDX), cpu.gpr(slot::RAX));
    let new = pair(cpu.gpr(slot::RCX), cpu.gpr(slot::RBX));
    let mut found = expected;
    D::update::<u64>(cpu, op, |_, value| {
        found = value;
        if value == expected { new } else { value }
    })?;
    cpu.set_flags(arith::ZF, found == expected);
    if found != expected {
        cpu.set_gpr(slot::RAX, found & 0xffff_ffff);
        cpu.set_gpr(slot::RDX, found >> 32);
    }
    Ok(Flow::Next)
}

/// CMPXCHG16B: the operand must be 16-byte aligned.
pub fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Done {
    let address = op.linear(cpu);
    let pair = |low: u8, high: u8| [cpu.gpr(low), cpu.gpr(high)];
    let (expected, new) = (pair(slot::RAX, slot::RDX), pair(slot::RBX, slot::RCX));
    if address & 15 != 0 {
        return cpu.general_protection(0);
    }
    let found = cpu.compare_exchange_16(address, expected, new).map_err(|fault| in_segment(cpu, op, fault))?;
    if found != expected {
        cpu.set_gpr(slot::RAX, found[0]);
        cpu.set_gpr(slot::RDX, found[1]);
    }
    cpu.set_flags(arith::ZF, found == expected);
    Ok(Flow::Next)
}
