//! Exit statuses: one place for the whole program.

use std::process::ExitCode;

/// What a status of motu's own means. Every other status is the guest command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Success,
    /// The guest crashed (a triple fault), or it restarted before its command ended, as it does after a
    /// kernel panic.
    GuestCrashed,
    /// `--timeout` ran out, as with timeout(1).
    TimedOut,
    /// motu could not do what was asked: bad input, or trouble on the host. As with docker(1).
    Failed,
    /// A signal ended motu, by number; or what the guest's command exited with, or chose by `--debug-exit`.
    Code(u8),
}

/// For `--help`.
pub const HELP: &str = "\
Exit status:
  the command's own; 0 for a machine that was switched off or left with Ctrl-]
  123        the guest crashed (triple fault, kernel panic), or restarted before its command ended
  124        --timeout ran out
  125        motu failed: bad input, or trouble on the host
  126, 127   the command cannot be run, or was not found
  128 + n    signal n ended the command, or motu
  v << 1 | 1 (its low 8 bits) with --debug-exit, if the guest wrote v to port 0xf4";

impl Status {
    pub fn signal(signo: i32) -> Self {
        Self::Code(u8::try_from(signo).map_or(255, |n| n.saturating_add(128)))
    }

    /// What QEMU exits with when the guest writes `value` to its `isa-debug-exit` port; never 0.
    pub fn debug_exit(value: u32) -> Self {
        Self::Code((value << 1 | 1) as u8)
    }

    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::GuestCrashed => 123,
            Self::TimedOut => 124,
            Self::Failed => 125,
            Self::Code(code) => code,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        status.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 7.2 exited with.
    #[test]
    fn debug_exit_is_qemus() {
        for (value, code) in [(0x10, 33), (0xff, 255), (0x1234, 105), (0x1234_5678, 241), (0x8000_0000, 1), (0, 1)] {
            assert_eq!(Status::debug_exit(value).code(), code, "{value:#x}");
        }
    }
}
