//! Far transfers through call gates, and to tasks (Intel SDM vol. 3, 5.8.3 ff. and 7.3).

use super::segment::Descriptor;
use super::task::{Cause, TaskSwitch};
use crate::cpu::{Cpu, Done, Faulting, Flow, seg, slot};
use crate::mmu::is_canonical;
use motu_x86::{Exception, Segment};

/// System descriptor types (SDM vol. 3, table 3-2).
mod kind {
    pub const TASK_16: u32 = 1;
    pub const CALL_GATE_16: u32 = 4;
    pub const TASK_GATE: u32 = 5;
    pub const TASK_32: u32 = 9;
    pub const CALL_GATE: u32 = 0xc;
}

/// What a call gate says.
struct Gate {
    selector: u16,
    offset: u64,
    /// Words that are copied to an inner stack, 0 to 31.
    parameters: u64,
    /// Bytes of a pushed word: 2, 4 or 8.
    size: u64,
}

impl Cpu {
    /// A far CALL, or JMP where not `call`, whose selector names a gate or a TSS; `next` is the instruction behind it.
    pub fn far_system(&mut self, selector: u16, descriptor: Descriptor, call: bool, next: u64) -> Done {
        let rpl = (selector & 3) as u8;
        let known = match descriptor.kind() {
            kind::CALL_GATE => true,
            kind::TASK_16 | kind::TASK_32 | kind::TASK_GATE | kind::CALL_GATE_16 => !self.long_mode(),
            _ => false,
        };
        if !known || descriptor.dpl() < rpl.max(self.cpl) {
            return self.selector_fault(Exception::GP, selector);
        }
        let is_task = matches!(descriptor.kind(), kind::TASK_16 | kind::TASK_32);
        if !is_task && !descriptor.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        if matches!(descriptor.kind(), kind::CALL_GATE | kind::CALL_GATE_16) {
            return self.through_call_gate(selector, descriptor, call.then_some(next));
        }
        let selector = if is_task { selector } else { (descriptor.0 >> 16) as u16 };
        let descriptor = self.available_task(selector)?;
        let cause = if call { Cause::Nested } else { Cause::Jump };
        self.switch_task(&TaskSwitch { cause, selector, descriptor, back: next })?;
        Ok(Flow::Jump)
    }

    fn read_call_gate(&mut self, selector: u16, descriptor: Descriptor) -> Faulting<Gate> {
        let low = descriptor.0;
        let wide = descriptor.kind() == kind::CALL_GATE;
        let mut offset = (low & 0xffff) | if wide { (low >> 32) & 0xffff_0000 } else { 0 };
        let mut size = if wide { 4 } else { 2 };
        if self.long_mode() {
            let high = self.descriptor_high(selector)?;
            // The type field of the upper half must be zero, so that it is not taken for a descriptor.
            if (high >> 40) & 0x1f != 0 {
                return self.selector_fault(Exception::GP, selector);
            }
            offset |= high << 32;
            size = 8;
        }
        Ok(Gate { selector: (low >> 16) as u16, offset, parameters: (low >> 32) & 31, size })
    }

    fn through_call_gate(&mut self, selector: u16, descriptor: Descriptor, back: Option<u64>) -> Done {
        let gate = self.read_call_gate(selector, descriptor)?;
        let long = self.long_mode();
        if gate.selector & !3 == 0 {
            return self.general_protection(0);
        }
        let code = self.descriptor(gate.selector, Exception::GP)?;
        let right_mode = !long || (code.is_long_code() && code.attributes() & Segment::DB == 0);
        if !code.is_code() || code.dpl() > self.cpl || !right_mode {
            return self.selector_fault(Exception::GP, gate.selector);
        }
        let inward = !code.is_conforming() && code.dpl() < self.cpl;
        if back.is_none() && inward {
            return self.selector_fault(Exception::GP, gate.selector);
        }
        if !code.present() {
            return self.selector_fault(Exception::NP, gate.selector);
        }
        let old_cs = u64::from(self.segments[seg::CS].selector);
        match back {
            Some(back) if inward => self.call_inner(&gate, code, &[old_cs, back])?,
            Some(back) => {
                self.check_gate_target(code, gate.offset)?;
                let stack = self.current_stack();
                let top = self.push_frame(&stack, &[old_cs, back], gate.size)?;
                self.mark_accessed(gate.selector, code)?;
                let cpl = self.cpl;
                self.set_code_segment(gate.selector, code, cpl);
                self.use_stack(top);
            }
            None => {
                self.check_gate_target(code, gate.offset)?;
                self.mark_accessed(gate.selector, code)?;
                let cpl = self.cpl;
                self.set_code_segment(gate.selector, code, cpl);
            }
        }
        self.rip = gate.offset;
        Ok(Flow::Jump)
    }

    fn check_gate_target(&mut self, code: Descriptor, offset: u64) -> Faulting<()> {
        let fits = if self.long_mode() { is_canonical(offset) } else { offset <= u64::from(code.limit()) };
        if fits { Ok(()) } else { self.general_protection(0) }
    }

    /// CALL to more privilege: another stack, and the parameters come along.
    fn call_inner(&mut self, gate: &Gate, code: Descriptor, back: &[u64; 2]) -> Faulting<()> {
        let cpl = code.dpl();
        let old = [u64::from(self.segments[seg::SS].selector), self.gpr(slot::RSP)];
        if self.long_mode() {
            let pointer = self.tss_pointer(4 + 8 * u64::from(cpl))?;
            if !is_canonical(pointer) {
                return self.raise_code(Exception::SS, 0);
            }
            self.check_gate_target(code, gate.offset)?;
            let stack = self.long_stack(pointer, cpl);
            let [cs, rip] = *back;
            let top = self.push_frame(&stack, &[old[0], old[1], cs, rip], gate.size)?;
            self.mark_accessed(gate.selector, code)?;
            self.segments[seg::SS] = Segment { selector: u16::from(cpl), ..Segment::null() };
            self.set_code_segment(gate.selector, code, cpl);
            self.use_stack(top);
            return Ok(());
        }
        let (ss, segment, pointer) = self.inner_stack(cpl)?;
        let stack = self.stack_in(segment, pointer, cpl, u32::from(ss & !3));
        let mut frame = Vec::with_capacity(4 + 31);
        frame.extend(old);
        for index in (0..gate.parameters).rev() {
            frame.push(self.parameter(index * gate.size, gate.size)?);
        }
        frame.extend(back);
        self.check_gate_target(code, gate.offset)?;
        let top = self.push_frame(&stack, &frame, gate.size)?;
        self.mark_accessed(gate.selector, code)?;
        self.load_inner_stack(ss, stack.segment)?;
        self.set_code_segment(gate.selector, code, cpl);
        self.use_stack(top);
        Ok(())
    }

    /// A word of the caller's stack, `offset` bytes above its top.
    fn parameter(&mut self, offset: u64, size: u64) -> Faulting<u64> {
        self.check_stack_words(offset, 1, size)?;
        if size == 2 { self.peek::<u16>(offset).map(u64::from) } else { self.peek::<u32>(offset).map(u64::from) }
    }
}
