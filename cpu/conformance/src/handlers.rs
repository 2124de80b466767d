//! What every guest has in its IDT, and the idioms of test code.

use crate::bench::{Asm, Bench, Checked, Gate, gate};
use crate::board::{port, register};
use crate::layout::legacy::{HANDLERS16, RESUMES};
use crate::layout::{APIC, BOARD, HANDLERS, IDT, RESUME, selector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::rflags;

/// Vectors whose exceptions push an error code (SDM vol. 3, table 6-1).
const WITH_ERROR: [u8; 7] = [8, 10, 11, 12, 13, 14, 17];
/// Interrupts of these vectors are ended at the local APIC by the common handler.
const ENDED: std::ops::Range<i32> = 0x30..0x80;
/// Added to the vector where a fault comes that no one expects: the guest ends with it.
pub const UNEXPECTED: u32 = 0xbad00;

/// Gates for all vectors: each files a [`crate::board::Trap`] and goes to the address in [`RESUME`], or
/// back if that is zero and the vector is #DB, NMI, #BP, #OF or beyond 31.
pub(crate) fn install(bench: &mut Bench<'_>) -> Checked {
    let mut a = bench.assembler(64)?;
    let mut common = a.create_label();
    let mut stubs = Vec::new();
    for vector in 0..=255u8 {
        let mut stub = a.create_label();
        a.set_label(&mut stub)?;
        if !WITH_ERROR.contains(&vector) {
            a.push(0)?;
        }
        a.push(i32::from(vector))?;
        a.jmp(common)?;
        stubs.push(stub);
    }
    a.set_label(&mut common)?;
    let (mut back, mut beyond, mut fatal) = (a.create_label(), a.create_label(), a.create_label());
    a.push(rax)?;
    for word in 0..7 {
        a.mov(rax, qword_ptr(rsp + 8 + 8 * word))?;
        a.mov(qword_ptr(BOARD + register::TRAP + 8 * word as u64), rax)?;
    }
    a.mov(rax, cr2)?;
    a.mov(qword_ptr(BOARD + register::TRAP + 56), rax)?;
    a.mov(rax, qword_ptr(rsp + 8))?;
    a.cmp(rax, ENDED.start)?;
    a.jb(beyond)?;
    a.cmp(rax, ENDED.end)?;
    a.jae(beyond)?;
    a.end_of_interrupt()?;
    a.set_label(&mut beyond)?;
    a.mov(rax, qword_ptr(RESUME))?;
    let mut stay = a.create_label();
    a.test(rax, rax)?;
    a.jz(stay)?;
    a.mov(qword_ptr(rsp + 24), rax)?;
    a.and(qword_ptr(RESUME), 0)?;
    a.jmp(back)?;
    a.set_label(&mut stay)?;
    a.mov(rax, qword_ptr(rsp + 8))?;
    a.cmp(rax, 32)?;
    a.jae(back)?;
    a.cmp(rax, 4)?;
    a.ja(fatal)?;
    a.test(rax, rax)?;
    a.jnz(back)?;
    a.set_label(&mut fatal)?;
    a.or(eax, UNEXPECTED as i32)?;
    a.mov(dword_ptr(BOARD + register::END), eax)?;
    a.stop()?;
    a.set_label(&mut back)?;
    a.pop(rax)?;
    a.add(rsp, 16)?;
    a.iretq()?;
    let code = bench.load(HANDLERS, &mut a)?;
    for (vector, stub) in (0..=255).zip(stubs) {
        bench.gate(vector, Gate::to(code.at(&stub)?))?;
    }
    Ok(())
}

/// Idioms of test code. None of them changes flags or any register but R15.
pub trait Idioms {
    /// Logs a value of at most 31 bits.
    fn log_number(&mut self, value: i32) -> Result<(), IcedError>;
    /// Logs a register; 64-bit code only.
    fn log(&mut self, register: AsmRegister64) -> Result<(), IcedError>;
    /// Ends the guest, content.
    fn finish(&mut self) -> Result<(), IcedError>;
    /// An endless loop.
    fn stop(&mut self) -> Result<(), IcedError>;
    /// The next exception or interrupt that the common handler takes goes on at `label`.
    fn resume_at(&mut self, label: CodeLabel) -> Result<(), IcedError>;
    /// An instruction that is to fault; what follows is gone on with. Gives where it lies.
    fn faulting(&mut self, emit: impl FnOnce(&mut Self) -> Result<(), IcedError>) -> Result<CodeLabel, IcedError>;
    /// Writes the EOI register.
    fn end_of_interrupt(&mut self) -> Result<(), IcedError>;
    /// Goes to 64-bit code of ring 3 at `target` by IRETQ, with `stack` in RSP and `flags` in RFLAGS.
    fn to_user(&mut self, target: u64, stack: u64, flags: i32) -> Result<(), IcedError>;
}

impl Idioms for CodeAssembler {
    fn log_number(&mut self, value: i32) -> Result<(), IcedError> {
        self.mov(dword_ptr(BOARD + register::LOG), value)
    }

    fn log(&mut self, register: AsmRegister64) -> Result<(), IcedError> {
        self.mov(qword_ptr(BOARD + register::LOG), register)
    }

    fn finish(&mut self) -> Result<(), IcedError> {
        self.mov(dword_ptr(BOARD + register::END), 0)?;
        self.stop()
    }

    fn stop(&mut self) -> Result<(), IcedError> {
        self.db(&[0xeb, 0xfe])
    }

    fn resume_at(&mut self, label: CodeLabel) -> Result<(), IcedError> {
        self.lea(r15, ptr(label))?;
        self.mov(qword_ptr(RESUME), r15)
    }

    fn faulting(&mut self, emit: impl FnOnce(&mut Self) -> Result<(), IcedError>) -> Result<CodeLabel, IcedError> {
        let (mut start, mut next) = (self.create_label(), self.create_label());
        self.resume_at(next)?;
        self.set_label(&mut start)?;
        emit(self)?;
        self.set_label(&mut next)?;
        self.nop()?;
        Ok(start)
    }

    fn end_of_interrupt(&mut self) -> Result<(), IcedError> {
        self.mov(dword_ptr(APIC + 0xb0), 0)
    }

    fn to_user(&mut self, target: u64, stack: u64, flags: i32) -> Result<(), IcedError> {
        self.push(i32::from(selector::USER_DATA))?;
        self.mov(r15, stack)?;
        self.push(r15)?;
        self.push(flags)?;
        self.push(i32::from(selector::USER_CODE))?;
        self.mov(r15, target)?;
        self.push(r15)?;
        self.iretq()
    }
}

/// Gates of the 32-bit IDT for all vectors, and handlers in 32-bit code that file a
/// [`crate::board::Trap`] by port. The gates of #BP, #OF, #BR and vectors beyond 31 have DPL 3.
pub(crate) fn install32(bench: &mut Bench<'_>) -> Checked {
    let mut a = Asm::new(32)?;
    let mut common = a.create_label();
    let mut stubs = Vec::new();
    for vector in 0..=255u8 {
        stubs.push(a.here()?);
        if !WITH_ERROR.contains(&vector) {
            a.push(0)?;
        }
        a.push(i32::from(vector))?;
        a.jmp(common)?;
    }
    a.set_label(&mut common)?;
    a.push(eax)?;
    a.push(edx)?;
    a.mov(edx, u32::from(port::TRAP))?;
    for word in 0..5 {
        a.mov(eax, dword_ptr(esp + 8 + 4 * word))?;
        a.out(dx, eax)?;
    }
    let (mut outer, mut filed) = (a.create_label(), a.create_label());
    a.test(dword_ptr(esp + 24), rflags::VM as u32)?;
    a.jnz(outer)?;
    a.mov(eax, cs)?;
    a.xor(eax, dword_ptr(esp + 20))?;
    a.test(eax, 3)?;
    a.jnz(outer)?;
    a.lea(eax, dword_ptr(esp + 28))?;
    a.out(dx, eax)?;
    a.mov(eax, ss)?;
    a.out(dx, eax)?;
    a.jmp(filed)?;
    a.set_label(&mut outer)?;
    for word in 5..7 {
        a.mov(eax, dword_ptr(esp + 8 + 4 * word))?;
        a.out(dx, eax)?;
    }
    a.set_label(&mut filed)?;
    a.mov(eax, cr2)?;
    a.out(dx, eax)?;
    let (mut next, mut found, mut none, mut back) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(eax, dword_ptr(esp + 8))?;
    a.unless_fault(back)?;
    a.mov(edx, RESUMES as u32)?;
    a.set_label(&mut next)?;
    a.mov(eax, dword_ptr(edx).cs())?;
    a.cmp(eax, -1)?;
    a.je(none)?;
    a.cmp(eax, dword_ptr(esp + 16))?;
    a.je(found)?;
    a.add(edx, 8)?;
    a.jmp(next)?;
    a.set_label(&mut found)?;
    a.mov(eax, dword_ptr(edx + 4).cs())?;
    a.mov(dword_ptr(esp + 16), eax)?;
    a.jmp(back)?;
    a.set_label(&mut none)?;
    a.mov(eax, dword_ptr(esp + 8))?;
    a.unexpected()?;
    a.set_label(&mut back)?;
    a.pop(edx)?;
    a.pop(eax)?;
    a.add(esp, 8)?;
    a.iretd()?;
    let code = bench.load_legacy(HANDLERS, 0, a)?;
    for (vector, stub) in (0..=255u8).zip(stubs) {
        let rights = if matches!(vector, 3..=5 | 32..) { 0xee } else { 0x8e };
        bench.write(IDT + 8 * u64::from(vector), gate(rights, selector::CODE, code.at(&stub)?, 0))?;
    }
    Ok(())
}

impl Asm {
    /// Goes to `back` if the vector in EAX is that of a trap or an interrupt.
    fn unless_fault(&mut self, back: CodeLabel) -> Result<(), IcedError> {
        self.cmp(eax, 32)?;
        self.jae(back)?;
        let mut fault = self.create_label();
        self.test(eax, eax)?;
        self.jz(fault)?;
        self.cmp(eax, 4)?;
        self.jbe(back)?;
        self.set_label(&mut fault)?;
        self.nop()
    }

    /// Ends the guest with the vector in EAX.
    fn unexpected(&mut self) -> Result<(), IcedError> {
        self.or(eax, UNEXPECTED as i32)?;
        self.out(i32::from(port::END), eax)?;
        self.stop()
    }
}

/// Vectors of the IVT for real-address and virtual-8086 mode, and handlers in 16-bit code that file a
/// [`crate::board::Trap`] by port.
pub(crate) fn install16(bench: &mut Bench<'_>) -> Checked {
    let mut a = Asm::new(16)?;
    let mut common = a.create_label();
    let mut stubs = Vec::new();
    for vector in 0..=255u8 {
        stubs.push(a.here()?);
        a.push(i32::from(vector))?;
        a.jmp(common)?;
    }
    a.set_label(&mut common)?;
    a.push(eax)?;
    a.push(edx)?;
    a.push(bp)?;
    a.mov(bp, sp)?;
    a.mov(dx, u32::from(port::TRAP))?;
    // Vector; error code; IP, CS, FLAGS.
    for offset in [10, 0, 12, 14, 16] {
        match offset {
            0 => a.xor(eax, eax)?,
            _ => a.movzx(eax, word_ptr(bp + offset))?,
        }
        a.out(dx, eax)?;
    }
    a.lea(ax, word_ptr(bp + 18))?;
    a.movzx(eax, ax)?;
    a.out(dx, eax)?;
    a.mov(eax, ss)?;
    a.out(dx, eax)?;
    a.xor(eax, eax)?;
    a.out(dx, eax)?;
    let (mut next, mut found, mut none, mut back) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(dx, (RESUMES - HANDLERS16) as u32)?;
    a.xchg(dx, bx)?;
    a.movzx(eax, word_ptr(bp + 10))?;
    a.unless_fault(back)?;
    a.set_label(&mut next)?;
    a.mov(eax, dword_ptr(bx).cs())?;
    a.cmp(eax, -1)?;
    a.je(none)?;
    a.cmp(ax, word_ptr(bp + 12))?;
    a.je(found)?;
    a.add(bx, 8)?;
    a.jmp(next)?;
    a.set_label(&mut found)?;
    a.mov(ax, word_ptr(bx + 4).cs())?;
    a.mov(word_ptr(bp + 12), ax)?;
    a.jmp(back)?;
    a.set_label(&mut none)?;
    a.movzx(eax, word_ptr(bp + 10))?;
    a.unexpected()?;
    a.set_label(&mut back)?;
    a.mov(bx, dx)?;
    a.pop(bp)?;
    a.pop(edx)?;
    a.pop(eax)?;
    a.add(sp, 2)?;
    a.iret()?;
    let code = bench.load_legacy(HANDLERS16, HANDLERS16, a)?;
    for (vector, stub) in (0..=255u64).zip(stubs) {
        let vector_entry = (HANDLERS16 as u32 >> 4) << 16 | code.at(&stub)? as u32;
        bench.ram.write(Gpa(4 * vector), &vector_entry.to_le_bytes())?;
    }
    Ok(())
}
