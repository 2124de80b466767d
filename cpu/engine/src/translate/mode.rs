//! What code is translated for beside its bytes and where it lies.

use crate::cpu::{CodeSize, Cpu, key};
use crate::mmu::Privilege;
use motu_x86::flags::rflags;

/// The kind of code that a translation is of. Each has a jump table of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// CPL is 3; else it is 0.
    pub user: bool,
    /// 32-bit code with flat segments; else 64-bit code.
    pub narrow: bool,
}

/// How many there are.
pub const MODES: usize = 4;

impl Mode {
    /// The CPU's, if translated code may run now: not in single steps. Code of 32 bits relies on registers that have no more.
    #[inline(always)]
    pub fn of(cpu: &Cpu) -> Option<Self> {
        let user = cpu.cpl == 3;
        if !user && cpu.cpl != 0 {
            return None;
        }
        let size = cpu.key ^ if user { key::USER } else { 0 };
        let narrow = size == CodeSize::Bits32 as u32;
        let plain = size == CodeSize::Bits64 as u32 || (narrow && cpu.upper_halves_are_clear());
        let privilege = if user { Privilege::User } else { Privilege::Supervisor };
        let steps = cpu.system_flags & rflags::TF != 0;
        (plain && cpu.mmu.control.privilege == privilege && !steps).then_some(Self { user, narrow })
    }

    /// As an index.
    pub fn number(self) -> usize {
        usize::from(self.user) + 2 * usize::from(self.narrow)
    }

    /// What the decoder calls its bitness.
    pub fn bits(self) -> u32 {
        if self.narrow { 32 } else { 64 }
    }

    /// Bytes of what PUSH, CALL and RET move.
    pub fn word(self) -> u32 {
        self.bits() / 8
    }
}
