//! Delivering exceptions and interrupts through the IDT (Intel SDM vol. 3, ch. 6).

use crate::cpu::{Cpu, Done, Faulting, Flow, alert, seg, slot};
use crate::exec::segment::Descriptor;
use crate::mmu::is_canonical;
use motu_x86::flags::rflags;
use motu_x86::{Exception, Segment};

/// Where an event comes from: decides the EXT bit of error codes and whether the gate's DPL counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// An interrupt line, an exception of an instruction, NMI.
    Hardware,
    /// INT n, INT3, INTO.
    Software,
}

/// Error code bit: the selector is an IDT index (SDM vol. 3, 6.13).
const IDT: u32 = 2;
/// Error code bit: an event external to the program was being delivered.
const EXT: u32 = 1;

/// A 64-bit interrupt or trap gate (SDM vol. 3, figure 6-8).
struct Gate {
    selector: u16,
    offset: u64,
    ist: u8,
    /// Clears IF.
    interrupt: bool,
}

/// Exceptions that make a double fault when they meet (SDM vol. 3, table 6-5).
fn is_contributory(vector: u8) -> bool {
    matches!(vector, Exception::DE | Exception::TS..=Exception::GP)
}

fn makes_double_fault(first: u8, second: u8) -> bool {
    match first {
        Exception::PF => second == Exception::PF || is_contributory(second),
        Exception::DF => true,
        _ => is_contributory(first) && is_contributory(second),
    }
}

impl Cpu {
    /// Delivers the exception in `fault`, raised by the instruction at `rip`. Ends in the handler, or
    /// in shutdown.
    pub fn deliver_exception(&mut self, rip: u64) {
        let mut pending = self.fault;
        loop {
            self.stats.exceptions += 1;
            self.note_page_fault();
            // Faults restart the instruction with RF set, so that a breakpoint does not hit again.
            if pending.vector != Exception::DB {
                self.system_flags |= rflags::RF;
            }
            if self.deliver(pending.vector, pending.error_code, rip, Source::Hardware).is_ok() {
                return;
            }
            if pending.vector == Exception::DF {
                self.note_page_fault();
                self.set_alert(alert::SHUTDOWN, true);
                self.rip = rip;
                return;
            }
            pending = if makes_double_fault(pending.vector, self.fault.vector) {
                Exception::with_code(Exception::DF, 0)
            } else {
                self.fault
            };
        }
    }

    /// Every page fault writes CR2, those that end in a double or triple fault too (SDM vol. 3, 6.15,
    /// interrupt 14).
    fn note_page_fault(&mut self) {
        if self.fault.vector == Exception::PF {
            self.cr2 = self.fault.cr2;
        }
    }

    /// Delivers an external interrupt or an NMI at an instruction boundary.
    pub fn deliver_interrupt(&mut self, vector: u8) {
        self.stats.interrupts += 1;
        self.repeat_flags = None;
        let rip = self.rip;
        if self.deliver(vector, None, rip, Source::Hardware).is_err() {
            self.deliver_exception(rip);
        }
    }

    /// INT n with the return address `back`.
    pub fn software_interrupt(&mut self, vector: u8, back: u64) -> Done {
        self.deliver(vector, None, back, Source::Software)?;
        self.no_step = true;
        Ok(Flow::Jump)
    }

    /// #DB after the instruction before `back`.
    pub fn debug_trap(&mut self, back: u64) -> Done {
        self.deliver(Exception::DB, None, back, Source::Hardware)?;
        Ok(Flow::Jump)
    }

