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

    /// The machine goes on from `now`, at which it stood still; the host's TSC was `before` then. The first CPU that says so has it
    /// looked at anew by `read`, for all.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn go_on<E>(&self, now: Nanos, before: u64, read: impl FnOnce() -> Result<u64, E>) -> Result<(), E> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| known == (now, before)) {
            *known = Some((now, read()?));
        }
        Ok(())
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

    #[test]
    fn all_cpus_go_on_from_one_value() {
        let host = HostTsc::default();
        assert_eq!(host.at(Nanos(5), || Ok::<u64, ()>(100)), Ok(100));
        for tsc in [700, 800, 900] {
            host.go_on(Nanos(5), 100, || Ok::<u64, ()>(tsc)).unwrap();
            assert_eq!(host.at(Nanos(5), || Err(())), Ok(700));
        }
        // Stopped again at once.
        host.go_on(Nanos(5), 700, || Ok::<u64, ()>(1000)).unwrap();
        assert_eq!(host.at(Nanos(5), || Err(())), Ok(1000));
    }
}
