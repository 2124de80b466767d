//! Trying again, and stopping.

use crate::RegistryError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often something is tried, if nothing comes of it.
pub(crate) const TRIES: u32 = 5;
/// The longest that a registry is waited for because it asks for that.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often a wait looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(50);

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It would fail again.
    Final(RegistryError),
    /// It may go better next time, perhaps after the time that the registry named.
    Passing(RegistryError, Option<Duration>),
}

/// Counts tries in a row and waits between them, twice as long each time.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    /// Any of these ends it.
    stops: [&'a AtomicBool; 2],
    first: Duration,
    pub(crate) failed: u32,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(first: Duration, cancel: &'a AtomicBool) -> Self {
        Backoff { stops: [cancel, cancel], first, failed: 0 }
    }

    /// Ends it as well when others that it works with have failed.
    pub(crate) fn unless(mut self, failed: &'a AtomicBool) -> Self {
        self.stops[1] = failed;
        self
    }

    /// Waits before the next try, or says that there is none.
    pub(crate) fn wait(&mut self, failure: Failure) -> Result<(), RegistryError> {
        self.stops.into_iter().try_for_each(check)?;
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        self.failed += 1;
        if self.failed >= TRIES || asked.is_some_and(|time| time > MAX_WAIT) {
            return Err(error);
        }
        tracing::debug!(%error, failed = self.failed, "trying again");
        let doubled = self.first.saturating_mul(1 << (self.failed - 1).min(10));
        sleep(asked.unwrap_or(doubled).max(self.first), &self.stops)
    }

    /// Something came of the last try.
    pub(crate) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Tries until it works or there are no tries left.
    pub(crate) fn run<T>(mut self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, RegistryError> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => self.wait(failure)?,
            }
        }
    }
}

/// Fails once the work is no longer wanted.
pub(crate) fn check(cancel: &AtomicBool) -> Result<(), RegistryError> {
    if cancel.load(Ordering::Relaxed) { Err(RegistryError::Cancelled) } else { Ok(()) }
}

/// Waits, unless one of `stops` ends it.
pub(crate) fn sleep(time: Duration, stops: &[&AtomicBool]) -> Result<(), RegistryError> {
    let end = Instant::now() + time;
    loop {
        stops.iter().copied().try_for_each(check)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(wait: Option<u64>) -> Failure {
        Failure::Passing(RegistryError::document("x", "y"), wait.map(Duration::from_secs))
    }

    #[test]
    fn tries_are_counted() {
        let cancel = AtomicBool::new(false);
        let mut tries = 0;
        let result: Result<(), _> = Backoff::new(Duration::ZERO, &cancel).run(|| {
            tries += 1;
            Err(failure(None))
        });
        assert!(matches!(result, Err(RegistryError::Document { .. })));
        assert_eq!(tries, TRIES);
    }

    #[test]
    fn who_asks_for_an_hour_is_not_waited_for() {
        let cancel = AtomicBool::new(false);
        let mut backoff = Backoff::new(Duration::ZERO, &cancel);
        backoff.wait(failure(Some(0))).expect("no time at all");
        assert!(backoff.wait(failure(Some(3600))).is_err());
    }

    #[test]
    fn a_wait_can_be_stopped() {
        let (no, yes) = (AtomicBool::new(false), AtomicBool::new(true));
        assert!(matches!(sleep(Duration::from_secs(3600), &[&no, &yes]), Err(RegistryError::Cancelled)));
        let hour = |cancel| Backoff::new(Duration::from_secs(3600), cancel);
        assert!(matches!(hour(&yes).wait(failure(None)), Err(RegistryError::Cancelled)));
        assert!(matches!(hour(&no).unless(&yes).wait(failure(None)), Err(RegistryError::Cancelled)));
    }
}
