//! Far control transfers and system calls (Intel SDM vol. 2; vol. 3, 5.8).

use super::segment::Descriptor;
use super::width::{Width, arith};
use crate::cpu::{CodeSize, Cpu, Done, Faulting, Flow, alert, seg, slot};
use crate::decode::Op;
use crate::mmu::is_canonical;
use motu_x86::flags::{efer, rflags};
use motu_x86::{Exception, Segment};

impl Cpu {
    /// #GP(0) unless CPL is 0.
    #[inline(always)]
    pub fn require_cpl0(&mut self) -> Faulting<()> {
        if self.cpl == 0 { Ok(()) } else { self.general_protection(0) }
    }

    /// Takes over a code segment and the privilege it runs at.
    pub fn set_code_segment(&mut self, selector: u16, descriptor: Descriptor, cpl: u8) {
        let mut segment = descriptor.segment((selector & !3) | u16::from(cpl));
        segment.attributes |= 1;
        self.segments[seg::CS] = segment;
        self.cpl = cpl;
        self.mode_changed();
    }

    /// Whether `target` may be jumped to in the code segment `descriptor`.
    fn check_far_target(&mut self, descriptor: Descriptor, target: u64) -> Faulting<()> {
        let long = self.long_mode() && descriptor.is_long_code();
        let fits = if long { is_canonical(target) } else { target <= u64::from(descriptor.limit()) };
        if fits { Ok(()) } else { self.general_protection(0) }
    }

