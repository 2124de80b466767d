//! Moves, the stack, and conditional data transfer (Intel SDM vol. 2).

use super::operand::{Place, Source, in_segment};
use super::width::{Wide, Width, arith};
use crate::cpu::{Cpu, Done, Faulting, Flow, seg, slot};
use crate::decode::Op;

pub fn mov<W: Width, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = S::get::<W>(cpu, op)?;
    D::set(cpu, op, value)?;
    Ok(Flow::Next)
}

/// MOVZX, and MOVSX/MOVSXD where `SIGNED`.
pub fn extend<const SIGNED: bool, W: Width, N: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = S::get::<N>(cpu, op)?;
    let wide = if SIGNED { value.sign_extend() } else { value.to_u64() };
    cpu.set_register(op.dst, W::from_u64(wide));
    Ok(Flow::Next)
}

pub fn lea<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let address = op.effective(cpu);
    cpu.set_register(op.dst, W::from_u64(address));
    Ok(Flow::Next)
}

pub fn xchg<W: Width, D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    let new = cpu.register::<W>(op.src);
    let mut old = new;
    D::update::<W>(cpu, op, |_, value| {
        old = value;
        new
    })?;
    cpu.set_register(op.src, old);
    Ok(Flow::Next)
}

pub fn bswap<W: Wide>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = cpu.register::<W>(op.dst);
    cpu.set_register(op.dst, value.bswap());
    Ok(Flow::Next)
}

/// MOVBE: one side is memory.
pub fn movbe<W: Wide, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = S::get::<W>(cpu, op)?;
    D::set(cpu, op, value.bswap())?;
    Ok(Flow::Next)
}

/// XLATB: AL from [rBX + AL].
pub fn xlat(cpu: &mut Cpu, op: &Op) -> Done {
    let offset = cpu.gpr(slot::RBX).wrapping_add(cpu.gpr(slot::RAX) & 0xff) & op.address_mask;
    let base = cpu.bases[(op.segment & 7) as usize];
    cpu.guard_access(op.segment.into(), offset, 1, false)?;
    let value = cpu.load::<u8>(offset.wrapping_add(base) & cpu.linear_mask)?;
    cpu.set_register(0, value);
    cpu.note_watch_hits();
    Ok(Flow::Next)
}

impl Cpu {
    /// Whether condition `CC` holds: the low four bits of Jcc, SETcc and CMOVcc opcodes.
    #[inline(always)]
    pub fn condition<const CC: u8>(&self) -> bool {
        use arith::{CF, OF, PF, SF, ZF};
        let f = self.arith;
        let holds = match CC >> 1 {
            0 => f & OF != 0,
            1 => f & CF != 0,
            2 => f & ZF != 0,
            3 => f & (CF | ZF) != 0,
            4 => f & SF != 0,
            5 => f & PF != 0,
            6 => ((f >> 15) ^ f) & 1 != 0,
            _ => (((f >> 15) ^ f) & 1 != 0) | (f & ZF != 0),
        };
        holds != (CC & 1 != 0)
    }

    /// Linear address of stack offset `offset`.
    #[inline(always)]
    pub fn stack_linear(&self, offset: u64) -> u64 {
        (offset & self.stack_mask).wrapping_add(self.bases[seg::SS]) & self.linear_mask
    }

    /// RSP plus `delta`, of which only the stack's own width changes.
    #[inline(always)]
    pub fn move_stack(&mut self, delta: u64) {
        let rsp = self.gpr(slot::RSP);
        let moved = rsp.wrapping_add(delta);
        self.set_gpr(slot::RSP, (rsp & !self.stack_mask) | (moved & self.stack_mask));
    }

    #[inline(always)]
    pub fn push<W: Width>(&mut self, value: W) -> Faulting<()> {
        let rsp = self.gpr(slot::RSP).wrapping_sub(W::BYTES);
        let at = self.stack_linear(rsp);
        if self.store(at, value).is_err() {
            return Err(self.stack_fault());
        }
        self.move_stack(W::BYTES.wrapping_neg());
        Ok(())
    }

    /// PUSH of an instruction that has no guard for its stack.
    fn push_checked<W: Width>(&mut self, value: W) -> Faulting<()> {
        let offset = self.gpr(slot::RSP).wrapping_sub(W::BYTES) & self.stack_mask;
        self.guard_access(seg::SS, offset, W::BYTES, true)?;
        self.push(value)
    }

    #[inline(always)]
    pub fn pop<W: Width>(&mut self) -> Faulting<W> {
        let value = self.peek(0)?;
        self.move_stack(W::BYTES);
        Ok(value)
    }

    /// Reads the stack `offset` bytes above its top.
    #[inline(always)]
    pub fn peek<W: Width>(&mut self, offset: u64) -> Faulting<W> {
        let at = self.stack_linear(self.gpr(slot::RSP).wrapping_add(offset));
        self.load(at).map_err(|_| self.stack_fault())
    }
}

