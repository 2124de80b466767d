//! Segment registers and descriptors (Intel SDM vol. 3, 3.4, 3.5, 5.5 ff.).

use super::operand::{Source, in_segment};
use super::width::{Width, arith};
use crate::cpu::{Cpu, Done, Faulting, Flow, alert, seg};
use crate::decode::Op;
use motu_x86::flags::cr4;
use motu_x86::{DescriptorTable, Exception, Segment};

/// An 8-byte descriptor as it stands in a table (SDM vol. 3, figure 3-8).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor(pub u64);

impl Descriptor {
    pub fn base(self) -> u64 {
        ((self.0 >> 16) & 0xff_ffff) | ((self.0 >> 32) & 0xff00_0000)
    }

    /// In bytes, granularity applied.
    pub fn limit(self) -> u32 {
        let raw = ((self.0 & 0xffff) | ((self.0 >> 32) & 0xf_0000)) as u32;
        if self.attributes() & Segment::G != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// As [`Segment::attributes`] has them.
    pub fn attributes(self) -> u32 {
        ((self.0 >> 40) & 0xf0ff) as u32
    }

    pub fn present(self) -> bool {
        self.attributes() & Segment::PRESENT != 0
    }

    pub fn is_code_or_data(self) -> bool {
        self.attributes() & Segment::S != 0
    }

    pub fn is_code(self) -> bool {
        self.is_code_or_data() && self.kind() & 8 != 0
    }

    pub fn is_conforming(self) -> bool {
        self.kind() & 4 != 0
    }

    pub fn is_writable_data(self) -> bool {
        self.is_code_or_data() && self.kind() & 0b1010 == 0b0010
    }

    /// Data, or code that may be read.
    pub fn is_readable(self) -> bool {
        self.is_code_or_data() && self.kind() & 0b1010 != 0b1000
    }

    pub fn kind(self) -> u32 {
        self.attributes() & 0xf
    }

    pub fn dpl(self) -> u8 {
        ((self.0 >> 45) & 3) as u8
    }

    pub fn is_long_code(self) -> bool {
        self.attributes() & Segment::L != 0
    }

    /// The register that loading it gives.
    pub fn segment(self, selector: u16) -> Segment {
        Segment { selector, base: self.base(), limit: self.limit(), attributes: self.attributes() }
    }
}

impl Cpu {
    /// The table that a selector points into: base and limit.
    fn table(&self, selector: u16) -> (u64, u64) {
        if selector & 4 != 0 {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        }
    }

