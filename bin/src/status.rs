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
    /// A signal ended motu, by number; or what the guest's command exited with.
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
  128 + n    signal n ended the command, or motu";

impl Status {
    pub fn signal(signo: i32) -> Self {
        Self::Code(u8::try_from(signo).map_or(255, |n| n.saturating_add(128)))
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
