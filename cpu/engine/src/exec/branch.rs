//! Near control transfers (Intel SDM vol. 2). Far ones are in `transfer`.

use super::operand::Source;
use super::width::{Width, arith};
use crate::cpu::{CodeSize, Cpu, Done, Faulting, Flow, slot};
use crate::decode::Op;
use crate::mmu::is_canonical;

impl Cpu {
    /// RIP is cut by it.
    #[inline(always)]
    pub fn ip_mask(&self) -> u64 {
        self.linear_mask
    }

    /// Continues at `target`, an offset in the code segment.
    #[inline(always)]
    pub fn jump(&mut self, target: u64) -> Done {
        self.check_target(target)?;
        self.rip = target;
        Ok(Flow::Jump)
    }

    /// #GP(0) for a target outside canonical space or the code segment's limit.
    #[inline(always)]
    pub fn check_target(&mut self, target: u64) -> Faulting<()> {
        let fits = if self.code_size == CodeSize::Bits64 {
            is_canonical(target)
        } else {
            target <= u64::from(self.segments[crate::cpu::seg::CS].limit)
        };
        if fits { Ok(()) } else { self.general_protection(0) }
    }

    /// Where a relative branch goes: `op.imm` counts from the block's start.
    #[inline(always)]
    fn relative<W: Width>(&self, op: &Op) -> u64 {
        let target = self.rip.wrapping_add(op.imm);
        if W::BYTES == 8 { target } else { W::from_u64(target).to_u64() }
    }
}

/// `W` is the operand size: 8 in 64-bit mode, else 4 or 2.
pub fn jmp<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.relative::<W>(op);
    cpu.jump(target)
}

pub fn jcc<const CC: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.condition::<CC>() {
        let target = cpu.relative::<W>(op);
        return cpu.jump(target);
    }
    Ok(Flow::Next)
}

pub fn jmp_indirect<W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = S::get::<W>(cpu, op)?.to_u64();
    cpu.jump(target)
}

pub fn call<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.relative::<W>(op);
    call_to::<W>(cpu, op, target)
}

pub fn call_indirect<W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = S::get::<W>(cpu, op)?.to_u64();
    call_to::<W>(cpu, op, target)
}

#[inline(always)]
fn call_to<W: Width>(cpu: &mut Cpu, op: &Op, target: u64) -> Done {
    cpu.check_target(target)?;
    let back = op.next_rip(cpu);
    cpu.push(W::from_u64(back))?;
    cpu.rip = target;
    Ok(Flow::Jump)
}

/// RET, and RET imm16 with the bytes to release in `imm`.
pub fn ret<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.peek::<W>(0)?.to_u64();
    cpu.check_target(target)?;
    cpu.move_stack(W::BYTES.wrapping_add(op.imm));
    cpu.rip = target;
    Ok(Flow::Jump)
}

/// The counter of LOOP and JrCXZ is as wide as addresses are.
#[inline(always)]
fn counter(cpu: &Cpu, op: &Op) -> u64 {
    cpu.gpr(slot::RCX) & op.address_mask
}

/// JCXZ, JECXZ, JRCXZ.
pub fn jrcxz<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    if counter(cpu, op) == 0 {
        return jmp::<W>(cpu, op);
    }
    cpu.rip = op.next_rip(cpu);
    Ok(Flow::Jump)
}

/// LOOP, LOOPE and LOOPNE: `ON_ZERO` 0 asks nothing of ZF, 1 wants it set, 2 clear.
pub fn loop_<const ON_ZERO: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = counter(cpu, op).wrapping_sub(1) & op.address_mask;
    let zero = cpu.arith & arith::ZF != 0;
    let taken = count != 0
        && match ON_ZERO {
            1 => zero,
            2 => !zero,
            _ => true,
        };
    let flow = if taken {
        jmp::<W>(cpu, op)?
    } else {
        cpu.rip = op.next_rip(cpu);
        Flow::Jump
    };
    set_counter(cpu, op, count);
    Ok(flow)
}

/// Writes a counter of the address width; 32-bit writes clear the upper half.
fn set_counter(cpu: &mut Cpu, op: &Op, count: u64) {
    match op.address_mask {
        0xffff => cpu.set_register(8 * slot::RCX, count as u16),
        _ => cpu.set_gpr(slot::RCX, count),
    }
}
