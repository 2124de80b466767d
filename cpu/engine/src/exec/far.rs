//! Far jumps, calls and returns (Intel SDM vol. 2; vol. 3, 5.8). Gates are in `call_gate`, tasks in `task`.

use super::operand::in_segment;
use super::segment::Descriptor;
use super::width::Width;
use crate::cpu::{Cpu, Done, Faulting, Flow, seg, slot};
use crate::decode::Op;
use crate::mmu::is_canonical;
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
        self.privilege_changed();
    }

    /// Whether `target` may be jumped to in the code segment `descriptor`.
    fn check_far_target(&mut self, descriptor: Descriptor, target: u64) -> Faulting<()> {
        let long = self.long_mode() && descriptor.is_long_code();
        let fits = if long { is_canonical(target) } else { target <= u64::from(descriptor.limit()) };
        if fits { Ok(()) } else { self.general_protection(0) }
    }

    /// The descriptor that a far JMP or CALL names.
    fn far_descriptor(&mut self, selector: u16) -> Faulting<Descriptor> {
        if selector & !3 == 0 {
            return self.general_protection(0);
        }
        self.descriptor(selector, Exception::GP)
    }

    /// Whether a far JMP or CALL may go to a code segment at the same privilege.
    fn check_far_code(&mut self, selector: u16, descriptor: Descriptor) -> Faulting<()> {
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
        Ok(())
    }

    /// A code segment of real-address or virtual-8086 mode: in real-address mode limit and type stay as they were.
    pub fn load_real_code(&mut self, selector: u16) {
        if self.virtual_8086() {
            self.load_8086_segment(seg::CS, selector);
        } else {
            let cs = &mut self.segments[seg::CS];
            cs.selector = selector;
            cs.base = u64::from(selector) << 4;
        }
        self.mode_changed();
    }

    fn check_real_target(&mut self, offset: u64) -> Faulting<()> {
        if offset > u64::from(self.segments[seg::CS].limit) { self.general_protection(0) } else { Ok(()) }
    }

    fn far_jump(&mut self, selector: u16, offset: u64, next: u64) -> Done {
        if !self.protected_mode() {
            self.check_real_target(offset)?;
            self.load_real_code(selector);
            self.rip = offset;
            return Ok(Flow::Jump);
        }
        let descriptor = self.far_descriptor(selector)?;
        if !descriptor.is_code_or_data() {
            return self.far_system(selector, descriptor, false, next);
        }
        self.check_far_code(selector, descriptor)?;
        self.check_far_target(descriptor, offset)?;
        self.mark_accessed(selector, descriptor)?;
        let cpl = self.cpl;
        self.set_code_segment(selector, descriptor, cpl);
        self.rip = offset;
        Ok(Flow::Jump)
    }

    fn far_call<W: Width>(&mut self, selector: u16, offset: u64, back: u64) -> Done {
        let old_cs = u64::from(self.segments[seg::CS].selector);
        let target = if self.protected_mode() {
            let descriptor = self.far_descriptor(selector)?;
            if !descriptor.is_code_or_data() {
                return self.far_system(selector, descriptor, true, back);
            }
            self.check_far_code(selector, descriptor)?;
            self.check_far_target(descriptor, offset)?;
            self.mark_accessed(selector, descriptor)?;
            Some(descriptor)
        } else {
            self.check_real_target(offset)?;
            None
        };
        let stack = self.current_stack();
        self.check_alignment(seg::SS, stack.pointer, W::BYTES)?;
        let top = self.push_frame(&stack, &[old_cs, back], W::BYTES)?;
        match target {
            Some(descriptor) => {
                let cpl = self.cpl;
                self.set_code_segment(selector, descriptor, cpl);
            }
            None => self.load_real_code(selector),
        }
        self.use_stack(top);
        self.rip = offset;
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
        let mut dropped = false;
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &mut self.segments[index];
            if segment.selector & !3 == 0 {
                segment.selector = 0;
                continue;
            }
            let conforming = segment.kind() & 0b1100 == 0b1100;
            if !conforming && segment.dpl() < self.cpl && segment.attributes & Segment::UNUSABLE == 0 {
                *segment = Segment::null();
                dropped = true;
            }
        }
        if dropped {
            self.mode_changed();
        }
    }

    /// The end of RETF and IRET: code, flags and, where `stack` is given, SS:RSP change together.
    pub fn far_return(&mut self, code: (u16, u64), flags: Option<u64>, stack: Option<(u16, u64)>) -> Done {
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
        }
        self.rip = offset;
        Ok(Flow::Jump)
    }
}

/// Far JMP through memory: offset `W`, then the selector.
pub fn jmp_far_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    let next = op.next_rip(cpu);
    cpu.far_jump(selector, offset, next)
}

/// Far CALL through memory.
pub fn call_far_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    let back = op.next_rip(cpu);
    cpu.far_call::<W>(selector, offset, back)
}

fn far_pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<(u16, u64)> {
    let address = op.linear(cpu);
    let offset = cpu.load::<W>(address).map_err(|fault| in_segment(cpu, op, fault))?.to_u64();
    let selector = cpu.load::<u16>(address.wrapping_add(W::BYTES) & cpu.linear_mask);
    let selector = selector.map_err(|fault| in_segment(cpu, op, fault))?;
    Ok((selector, offset))
}

/// Far JMP with the pointer in the instruction: `imm` is the offset, `disp` the selector.
pub fn jmp_far(cpu: &mut Cpu, op: &Op) -> Done {
    let next = op.next_rip(cpu);
    cpu.far_jump(op.disp as u16, op.imm, next)
}

pub fn call_far<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let back = op.next_rip(cpu);
    cpu.far_call::<W>(op.disp as u16, op.imm, back)
}

/// RETF, with the bytes to release in `imm`.
pub fn retf<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.check_stack_words(0, 2, W::BYTES)?;
    let offset = cpu.peek::<W>(0)?.to_u64();
    let selector = cpu.peek::<W>(W::BYTES)?.to_u64() as u16;
    let released = 2 * W::BYTES + op.imm;
    if !cpu.protected_mode() {
        cpu.check_real_target(offset)?;
        cpu.move_stack(released);
        cpu.load_real_code(selector);
        cpu.rip = offset;
        return Ok(Flow::Jump);
    }
    if (selector & 3) as u8 > cpu.cpl {
        cpu.check_stack_words(released, 2, W::BYTES)?;
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
