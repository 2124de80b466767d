//! The clock of a profiler.

use crate::HvError;
use motu_x86::Nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Time between two ticks.
const PERIOD: Duration = Duration::from_millis(1);

/// Counts milliseconds of the host's time, on a thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct Ticks {
    count: Arc<AtomicU64>,
    _alive: Sender<()>,
}

impl Ticks {
    /// Calls `ring` behind each tick.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(ring: impl Fn() + Send + 'static) -> Result<Self, HvError> {
        let (alive, dropped) = mpsc::channel();
        let count = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&count);
        let tick = move || {
            let start = Instant::now();
            let mut counted = 0;
            while dropped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                // A host that is busy may wake this late.
                let passed = (start.elapsed().as_nanos() / PERIOD.as_nanos()) as u64;
                counter.fetch_add(passed - counted, Ordering::Relaxed);
                counted = passed;
                ring();
            }
        };
        std::thread::Builder::new()
            .name("profile".into())
            .spawn(tick)
            .map_err(|source| HvError::Host { doing: "starting the profiler's thread".into(), source })?;
        Ok(Self { count, _alive: alive })
    }

    /// What passed before now is no time of the guest's.
    pub fn forget(&self) {
        self.count.store(0, Ordering::Relaxed);
    }

    /// Whether a tick has come since the last was taken.
    pub fn has_come(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// The time of the ticks that have come since the last call, if there are any.
    pub fn take(&self) -> Option<Nanos> {
        let ticks = self.count.swap(0, Ordering::Relaxed);
        (ticks != 0).then(|| Nanos(ticks.saturating_mul(PERIOD.as_nanos() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_is_taken_once_and_the_thread_ends() {
        let (ring, rung) = mpsc::channel();
        let ticks = Ticks::start(move || ring.send(()).unwrap_or_default()).unwrap();
        let mut time = Nanos(0);
        let start = Instant::now();
        while time < Nanos(5_000_000) {
            rung.recv().unwrap();
            let passed = ticks.take().unwrap_or_default();
            time = Nanos(time.0 + passed.0);
        }
        assert!(u128::from(time.0) <= start.elapsed().as_nanos() + PERIOD.as_nanos());
        while !ticks.has_come() {
            rung.recv().unwrap();
        }
        drop(ticks);
        // It has no end unless the thread has.
        rung.iter().for_each(drop);
    }
}
