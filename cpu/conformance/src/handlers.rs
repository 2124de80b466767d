//! What every guest has in its IDT, and the idioms of test code.

use crate::bench::{Bench, Checked, Gate};
use crate::board::register;
use crate::layout::{APIC, BOARD, HANDLERS, RESUME, selector};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

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
