//! A thread that looks out for a while before it sleeps.
//!
//! To wake a thread takes the host's kernel tens of microseconds, which is as long as a small request. A driver that has one request under
//! way at a time sends the next one soon after: then the thread is still there.

use std::time::{Duration, Instant};

/// How long it looks out at most.
const LONGEST: Duration = Duration::from_micros(100);
/// What is worth looking out for ended the last wait within so much time.
const SOON: Duration = Duration::from_micros(200);
/// Looks before the host's CPU is offered to others.
const LOOKS: u32 = 32;

/// What a thread knows of its waits.
#[derive(Debug)]
pub struct Lookout {
    last_was_short: bool,
    host_has_room: bool,
}

impl Default for Lookout {
    /// On a host of one CPU whoever is waited for needs that one.
    fn default() -> Self {
        let host_has_room = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
        Self { last_was_short: false, host_has_room }
    }
}

impl Lookout {
    pub fn is_worth_it(&self) -> bool {
        self.last_was_short && self.host_has_room
    }

    /// Looks until `has_come`, not for long. If it does not come, the next wait is no lookout.
    pub fn look(&mut self, has_come: impl Fn() -> bool) {
        let start = Instant::now();
        self.last_was_short = false;
        while start.elapsed() < LONGEST {
            for _ in 0..LOOKS {
                if has_come() {
                    self.last_was_short = true;
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
    }

    /// Has the thread sleep, and learns how long it did.
    pub fn sleep<T>(&mut self, sleep: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let slept = sleep();
        self.last_was_short = start.elapsed() < SOON;
        slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn lookout(last_was_short: bool) -> Lookout {
        Lookout { last_was_short, host_has_room: true }
    }

    #[test]
    fn who_was_woken_soon_looks_out_the_next_time_and_who_slept_long_does_not() {
        let mut lookout = lookout(false);
        // The host may be slow, but not always.
        assert!((0..1000).any(|_| {
            lookout.sleep(|| ());
            lookout.is_worth_it()
        }));
        lookout.sleep(|| std::thread::sleep(SOON));
        assert!(!lookout.is_worth_it());
    }

    #[test]
    fn a_lookout_ends_with_what_comes_and_one_in_vain_is_the_last() {
        let mut lookout = lookout(true);
        let looks = Cell::new(0);
        lookout.look(|| looks.replace(looks.get() + 1) == 3);
        assert!(looks.get() == 4 && lookout.is_worth_it());
        lookout.look(|| false);
        assert!(!lookout.is_worth_it());
    }
}
