//! String instructions (Intel SDM vol. 2, MOVS ff.; vol. 1, 7.3.9).
//!
//! A repeated instruction runs in pieces that end at page borders, where interrupts are let in:
//! RCX, RSI and RDI are up to date at each. Whole pieces of plain RAM are moved by the host at once.

use super::arithmetic::{Binary, Cmp};
use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Faulting, Flow, seg, slot};
use crate::decode::Op;
use crate::mmu::{Access, shared};
use motu_x86::flags::rflags;

/// No prefix; also what a prefix without meaning is.
pub const ONCE: u8 = 0;
/// REP or REPE.
pub const REP: u8 = 1;
/// REPNE.
pub const REPNE: u8 = 2;

/// Elements of one piece, so that an interrupt never waits longer than this takes.
const PIECE: u64 = 4096;
/// Bytes that the host moves or fills at once in the time of one element.
const BYTES_A_TIME: u64 = 32;

impl Cpu {
    fn pointer(&self, register: u8, op: &Op) -> u64 {
        self.gpr(register) & op.address_mask
    }

    fn set_pointer(&mut self, register: u8, op: &Op, value: u64) {
        match op.address_mask {
            0xffff => self.set_register(8 * register, value as u16),
            mask => self.set_gpr(register, value & mask),
        }
    }

    /// Where the next source element is.
    fn source<W: Width>(&mut self, op: &Op) -> Faulting<u64> {
        let offset = self.pointer(slot::RSI, op);
        self.guard_access(op.segment.into(), offset, W::BYTES, false)?;
        Ok(self.source_at(op))
    }

    /// Where the next destination element is.
    fn destination<W: Width>(&mut self, op: &Op, write: bool) -> Faulting<u64> {
        let offset = self.pointer(slot::RDI, op);
        self.guard_access(seg::ES, offset, W::BYTES, write)?;
        Ok(self.destination_at(op))
    }

    fn source_at(&self, op: &Op) -> u64 {
        let base = self.bases[(op.segment & 7) as usize];
        self.pointer(slot::RSI, op).wrapping_add(base) & self.linear_mask
    }

    fn destination_at(&self, op: &Op) -> u64 {
        self.pointer(slot::RDI, op).wrapping_add(self.bases[seg::ES]) & self.linear_mask
    }

    /// Bytes that may be written from the destination on without a check of each element.
    fn unchecked_destination(&self, op: &Op) -> u64 {
        self.unchecked_bytes(seg::ES, self.pointer(slot::RDI, op), op.address_mask, true)
    }

    fn advance(&mut self, register: u8, op: &Op, elements: u64, bytes: u64) {
        let step = elements.wrapping_mul(bytes);
        let pointer = self.pointer(register, op);
        let moved = if self.direction_down() { pointer.wrapping_sub(step) } else { pointer.wrapping_add(step) };
        self.set_pointer(register, op, moved);
    }
}

/// Runs `element` as often as the prefix asks. `many` does up to n elements of `bytes` bytes at once and says how many,
/// 0 when it cannot. `element` says whether a conditional repeat goes on.
#[inline(always)]
fn repeat<W: Width, const PREFIX: u8>(
    cpu: &mut Cpu,
    op: &Op,
    many: impl Fn(&mut Cpu, &Op, u64) -> Faulting<u64>,
    element: impl Fn(&mut Cpu, &Op) -> Faulting<bool>,
) -> Done {
    cpu.watch_hits = 0;
    if PREFIX == ONCE {
        element(cpu, op)?;
        cpu.note_watch_hits();
        return Ok(Flow::Next);
    }
    // Single-stepping traps after each iteration.
    let mut budget = if cpu.system_flags & rflags::TF != 0 { 1 } else { PIECE };
    loop {
        let count = cpu.pointer(slot::RCX, op);
        if count == 0 {
            return Ok(Flow::Next);
        }
        if budget == 0 {
            return Ok(Flow::Again);
        }
        // With a budget of one, one element runs.
        let many_at_most = if budget == 1 { 1 } else { count };
        let done = many(cpu, op, many_at_most)?;
        let cost = (done * W::BYTES).div_ceil(BYTES_A_TIME);
        let (done, cost, go_on) = if done == 0 { (1, 1, element(cpu, op)?) } else { (done, cost, true) };
        let trapped = cpu.watch_hits != 0;
        cpu.note_watch_hits();
        cpu.set_pointer(slot::RCX, op, count - done);
        budget = budget.saturating_sub(cost);
        if !go_on || count == done {
            return Ok(Flow::Next);
        }
        if trapped || !cpu.code_writes.is_empty() {
            return Ok(Flow::Again);
        }
    }
}

