//! The IDT of 16-bit and 32-bit protected mode (Intel SDM vol. 3, 6.10 to 6.13; vol. 2, INT n).

use super::Event;
use crate::cpu::{Cpu, Faulting, seg, slot};
use crate::exec::segment::Descriptor;
use crate::exec::task::{Cause, TaskSwitch};
use motu_x86::{Exception, Segment};

/// Gate types (SDM vol. 3, table 3-2).
const TASK_GATE: u64 = 5;
const INTERRUPT_16: u64 = 6;
const TRAP_16: u64 = 7;
const INTERRUPT_32: u64 = 0xe;
const TRAP_32: u64 = 0xf;

/// An interrupt or trap gate.
struct Gate {
    selector: u16,
    offset: u64,
    /// Of a pushed word: 2 or 4 bytes.
    size: u64,
    /// Clears IF.
    interrupt: bool,
}

impl Cpu {
    pub(super) fn deliver_protected(&mut self, event: &Event) -> Faulting<()> {
        let code = event.gate_code();
        let offset = u64::from(event.vector) * 8;
        if offset + 7 > u64::from(self.idtr.limit) {
            return self.raise_code(Exception::GP, code);
        }
        let gate = u64::from_le_bytes(self.read_system(self.idtr.base.wrapping_add(offset))?);
        let kind = (gate >> 40) & 0x1f;
        let dpl = ((gate >> 45) & 3) as u8;
        let known = matches!(kind, TASK_GATE | INTERRUPT_16 | TRAP_16 | INTERRUPT_32 | TRAP_32);
        if !known || (event.source.is_software() && dpl < self.cpl) {
            return self.raise_code(Exception::GP, code);
        }
        if gate >> 47 & 1 == 0 {
            return self.raise_code(Exception::NP, code);
        }
        let selector = (gate >> 16) as u16;
        if kind == TASK_GATE {
            return self.deliver_to_task(event, selector);
        }
        let wide = kind & 8 != 0;
        let high = if wide { (gate >> 32) & 0xffff_0000 } else { 0 };
        let interrupt = kind & 1 == 0;
        let gate = Gate { selector, offset: (gate & 0xffff) | high, size: if wide { 4 } else { 2 }, interrupt };
        self.enter_gate(event, &gate)
    }

    fn deliver_to_task(&mut self, event: &Event, selector: u16) -> Faulting<()> {
        let descriptor = self.available_task(selector)?;
        self.switch_task(&TaskSwitch { cause: Cause::Nested, selector, descriptor, back: event.rip })?;
        if let Some(code) = event.error_code {
            let size = if descriptor.kind() & 8 != 0 { 4 } else { 2 };
            let stack = self.current_stack();
            let pushed = self.push_frame(&stack, &[u64::from(code)], size);
            let Ok(top) = pushed else {
                self.restart = Some(self.rip);
                return pushed.map(drop);
            };
            self.use_stack(top);
        }
        Ok(())
    }

    fn enter_gate(&mut self, event: &Event, gate: &Gate) -> Faulting<()> {
        let descriptor = self.gate_code(gate.selector)?;
        let from_8086 = self.virtual_8086();
        let inward = !descriptor.is_conforming() && descriptor.dpl() < self.cpl;
        if from_8086 && !(inward && descriptor.dpl() == 0) {
            return self.selector_fault(Exception::GP, gate.selector);
        }
        let cpl = if inward { descriptor.dpl() } else { self.cpl };
        let (stack, new_segment) = if inward {
            let (selector, segment, pointer) = self.inner_stack(cpl)?;
            let stack = self.stack_in(segment, pointer, cpl, u32::from(selector & !3));
            (stack, Some(selector))
        } else {
            (self.current_stack(), None)
        };
        if gate.offset > u64::from(descriptor.limit()) {
            return self.raise_code(Exception::GP, 0);
        }
        let selector = |index: usize| u64::from(self.segments[index].selector);
        let outer = [seg::GS, seg::FS, seg::DS, seg::ES].map(selector);
        let old_stack = [selector(seg::SS), self.gpr(slot::RSP)];
        let back = [self.rflags(), selector(seg::CS), event.rip];
        let mut frame = Vec::with_capacity(10);
        if from_8086 {
            frame.extend(outer);
        }
        if inward {
            frame.extend(old_stack);
        }
        frame.extend(back);
        frame.extend(event.error_code.map(u64::from));
        let top = self.push_frame(&stack, &frame, gate.size)?;
        self.mark_accessed(gate.selector, descriptor)?;
        if let Some(selector) = new_segment {
            self.load_inner_stack(selector, stack.segment)?;
        }
        if from_8086 {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.segments[index] = Segment::null();
            }
        }
        self.enter_handler(gate.interrupt);
        self.set_code_segment(gate.selector, descriptor, cpl);
        self.use_stack(top);
        self.rip = gate.offset;
        Ok(())
    }

    /// The code segment that an interrupt or trap gate leads to.
    fn gate_code(&mut self, selector: u16) -> Faulting<Descriptor> {
        if selector & !3 == 0 {
            return self.raise_code(Exception::GP, 0);
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl {
            return self.selector_fault(Exception::GP, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        Ok(descriptor)
    }
}
