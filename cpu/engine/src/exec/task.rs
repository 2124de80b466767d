//! Hardware task switching (Intel SDM vol. 3, ch. 7).

use super::debug::dr6;
use super::segment::Descriptor;
use crate::cpu::{Cpu, Done, Faulting, Flow, seg};
use motu_x86::flags::{cr0, rflags};
use motu_x86::{Exception, Segment};

/// Why a task begins: decides about busy bits, the NT flag and the link to the old task (SDM vol. 3, table 7-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// JMP.
    Jump,
    /// CALL, or an event through a task gate: the old task waits for the new one's IRET.
    Nested,
    /// IRET with NT set.
    Return,
}

/// A task switch whose target has been found.
#[derive(Clone, Copy, Debug)]
pub struct TaskSwitch {
    pub cause: Cause,
    pub selector: u16,
    pub descriptor: Descriptor,
    /// Where the old task goes on, in its code segment.
    pub back: u64,
}

/// Where the fields of a TSS stand (SDM vol. 3, figures 7-2 and 7-10).
struct Layout {
    /// Bytes of the whole.
    len: usize,
    instruction_pointer: usize,
    flags: usize,
    registers: usize,
    /// Of a register: 2 or 4 bytes.
    size: usize,
    segments: usize,
    /// ES, CS, SS, DS; FS and GS in the larger one.
    segment_count: usize,
    ldt: usize,
}

const TSS_16: Layout = Layout {
    len: 0x2c,
    instruction_pointer: 0x0e,
    flags: 0x10,
    registers: 0x12,
    size: 2,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
};

const TSS_32: Layout = Layout {
    len: 0x68,
    instruction_pointer: 0x20,
    flags: 0x24,
    registers: 0x28,
    size: 4,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
};

const CR3: usize = 0x1c;
const DEBUG_TRAP: usize = 0x64;
/// Descriptor type bit: the task is running, or waits for a nested one.
const BUSY: u32 = 2;
/// Low half of DR7: the enable bits of the task that is left (SDM vol. 3, 17.2.4).
const LOCAL_BREAKPOINTS: u64 = 0x155;

fn layout(kind: u32) -> &'static Layout {
    if kind & 8 != 0 { &TSS_32 } else { &TSS_16 }
}

/// A TSS that was read.
struct Image {
    layout: &'static Layout,
    bytes: [u8; TSS_32.len],
}

impl Image {
    fn word(&self, at: usize) -> u16 {
        self.bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
    }

    /// A register's field.
    fn register(&self, at: usize) -> u64 {
        let high = if self.layout.size == 4 { u64::from(self.word(at + 2)) << 16 } else { 0 };
        u64::from(self.word(at)) | high
    }

    fn selector(&self, index: usize) -> u16 {
        if index < self.layout.segment_count { self.word(self.layout.segments + index * self.layout.size) } else { 0 }
    }
}

