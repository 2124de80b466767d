//! Makes a vCPU look up when its timer is due: translated code does not look at the clock.

use crate::smp::Mailbox;
use motu_hv::HvError;
use motu_x86::Nanos;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that rings the vCPU's mailbox at one moment at a time.
pub struct Alarm {
    clock: Arc<Clock>,
    /// The deadline that the thread knows.
    known: Option<Nanos>,
    thread: Option<JoinHandle<()>>,
}

/// The thread waits for a timer of the host's, which can be set without waking it.
struct Clock {
    state: Mutex<State>,
    timer: File,
}

#[derive(Default)]
struct State {
    due: Option<Instant>,
    /// When the timer goes off; never if `None`.
    set_for: Option<Instant>,
    ends: bool,
}

impl Clock {
    fn new() -> io::Result<Self> {
        // SAFETY: the call takes no memory.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now, and nothing else owns it.
        Ok(Self { state: Mutex::default(), timer: unsafe { File::from_raw_fd(fd) } })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the timer go off at `when`, given that it is `now`.
    fn set_timer(&self, state: &mut State, now: Instant, when: Instant) {
        // Zero would stop it.
        let left = when.saturating_duration_since(now).max(Duration::from_nanos(1));
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let left = libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let setting = libc::itimerspec { it_interval: none, it_value: left };
        // SAFETY: the setting is read, and no former one is asked for.
        unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) };
        state.set_for = Some(when);
    }

    fn run(&self, mailbox: &Mailbox) {
        let mut expirations = [0; 8];
        loop {
            match (&self.timer).read(&mut expirations) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A timer gives no other.
                Err(_) => return,
                Ok(_) => {}
            }
            let mut state = self.lock();
            if state.ends {
                return;
            }
            let now = Instant::now();
            state.set_for = None;
            match state.due {
                Some(due) if due <= now => {
                    state.due = None;
                    mailbox.ring();
                }
                Some(due) => self.set_timer(&mut state, now, due),
                None => {}
            }
        }
    }
}

impl Alarm {
    /// # Errors
    /// The host gives no timer or no thread.
    pub fn start(mailbox: Arc<Mailbox>) -> Result<Self, HvError> {
        let failed = |source| HvError::Host { doing: "starting the thread that watches the timer".into(), source };
        let clock = Arc::new(Clock::new().map_err(failed)?);
        let shared = Arc::clone(&clock);
        let run = move || shared.run(&mailbox);
        let thread = std::thread::Builder::new().name("alarm".into()).spawn(run).map_err(failed)?;
        Ok(Self { clock, known: None, thread: Some(thread) })
    }

    /// Rings at `deadline`, given that it is `now`; not at all if that is `None`.
    pub fn set(&mut self, now: Nanos, deadline: Option<Nanos>) {
        let mut state = self.clock.lock();
        if self.known == deadline && state.due.is_some() == deadline.is_some() {
            return;
        }
        self.known = deadline;
        let here = Instant::now();
        // What is further away than the host's clock reaches never comes.
        let due = deadline.and_then(|deadline| here.checked_add(Duration::from_nanos(deadline.saturating_sub(now).0)));
        state.due = due;
        // One that goes off too early is set again then.
        if let Some(due) = due.filter(|&due| state.set_for.is_none_or(|set_for| due < set_for)) {
            self.clock.set_timer(&mut state, here, due);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut state = self.clock.lock();
        state.ends = true;
        let now = Instant::now();
        self.clock.set_timer(&mut state, now, now);
        drop(state);
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            let _ = thread.join();
        }
    }
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