    /// The code segment of a far JMP or CALL, which keeps the privilege (gates and tasks apart).
    fn far_code(&mut self, selector: u16) -> Faulting<Descriptor> {
        if selector & !3 == 0 {
            return self.general_protection(0);
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let rpl = (selector & 3) as u8;
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            rpl <= self.cpl && descriptor.dpl() == self.cpl
        };
        let modes_clash = self.long_mode() && descriptor.is_long_code() && descriptor.attributes() & Segment::DB != 0;
        if !descriptor.is_code() || !allowed || modes_clash {
            return self.selector_fault(Exception::GP, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        Ok(descriptor)
    }

    fn real_mode_far(&mut self, selector: u16, offset: u64) {
        let cs = &mut self.segments[seg::CS];
        cs.selector = selector;
        cs.base = u64::from(selector) << 4;
        self.mode_changed();
        self.rip = offset;
    }

    fn far_jump(&mut self, selector: u16, offset: u64) -> Done {
        if !self.protected_mode() {
            self.real_mode_far(selector, offset);
            return Ok(Flow::Jump);
        }
        let descriptor = self.far_code(selector)?;
        self.check_far_target(descriptor, offset)?;
        self.mark_accessed(selector, descriptor)?;
        let cpl = self.cpl;
        self.set_code_segment(selector, descriptor, cpl);
        self.rip = offset;
        Ok(Flow::Jump)
    }

    fn far_call<W: Width>(&mut self, selector: u16, offset: u64, back: u64) -> Done {
        let old_cs = self.segments[seg::CS].selector;
        let target = if self.protected_mode() {
            let descriptor = self.far_code(selector)?;
            self.check_far_target(descriptor, offset)?;
            self.mark_accessed(selector, descriptor)?;
            Some(descriptor)
        } else {
            None
        };
        let lowest = self.stack_linear(self.gpr(slot::RSP).wrapping_sub(2 * W::BYTES));
        self.check_write(lowest, 2 * W::BYTES)?;
        self.push(W::from_u64(u64::from(old_cs)))?;
        self.push(W::from_u64(back))?;
        match target {
            Some(descriptor) => {
                let cpl = self.cpl;
                self.set_code_segment(selector, descriptor, cpl);
                self.rip = offset;
            }
            None => self.real_mode_far(selector, offset),
        }
        Ok(Flow::Jump)
    }

    /// The code segment that a far return goes to: never to more privilege.
    fn return_code(&mut self, selector: u16) -> Faulting<Descriptor> {
        if selector & !3 == 0 {
            return self.general_protection(0);
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let rpl = (selector & 3) as u8;
        let dpl_fits = if descriptor.is_conforming() { descriptor.dpl() <= rpl } else { descriptor.dpl() == rpl };
        if !descriptor.is_code() || rpl < self.cpl || !dpl_fits {
            return self.selector_fault(Exception::GP, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        Ok(descriptor)
    }

    /// The stack segment of a return; `None` for the null selector that 64-bit code below CPL 3 may have.
    fn return_stack(&mut self, selector: u16, rpl: u8, to_long: bool) -> Faulting<Option<Descriptor>> {
        if selector & !3 == 0 {
            if to_long && rpl < 3 {
                return Ok(None);
            }
            return self.general_protection(0);
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        if (selector & 3) as u8 != rpl || descriptor.dpl() != rpl || !descriptor.is_writable_data() {
            return self.selector_fault(Exception::GP, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::SS, selector);
        }
        Ok(Some(descriptor))
    }

    /// Segments that the outer privilege may not see become null (SDM vol. 3, 5.8.6). A null selector
    /// loses its RPL; FS and GS keep their base, as processors do though no manual says so.
    fn drop_inner_segments(&mut self) {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &mut self.segments[index];
            if segment.selector & !3 == 0 {
                segment.selector = 0;
                continue;
            }
            let conforming = segment.kind() & 0b1100 == 0b1100;
            if !conforming && segment.dpl() < self.cpl && segment.attributes & Segment::UNUSABLE == 0 {
                *segment = Segment::null();
            }
        }
    }

    /// The end of RETF and IRET: code, flags and, where `stack` is given, SS:RSP change together.
    fn far_return(&mut self, code: (u16, u64), flags: Option<u64>, stack: Option<(u16, u64)>) -> Done {
        let (selector, offset) = code;
        let rpl = (selector & 3) as u8;
        let descriptor = self.return_code(selector)?;
        self.check_far_target(descriptor, offset)?;
        let to_long = self.long_mode() && descriptor.is_long_code();
        let new_stack = match stack {
            Some((ss, rsp)) => Some((self.return_stack(ss, rpl, to_long)?, ss, rsp)),
            None => None,
        };
        self.mark_accessed(selector, descriptor)?;
        let outward = rpl > self.cpl;
        if let Some((ss, ss_selector, rsp)) = new_stack {
            let segment = match ss {
                Some(found) => {
                    self.mark_accessed(ss_selector, found)?;
                    let mut segment = found.segment(ss_selector);
                    segment.attributes |= 1;
                    segment
                }
                None => Segment { selector: ss_selector, ..Segment::null() },
            };
            self.segments[seg::SS] = segment;
            self.set_code_segment(selector, descriptor, rpl);
            let old = self.gpr(slot::RSP);
            let keep = if self.stack_mask == 0xffff { !0xffff } else { 0 };
            self.set_gpr(slot::RSP, (old & keep) | (rsp & self.stack_mask));
        } else {
            self.set_code_segment(selector, descriptor, rpl);
        }
        if let Some(flags) = flags {
            self.set_rflags(flags);
        }
        if outward {
            self.drop_inner_segments();
            self.mode_changed();
        }
        self.rip = offset;
        Ok(Flow::Jump)
    }
}

/// Far JMP through memory: offset `W`, then the selector.
pub fn jmp_far_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    cpu.far_jump(selector, offset)
}

/// Far CALL through memory.
pub fn call_far_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    let back = op.next_rip(cpu);
    cpu.far_call::<W>(selector, offset, back)
}

fn far_pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<(u16, u64)> {
    let address = op.linear(cpu);
    let offset = cpu.load::<W>(address)?.to_u64();
    let selector = cpu.load::<u16>(address.wrapping_add(W::BYTES) & cpu.linear_mask)?;
    Ok((selector, offset))
}

/// Far JMP with the pointer in the instruction: `imm` is the offset, `disp` the selector.
pub fn jmp_far(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.far_jump(op.disp as u16, op.imm)
}

pub fn call_far<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    cpu.far_call::<W>(op.disp as u16, op.imm, back)
}

/// RETF, with the bytes to release in `imm`.
pub fn retf<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let offset = cpu.peek::<W>(0)?.to_u64();
    let selector = cpu.peek::<W>(W::BYTES)?.to_u64() as u16;
    let released = 2 * W::BYTES + op.imm;
    if !cpu.protected_mode() {
        cpu.move_stack(released);
        cpu.real_mode_far(selector, offset);
        return Ok(Flow::Jump);
    }
    if (selector & 3) as u8 > cpu.cpl {
        let rsp = cpu.peek::<W>(released)?.to_u64();
        let ss = cpu.peek::<W>(released + W::BYTES)?.to_u64() as u16;
        return cpu.far_return((selector, offset), None, Some((ss, rsp.wrapping_add(op.imm))));
    }
    let before = cpu.gpr(slot::RSP);
    cpu.move_stack(released);
    let result = cpu.far_return((selector, offset), None, None);
    if result.is_err() {
        cpu.set_gpr(slot::RSP, before);
    }
    result
}

/// IRET, IRETD, IRETQ in protected and long mode (SDM vol. 2, IRET).
pub fn iret<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.system_flags & rflags::NT != 0 && cpu.protected_mode() {
        return cpu.general_protection(0);
    }
    let offset = cpu.peek::<W>(0)?.to_u64();
    let selector = cpu.peek::<W>(W::BYTES)?.to_u64() as u16;
    let image = cpu.peek::<W>(2 * W::BYTES)?.to_u64();
    if !cpu.protected_mode() {
        cpu.move_stack(3 * W::BYTES);
        cpu.real_mode_far(selector, offset);
        let kept = rflags::VM | rflags::VIF | rflags::VIP;
        let flags = (cpu.rflags() & kept) | (image & !kept);
        cpu.set_rflags(flags);
        return Ok(Flow::Jump);
    }
    let mut writable = rflags::DEFINED & !(rflags::VM | rflags::VIF | rflags::VIP | rflags::IOPL | rflags::IF);
    if cpu.cpl == 0 {
        writable |= rflags::IOPL | rflags::VIF | rflags::VIP;
    }
    if cpu.cpl <= cpu.iopl() {
        writable |= rflags::IF;
    }
    if W::BYTES == 2 {
        writable &= 0xffff;
    }
    let flags = (cpu.rflags() & !writable) | (image & writable);
    let with_stack = cpu.code_size == CodeSize::Bits64 || (selector & 3) as u8 > cpu.cpl;
    let before = cpu.gpr(slot::RSP);
    let stack = if with_stack {
        let rsp = cpu.peek::<W>(3 * W::BYTES)?.to_u64();
        let ss = cpu.peek::<W>(4 * W::BYTES)?.to_u64() as u16;
        Some((ss, rsp))
    } else {
        cpu.move_stack(3 * W::BYTES);
        None
    };
    let result = cpu.far_return((selector, offset), Some(flags), stack);
    match result {
        Ok(_) => {
            cpu.nmi_blocked = false;
            cpu.note_events();
        }
        Err(_) => cpu.set_gpr(slot::RSP, before),
    }
    result
}

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
        self.mode_changed();
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
    cpu.set_alert(alert::STEP, flags & rflags::TF != 0);
    cpu.enter(fixed_code(code, long, 3), fixed_data(base.wrapping_add(8) | 3, 3), 3);
    cpu.rip = target;
    Ok(Flow::Jump)
}

pub fn sysenter(cpu: &mut Cpu, _: &Op) -> Done {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.protected_mode() || selector == 0 {
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

/// INT n, and INT3 (vector 3).
pub fn int(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    cpu.software_interrupt(op.imm as u8, back)
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
        return cpu.software_interrupt(Exception::OF, back);
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