impl Cpu {
    /// The descriptor of a task that is neither running nor nested: what a task gate or a far CALL or JMP names.
    pub fn available_task(&mut self, selector: u16) -> Faulting<Descriptor> {
        if selector & 4 != 0 {
            return self.selector_fault(Exception::GP, selector);
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        if descriptor.is_code_or_data() || !matches!(descriptor.kind(), 1 | 9) {
            return self.selector_fault(Exception::GP, selector);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        Ok(descriptor)
    }

    /// IRET with NT set: back to the task that the running one is nested in.
    pub fn return_to_task(&mut self, next: u64) -> Done {
        let link = u16::from_le_bytes(self.read_system(self.tr.base)?);
        if link & 4 != 0 || link & !3 == 0 {
            return self.selector_fault(Exception::TS, link);
        }
        let descriptor = self.descriptor(link, Exception::TS)?;
        if descriptor.is_code_or_data() || !matches!(descriptor.kind(), 3 | 0xb) {
            return self.selector_fault(Exception::TS, link);
        }
        if !descriptor.present() {
            return self.selector_fault(Exception::NP, link);
        }
        self.switch_task(&TaskSwitch { cause: Cause::Return, selector: link, descriptor, back: next })?;
        Ok(Flow::Jump)
    }

    /// Leaves one task for another. A fault before the new task's state is loaded leaves the old one as it was; a
    /// later one belongs to the new task.
    pub fn switch_task(&mut self, switch: &TaskSwitch) -> Faulting<()> {
        let new = layout(switch.descriptor.kind());
        if (switch.descriptor.limit() as usize) < new.len - 1 {
            return self.selector_fault(Exception::TS, switch.selector);
        }
        let old = layout(self.tr.kind());
        if (self.tr.limit as usize) < old.segments + old.segment_count * old.size - 1 {
            let task = self.tr.selector;
            return self.selector_fault(Exception::TS, task);
        }
        let base = switch.descriptor.base();
        let mut image = Image { layout: new, bytes: [0; TSS_32.len] };
        if let Some(bytes) = image.bytes.get_mut(..new.len) {
            self.read_system_bytes(base, bytes)?;
        }
        self.check_write_system(self.tr.base, old.len as u64)?;
        if switch.cause == Cause::Nested {
            self.check_write_system(base, 2)?;
        }

        let mut flags = self.rflags();
        if switch.cause == Cause::Return {
            flags &= !rflags::NT;
        }
        self.save_task(old, switch.back, flags)?;
        let link = self.tr.selector;
        if switch.cause != Cause::Nested {
            self.set_busy(link, false)?;
        }
        if switch.cause == Cause::Nested {
            self.write_system(base, &link.to_le_bytes())?;
        }
        if switch.cause != Cause::Return {
            self.set_busy(switch.selector, true)?;
        }
        self.tr = switch.descriptor.segment(switch.selector);
        self.tr.attributes |= BUSY;
        self.cr0 |= cr0::TS;
        self.load_task(&image, switch.cause)
    }

    fn save_task(&mut self, layout: &Layout, back: u64, flags: u64) -> Faulting<()> {
        let base = self.tr.base;
        let field = |at: usize| base.wrapping_add(at as u64);
        let mut registers = vec![(layout.instruction_pointer, back), (layout.flags, flags)];
        registers.extend((0..8).map(|n| (layout.registers + usize::from(n) * layout.size, self.gpr(n))));
        for (at, value) in registers {
            let bytes = value.to_le_bytes();
            self.write_system(field(at), bytes.get(..layout.size).unwrap_or(&bytes))?;
        }
        for index in 0..layout.segment_count {
            let selector = self.segments[index].selector.to_le_bytes();
            self.write_system(field(layout.segments + index * layout.size), &selector)?;
        }
        Ok(())
    }

    /// Sets or clears the busy bit of a task's descriptor.
    fn set_busy(&mut self, selector: u16, busy: bool) -> Faulting<()> {
        let Some(at) = self.descriptor_at(selector, 8) else { return Ok(()) };
        let [byte] = self.read_system::<1>(at.wrapping_add(5))?;
        let byte = (byte & !(BUSY as u8)) | if busy { BUSY as u8 } else { 0 };
        self.write_system(at.wrapping_add(5), &[byte])
    }

    fn load_task(&mut self, image: &Image, cause: Cause) -> Faulting<()> {
        let layout = image.layout;
        let wide = layout.size == 4;
        self.rip = image.register(layout.instruction_pointer);
        self.restart = Some(self.rip);
        if wide && self.cr0 & cr0::PG != 0 {
            self.load_task_root(image.register(CR3))?;
        }
        let nested = if cause == Cause::Nested { rflags::NT } else { 0 };
        self.set_rflags(image.register(layout.flags) | nested);
        for number in 0..8u8 {
            let value = image.register(layout.registers + usize::from(number) * layout.size);
            self.set_gpr(number, value);
        }
        self.dr[7] &= !LOCAL_BREAKPOINTS;
        self.breakpoints_changed();
        for (index, segment) in self.segments.iter_mut().enumerate() {
            *segment = Segment { selector: image.selector(index), ..Segment::null() };
        }
        let ldt = image.word(layout.ldt);
        self.ldtr = Segment { selector: ldt, ..Segment::null() };
        self.cpl = if self.virtual_8086() { 3 } else { (image.selector(seg::CS) & 3) as u8 };
        self.mode_changed();
        self.load_task_ldt(ldt)?;
        if self.virtual_8086() {
            for index in 0..self.segments.len() {
                let selector = image.selector(index);
                self.load_8086_segment(index, selector);
            }
        } else {
            self.load_task_segments(image)?;
        }
        if self.rip > u64::from(self.segments[seg::CS].limit) {
            return self.raise_code(Exception::GP, 0);
        }
        self.restart = None;
        if wide && image.word(DEBUG_TRAP) & 1 != 0 {
            self.note_debug_trap(dr6::BT);
        }
        self.note_events();
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Faulting<()> {
        if selector & !3 == 0 {
            return Ok(());
        }
        if selector & 4 != 0 {
            return self.selector_fault(Exception::TS, selector);
        }
        let descriptor = self.descriptor(selector, Exception::TS)?;
        if descriptor.is_code_or_data() || descriptor.kind() != 2 || !descriptor.present() {
            return self.selector_fault(Exception::TS, selector);
        }
        self.ldtr = descriptor.segment(selector);
        Ok(())
    }

    fn load_task_segments(&mut self, image: &Image) -> Faulting<()> {
        let selector = image.selector(seg::CS);
        if selector & !3 == 0 {
            return self.selector_fault(Exception::TS, selector);
        }
        let code = self.descriptor(selector, Exception::TS)?;
        let dpl_fits = if code.is_conforming() { code.dpl() <= self.cpl } else { code.dpl() == self.cpl };
        if !code.is_code() || !dpl_fits {
            return self.selector_fault(Exception::TS, selector);
        }
        if !code.present() {
            return self.selector_fault(Exception::NP, selector);
        }
        self.mark_accessed(selector, code)?;
        let cpl = self.cpl;
        self.set_code_segment(selector, code, cpl);

        let selector = image.selector(seg::SS);
        if selector & !3 == 0 {
            return self.selector_fault(Exception::TS, selector);
        }
        let stack = self.descriptor(selector, Exception::TS)?;
        if (selector & 3) as u8 != cpl || stack.dpl() != cpl || !stack.is_writable_data() {
            return self.selector_fault(Exception::TS, selector);
        }
        if !stack.present() {
            return self.selector_fault(Exception::SS, selector);
        }
        self.take_segment(seg::SS, selector, stack)?;

        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let selector = image.selector(index);
            if selector & !3 == 0 {
                continue;
            }
            let descriptor = self.descriptor(selector, Exception::TS)?;
            let rpl = (selector & 3) as u8;
            let conforming = descriptor.is_code() && descriptor.is_conforming();
            if !descriptor.is_readable() || (!conforming && descriptor.dpl() < rpl.max(cpl)) {
                return self.selector_fault(Exception::TS, selector);
            }
            if !descriptor.present() {
                return self.selector_fault(Exception::NP, selector);
            }
            self.take_segment(index, selector, descriptor)?;
        }
        Ok(())
    }
}
