//! Instructions on RFLAGS itself (Intel SDM vol. 2; IF and IOPL rules: vol. 3, 6.8.1).

use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Flow, alert};
use crate::decode::Op;
use motu_x86::flags::rflags;

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

pub fn cli(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.protected_mode() && cpu.cpl > cpu.iopl() {
        return cpu.general_protection(0);
    }
    cpu.system_flags &= !rflags::IF;
    Ok(Flow::Next)
}

/// Interrupts are let in after the next instruction, if they were off before.
pub fn sti(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.protected_mode() && cpu.cpl > cpu.iopl() {
        return cpu.general_protection(0);
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
    let flags = cpu.rflags() & !(rflags::VM | rflags::RF);
    cpu.push(W::from_u64(flags))?;
    Ok(Flow::Next)
}

/// What may change depends on CPL and IOPL (SDM vol. 2, POPF, table 4-16).
pub fn popf<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let value = cpu.pop::<W>()?.to_u64();
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