    /// The descriptor's linear address, or `None` when it lies beyond its table.
    pub fn descriptor_at(&self, selector: u16, bytes: u64) -> Option<u64> {
        let (base, limit) = self.table(selector);
        let offset = u64::from(selector & !7);
        let usable = selector & 4 == 0 || self.ldtr.attributes & Segment::UNUSABLE == 0;
        (usable && offset + bytes - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Reads a descriptor; beyond the table raises `vector`(selector).
    pub fn descriptor(&mut self, selector: u16, vector: u8) -> Faulting<Descriptor> {
        let Some(at) = self.descriptor_at(selector, 8) else {
            return self.selector_fault(vector, selector);
        };
        Ok(Descriptor(u64::from_le_bytes(self.read_system(at)?)))
    }

    /// An exception whose error code is a selector without its RPL.
    pub fn selector_fault<T>(&mut self, vector: u8, selector: u16) -> Faulting<T> {
        self.raise_code(vector, u32::from(selector & !3))
    }

    /// An exception with an error code, which says whether an event was being delivered (SDM vol. 3, 6.13).
    #[cold]
    pub fn raise_code<T>(&mut self, vector: u8, code: u32) -> Faulting<T> {
        self.raise(Exception::with_code(vector, code | self.external))
    }

    /// The upper half of a 16-byte system descriptor of long mode.
    pub fn descriptor_high(&mut self, selector: u16) -> Faulting<u64> {
        match self.descriptor_at(selector, 16) {
            Some(at) => Ok(u64::from_le_bytes(self.read_system(at.wrapping_add(8))?)),
            None => self.selector_fault(Exception::GP, selector),
        }
    }

    /// Loads a segment register from a descriptor that has passed its checks.
    pub fn take_segment(&mut self, index: usize, selector: u16, descriptor: Descriptor) -> Faulting<()> {
        self.mark_accessed(selector, descriptor)?;
        let mut segment = descriptor.segment(selector);
        segment.attributes |= 1;
        self.segments[index] = segment;
        self.mode_changed();
        Ok(())
    }

    /// Loads a segment register as virtual-8086 mode has it (SDM vol. 3, 20.2.1); the caller tells of the change.
    pub fn load_8086_segment(&mut self, index: usize, selector: u16) {
        let attributes = 3 | Segment::S | Segment::PRESENT | 3 << 5;
        self.segments[index] = Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes };
        self.mode_changed();
    }

    /// Sets the accessed bit of a descriptor in its table, where it is not set yet.
    pub fn mark_accessed(&mut self, selector: u16, descriptor: Descriptor) -> Faulting<()> {
        if descriptor.kind() & 1 == 0
            && let Some(at) = self.descriptor_at(selector, 8)
        {
            let byte = (descriptor.0 >> 40) as u8 | 1;
            self.write_system(at.wrapping_add(5), &[byte])?;
        }
        Ok(())
    }

    /// Loads DS, ES, FS, GS or SS as MOV and POP do (SDM vol. 2, MOV).
    pub fn load_data_segment(&mut self, index: usize, selector: u16) -> Faulting<()> {
        if self.virtual_8086() {
            self.load_8086_segment(index, selector);
            return Ok(());
        }
        if !self.protected_mode() {
            // Limit and rights stay: "unreal mode" is what was loaded in protected mode.
            let old = &mut self.segments[index];
            old.selector = selector;
            old.base = u64::from(selector) << 4;
            old.attributes &= !Segment::UNUSABLE;
            self.mode_changed();
            return Ok(());
        }
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            let allowed_in_ss = self.code_size == crate::cpu::CodeSize::Bits64 && self.cpl < 3 && rpl == self.cpl;
            if index == seg::SS && !allowed_in_ss {
                return self.general_protection(0);
            }
            self.segments[index] = Segment { selector, ..Segment::null() };
            self.mode_changed();
            return Ok(());
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let dpl = descriptor.dpl();
        if index == seg::SS {
            if rpl != self.cpl || dpl != self.cpl || !descriptor.is_writable_data() {
                return self.selector_fault(Exception::GP, selector);
            }
            if !descriptor.present() {
                return self.selector_fault(Exception::SS, selector);
            }
        } else {
            let conforming = descriptor.is_code() && descriptor.is_conforming();
            if !descriptor.is_readable() || (!conforming && dpl < rpl.max(self.cpl)) {
                return self.selector_fault(Exception::GP, selector);
            }
            if !descriptor.present() {
                return self.selector_fault(Exception::NP, selector);
            }
        }
        self.take_segment(index, selector, descriptor)
    }
}

/// MOV Sreg, r/m16: `op.dst` is the segment's index.
pub fn mov_to<S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = S::get::<u16>(cpu, op)?;
    let index = usize::from(op.dst);
    cpu.load_data_segment(index, selector)?;
    if index == seg::SS {
        hold_off(cpu);
    }
    Ok(Flow::Stop)
}

/// Behind a load of SS neither interrupts nor single-step traps come for one instruction (SDM vol. 3, 6.8.3).
fn hold_off(cpu: &mut Cpu) {
    cpu.set_alert(alert::SHADOW, true);
    cpu.no_step = true;
}

/// POP Sreg.
pub fn pop<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.peek::<W>(0)?.to_u64() as u16;
    let index = usize::from(op.dst);
    let old_mask = cpu.stack_mask;
    cpu.load_data_segment(index, selector)?;
    let rsp = cpu.gpr(crate::cpu::slot::RSP);
    let moved = rsp.wrapping_add(W::BYTES);
    cpu.set_gpr(crate::cpu::slot::RSP, (rsp & !old_mask) | (moved & old_mask));
    if index == seg::SS {
        hold_off(cpu);
    }
    Ok(Flow::Stop)
}

/// The selector in the segment register `op.src`.
pub enum Selector {}

impl Source for Selector {
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W> {
        let selector = cpu.segments.get(usize::from(op.src)).map_or(0, |s| s.selector);
        Ok(W::from_u64(u64::from(selector)))
    }
}

/// LDS, LES, LFS, LGS, LSS: `op.imm` is the segment's index.
pub fn load_far_pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let address = op.linear(cpu);
    let offset = cpu.load::<W>(address).map_err(|fault| in_segment(cpu, op, fault))?;
    let selector = cpu.load::<u16>(address.wrapping_add(W::BYTES) & cpu.linear_mask);
    let selector = selector.map_err(|fault| in_segment(cpu, op, fault))?;
    cpu.load_data_segment(op.imm as usize, selector)?;
    cpu.set_register(op.dst, offset);
    Ok(Flow::Stop)
}

/// LGDT and LIDT (`INTERRUPTS`).
pub fn load_table<const INTERRUPTS: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let address = op.linear(cpu);
    let limit = cpu.load::<u16>(address)?;
    let base_at = address.wrapping_add(2) & cpu.linear_mask;
    let base = if cpu.code_size == crate::cpu::CodeSize::Bits64 {
        cpu.load::<u64>(base_at)?
    } else {
        // With a 16-bit operand size the top byte is not used.
        u64::from(cpu.load::<u32>(base_at)?) & op.imm
    };
    if !crate::mmu::is_canonical(base) {
        return cpu.general_protection(0);
    }
    let table = DescriptorTable { base, limit };
    if INTERRUPTS {
        cpu.idtr = table;
    } else {
        cpu.gdtr = table;
    }
    Ok(Flow::Next)
}

