//! Instructions that push and pop: words of eight bytes in 64-bit code and of four in 32-bit code.

use super::asm::{Mem, R9, R10, R11, RBP, Reg, frame};
use super::block::BlockTranslator;
use super::emit::{Address, Computed, Free};
use super::frame::at;
use super::registers::{Home, home};
use super::select::Operand;
use super::step::Current;
use iced_x86::OpKind;

impl BlockTranslator {
    /// The place of a word that is pushed: the checked one of its group, or R10.
    pub(super) fn pushed(&mut self, step: &Current<'_>) -> Mem {
        match step.planned.stack {
            Some(member) => self.emit.on_stack(member),
            None => {
                let (below, operand) = (self.on_stack(R9, -self.word()), Operand { write: true, ..self.pointer() });
                self.emit.locate(Address::Computed(below), operand, step.rip(), step.live, Free::One)
            }
        }
    }

    pub(super) fn word(&self) -> i32 {
        self.emit.mode.word() as i32
    }

    pub(super) fn wide(&self) -> bool {
        !self.emit.mode.narrow
    }

    /// An address with a register that the stack is reached by.
    pub(super) fn on_stack(&self, register: Reg, disp: i32) -> Computed {
        let base = Some(Home::Host(register));
        Computed { base, index: None, disp, short: self.emit.mode.narrow, segment: None }
    }

    pub(super) fn pointer(&self) -> Operand {
        Operand { size: self.emit.mode.word(), write: false, alignment: 1 }
    }

    pub(super) fn load_word(&mut self, to: Reg, from: Mem) {
        if self.wide() { self.emit.asm.load(to, from) } else { self.emit.asm.load32(to, from) }
    }

    pub(super) fn store_word(&mut self, to: Mem, from: Reg) {
        if self.wide() { self.emit.asm.store(to, from) } else { self.emit.asm.store32(to, from) }
    }

    /// Writes R10 where the word goes that is pushed; it waits in the frame if that has no group.
    pub(super) fn push_r10(&mut self, step: &Current<'_>) {
        let waits = frame(at::WAITING);
        if step.planned.stack.is_none() {
            self.emit.asm.store(waits, R10);
            let to = self.pushed(step);
            let free = self.other_than(to);
            self.emit.asm.load(free, waits);
            self.store_word(to, free);
        } else {
            let to = self.pushed(step);
            self.store_word(to, R10);
        }
    }

    pub(super) fn push(&mut self, step: &Current<'_>) -> Option<()> {
        let instruction = step.instruction;
        if let Some(operand) = step.selected.operand {
            // Read first.
            let from = self.operand(step, operand)?;
            self.load_word(R10, from);
            self.push_r10(step);
        } else if instruction.op0_kind() == OpKind::Register {
            let source = home(instruction.op0_register().number());
            let to = self.pushed(step);
            match source {
                Home::Host(reg) => self.store_word(to, reg),
                Home::Frame(slot) => {
                    let free = self.other_than(to);
                    self.emit.asm.load(free, slot);
                    self.store_word(to, free);
                }
            }
        } else {
            let value = instruction.immediate(0);
            let to = self.pushed(step);
            if self.wide() {
                self.emit.asm.store_imm(to, i32::try_from(value as i64).ok()?);
            } else {
                self.emit.asm.store_imm32(to, value as u32);
            }
        }
        self.emit.move_rsp(-self.word());
        Some(())
    }

    /// The scratch register that `mem` does not need.
    pub(super) fn other_than(&mut self, mem: Mem) -> Reg {
        if mem.base == R10 {
            self.emit.forget_r11();
            R11
        } else {
            R10
        }
    }

    /// Where the word at the top of the stack is.
    pub(super) fn top(&mut self, step: &Current<'_>) -> Mem {
        match step.planned.stack {
            Some(member) => self.emit.on_stack(member),
            None => {
                let (top, operand) = (self.on_stack(R9, 0), self.pointer());
                self.emit.locate(Address::Computed(top), operand, step.rip(), step.live, Free::One)
            }
        }
    }

    pub(super) fn pop(&mut self, step: &Current<'_>) -> Option<()> {
        let from = self.top(step);
        match home(step.instruction.op0_register().number()) {
            // POP RSP: what is read, not what it was moved to.
            Home::Host(R9) => {
                self.load_word(R9, from);
                return Some(());
            }
            Home::Host(to) => self.load_word(to, from),
            Home::Frame(slot) => {
                self.emit.asm.load(R10, from);
                self.emit.asm.store(slot, R10);
            }
        }
        self.emit.move_rsp(self.word());
        Some(())
    }

    /// LEAVE.
    pub(super) fn frame_end(&mut self, step: &Current<'_>) -> Option<()> {
        let from = match step.planned.operand {
            Some(member) => self.emit.checked(member),
            None => {
                let (at_rbp, operand) = (self.on_stack(RBP, 0), self.pointer());
                self.emit.locate(Address::Computed(at_rbp), operand, step.rip(), step.live, Free::One)
            }
        };
        let word = self.word();
        self.emit.lea_word(R9, Mem { base: RBP, index: None, disp: word });
        self.load_word(RBP, from);
        Some(())
    }
}