pub fn push<W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = S::get::<W>(cpu, op)?;
    cpu.push(value)?;
    Ok(Flow::Next)
}

pub fn pop_register<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = cpu.pop::<W>()?;
    cpu.set_register(op.dst, value);
    Ok(Flow::Next)
}

/// POP m: an address with RSP as base uses its value after the pop (SDM vol. 2, POP).
pub fn pop_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let before = cpu.gpr(slot::RSP);
    let value = cpu.pop::<W>()?;
    let address = op.linear(cpu);
    if let Err(fault) = cpu.store(address, value) {
        cpu.set_gpr(slot::RSP, before);
        return Err(in_segment(cpu, op, fault));
    }
    Ok(Flow::Next)
}

/// PUSHA/PUSHAD.
pub fn push_all<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let registers = cpu.gprs().first_chunk::<8>().copied().unwrap_or_default();
    let stack = cpu.current_stack();
    let top = cpu.push_frame(&stack, &registers, W::BYTES)?;
    cpu.use_stack(top);
    Ok(Flow::Next)
}

/// POPA/POPAD: the image of RSP is skipped.
pub fn pop_all<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let mut values = [W::from_u64(0); 8];
    for (i, value) in values.iter_mut().enumerate() {
        *value = cpu.peek(i as u64 * W::BYTES)?;
    }
    cpu.move_stack(8 * W::BYTES);
    for (register, value) in (0..8u8).rev().zip(values) {
        if register != slot::RSP {
            cpu.set_register(8 * register, value);
        }
    }
    Ok(Flow::Next)
}

/// LEAVE: RSP from RBP, then RBP from the stack.
pub fn leave<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let frame = cpu.gpr(slot::RBP);
    cpu.guard_access(seg::SS, frame & cpu.stack_mask, W::BYTES, false)?;
    let at = cpu.stack_linear(frame);
    let saved = cpu.load::<W>(at).map_err(|_| cpu.stack_fault())?;
    let rsp = cpu.gpr(slot::RSP);
    cpu.set_gpr(slot::RSP, (rsp & !cpu.stack_mask) | (frame & cpu.stack_mask));
    cpu.move_stack(W::BYTES);
    cpu.set_register(8 * slot::RBP, saved);
    Ok(Flow::Next)
}

/// ENTER: `imm` holds the frame size in its low half and the nesting level above it.
pub fn enter<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let size = op.imm & 0xffff;
    let level = (op.imm >> 16) & 31;
    let before = cpu.gpr(slot::RSP);
    let result = enter_frames::<W>(cpu, size, level);
    if result.is_err() {
        cpu.set_gpr(slot::RSP, before);
    }
    result
}

fn enter_frames<W: Width>(cpu: &mut Cpu, size: u64, level: u64) -> Done {
    let rbp = cpu.gpr(slot::RBP);
    cpu.push_checked(W::from_u64(rbp))?;
    let frame = cpu.gpr(slot::RSP);
    if level > 0 {
        for i in 1..level {
            let offset = rbp.wrapping_sub(i * W::BYTES) & cpu.stack_mask;
            cpu.guard_access(seg::SS, offset, W::BYTES, false)?;
            let at = cpu.stack_linear(offset);
            let pointer = cpu.load::<W>(at).map_err(|_| cpu.stack_fault())?;
            cpu.push_checked(pointer)?;
        }
        cpu.push_checked(W::from_u64(frame))?;
    }
    let bottom = cpu.gpr(slot::RSP).wrapping_sub(size) & cpu.stack_mask;
    cpu.guard_access(seg::SS, bottom, W::BYTES, true)?;
    let bottom = cpu.stack_linear(bottom);
    cpu.check_write(bottom, W::BYTES).map_err(|_| cpu.stack_fault())?;
    cpu.move_stack(size.wrapping_neg());
    cpu.set_register(8 * slot::RBP, W::from_u64(frame));
    Ok(Flow::Next)
}

pub fn setcc<const CC: u8, D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = u8::from(cpu.condition::<CC>());
    D::set(cpu, op, value)?;
    Ok(Flow::Next)
}

/// CMOVcc reads its source and writes its destination whether or not the condition holds.
pub fn cmov<const CC: u8, W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let new = S::get::<W>(cpu, op)?;
    let old = cpu.register::<W>(op.dst);
    let value = if cpu.condition::<CC>() { new } else { old };
    cpu.set_register(op.dst, value);
    Ok(Flow::Next)
}

pub fn nop(_: &mut Cpu, _: &Op) -> Done {
    Ok(Flow::Next)
}

/// PAUSE: what is waited for comes from another processor, if there is one.
pub fn pause(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.processors.is_alone() {
        return Ok(Flow::Next);
    }
    cpu.spin.pause(&cpu.processors);
    Ok(Flow::Stop)
}
