//! 16-bit and 32-bit code, and the descriptors that it needs.

use super::{Bench, Checked, Code, Paging, page, start};
use crate::board::port;
use crate::handlers;
use crate::layout::{self, legacy, selector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, cr4, rflags};

/// A code, data or system-segment descriptor. `limit` has 20 bits; `rights` are as in
/// [`motu_x86::Segment::attributes`].
pub const fn descriptor(base: u64, limit: u64, rights: u64) -> u64 {
    limit & 0xffff | (limit >> 16 & 0xf) << 48 | (base & 0xff_ffff) << 16 | base >> 24 << 56 | (rights & 0xf0ff) << 40
}

/// A call, interrupt, trap or task gate of 16 or 32 bits. `rights` is the byte with type, DPL and P;
/// `count` the parameters of a call gate.
pub const fn gate(rights: u64, selector: u16, offset: u64, count: u64) -> u64 {
    offset & 0xffff | (selector as u64) << 16 | count << 32 | rights << 40 | offset >> 16 << 48
}

/// Behind the last pair of [`legacy::RESUMES`].
const NO_MORE: u64 = u64::MAX;

/// 16-bit or 32-bit code under construction. It talks to the board by ports, of which [`port::LOG`] and
/// [`port::END`] need no register but EAX.
pub struct Asm {
    inner: CodeAssembler,
    faults: Vec<(CodeLabel, CodeLabel)>,
}

impl std::fmt::Debug for Asm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asm").field("bits", &self.inner.bitness()).finish_non_exhaustive()
    }
}

impl std::ops::Deref for Asm {
    type Target = CodeAssembler;
    fn deref(&self) -> &CodeAssembler {
        &self.inner
    }
}

impl std::ops::DerefMut for Asm {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.inner
    }
}

impl Asm {
    /// # Errors
    /// `bits` is neither 16 nor 32.
    pub fn new(bits: u32) -> Checked<Self> {
        Ok(Self { inner: CodeAssembler::new(bits)?, faults: Vec::new() })
    }

    /// Sets a new label here.
    ///
    /// # Errors
    /// The instruction before has one already that waits for its successor.
    pub fn here(&mut self) -> Result<CodeLabel, IcedError> {
        let mut label = self.create_label();
        self.set_label(&mut label)?;
        Ok(label)
    }

    /// An instruction that is to fault; what follows is gone on with. Changes nothing. Gives where it lies.
    ///
    /// # Errors
    /// It cannot be assembled.
    pub fn faulting(
        &mut self,
        emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<CodeLabel, IcedError> {
        let start = self.here()?;
        emit(self)?;
        let next = self.here()?;
        self.nop()?;
        self.faults.push((start, next));
        Ok(start)
    }

    /// Logs EAX.
    ///
    /// # Errors
    /// Never.
    pub fn log_eax(&mut self) -> Result<(), IcedError> {
        self.out(i32::from(port::LOG), eax)
    }

    /// Logs a register by way of EAX.
    ///
    /// # Errors
    /// Never.
    pub fn log(&mut self, register: AsmRegister32) -> Result<(), IcedError> {
        self.mov(eax, register)?;
        self.log_eax()
    }

    /// Logs a number by way of EAX.
    ///
    /// # Errors
    /// Never.
    pub fn log_number(&mut self, number: u32) -> Result<(), IcedError> {
        self.mov(eax, number)?;
        self.log_eax()
    }

    /// Logs a selector by way of EAX.
    ///
    /// # Errors
    /// Never.
    pub fn log_selector(&mut self, segment: AsmRegisterSegment) -> Result<(), IcedError> {
        self.mov(eax, segment)?;
        self.log_eax()
    }

    /// Logs EFLAGS by way of EAX and the stack.
    ///
    /// # Errors
    /// Never.
    pub fn log_flags(&mut self) -> Result<(), IcedError> {
        self.pushfd()?;
        self.pop(eax)?;
        self.log_eax()
    }

    /// Ends the guest, content.
    ///
    /// # Errors
    /// Never.
    pub fn finish(&mut self) -> Result<(), IcedError> {
        self.mov(eax, 0)?;
        self.out(i32::from(port::END), eax)?;
        self.stop()
    }

    /// An endless loop.
    ///
    /// # Errors
    /// Never.
    pub fn stop(&mut self) -> Result<(), IcedError> {
        self.db(&[0xeb, 0xfe])
    }

    /// `JMP ptr16:16` or `JMP ptr16:32`, by the size of the code.
    ///
    /// # Errors
    /// Never.
    pub fn far_jump(&mut self, selector: u16, offset: u32) -> Result<(), IcedError> {
        self.far(0xea, selector, offset)
    }

    /// `CALL ptr16:16` or `CALL ptr16:32`, by the size of the code.
    ///
    /// # Errors
    /// Never.
    pub fn far_call(&mut self, selector: u16, offset: u32) -> Result<(), IcedError> {
        self.far(0x9a, selector, offset)
    }

    /// Goes to 32-bit code of ring 3 at `target` by IRETD, with flat data segments, from ring 0.
    ///
    /// # Errors
    /// Never.
    pub fn to_ring3(&mut self, target: u64, flags: i32) -> Result<(), IcedError> {
        self.mov(eax, u32::from(selector::USER_DATA))?;
        self.mov(ds, eax)?;
        self.mov(es, eax)?;
        self.push(eax)?;
        self.push(layout::USER_STACK as i32)?;
        self.push(flags)?;
        self.push(i32::from(selector::USER_CODE))?;
        self.push(target as i32)?;
        self.iretd()
    }

    /// Goes to [`legacy::V86_CODE`] in virtual-8086 mode by IRETD, from ring 0. ES, DS, FS and GS are at
    /// [`legacy::V86_DATA`].
    ///
    /// # Errors
    /// Never.
    pub fn to_virtual86(&mut self, flags: u64) -> Result<(), IcedError> {
        for _ in 0..4 {
            self.push((legacy::V86_DATA >> 4) as i32)?;
        }
        self.push((legacy::V86_STACK >> 4) as i32)?;
        self.push(legacy::V86_SP as i32)?;
        self.push((flags | rflags::VM) as i32)?;
        self.push((legacy::V86_CODE >> 4) as i32)?;
        self.push(0)?;
        self.iretd()
    }

    fn far(&mut self, opcode: u8, selector: u16, offset: u32) -> Result<(), IcedError> {
        let size = self.bitness() as usize / 8;
        let mut bytes = vec![opcode];
        bytes.extend(offset.to_le_bytes().into_iter().take(size));
        bytes.extend(selector.to_le_bytes());
        self.db(&bytes)
    }
}

impl Bench<'_> {
    /// Real-address mode: the guest starts at [`layout::CODE`], with IVT and common handlers.
    ///
    /// # Errors
    /// Never.
    pub fn real(&mut self) -> Checked {
        self.protected()?;
        self.state = start::real();
        handlers::install16(self)
    }

