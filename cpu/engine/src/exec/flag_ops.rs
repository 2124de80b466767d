//! Instructions on RFLAGS itself (Intel SDM vol. 2; IF and IOPL rules: vol. 3, 6.8.1).

use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Faulting, Flow, alert};
use crate::decode::Op;
use motu_x86::flags::{cr0, cr4, rflags};

pub fn clc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.arith &= !arith::CF;
    Ok(Flow::Next)
}

pub fn stc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.arith |= arith::CF;
    Ok(Flow::Next)
}

pub fn cmc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.arith ^= arith::CF;
    Ok(Flow::Next)
}

pub fn cld(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.system_flags &= !rflags::DF;
    Ok(Flow::Next)
}

pub fn std(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.system_flags |= rflags::DF;
    Ok(Flow::Next)
}

/// Which flag CLI and STI work on (SDM vol. 2, CLI, table 3-6).
enum InterruptFlag {
    Own,
    /// VIF: ring 3 with PVI, or virtual-8086 mode with VME, below IOPL 3.
    Virtual,
}

impl Cpu {
    fn interrupt_flag(&mut self) -> Faulting<InterruptFlag> {
        if self.cr0 & cr0::PE == 0 || self.cpl <= self.iopl() {
            return Ok(InterruptFlag::Own);
        }
        let extension = if self.virtual_8086() { cr4::VME } else { cr4::PVI };
        if self.cpl == 3 && self.cr4 & extension != 0 {
            return Ok(InterruptFlag::Virtual);
        }
        self.general_protection(0)
    }

    /// Whether PUSHF and POPF of virtual-8086 mode work on VIF: with VME and 16 bits below IOPL 3.
    ///
    /// # Errors
    /// #GP(0) where they are not allowed at all.
    fn flags_are_virtual<W: Width>(&mut self) -> Faulting<bool> {
        if !self.virtual_8086() || self.iopl() == 3 {
            return Ok(false);
        }
        if self.cr4 & cr4::VME != 0 && W::BYTES == 2 { Ok(true) } else { self.general_protection(0) }
    }
}

pub fn cli(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.system_flags &= match cpu.interrupt_flag()? {
        InterruptFlag::Own => !rflags::IF,
        InterruptFlag::Virtual => !rflags::VIF,
    };
    Ok(Flow::Next)
}

/// Interrupts are let in after the next instruction, if they were off before.
pub fn sti(cpu: &mut Cpu, _: &Op) -> Done {
    if let InterruptFlag::Virtual = cpu.interrupt_flag()? {
        if cpu.system_flags & rflags::VIP != 0 {
            return cpu.general_protection(0);
        }
        cpu.system_flags |= rflags::VIF;
        return Ok(Flow::Next);
    }
    if !cpu.interrupts_enabled() {
        cpu.system_flags |= rflags::IF;
        cpu.set_alert(alert::SHADOW, true);
    }
    Ok(Flow::Stop)
}

pub fn lahf(cpu: &mut Cpu, _: &Op) -> Done {
    let flags = cpu.rflags() as u8;
    cpu.set_register::<u8>(1, flags);
    Ok(Flow::Next)
}

pub fn sahf(cpu: &mut Cpu, _: &Op) -> Done {
    let low = u64::from(cpu.register::<u8>(1));
    cpu.arith = arith::from_rflags((low & 0xd5) | (arith::to_rflags(cpu.arith) & rflags::OF));
    Ok(Flow::Next)
}

/// VM and RF are pushed as zero.
pub fn pushf<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let all = if cpu.flags_are_virtual::<W>()? { cpu.flags_with_virtual_interrupt() } else { cpu.rflags() };
    let flags = all & !(rflags::VM | rflags::RF);
    cpu.push(W::from_u64(flags))?;
    Ok(Flow::Next)
}

/// What may change depends on CPL and IOPL (SDM vol. 2, POPF, table 4-16).
pub fn popf<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let value = cpu.peek::<W>(0)?.to_u64();
    if cpu.flags_are_virtual::<W>()? {
        return pop_virtual(cpu, value);
    }
    cpu.move_stack(W::BYTES);
    let mut writable = rflags::ARITHMETIC | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;
    if cpu.cpl == 0 {
        writable |= rflags::IOPL;
    }
    if cpu.cpl <= cpu.iopl() {
        writable |= rflags::IF;
    }
    if W::BYTES == 2 {
        writable &= 0xffff;
    }
    let old = cpu.rflags() & !rflags::RF;
    cpu.set_rflags((old & !writable) | (value & writable));
    Ok(Flow::Stop)
}

/// POPF of 16 bits in virtual-8086 mode with VME below IOPL 3: IF goes to VIF (SDM vol. 3, 20.3.3).
fn pop_virtual(cpu: &mut Cpu, value: u64) -> Done {
    let interrupts = value & rflags::IF != 0;
    if (interrupts && cpu.system_flags & rflags::VIP != 0) || value & rflags::TF != 0 {
        return cpu.general_protection(0);
    }
    cpu.move_stack(2);
    let writable = (rflags::ARITHMETIC | rflags::DF | rflags::NT | rflags::TF) & 0xffff;
    let old = cpu.rflags() & !(rflags::RF | rflags::VIF);
    let virtual_if = if interrupts { rflags::VIF } else { 0 };
    cpu.set_rflags((old & !writable) | (value & writable) | virtual_if);
    Ok(Flow::Stop)
}
