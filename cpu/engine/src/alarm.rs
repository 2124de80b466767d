//! Makes a vCPU look up when its timer is due: translated code does not look at the clock.

use crate::smp::Mailbox;
use motu_hv::HvError;
use motu_x86::Nanos;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that rings the vCPU's mailbox at one moment at a time.
pub struct Alarm {
    clock: Arc<Clock>,
    /// The deadline that the thread knows.
    known: Option<Nanos>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Clock {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    due: Option<Instant>,
    /// Until when the thread sleeps; for ever if `None`.
    asleep_until: Option<Instant>,
    ends: bool,
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mailbox: &Mailbox) {
        let mut state = self.lock();
        while !state.ends {
            let now = Instant::now();
            if state.due.is_some_and(|due| due <= now) {
                state.due = None;
                mailbox.ring();
            }
            state.asleep_until = state.due;
            state = match state.due {
                Some(due) => self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Alarm {
    /// # Errors
    /// The host gives no thread.
    pub fn start(mailbox: Arc<Mailbox>) -> Result<Self, HvError> {
        let clock = Arc::new(Clock::default());
        let shared = Arc::clone(&clock);
        let run = move || {
            wake_in_time();
            shared.run(&mailbox);
        };
        let thread = std::thread::Builder::new()
            .name("alarm".into())
            .spawn(run)
            .map_err(|source| HvError::Host { doing: "starting the thread that watches the timer".into(), source })?;
        Ok(Self { clock, known: None, thread: Some(thread) })
    }

    /// Rings at `deadline`, given that it is `now`; not at all if that is `None`.
    pub fn set(&mut self, now: Nanos, deadline: Option<Nanos>) {
        let mut state = self.clock.lock();
        if self.known == deadline && state.due.is_some() == deadline.is_some() {
            return;
        }
        self.known = deadline;
        // What is further away than the host's clock reaches never comes.
        let due = deadline
            .and_then(|deadline| Instant::now().checked_add(Duration::from_nanos(deadline.saturating_sub(now).0)));
        state.due = due;
        // One that wakes too early finds out by itself.
        if due.is_some_and(|due| state.asleep_until.is_none_or(|until| due < until)) {
            self.clock.changed.notify_one();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.clock.lock().ends = true;
        self.clock.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            let _ = thread.join();
        }
    }
}

/// Asks the host not to wake this thread later for the sake of fewer wake-ups, as it does by 50 microseconds.
fn wake_in_time() {
    // SAFETY: PR_SET_TIMERSLACK takes a number of nanoseconds and changes this thread's timers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1usize) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings_within(mailbox: &Mailbox, limit: Duration) -> bool {
        let start = Instant::now();
        while !mailbox.has_post() && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        mailbox.has_post()
    }

    #[test]
    fn rings_at_the_deadline_and_again_when_it_is_set_again() {
        let mailbox = Arc::new(Mailbox::default());
        let mut alarm = Alarm::start(Arc::clone(&mailbox)).unwrap();
        for round in 0..3 {
            let now = Nanos(1_000_000 * round);
            alarm.set(now, Some(now.saturating_add(Nanos(1_000_000))));
            assert!(rings_within(&mailbox, Duration::from_secs(10)), "round {round}");
            mailbox.take();
        }
    }

    #[test]
    fn a_nearer_deadline_wakes_it_and_none_at_all_does_not_ring() {
        let mailbox = Arc::new(Mailbox::default());
        let mut alarm = Alarm::start(Arc::clone(&mailbox)).unwrap();
        alarm.set(Nanos(0), Some(Nanos(u64::MAX)));
        alarm.set(Nanos(0), Some(Nanos(3_600_000_000_000)));
        assert!(!rings_within(&mailbox, Duration::from_millis(20)));
        alarm.set(Nanos(0), Some(Nanos(1_000_000)));
        assert!(rings_within(&mailbox, Duration::from_secs(10)));
        mailbox.take();
        alarm.set(Nanos(0), Some(Nanos(5_000_000)));
        alarm.set(Nanos(0), None);
        assert!(!rings_within(&mailbox, Duration::from_millis(20)));
    }
}