/// For instructions that have no faster way.
fn one_by_one(_: &mut Cpu, _: &Op, _: u64) -> Faulting<u64> {
    Ok(0)
}

pub fn movs<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    repeat::<W, PREFIX>(cpu, op, move_many::<W>, |cpu, op| {
        let from = cpu.source::<W>(op)?;
        let value = cpu.load::<W>(from)?;
        let to = cpu.destination::<W>(op, true)?;
        cpu.store(to, value)?;
        cpu.advance(slot::RSI, op, 1, W::BYTES);
        cpu.advance(slot::RDI, op, 1, W::BYTES);
        Ok(true)
    })
}

fn move_many<W: Width>(cpu: &mut Cpu, op: &Op, limit: u64) -> Faulting<u64> {
    if cpu.direction_down() {
        return Ok(0);
    }
    let readable = cpu.unchecked_bytes(op.segment.into(), cpu.pointer(slot::RSI, op), op.address_mask, false);
    let limit = limit.min(readable / W::BYTES).min(cpu.unchecked_destination(op) / W::BYTES);
    if limit == 0 {
        return Ok(0);
    }
    let (from, to) = (cpu.source_at(op), cpu.destination_at(op));
    // The load of an element comes before its store, and so does its fault.
    let Some((source, readable)) = cpu.span(from, limit * W::BYTES, Access::Read)? else { return Ok(0) };
    let Some((target, writable)) = cpu.span(to, limit * W::BYTES, Access::Write)? else { return Ok(0) };
    let bytes = readable.min(writable) / W::BYTES * W::BYTES;
    // Where the target follows the source closely, each element must see the ones written before it.
    let distance = (target as usize).wrapping_sub(source as usize) as u64;
    if bytes == 0 || (distance < bytes && distance != 0) {
        return Ok(0);
    }
    // SAFETY: `span` gave that many readable and writable bytes.
    unsafe { shared::copy(source, target, bytes as usize) };
    let elements = bytes / W::BYTES;
    cpu.advance(slot::RSI, op, elements, W::BYTES);
    cpu.advance(slot::RDI, op, elements, W::BYTES);
    Ok(elements)
}

pub fn stos<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    repeat::<W, PREFIX>(cpu, op, fill_many::<W>, |cpu, op| {
        let to = cpu.destination::<W>(op, true)?;
        cpu.store(to, cpu.register::<W>(0))?;
        cpu.advance(slot::RDI, op, 1, W::BYTES);
        Ok(true)
    })
}

fn fill_many<W: Width>(cpu: &mut Cpu, op: &Op, limit: u64) -> Faulting<u64> {
    if cpu.direction_down() {
        return Ok(0);
    }
    let limit = limit.min(cpu.unchecked_destination(op) / W::BYTES);
    if limit == 0 {
        return Ok(0);
    }
    let to = cpu.destination_at(op);
    let Some((target, bytes)) = cpu.span(to, limit * W::BYTES, Access::Write)? else { return Ok(0) };
    let elements = bytes / W::BYTES;
    let value = cpu.register::<W>(0);
    // SAFETY: `span` gave `bytes` writable bytes, which hold that many elements.
    unsafe { fill(target, value, elements as usize) };
    cpu.advance(slot::RDI, op, elements, W::BYTES);
    Ok(elements)
}

/// Writes `value` `elements` times.
///
/// # Safety
/// That many elements may be written at `target`, which need not be aligned.
unsafe fn fill<W: Width>(target: *mut u8, value: W, elements: usize) {
    let mut pattern = value.to_u64();
    for bits in [8, 16, 32].into_iter().filter(|&bits| bits >= 8 * W::BYTES) {
        pattern |= pattern << bits;
    }
    // SAFETY: as the caller says.
    unsafe { shared::fill(target, pattern, elements * W::BYTES as usize) };
}

