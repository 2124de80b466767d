//! Where the guest's registers are while translated code runs.

use super::asm::{Mem, R9, Reg, frame};
use super::frame::at;
use iced_x86::Register;

/// Where a guest register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Host(Reg),
    /// A word of the frame.
    Frame(Mem),
}

/// The home of general register `number`.
pub fn home(number: usize) -> Home {
    match number {
        4 => Home::Host(R9),
        9 => Home::Frame(frame(at::R9)),
        10 => Home::Frame(frame(at::R10)),
        11 => Home::Frame(frame(at::R11)),
        _ => Home::Host(Reg(number as u8 & 15)),
    }
}

/// The register of the same size as `like`, which is not AH or its kin, with another number.
pub fn renamed(like: Register, to: Reg) -> Register {
    let to = u32::from(to.0);
    match like.size() {
        1 => match to {
            0..=3 => Register::AL + to,
            _ => Register::SPL + (to - 4),
        },
        2 => Register::AX + to,
        4 => Register::EAX + to,
        _ => Register::RAX + to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::asm::{R10, R11, RAX};

    #[test]
    fn registers_keep_their_size() {
        assert_eq!(renamed(Register::SPL, R9), Register::R9L);
        assert_eq!(renamed(Register::R9L, R10), Register::R10L);
        assert_eq!(renamed(Register::R10W, R11), Register::R11W);
        assert_eq!(renamed(Register::R11D, R10), Register::R10D);
        assert_eq!(renamed(Register::RSP, R9), Register::R9);
        assert_eq!(renamed(Register::BL, RAX), Register::AL);
        assert_eq!(renamed(Register::AL, Reg(5)), Register::BPL);
    }
}
