//! Stacks that the processor itself pushes on: frames of events, call gates and task switches.

use crate::cpu::{Cpu, Faulting, seg, slot};
use crate::mmu::Privilege;
use motu_x86::flags::rflags;
use motu_x86::{Exception, Segment};

/// A stack that is about to be used; it may not be loaded yet.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    pub segment: Segment,
    /// The stack pointer.
    pub pointer: u64,
    privilege: Privilege,
    /// The pointer's bits that count: 16, 32 or 64.
    mask: u64,
    /// Error code of the #SS when the frame does not fit.
    code: u32,
}

impl Stack {
    fn below(&self, pointer: u64, bytes: u64) -> u64 {
        (pointer & !self.mask) | (pointer.wrapping_sub(bytes) & self.mask)
    }
}

/// Whether `bytes` bytes at `offset` (32 bits at most) lie inside a segment's limit (SDM vol. 3, 5.3).
pub fn within_limit(segment: &Segment, offset: u64, bytes: u64) -> bool {
    let last = offset.wrapping_add(bytes - 1);
    let limit = u64::from(segment.limit);
    let expands_down = segment.attributes & Segment::S != 0 && segment.kind() & 0b1100 == 0b0100;
    if expands_down {
        let top = if segment.attributes & Segment::DB != 0 { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        // What wraps around the end of a segment of 4 GiB is for processors to decide, and theirs do not fault.
        last <= limit || limit == u64::from(u32::MAX)
    }
}

impl Cpu {
    /// The stack in use.
    pub fn current_stack(&self) -> Stack {
        Stack {
            segment: Segment { base: self.bases[seg::SS], ..self.segments[seg::SS] },
            pointer: self.gpr(slot::RSP),
            privilege: self.privilege_at(self.cpl),
            mask: self.stack_mask,
            code: 0,
        }
    }

    /// The stack of 16 or 32 bits at `pointer` of a segment, for privilege `cpl`.
    pub fn stack_in(&self, segment: Segment, pointer: u64, cpl: u8, code: u32) -> Stack {
        let mask = if segment.attributes & Segment::DB != 0 { 0xffff_ffff } else { 0xffff };
        Stack { segment, pointer, privilege: self.privilege_at(cpl), mask, code }
    }

    /// The stack at `pointer` in 64-bit mode.
    pub fn long_stack(&self, pointer: u64, cpl: u8) -> Stack {
        Stack { segment: Segment::null(), pointer, privilege: self.privilege_at(cpl), mask: u64::MAX, code: 0 }
    }

    /// Pushes `words` of `size` bytes, the first one first: all, or none and #SS or #PF. Gives the new stack
    /// pointer.
    pub fn push_frame(&mut self, stack: &Stack, words: &[u64], size: u64) -> Faulting<u64> {
        let linear = |cpu: &Cpu, pointer: u64| {
            (pointer & stack.mask).wrapping_add(stack.segment.base)
                & if cpu.long_mode() { u64::MAX } else { 0xffff_ffff }
        };
        let limited = stack.mask != u64::MAX;
        let mut pointer = stack.pointer;
        for _ in words {
            pointer = stack.below(pointer, size);
            let offset = pointer & stack.mask;
            let usable = stack.segment.attributes & Segment::UNUSABLE == 0;
            if limited && !(usable && within_limit(&stack.segment, offset, size)) {
                return self.raise_code(Exception::SS, stack.code);
            }
            let at = linear(self, pointer);
            self.check_write_as(at, size, stack.privilege)?;
        }
        pointer = stack.pointer;
        for word in words {
            pointer = stack.below(pointer, size);
            let bytes = word.to_le_bytes();
            let at = linear(self, pointer);
            self.write_bytes_as(at, bytes.get(..size as usize).unwrap_or(&bytes), stack.privilege)?;
        }
        Ok(pointer)
    }

    /// The stack pointer becomes what [`Cpu::push_frame`] gave.
    pub fn use_stack(&mut self, top: u64) {
        self.set_gpr(slot::RSP, top);
    }

    /// Stack segment and pointer for privilege `level` from the 16-bit or 32-bit TSS (SDM vol. 3, 5.8.5).
    pub fn inner_stack(&mut self, level: u8) -> Faulting<(u16, Segment, u64)> {
        let wide = self.tr.kind() & 8 != 0;
        let (at, size) = if wide { (4 + 8 * u64::from(level), 6) } else { (2 + 4 * u64::from(level), 4) };
        let task = self.tr.selector;
        if at + size - 1 > u64::from(self.tr.limit) || self.tr.attributes & Segment::UNUSABLE != 0 {
            return self.selector_fault(Exception::TS, task);
        }
        let base = self.tr.base.wrapping_add(at);
        let (pointer, selector) = if wide {
            let pointer = u32::from_le_bytes(self.read_system(base)?);
            (u64::from(pointer), u16::from_le_bytes(self.read_system(base.wrapping_add(4))?))
        } else {
            let pointer = u16::from_le_bytes(self.read_system(base)?);
            (u64::from(pointer), u16::from_le_bytes(self.read_system(base.wrapping_add(2))?))
        };
        if selector & !3 == 0 {
            return self.raise_code(Exception::TS, 0);
        }
        let descriptor = self.descriptor(selector, Exception::TS)?;
        let rpl = (selector & 3) as u8;
        if rpl != level || descriptor.dpl() != level || !descriptor.is_writable_data() {
            return self.selector_fault(Exception::TS, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::SS, selector);
        }
        Ok((selector, descriptor.segment(selector), pointer))
    }

    /// Loads SS with the segment that [`Cpu::inner_stack`] found; the caller goes on to change the privilege.
    pub fn load_inner_stack(&mut self, selector: u16, segment: Segment) -> Faulting<()> {
        let descriptor = self.descriptor(selector, Exception::TS)?;
        self.mark_accessed(selector, descriptor)?;
        self.segments[seg::SS] = Segment { attributes: segment.attributes | 1, ..segment };
        Ok(())
    }

    /// The privilege that memory is accessed with at `cpl`.
    pub fn privilege_at(&self, cpl: u8) -> Privilege {
        if cpl == 3 {
            Privilege::User
        } else if self.system_flags & rflags::AC != 0 {
            Privilege::SupervisorWithUser
        } else {
            Privilege::Supervisor
        }
    }
}
