//! Fast system calls, and the bases of FS and GS (Intel SDM vol. 2, SYSCALL ff.; vol. 3, 5.8.7 and 5.8.8).

use super::debug::dr6;
use super::width::Width;
use crate::cpu::{CodeSize, Cpu, Done, Faulting, Flow, seg, slot};
use crate::decode::Op;
use crate::mmu::is_canonical;
use motu_x86::Segment;
use motu_x86::flags::{cr0, efer, rflags};

/// A flat segment as SYSCALL and its kin make it without reading a descriptor.
fn fixed_code(selector: u16, long: bool, dpl: u8) -> Segment {
    let mut segment = Segment::flat_code(selector, long);
    segment.attributes |= u32::from(dpl) << 5;
    segment
}

fn fixed_data(selector: u16, dpl: u8) -> Segment {
    let mut segment = Segment::flat_data(selector);
    segment.attributes |= u32::from(dpl) << 5;
    segment
}

impl Cpu {
    /// CS and SS change together, and with them the privilege.
    fn enter(&mut self, code: Segment, stack: Segment, cpl: u8) {
        self.segments[seg::CS] = code;
        self.segments[seg::SS] = stack;
        self.cpl = cpl;
        self.privilege_changed();
    }
}

/// SYSCALL: 64-bit code only, as on Intel's CPUs.
pub fn syscall(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.msrs.efer & efer::SCE == 0 || cpu.code_size != CodeSize::Bits64 {
        return cpu.undefined();
    }
    let back = op.next_rip(cpu);
    let flags = cpu.rflags() & !rflags::RF;
    cpu.set_gpr(slot::RCX, back);
    cpu.set_gpr(slot::R11, flags);
    cpu.set_rflags(flags & !cpu.msrs.fmask);
    // Whether a single-step trap follows depends on TF behind the instruction, for SYSRET as well.
    cpu.no_step = !cpu.msrs.fmask & rflags::TF == 0;
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.enter(fixed_code(selector, true, 0), fixed_data(selector.wrapping_add(8), 0), 0);
    cpu.rip = cpu.msrs.lstar;
    Ok(Flow::Jump)
}

/// SYSRET to 64-bit code (`W` 8) or to compatibility mode.
pub fn sysret<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.msrs.efer & efer::SCE == 0 || cpu.code_size != CodeSize::Bits64 {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    let target = W::from_u64(cpu.gpr(slot::RCX)).to_u64();
    if !is_canonical(target) {
        return cpu.general_protection(0);
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let long = W::BYTES == 8;
    let code = if long { base.wrapping_add(16) } else { base } | 3;
    let flags = cpu.gpr(slot::R11) & 0x003c_7fd7;
    cpu.set_rflags(flags);
    cpu.no_step = true;
    if flags & rflags::TF != 0 {
        cpu.note_debug_trap(dr6::BS);
    }
    cpu.enter(fixed_code(code, long, 3), fixed_data(base.wrapping_add(8) | 3, 3), 3);
    cpu.rip = target;
    Ok(Flow::Jump)
}

pub fn sysenter(cpu: &mut Cpu, _: &Op) -> Done {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if cpu.cr0 & cr0::PE == 0 || selector == 0 {
        return cpu.general_protection(0);
    }
    cpu.system_flags &= !(rflags::VM | rflags::IF | rflags::RF);
    let long = cpu.long_mode();
    cpu.enter(fixed_code(selector, long, 0), fixed_data(selector.wrapping_add(8), 0), 0);
    let mask = cpu.linear_mask;
    cpu.set_gpr(slot::RSP, cpu.msrs.sysenter_esp & mask);
    cpu.rip = cpu.msrs.sysenter_eip & mask;
    Ok(Flow::Jump)
}

/// SYSEXIT to 64-bit code (`W` 8) or to 32-bit code.
pub fn sysexit<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let base = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.protected_mode() || base == 0 || cpu.cpl != 0 {
        return cpu.general_protection(0);
    }
    let long = W::BYTES == 8;
    let target = W::from_u64(cpu.gpr(slot::RDX)).to_u64();
    let stack = W::from_u64(cpu.gpr(slot::RCX)).to_u64();
    if !is_canonical(target) || !is_canonical(stack) {
        return cpu.general_protection(0);
    }
    let code = base.wrapping_add(if long { 32 } else { 16 }) | 3;
    cpu.enter(fixed_code(code, long, 3), fixed_data(code.wrapping_add(8) | 3, 3), 3);
    cpu.set_gpr(slot::RSP, stack);
    cpu.rip = target;
    Ok(Flow::Jump)
}

/// SWAPGS.
pub fn swapgs(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.code_size != CodeSize::Bits64 {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    let base = cpu.segments[seg::GS].base;
    cpu.set_segment_base(seg::GS, cpu.msrs.kernel_gs_base);
    cpu.msrs.kernel_gs_base = base;
    Ok(Flow::Next)
}

impl Cpu {
    /// Changes the base of FS or GS alone.
    pub fn set_segment_base(&mut self, index: usize, base: u64) {
        self.segments[index].base = base;
        self.bases[index] = base;
    }
}

/// RDFSBASE, RDGSBASE: `op.imm` is the segment's index.
pub fn read_base<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    require_fsgsbase(cpu)?;
    let base = cpu.bases[(op.imm & 7) as usize];
    cpu.set_register(op.dst, W::from_u64(base));
    Ok(Flow::Next)
}

/// WRFSBASE, WRGSBASE.
pub fn write_base<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    require_fsgsbase(cpu)?;
    let base = cpu.register::<W>(op.dst).to_u64();
    if !is_canonical(base) {
        return cpu.general_protection(0);
    }
    cpu.set_segment_base((op.imm & 7) as usize % 6, base);
    Ok(Flow::Next)
}

fn require_fsgsbase(cpu: &mut Cpu) -> Faulting<()> {
    if cpu.cr4 & motu_x86::flags::cr4::FSGSBASE == 0 || cpu.code_size != CodeSize::Bits64 {
        return cpu.undefined();
    }
    Ok(())
}