pub fn lods<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    repeat::<W, PREFIX>(cpu, op, one_by_one, |cpu, op| {
        let from = cpu.source::<W>(op)?;
        let value = cpu.load::<W>(from)?;
        cpu.set_register(0, value);
        cpu.advance(slot::RSI, op, 1, W::BYTES);
        Ok(true)
    })
}

/// SCAS and CMPS: a fault takes the flags back to what they were before the instruction, in whichever of
/// its pieces it comes.
fn comparing<W: Width, const PREFIX: u8>(
    cpu: &mut Cpu,
    op: &Op,
    element: impl Fn(&mut Cpu, &Op) -> Faulting<bool>,
) -> Done {
    let before = cpu.repeat_flags.take().unwrap_or(cpu.arith);
    let result = repeat::<W, PREFIX>(cpu, op, one_by_one, element);
    match result {
        Ok(Flow::Again) => cpu.repeat_flags = Some(before),
        Ok(_) => {}
        Err(_) => cpu.arith = before,
    }
    result
}

fn compare<W: Width, const PREFIX: u8>(cpu: &mut Cpu, a: W, b: W) -> bool {
    cpu.arith = Cmp::apply(a, b, cpu.arith).1;
    let equal = cpu.arith & arith::ZF != 0;
    equal == (PREFIX == REP)
}

pub fn scas<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    comparing::<W, PREFIX>(cpu, op, |cpu, op| {
        let at = cpu.destination::<W>(op, false)?;
        let value = cpu.load::<W>(at)?;
        let go_on = compare::<W, PREFIX>(cpu, cpu.register(0), value);
        cpu.advance(slot::RDI, op, 1, W::BYTES);
        Ok(go_on)
    })
}

pub fn cmps<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    comparing::<W, PREFIX>(cpu, op, |cpu, op| {
        let first = cpu.source::<W>(op)?;
        let a = cpu.load::<W>(first)?;
        let second = cpu.destination::<W>(op, false)?;
        let b = cpu.load::<W>(second)?;
        let go_on = compare::<W, PREFIX>(cpu, a, b);
        cpu.advance(slot::RSI, op, 1, W::BYTES);
        cpu.advance(slot::RDI, op, 1, W::BYTES);
        Ok(go_on)
    })
}

/// INS.
pub fn ins<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let port = cpu.gpr(slot::RDX) as u16;
    cpu.check_port(port, W::BYTES)?;
    repeat::<W, PREFIX>(cpu, op, one_by_one, |cpu, op| {
        let to = cpu.destination::<W>(op, true)?;
        cpu.check_write(to, W::BYTES)?;
        let value = cpu.port_in::<W>(port);
        cpu.store(to, value)?;
        cpu.advance(slot::RDI, op, 1, W::BYTES);
        Ok(true)
    })
}

/// OUTS.
pub fn outs<W: Width, const PREFIX: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let port = cpu.gpr(slot::RDX) as u16;
    cpu.check_port(port, W::BYTES)?;
    repeat::<W, PREFIX>(cpu, op, one_by_one, |cpu, op| {
        let from = cpu.source::<W>(op)?;
        let value = cpu.load::<W>(from)?;
        cpu.port_out(port, value);
        cpu.advance(slot::RSI, op, 1, W::BYTES);
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled<W: Width>(value: u64, elements: usize, offset: usize) -> (Vec<u8>, Vec<u8>) {
        let bytes = W::BYTES as usize;
        let (mut one, mut other) =
            (vec![0x5a; offset + elements * bytes + 16], vec![0x5a; offset + elements * bytes + 16]);
        // SAFETY: the vector has that many bytes from `offset` on.
        unsafe { fill(one.as_mut_ptr().add(offset), W::from_u64(value), elements) };
        for element in other[offset..].chunks_exact_mut(bytes).take(elements) {
            element.copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
        (one, other)
    }

    proptest! {
        #[test]
        fn a_fill_writes_each_element_and_nothing_else(value: u64, same: bool, elements in 0usize..300, offset in 0usize..9) {
            let value = if same { u64::from_le_bytes([value as u8; 8]) } else { value };
            for (one, other) in [
                filled::<u8>(value, elements, offset),
                filled::<u16>(value, elements, offset),
                filled::<u32>(value, elements, offset),
                filled::<u64>(value, elements, offset),
            ] {
                prop_assert_eq!(one, other);
            }
        }
    }
}