/// SGDT and SIDT (`INTERRUPTS`).
pub fn store_table<const INTERRUPTS: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.cr4 & cr4::UMIP != 0 {
        cpu.require_cpl0()?;
    }
    let table = if INTERRUPTS { cpu.idtr } else { cpu.gdtr };
    let mut image = [0; 10];
    image[..2].copy_from_slice(&table.limit.to_le_bytes());
    image[2..].copy_from_slice(&table.base.to_le_bytes());
    let len = if cpu.code_size == crate::cpu::CodeSize::Bits64 { 10 } else { 6 };
    let address = op.linear(cpu);
    cpu.write_bytes(address, &image[..len])?;
    Ok(Flow::Next)
}

/// LLDT, and LTR where `TASK`.
pub fn load_system<const TASK: bool, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    if !cpu.protected_mode() {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    let selector = S::get::<u16>(cpu, op)?;
    if selector & !3 == 0 {
        if TASK {
            return cpu.general_protection(0);
        }
        cpu.ldtr = Segment { selector, ..Segment::null() };
        return Ok(Flow::Next);
    }
    if selector & 4 != 0 {
        return cpu.selector_fault(Exception::GP, selector);
    }
    let descriptor = cpu.descriptor(selector, Exception::GP)?;
    let right_kind = if TASK {
        matches!(descriptor.kind(), 0x1 | 0x9) && (!cpu.long_mode() || descriptor.kind() == 0x9)
    } else {
        descriptor.kind() == 0x2
    };
    if descriptor.is_code_or_data() || !right_kind {
        return cpu.selector_fault(Exception::GP, selector);
    }
    if !descriptor.present() {
        return cpu.selector_fault(Exception::NP, selector);
    }
    let mut segment = descriptor.segment(selector);
    if cpu.long_mode() {
        let high = cpu.descriptor_high(selector)?;
        segment.base |= high << 32;
        if high >> 32 & 0x1f00 != 0 || !crate::mmu::is_canonical(segment.base) {
            return cpu.selector_fault(Exception::GP, selector);
        }
    }
    if TASK {
        if let Some(at) = cpu.descriptor_at(selector, 8) {
            cpu.write_system(at.wrapping_add(5), &[(descriptor.0 >> 40) as u8 | 2])?;
        }
        segment.attributes |= 2;
        cpu.tr = segment;
    } else {
        cpu.ldtr = segment;
    }
    Ok(Flow::Next)
}

/// What SLDT, STR, SMSW store: `op.imm` chooses.
pub enum SystemWord {}
pub const LDTR: u64 = 0;
pub const TASK: u64 = 1;
pub const STATUS: u64 = 2;

impl Source for SystemWord {
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W> {
        if op.imm != STATUS && !cpu.protected_mode() {
            return cpu.undefined();
        }
        if cpu.cr4 & cr4::UMIP != 0 {
            cpu.require_cpl0()?;
        }
        Ok(W::from_u64(match op.imm {
            LDTR => u64::from(cpu.ldtr.selector),
            TASK => u64::from(cpu.tr.selector),
            _ => cpu.cr0,
        }))
    }
}

/// A descriptor that LAR, LSL, VERR and VERW may see, or `None` (they never fault on a selector).
fn visible(cpu: &mut Cpu, selector: u16, system_kinds: u32) -> Faulting<Option<Descriptor>> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let Some(at) = cpu.descriptor_at(selector, 8) else { return Ok(None) };
    let descriptor = Descriptor(u64::from_le_bytes(cpu.read_system(at)?));
    let rpl = (selector & 3) as u8;
    let conforming = descriptor.is_code() && descriptor.is_conforming();
    let privileged = conforming || descriptor.dpl() >= rpl.max(cpu.cpl);
    let kind = descriptor.is_code_or_data() || system_kinds >> descriptor.kind() & 1 != 0;
    Ok((privileged && kind).then_some(descriptor))
}

/// LAR, and LSL where `LIMIT`.
pub fn load_rights<const LIMIT: bool, W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    if !cpu.protected_mode() {
        return cpu.undefined();
    }
    let selector = S::get::<u16>(cpu, op)?;
    // System types that count: SDM vol. 2, tables 3-53 and 3-56.
    let kinds = match (LIMIT, cpu.long_mode()) {
        (false, false) => 0b0001_1010_0011_1110,
        (false, true) => 0b0001_1010_0000_0100,
        (true, false) => 0b0000_1010_0000_1110,
        (true, true) => 0b0000_1010_0000_0100,
    };
    let found = visible(cpu, selector, kinds)?;
    if let Some(descriptor) = found {
        let value = if LIMIT { u64::from(descriptor.limit()) } else { (descriptor.0 >> 32) & 0x00ff_ff00 };
        cpu.set_register(op.dst, W::from_u64(value));
    }
    cpu.set_flags(arith::ZF, found.is_some());
    Ok(Flow::Next)
}

/// VERR, and VERW where `WRITE`.
pub fn verify<const WRITE: bool, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    if !cpu.protected_mode() {
        return cpu.undefined();
    }
    let selector = S::get::<u16>(cpu, op)?;
    let found = visible(cpu, selector, 0)?;
    cpu.set_flags(arith::ZF, found.is_some_and(|d| if WRITE { d.is_writable_data() } else { d.is_readable() }));
    Ok(Flow::Next)
}
