//! The machine's time and the host's TSC.

use motu_x86::Nanos;
use std::sync::{Mutex, PoisonError};

/// The host's TSC, at the guest's rate, at one moment of the machine's time: the last that was asked about. All CPUs that
/// are saved or restored at that moment are so by one value, so that their TSCs keep their distances.
#[derive(Debug, Default)]
pub struct HostTsc(Mutex<Option<(Nanos, u64)>>);

impl HostTsc {
    /// What it was at `now`; `read` gives what it is if nobody has asked for that moment yet.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn at<E>(&self, now: Nanos, read: impl FnOnce() -> Result<u64, E>) -> Result<u64, E> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((moment, tsc)) = *known
            && moment == now
        {
            return Ok(tsc);
        }
        let tsc = read()?;
        *known = Some((now, tsc));
        Ok(tsc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_one_value() {
        let host = HostTsc::default();
        let at = |now, value| host.at(Nanos(now), || Ok::<u64, ()>(value));
        assert_eq!(at(1, 100), Ok(100));
        assert_eq!(at(1, 200), Ok(100));
        assert_eq!(at(2, 300), Ok(300));
        assert_eq!(host.at(Nanos(3), || Err(())), Err(()));
        assert_eq!(at(2, 400), Ok(300));
    }
}
