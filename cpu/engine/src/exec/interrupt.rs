//! INT n and its kin, and BOUND (Intel SDM vol. 2).

use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Flow};
use crate::decode::Op;
use motu_x86::Exception;

/// INT n.
pub fn int(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    cpu.software_interrupt(op.imm as u8, back)
}

/// INT3, the one-byte breakpoint.
pub fn int3(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    cpu.short_software_interrupt(Exception::BP, back)
}

/// INT1: a debug trap that asks for no privilege (SDM vol. 2, INT n).
pub fn int1(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    cpu.debug_trap(back)
}

/// INTO.
pub fn into(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    if cpu.arith & arith::OF != 0 {
        return cpu.short_software_interrupt(Exception::OF, back);
    }
    cpu.rip = back;
    Ok(Flow::Jump)
}

/// BOUND: #BR when the signed index is outside the pair in memory.
pub fn bound<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let address = op.linear(cpu);
    let index = cpu.register::<W>(op.dst).sign_extend() as i64;
    let low = cpu.load::<W>(address)?.sign_extend() as i64;
    let high = cpu.load::<W>(address.wrapping_add(W::BYTES) & cpu.linear_mask)?.sign_extend() as i64;
    if index < low || index > high {
        return cpu.raise(Exception::plain(Exception::BR));
    }
    Ok(Flow::Next)
}
