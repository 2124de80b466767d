//! The IDT of long mode (Intel SDM vol. 3, 6.14).

use super::Event;
use crate::cpu::{Cpu, Faulting, seg, slot};
use crate::exec::segment::Descriptor;
use crate::mmu::is_canonical;
use motu_x86::{Exception, Segment};

/// A 64-bit interrupt or trap gate (SDM vol. 3, figure 6-8).
struct Gate {
    selector: u16,
    offset: u64,
    ist: u8,
    /// Clears IF.
    interrupt: bool,
}

impl Cpu {
    pub(super) fn deliver_long(&mut self, event: &Event) -> Faulting<()> {
        let gate = self.read_long_gate(event)?;
        let descriptor = self.long_gate_code(gate.selector)?;
        let cpl = if descriptor.is_conforming() { self.cpl } else { descriptor.dpl() };
        let inward = cpl < self.cpl;
        let stack = if gate.ist != 0 {
            self.tss_pointer(0x1c + 8 * u64::from(gate.ist))?
        } else if inward {
            self.tss_pointer(4 + 8 * u64::from(cpl))?
        } else {
            self.gpr(slot::RSP)
        };
        let flags = self.rflags();
        let frame = [
            u64::from(event.error_code.unwrap_or(0)),
            event.rip,
            u64::from(self.segments[seg::CS].selector),
            flags,
            self.gpr(slot::RSP),
            u64::from(self.segments[seg::SS].selector),
        ];
        let frame = if event.error_code.is_some() { &frame[..] } else { &frame[1..] };
        let mut image = [0u8; 48];
        for (bytes, word) in image.chunks_exact_mut(8).zip(frame) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let size = frame.len() * 8;
        let top = (stack & !15).wrapping_sub(size as u64);
        if !is_canonical(top) || !is_canonical(stack) {
            return self.raise_code(Exception::SS, 0);
        }
        if !is_canonical(gate.offset) {
            return self.raise_code(Exception::GP, 0);
        }
        self.write_bytes_as(top, &image[..size], self.privilege_at(cpl))?;
        self.mark_accessed(gate.selector, descriptor)?;
        if inward {
            self.segments[seg::SS] = Segment { selector: u16::from(cpl), ..Segment::null() };
        }
        self.enter_handler(gate.interrupt);
        self.set_code_segment(gate.selector, descriptor, cpl);
        self.set_gpr(slot::RSP, top);
        self.rip = gate.offset;
        Ok(())
    }

    fn read_long_gate(&mut self, event: &Event) -> Faulting<Gate> {
        let offset = u64::from(event.vector) * 16;
        if offset + 15 > u64::from(self.idtr.limit) {
            return self.raise_code(Exception::GP, event.gate_code());
        }
        let bytes = self.read_system::<16>(self.idtr.base.wrapping_add(offset))?;
        let value = u128::from_le_bytes(bytes);
        let low = value as u64;
        let kind = (low >> 40) & 0x1f;
        let dpl = ((low >> 45) & 3) as u8;
        if !matches!(kind, 0xe | 0xf) || (event.source.is_software() && dpl < self.cpl) {
            return self.raise_code(Exception::GP, event.gate_code());
        }
        if low >> 47 & 1 == 0 {
            return self.raise_code(Exception::NP, event.gate_code());
        }
        let offset = (low & 0xffff) | ((low >> 32) & 0xffff_0000) | ((value >> 64) as u64) << 32;
        Ok(Gate { selector: (low >> 16) as u16, offset, ist: ((low >> 32) & 7) as u8, interrupt: kind == 0xe })
    }

    /// The code segment that a 64-bit gate leads to.
    fn long_gate_code(&mut self, selector: u16) -> Faulting<Descriptor> {
        if selector & !3 == 0 {
            return self.raise_code(Exception::GP, 0);
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let long = descriptor.is_long_code() && descriptor.attributes() & Segment::DB == 0;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl || !long {
            return self.selector_fault(Exception::GP, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        Ok(descriptor)
    }

    /// A stack pointer from the 64-bit TSS (SDM vol. 3, figure 8-11).
    pub(crate) fn tss_pointer(&mut self, offset: u64) -> Faulting<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            let selector = self.tr.selector;
            return self.selector_fault(Exception::TS, selector);
        }
        Ok(u64::from_le_bytes(self.read_system(self.tr.base.wrapping_add(offset))?))
    }
}
