//! IRET, IRETD and IRETQ (Intel SDM vol. 2, IRET).

use super::width::Width;
use crate::cpu::{CodeSize, Cpu, Done, Faulting, Flow, seg, slot};
use crate::decode::Op;
use motu_x86::flags::{cr4, rflags};

/// What stands on top of the stack.
struct Frame {
    offset: u64,
    selector: u16,
    flags: u64,
}

impl Cpu {
    fn pop_frame<W: Width>(&mut self) -> Faulting<Frame> {
        self.check_stack_words(0, 3, W::BYTES)?;
        let offset = self.peek::<W>(0)?.to_u64();
        let selector = self.peek::<W>(W::BYTES)?.to_u64() as u16;
        let flags = self.peek::<W>(2 * W::BYTES)?.to_u64();
        Ok(Frame { offset, selector, flags })
    }

    /// Of `image`, a value popped into FLAGS or EFLAGS by `W`, the bits in `writable` are taken.
    fn merge_flags<W: Width>(&self, image: u64, writable: u64) -> u64 {
        let writable = if W::BYTES == 2 { writable & 0xffff } else { writable };
        (self.rflags() & !writable) | (image & writable)
    }

    /// Real mode, and virtual-8086 mode at IOPL 3.
    fn return_8086<W: Width>(&mut self, frame: &Frame, writable: u64) -> Done {
        if frame.offset > u64::from(self.segments[seg::CS].limit) {
            return self.general_protection(0);
        }
        let flags = self.merge_flags::<W>(frame.flags, writable);
        self.move_stack(3 * W::BYTES);
        self.load_real_code(frame.selector);
        self.rip = frame.offset;
        self.set_rflags(flags);
        self.note_events();
        Ok(Flow::Jump)
    }

    /// Virtual-8086 mode below IOPL 3: with VME a 16-bit IRET works on VIF (SDM vol. 3, 20.3.3.4).
    fn return_virtual<W: Width>(&mut self, frame: &Frame) -> Done {
        let pending = frame.flags & rflags::IF != 0 && self.system_flags & rflags::VIP != 0;
        if self.cr4 & cr4::VME == 0 || W::BYTES != 2 || pending || frame.flags & rflags::TF != 0 {
            return self.general_protection(0);
        }
        let writable = WITHOUT_PRIVILEGE & !rflags::IF;
        let done = self.return_8086::<W>(frame, writable)?;
        self.system_flags &= !rflags::VIF;
        if frame.flags & rflags::IF != 0 {
            self.system_flags |= rflags::VIF;
        }
        Ok(done)
    }

    /// From ring 0 to virtual-8086 mode: the frame goes on with ESP, SS, ES, DS, FS and GS.
    fn enter_virtual_8086(&mut self, frame: &Frame) -> Done {
        self.check_stack_words(0, 9, 4)?;
        let mut words = [0u32; 6];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.peek::<u32>(12 + 4 * index as u64)?;
        }
        let [esp, ss, es, ds, fs, gs] = words;
        if frame.offset > 0xffff {
            return self.general_protection(0);
        }
        self.set_rflags(frame.flags | rflags::VM);
        self.cpl = 3;
        let selectors = [(seg::CS, u32::from(frame.selector)), (seg::SS, ss), (seg::ES, es), (seg::DS, ds)];
        for (index, selector) in selectors.into_iter().chain([(seg::FS, fs), (seg::GS, gs)]) {
            self.load_8086_segment(index, selector as u16);
        }
        self.set_gpr(slot::RSP, esp.into());
        self.rip = frame.offset;
        self.mode_changed();
        self.note_events();
        Ok(Flow::Jump)
    }

    fn return_protected<W: Width>(&mut self, frame: &Frame) -> Done {
        let mut writable = rflags::DEFINED & !(rflags::VM | rflags::VIF | rflags::VIP | rflags::IOPL | rflags::IF);
        if self.cpl == 0 {
            writable |= rflags::IOPL | rflags::VIF | rflags::VIP;
        }
        if self.cpl <= self.iopl() {
            writable |= rflags::IF;
        }
        let flags = self.merge_flags::<W>(frame.flags, writable);
        let with_stack = self.code_size == CodeSize::Bits64 || (frame.selector & 3) as u8 > self.cpl;
        let before = self.gpr(slot::RSP);
        let stack = if with_stack {
            self.check_stack_words(3 * W::BYTES, 2, W::BYTES)?;
            let rsp = self.peek::<W>(3 * W::BYTES)?.to_u64();
            let ss = self.peek::<W>(4 * W::BYTES)?.to_u64() as u16;
            Some((ss, rsp))
        } else {
            self.move_stack(3 * W::BYTES);
            None
        };
        let result = self.far_return((frame.selector, frame.offset), Some(flags), stack);
        match result {
            Ok(_) => self.note_events(),
            Err(_) => self.set_gpr(slot::RSP, before),
        }
        result
    }
}

/// What IRET may change in real mode, and at IOPL 3 in virtual-8086 mode beside IOPL itself.
const WITHOUT_PRIVILEGE: u64 = rflags::DEFINED & !(rflags::VM | rflags::VIF | rflags::VIP | rflags::IOPL);

pub fn iret<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    // NMIs are let in again even if the IRET faults (SDM vol. 3, 6.7.1).
    if cpu.nmi_blocked {
        cpu.nmi_blocked = false;
        cpu.note_events();
    }
    if !cpu.protected_mode() {
        let frame = cpu.pop_frame::<W>()?;
        return if !cpu.virtual_8086() {
            cpu.return_8086::<W>(&frame, WITHOUT_PRIVILEGE | rflags::IOPL)
        } else if cpu.iopl() == 3 {
            cpu.return_8086::<W>(&frame, WITHOUT_PRIVILEGE)
        } else {
            cpu.return_virtual::<W>(&frame)
        };
    }
    if cpu.system_flags & rflags::NT != 0 {
        if cpu.long_mode() {
            return cpu.general_protection(0);
        }
        let next = op.next_rip(cpu);
        return cpu.return_to_task(next);
    }
    let frame = cpu.pop_frame::<W>()?;
    if !cpu.long_mode() && W::BYTES == 4 && frame.flags & rflags::VM != 0 && cpu.cpl == 0 {
        return cpu.enter_virtual_8086(&frame);
    }
    cpu.return_protected::<W>(&frame)
}
