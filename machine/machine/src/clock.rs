//! Machine time.

use motu_bus::{Clock, Nanos};
use std::time::Instant;

/// Nanoseconds since the machine was made, by the host's monotonic clock.
#[derive(Debug)]
pub(crate) struct MachineClock {
    start: Instant,
}

impl MachineClock {
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Nanos {
        // 2^64 ns are 584 years.
        Nanos(self.start.elapsed().as_nanos() as u64)
    }
}
