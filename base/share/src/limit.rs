//! How many of motu's descriptors guests may have. Each file that a guest knows takes one, so that a guest alone says how many there are.

use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Descriptors that guests leave for all else: disks, terminals, and whoever talks to the machine, if only to stop it.
const RESERVED: u64 = 128;

/// The highest descriptor that a guest's file may have. The host gives the lowest one that is free, so that a descriptor's number says how
/// many there are, of whatever shares and for whatever else.
#[derive(Clone, Copy, Debug)]
pub struct Limit(RawFd);

impl Limit {
    /// What this process may open (`ulimit -n`), less what is reserved.
    pub fn of_process() -> Self {
        Self::below(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn below(descriptors: u64) -> Self {
        let left = descriptors - RESERVED.min(descriptors / 2);
        Self(RawFd::try_from(left).unwrap_or(RawFd::MAX).saturating_sub(1))
    }

    /// The file, if a guest may have one more.
    ///
    /// # Errors
    /// ENFILE.
    pub fn keep(self, file: OwnedFd) -> Result<OwnedFd, Errno> {
        if file.as_raw_fd() <= self.0 { Ok(file) } else { Err(Errno::NFILE) }
    }

    /// None at all.
    #[cfg(test)]
    pub fn nothing() -> Self {
        Self(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_left_for_others() {
        for (descriptors, highest) in
            [(1024, 895), (4096, 3967), (100, 49), (1, 0), (0, -1), (u64::MAX, RawFd::MAX - 1)]
        {
            assert_eq!(Limit::below(descriptors).0, highest, "{descriptors}");
        }
    }
}