    /// 32-bit protected mode without paging: the guest starts at [`layout::CODE`] in ring 0, with tables of its
    /// own.
    ///
    /// # Errors
    /// Never.
    pub fn protected(&mut self) -> Checked {
        self.state = start::protected();
        self.faults = 0;
        self.write(legacy::RESUMES, NO_MORE)?;
        for index in 0..=u64::from(legacy::GDT_LIMIT) / 8 {
            let value = start::LEGACY_DESCRIPTORS.get(index as usize).copied().unwrap_or(0);
            self.write(layout::GDT + 8 * index, value)?;
        }
        for offset in (0..layout::IDT - layout::GDT).step_by(8) {
            self.write(layout::TSS + offset, 0)?;
        }
        self.write(layout::TSS + 4, layout::RSP0 | u64::from(selector::DATA) << 32)?;
        self.write(layout::TSS + 0x64, legacy::IO_MAP << 16)?;
        self.write(layout::TSS + legacy::TSS_LIMIT, 0xff)?;
        handlers::install32(self)
    }

    /// 16-bit protected mode: as [`Self::protected`], with segments of 64 KiB at the start.
    ///
    /// # Errors
    /// Never.
    pub fn protected16(&mut self) -> Checked {
        self.protected()?;
        self.state = start::protected16();
        Ok(())
    }

    /// Turns paging of 32-bit protected mode on, with the same memory map as in 64-bit mode.
    ///
    /// # Errors
    /// Never.
    pub fn page_legacy(&mut self, paging: Paging) -> Checked {
        self.set_paging(paging)?;
        self.state.cr0 |= cr0::PG;
        self.state.cr4 |= if paging == Paging::Pae { cr4::PAE } else { cr4::PSE };
        for at in (0..layout::FRAMES).step_by(0x1000) {
            let rights = if at < layout::USER_CODE { page::KERNEL } else { page::USER };
            self.map(at, at, rights)?;
        }
        Ok(())
    }

    /// One of the descriptors that are the test's own, from 0. Gives its selector.
    ///
    /// # Errors
    /// Never.
    pub fn own(&mut self, index: u16, value: u64) -> Checked<u16> {
        let selector = legacy::FREE_SELECTOR + 8 * index;
        self.write(layout::GDT + u64::from(selector), value)?;
        Ok(selector)
    }

    /// Changes one gate of the 32-bit IDT.
    ///
    /// # Errors
    /// Never.
    pub fn gate32(&mut self, vector: u8, value: u64) -> Checked {
        self.write(layout::IDT + 8 * u64::from(vector), value)
    }

    /// Puts 16-bit or 32-bit code at a physical address, `base` of which is its segment's. Labels are offsets.
    ///
    /// # Errors
    /// It cannot be encoded there.
    pub fn load_legacy(&mut self, at: u64, base: u64, mut code: Asm) -> Checked<Code> {
        let placed = self.load_at(at, at.wrapping_sub(base), &mut code.inner)?;
        for (start, next) in &code.faults {
            self.expect_fault(placed.at(start)?, placed.at(next)?)?;
        }
        Ok(placed)
    }

    /// A fault at offset `at` goes on at offset `next`.
    ///
    /// # Errors
    /// Never.
    pub fn expect_fault(&mut self, at: u64, next: u64) -> Checked {
        let entry = legacy::RESUMES + 8 * self.faults;
        self.write(entry, at | next << 32)?;
        self.write(entry + 8, NO_MORE)?;
        self.faults += 1;
        Ok(())
    }
}