    fn deliver(&mut self, vector: u8, error_code: Option<u32>, rip: u64, source: Source) -> Faulting<()> {
        if !self.long_mode() {
            return self.deliver_legacy(vector, error_code, rip, source);
        }
        let ext = if source == Source::Hardware { EXT } else { 0 };
        let gate = self.read_gate(vector, source, ext)?;
        let descriptor = self.gate_code(gate.selector, ext)?;
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
            u64::from(error_code.unwrap_or(0)),
            rip,
            u64::from(self.segments[seg::CS].selector),
            flags,
            self.gpr(slot::RSP),
            u64::from(self.segments[seg::SS].selector),
        ];
        let frame = if error_code.is_some() { &frame[..] } else { &frame[1..] };
        let mut image = [0u8; 48];
        for (bytes, word) in image.chunks_exact_mut(8).zip(frame) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let size = frame.len() * 8;
        let top = (stack & !15).wrapping_sub(size as u64);
        if !is_canonical(top) || !is_canonical(stack) {
            return self.raise(Exception::with_code(Exception::SS, ext));
        }
        if cpl == 3 {
            self.write_bytes(top, &image[..size])?;
        } else {
            self.write_system(top, &image[..size])?;
        }
        self.mark_accessed(gate.selector, descriptor)?;
        if inward {
            self.segments[seg::SS] = Segment { selector: u16::from(cpl), ..Segment::null() };
        }
        self.set_code_segment(gate.selector, descriptor, cpl);
        self.set_gpr(slot::RSP, top);
        self.rip = gate.offset;
        self.system_flags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if gate.interrupt {
            self.system_flags &= !rflags::IF;
        }
        Ok(())
    }

    fn read_gate(&mut self, vector: u8, source: Source, ext: u32) -> Faulting<Gate> {
        let index = u32::from(vector) * 8 + IDT;
        let offset = u64::from(vector) * 16;
        if offset + 15 > u64::from(self.idtr.limit) {
            return self.general_protection(index | ext);
        }
        let bytes = self.read_system::<16>(self.idtr.base.wrapping_add(offset))?;
        let value = u128::from_le_bytes(bytes);
        let low = value as u64;
        let kind = (low >> 40) & 0x1f;
        let dpl = ((low >> 45) & 3) as u8;
        if !matches!(kind, 0xe | 0xf) || (source == Source::Software && dpl < self.cpl) {
            return self.general_protection(index | ext);
        }
        if low >> 47 & 1 == 0 {
            return self.raise(Exception::with_code(Exception::NP, index | ext));
        }
        let offset = (low & 0xffff) | ((low >> 32) & 0xffff_0000) | ((value >> 64) as u64) << 32;
        Ok(Gate { selector: (low >> 16) as u16, offset, ist: ((low >> 32) & 7) as u8, interrupt: kind == 0xe })
    }

    /// The code segment that a 64-bit gate leads to.
    fn gate_code(&mut self, selector: u16, ext: u32) -> Faulting<Descriptor> {
        if selector & !3 == 0 {
            return self.general_protection(ext);
        }
        let code = u32::from(selector & !3) | ext;
        let descriptor = match self.descriptor(selector, Exception::GP) {
            Ok(descriptor) => descriptor,
            Err(fault) => {
                if self.fault.vector == Exception::GP {
                    self.fault.error_code = Some(code);
                }
                return Err(fault);
            }
        };
        let long = descriptor.is_long_code() && descriptor.attributes() & Segment::DB == 0;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl || !long {
            return self.general_protection(code);
        }
        if !descriptor.present() {
            return self.raise(Exception::with_code(Exception::NP, code));
        }
        Ok(descriptor)
    }

    /// A stack pointer from the 64-bit TSS (SDM vol. 3, figure 8-11).
    fn tss_pointer(&mut self, offset: u64) -> Faulting<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            let selector = self.tr.selector;
            return self.selector_fault(Exception::TS, selector);
        }
        Ok(u64::from_le_bytes(self.read_system(self.tr.base.wrapping_add(offset))?))
    }

    /// 32-bit protected mode: interrupt and trap gates of 32 bits that do not change the privilege.
    fn deliver_legacy(&mut self, vector: u8, error_code: Option<u32>, rip: u64, source: Source) -> Faulting<()> {
        let index = u32::from(vector) * 8 + IDT;
        let offset = u64::from(vector) * 8;
        if !self.protected_mode() || offset + 7 > u64::from(self.idtr.limit) {
            return self.general_protection(index);
        }
        let gate = u64::from_le_bytes(self.read_system(self.idtr.base.wrapping_add(offset))?);
        let kind = (gate >> 40) & 0x1f;
        let dpl = ((gate >> 45) & 3) as u8;
        if !matches!(kind, 0xe | 0xf) || (source == Source::Software && dpl < self.cpl) {
            return self.general_protection(index);
        }
        if gate >> 47 & 1 == 0 {
            return self.raise(Exception::with_code(Exception::NP, index));
        }
        let selector = (gate >> 16) as u16;
        let descriptor = self.descriptor(selector, Exception::GP)?;
        if !descriptor.is_code() || (descriptor.dpl() != self.cpl && !descriptor.is_conforming()) {
            return self.selector_fault(Exception::GP, selector);
        }
        let words = 3 + u64::from(error_code.is_some());
        let lowest = self.stack_linear(self.gpr(slot::RSP).wrapping_sub(4 * words));
        self.check_write(lowest, 4 * words)?;
        let flags = self.rflags() as u32;
        let cs = u32::from(self.segments[seg::CS].selector);
        self.push(flags)?;
        self.push(cs)?;
        self.push(rip as u32)?;
        if let Some(code) = error_code {
            self.push(code)?;
        }
        let cpl = self.cpl;
        self.set_code_segment(selector, descriptor, cpl);
        self.rip = (gate & 0xffff) | ((gate >> 32) & 0xffff_0000);
        self.system_flags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if kind == 0xe {
            self.system_flags &= !rflags::IF;
        }
        Ok(())
    }
}
