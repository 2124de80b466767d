//! What runs in a hot loop, and what happens to it there.

use super::place::{BX, DI, Hot, Place, SI, SP};
use iced_x86::IcedError;
use iced_x86::code_asm::AsmMemoryOperand;

/// What the instruction does to its operand first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Access {
    Read,
    /// Or reads in order to write.
    Write,
}

pub type EmitCase = fn(&mut Hot, AsmMemoryOperand) -> Result<(), IcedError>;

#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub access: Access,
    /// Bytes of the operand; 0 for a word of the stack.
    pub size: u64,
    /// The operand may lie across pages.
    pub crosses: bool,
    /// The register that points to the operand, and by how much it points past it: by words if it is the stack
    /// pointer, and the operand a word.
    pub at: usize,
    pub offset: i64,
    /// Registers with other values than usual.
    pub set: &'static [(usize, u64)],
    /// Registers that are, behind the instruction, at some distance from the one that points.
    pub moved: &'static [usize],
    /// Registers that are not as usual when it faults, because of instructions in front of the one that faults.
    pub at_fault: &'static [(usize, u64)],
    /// Words that lie on the usual stack when it faults.
    pub pushed: u64,
    /// The register that points is overwritten.
    pub overwrites: bool,
    /// Bytes of each element of a repeated string instruction that may get through in part.
    pub element: u64,
    /// The operand is where to go on.
    pub target: bool,
    /// Emits the instruction, given `[at - offset]`.
    pub emit: EmitCase,
}

impl Case {
    pub const fn new(name: &'static str, access: Access, size: u64, emit: EmitCase) -> Self {
        Self {
            name,
            access,
            size,
            crosses: true,
            at: BX,
            offset: 0,
            set: &[],
            moved: &[],
            at_fault: &[],
            pushed: 0,
            overwrites: false,
            element: 0,
            target: false,
            emit,
        }
    }

    pub const fn read(name: &'static str, size: u64, emit: EmitCase) -> Self {
        Self::new(name, Access::Read, size, emit)
    }

    pub const fn write(name: &'static str, size: u64, emit: EmitCase) -> Self {
        Self::new(name, Access::Write, size, emit)
    }

    /// The operand may not be misaligned.
    pub const fn aligned(self) -> Self {
        Self { crosses: false, ..self }
    }

    /// Another register points, `offset` past the operand.
    pub const fn at(self, at: usize, offset: i64) -> Self {
        Self { at, offset, ..self }
    }

    pub const fn set(self, set: &'static [(usize, u64)]) -> Self {
        Self { set, ..self }
    }

    pub const fn moved(self, moved: &'static [usize]) -> Self {
        Self { moved, ..self }
    }

    pub const fn at_fault(self, at_fault: &'static [(usize, u64)]) -> Self {
        Self { at_fault, ..self }
    }

    pub const fn pushed(self, pushed: u64) -> Self {
        Self { pushed, ..self }
    }

    pub const fn overwrites(self) -> Self {
        Self { overwrites: true, ..self }
    }

    pub const fn elements(self, element: u64) -> Self {
        Self { element, ..self }
    }

    pub const fn target(self) -> Self {
        Self { target: true, ..self }
    }

    /// Bytes of the operand.
    pub fn size(&self, place: Place) -> u64 {
        if self.size == 0 { place.word() } else { self.size }
    }

    /// Whether SI and DI move.
    pub fn strings(&self) -> (bool, bool) {
        (
            self.at == SI || self.set.iter().any(|(of, _)| *of == SI),
            self.at == DI || self.set.iter().any(|(of, _)| *of == DI),
        )
    }

    pub fn offset(&self, place: Place) -> i64 {
        if self.size == 0 && self.at == SP { self.offset * place.word() as i64 } else { self.offset }
    }

    /// What the register holds before the instruction, if it does not point.
    pub fn value(&self, place: Place, register: usize) -> u64 {
        if register == SP {
            return place.stack();
        }
        let usual = 0x1f3b_5a79_8d00_0000 + 0x0101_0101_1234_5677 * (register as u64 + 1);
        let own = self.set.iter().find(|(of, _)| *of == register).map_or(usual, |(_, value)| *value);
        place.truncate(own)
    }
}

/// What happens right before the instruction in a round. What is 0 stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// Linear address of the operand.
    pub operand: u64,
    pub entries: [u64; 2],
    pub cr0: u64,
    pub cr4: u64,
    pub mxcsr: u64,
    /// What the handler has the register point to instead of `operand`.
    pub fixed: u64,
    /// Vector, error code and CR2, where the latter counts.
    pub fault: Option<(u64, u64, Option<u64>)>,
    /// Elements of a repeated string instruction that are through when it faults.
    pub through: u64,
}

impl Event {
    pub fn calm(operand: u64) -> Self {
        Self { operand, ..Self::default() }
    }
}
