//! A processor in HLT, until something comes for it.
//!
//! To wake a thread of the host's takes its kernel tens of microseconds, and whoever sends the message some of them. Processors that
//! answer each other by interrupts, or wait for a device's thread, sleep for less: those look out for a while before they sleep, if the
//! host has a CPU for that.

use super::{Mailbox, Processors};
use std::time::{Duration, Instant};

/// How long it looks out for what comes, before it sleeps.
const LOOKOUT: Duration = Duration::from_micros(150);
/// What is worth looking out for came within so much time the last time.
const SOON: Duration = Duration::from_micros(200);
/// Looks before the host's CPU is offered to others.
const LOOKS: u32 = 32;

/// What a processor knows of its sleep.
#[derive(Debug, Default)]
pub struct Idle {
    /// The last sleep was short.
    looks_out: bool,
}

impl Idle {
    /// Waits until there is post, or for `limit`.
    pub fn wait(&mut self, processors: &Processors, mailbox: &Mailbox, limit: Option<Duration>) {
        let start = Instant::now();
        processors.note_sleep(true);
        let end = limit.map_or(LOOKOUT, |limit| limit.min(LOOKOUT));
        let found = self.looks_out && processors.leave_room() && look_out(mailbox, start, end);
        if !found {
            mailbox.wait(limit.map(|limit| limit.saturating_sub(start.elapsed())));
        }
        processors.note_sleep(false);
        self.looks_out = start.elapsed() < SOON;
    }
}

/// Whether there is post before `limit` has passed since `start`.
fn look_out(mailbox: &Mailbox, start: Instant, limit: Duration) -> bool {
    while start.elapsed() < limit {
        for _ in 0..LOOKS {
            if mailbox.has_post() {
                return true;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
    mailbox.has_post()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_woken_soon_looks_out_the_next_time_and_who_slept_long_does_not() {
        let processors = Processors::new(2);
        let mut idle = Idle::default();
        let mailbox = processors.mailbox(0);
        mailbox.ring();
        // The host may be slow, but not always.
        let soon = (0..1000).any(|_| {
            idle.wait(&processors, mailbox, None);
            idle.looks_out
        });
        assert!(soon);
        mailbox.take();
        idle.wait(&processors, mailbox, Some(10 * SOON));
        assert!(!idle.looks_out);
    }

    #[test]
    fn what_comes_while_it_looks_out_or_sleeps_ends_the_wait() {
        let processors = Processors::new(2);
        let mailbox = processors.mailbox(1);
        for looks_out in [false, true] {
            std::thread::scope(|scope| {
                scope.spawn(|| mailbox.protect(0x1000));
                let mut idle = Idle { looks_out };
                idle.wait(&processors, mailbox, Some(Duration::from_secs(10)));
            });
            assert_eq!(mailbox.take().protect, [0x1000]);
        }
    }
}
