//! Where hot code runs, and code that is written the same way for all of these places.

use super::super::{kernel, legacy};
use crate::bench::{Bench, Checked, Code, Gate, Paging, Problem, gate, page};
use crate::board::PAGE;
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

/// Mode and privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// 64-bit mode, ring 0.
    Kernel,
    /// 64-bit mode, ring 3.
    User,
    /// Flat 32-bit protected mode with paging, ring 0.
    Kernel32,
    /// The same, ring 3.
    User32,
}

use Place::{Kernel, Kernel32, User, User32};

pub const EVERYWHERE: &[Place] = &[Kernel, User, Kernel32, User32];

const GPR64: [AsmRegister64; 16] = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
const GPR32: [AsmRegister32; 8] = [eax, ecx, edx, ebx, esp, ebp, esi, edi];

/// General registers by number.
pub const AX: usize = 0;
pub const CX: usize = 1;
pub const DX: usize = 2;
pub const BX: usize = 3;
pub const SP: usize = 4;
pub const BP: usize = 5;
pub const SI: usize = 6;
pub const DI: usize = 7;

impl Place {
    pub fn long(self) -> bool {
        matches!(self, Kernel | User)
    }

    pub fn user(self) -> bool {
        matches!(self, User | User32)
    }

    /// Bytes of a general register and of a word on the stack.
    pub fn word(self) -> u64 {
        if self.long() { 8 } else { 4 }
    }

    pub fn registers(self) -> usize {
        if self.long() { GPR64.len() } else { GPR32.len() }
    }

    /// Rights of pages for code and data of this place.
    pub fn rights(self) -> u64 {
        if self.user() { page::USER } else { page::KERNEL }
    }

    /// Where its code begins.
    pub fn code(self) -> u64 {
        if self.user() { USER_CODE } else { CODE }
    }

    /// The stack that its code begins on.
    pub fn stack(self) -> u64 {
        if self.user() { USER_STACK } else { STACK }
    }

    /// The value as a general register holds it.
    pub fn truncate(self, value: u64) -> u64 {
        if self.long() { value } else { value & 0xffff_ffff }
    }

    fn prepare(self, b: &mut Bench<'_>) -> Checked {
        if self.long() {
            return Ok(());
        }
        b.protected()?;
        b.page_legacy(Paging::Bits32)?;
        b.map(BOARD, PAGE, page::USER)?;
        b.map(APIC, 0xfee0_0000, page::KERNEL)
    }

    pub fn assembler(self) -> Checked<Hot> {
        Ok(Hot {
            inner: CodeAssembler::new(if self.long() { 64 } else { 32 })?,
            place: self,
            absolute: Vec::new(),
            labels: Vec::new(),
            site: None,
            next: None,
        })
    }

    /// Puts code in place that begins the guest, in ring 3 with `flags`, and ends it, content, behind what `emit`
    /// gives.
    pub fn start<T>(
        self,
        b: &mut Bench<'_>,
        flags: u64,
        emit: impl FnOnce(&mut Hot) -> Checked<T>,
    ) -> Checked<(Code, T)> {
        match self {
            User => drop(kernel(b, |a| Ok(a.to_user(USER_CODE, USER_STACK, flags as i32)?))?),
            User32 => drop(legacy(b, (32, CODE, 0), |a| Ok(a.to_ring3(USER_CODE, flags as i32)?))?),
            Kernel | Kernel32 => {}
        }
        let mut a = self.assembler()?;
        let made = emit(&mut a)?;
        a.finish()?;
        Ok((a.put_in_place(b, self.code())?, made))
    }

    /// A handler of ring 0 at `at` for a vector that ring 3 may use as well, on the stack `ist` in 64-bit mode.
    pub fn handle<T>(
        self,
        b: &mut Bench<'_>,
        (vector, at, ist): (u8, u64, u8),
        emit: impl FnOnce(&mut Hot) -> Checked<T>,
    ) -> Checked<(Code, T)> {
        let mut a = self.assembler()?;
        let made = emit(&mut a)?;
        let code = a.put_in_place(b, at)?;
        if self.long() {
            b.gate(vector, Gate { dpl: 3, ist, ..Gate::to(at) })?;
        } else {
            b.gate32(vector, gate(0xee, selector::CODE, at, 0))?;
        }
        Ok((code, made))
    }
}

/// Runs a guest in each of `places`, those of 64-bit mode first.
pub fn each(b: &mut Bench<'_>, places: &[Place], mut check: impl FnMut(&mut Bench<'_>, Place) -> Checked) -> Checked {
    for place in places {
        place.prepare(b)?;
        check(b, *place).map_err(|problem| Problem::Other(format!("{place:?}: {problem}")))?;
    }
    Ok(())
}

/// Code of a place under construction.
pub struct Hot {
    inner: CodeAssembler,
    pub place: Place,
    /// `MOV reg, imm32` and the label whose address it loads.
    absolute: Vec<(CodeLabel, CodeLabel)>,
    /// Labels that are set.
    labels: Vec<CodeLabel>,
    /// The instruction that a case is about, if others are in front of it.
    pub site: Option<CodeLabel>,
    /// What follows the case.
    pub next: Option<CodeLabel>,
}

impl std::ops::Deref for Hot {
    type Target = CodeAssembler;
    fn deref(&self) -> &CodeAssembler {
        &self.inner
    }
}

