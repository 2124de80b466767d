//! Machine time.

use motu_bus::{Clock, Nanos};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What [`MachineClock::stopped`] is while the clock runs.
const RUNS: u64 = u64::MAX;

/// Nanoseconds since the machine was made, by the host's monotonic clock, without the time that it was paused. One thread
/// pauses and resumes it.
#[derive(Debug)]
pub(crate) struct MachineClock {
    start: Instant,
    /// The time that it shows while it is paused, or [`RUNS`].
    stopped: AtomicU64,
    /// Nanoseconds that it was paused.
    lost: AtomicU64,
}

impl MachineClock {
    pub fn new() -> Self {
        Self { start: Instant::now(), stopped: AtomicU64::new(RUNS), lost: AtomicU64::new(0) }
    }

    /// Nanoseconds since the machine was made; 2^64 of them are 584 years.
    fn elapsed(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Stands still from now on. No CPU runs.
    pub fn pause(&self) {
        if self.stopped.load(Ordering::Relaxed) == RUNS {
            self.stopped.store(self.now().0, Ordering::Release);
        }
    }

    /// Goes on from where it stands.
    pub fn resume(&self) {
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped != RUNS {
            self.lost.store(self.elapsed().saturating_sub(stopped), Ordering::Relaxed);
            // Whoever sees that it runs sees what it has lost.
            self.stopped.store(RUNS, Ordering::Release);
        }
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Nanos {
        match self.stopped.load(Ordering::Acquire) {
            RUNS => Nanos(self.elapsed().saturating_sub(self.lost.load(Ordering::Relaxed))),
            stopped => Nanos(stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_stands_still_and_goes_on_from_there() {
        let clock = MachineClock::new();
        clock.pause();
        let stopped = clock.now();
        std::thread::sleep(Duration::from_millis(20));
        clock.pause();
        assert_eq!(clock.now(), stopped);
        clock.resume();
        let on = clock.now();
        assert!(on >= stopped);
        assert!(clock.elapsed() - on.0 >= 20_000_000, "the pause is no time of the machine's");
        clock.resume();
        assert!(clock.now() >= on);
    }
}