impl std::ops::DerefMut for Hot {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.inner
    }
}

/// Instructions with operands of the place's width, named after what they are.
macro_rules! sized {
    ($($name:ident($($operand:ident: $kind:tt),*) => $instruction:ident;)*) => {$(
        pub fn $name(&mut self, $($operand: sized!(@type $kind)),*) -> Result<(), IcedError> {
            if self.place.long() {
                self.inner.$instruction($(sized!(@long $kind $operand)),*)
            } else {
                self.inner.$instruction($(sized!(@short $kind $operand)),*)
            }
        }
    )*};
    (@type register) => { usize };
    (@type memory) => { AsmMemoryOperand };
    (@type number) => { u64 };
    (@long register $operand:ident) => { GPR64[$operand] };
    (@short register $operand:ident) => { GPR32[$operand] };
    (@long memory $operand:ident) => { qword_ptr($operand) };
    (@short memory $operand:ident) => { dword_ptr($operand) };
    (@long number $operand:ident) => { $operand };
    (@short number $operand:ident) => { $operand as u32 };
}

impl Hot {
    sized! {
        load(to: register, value: number) => mov;
        get(to: register, from: memory) => mov;
        put(to: memory, from: register) => mov;
        sub_from(to: memory, from: register) => sub;
        test_wide(to: register, from: register) => test;
        cmove_wide(to: register, from: register) => cmove;
        cmovb_wide(to: register, from: register) => cmovb;
        lea_wide(to: register, from: memory) => lea;
        push_wide(from: register) => push;
        pop_wide(to: register) => pop;
        push_memory(from: memory) => push;
        pop_memory(to: memory) => pop;
    }

    /// Puts the code at an address of the identity mapping.
    pub fn put_in_place(mut self, b: &mut Bench<'_>, at: u64) -> Checked<Code> {
        let code = b.load(at, &mut self.inner)?;
        for (instruction, target) in &self.absolute {
            b.ram.write(
                Gpa(code.at(instruction)? + 1),
                &(code.at(self.labels.iter().find(|label| *label == target).unwrap_or(target))? as u32).to_le_bytes(),
            )?;
        }
        Ok(code)
    }

    /// Loads the address of a label, which is set before the code is put in place.
    pub fn address(&mut self, to: usize, label: CodeLabel) -> Result<(), IcedError> {
        if self.place.long() {
            return self.inner.lea(GPR64[to], ptr(label));
        }
        let instruction = self.here()?;
        self.absolute.push((instruction, label));
        self.inner.mov(GPR32[to], 0)
    }

    /// `[register]`.
    pub fn at(&self, register: usize) -> AsmMemoryOperand {
        if self.place.long() { ptr(GPR64[register]) } else { ptr(GPR32[register]) }
    }

    /// `[register * scale + address]`.
    pub fn indexed(&self, address: u64, register: usize, scale: i32) -> AsmMemoryOperand {
        if self.place.long() { ptr(GPR64[register] * scale + address) } else { ptr(GPR32[register] * scale + address) }
    }

    /// Loads what lies at `address`.
    pub fn fetch(&mut self, to: usize, address: u64) -> Result<(), IcedError> {
        self.get(to, ptr(address))
    }

    /// Stores a register at `address`.
    pub fn store(&mut self, address: u64, from: usize) -> Result<(), IcedError> {
        self.put(ptr(address), from)
    }

    /// Sets a label here, beside any others.
    pub fn set_label(&mut self, label: &mut CodeLabel) -> Result<(), IcedError> {
        self.inner.set_label(label)?;
        self.labels.push(*label);
        self.inner.zero_bytes()
    }

    /// Sets a new label here.
    pub fn here(&mut self) -> Result<CodeLabel, IcedError> {
        let mut label = self.create_label();
        self.set_label(&mut label)?;
        Ok(label)
    }

    /// Logs a general register.
    pub fn tell(&mut self, register: usize) -> Result<(), IcedError> {
        self.store(BOARD + crate::board::register::LOG, register)
    }

    /// Logs a number.
    pub fn log_word(&mut self, number: u32) -> Result<(), IcedError> {
        self.mov(dword_ptr(BOARD + crate::board::register::LOG), number as i32)
    }

    /// The next instruction is what the case is about.
    pub fn mark(&mut self) -> Result<(), IcedError> {
        self.site = Some(self.here()?);
        Ok(())
    }

    /// CALL of what follows the case.
    pub fn call_next(&mut self) -> Result<(), IcedError> {
        let next = self.next.unwrap_or_default();
        self.call(next)
    }

    /// JMP or CALL to where memory says.
    pub fn go(&mut self, to: AsmMemoryOperand, call: bool) -> Result<(), IcedError> {
        match (self.place.long(), call) {
            (true, true) => self.call(qword_ptr(to)),
            (true, false) => self.jmp(qword_ptr(to)),
            (false, true) => self.call(dword_ptr(to)),
            (false, false) => self.jmp(dword_ptr(to)),
        }
    }

    /// PUSHFQ or PUSHFD.
    pub fn push_flags(&mut self) -> Result<(), IcedError> {
        if self.place.long() { self.pushfq() } else { self.pushfd() }
    }

    /// IRETQ or IRETD.
    pub fn iret_wide(&mut self) -> Result<(), IcedError> {
        if self.place.long() { self.iretq() } else { self.iretd() }
    }
}
