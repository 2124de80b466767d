//! One thread that wakes devices at the times they ask for.

use motu_bus::{Clock, Nanos, Shared, Timed, lock};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Devices are not woken more often than this, whatever period the guest programs: real timers'
/// interrupts are no closer together, and the host's CPU is not the guest's to burn.
const MIN_SLEEP: Duration = Duration::from_micros(50);

/// Serves [`Timed`] devices while it lives.
///
/// Lock order: a device's lock is never taken while the schedule is locked.
#[derive(Debug)]
pub(crate) struct Timers {
    schedule: Arc<Schedule>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
pub(crate) struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A deadline may have moved since the thread last looked.
    stale: bool,
    quit: bool,
}

impl Schedule {
    /// A device's deadline may have changed.
    pub fn reschedule(&self) {
        self.change(|state| state.stale = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Sleeps for `time`, for ever if `None`, or until a change; false when it is time to quit.
    fn sleep(&self, time: Option<Duration>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.stale && !state.quit {
            state = match time {
                Some(time) => {
                    let waited = self.changed.wait_timeout(state, time.max(MIN_SLEEP));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.stale = false;
        !state.quit
    }
}

impl Timers {
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        schedule: Arc<Schedule>,
        clock: Arc<dyn Clock>,
        devices: Vec<Shared<dyn Timed>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::clone(&schedule);
        let thread = std::thread::Builder::new()
            .name("timers".into())
            .spawn(move || while shared.sleep(serve(&devices, clock.now()).map(|next| until(next, clock.now()))) {})?;
        Ok(Self { schedule, thread: Some(thread) })
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.schedule.change(|state| state.quit = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the timer thread panicked");
        }
    }
}

/// Expires what is due at `now`; the earliest deadline after that.
fn serve(devices: &[Shared<dyn Timed>], now: Nanos) -> Option<Nanos> {
    let next = devices.iter().filter_map(|device| {
        let mut device = lock(device);
        if device.next_deadline().is_some_and(|deadline| deadline <= now) {
            device.expire(now);
        }
        device.next_deadline()
    });
    next.min()
}

fn until(deadline: Nanos, now: Nanos) -> Duration {
    Duration::from_nanos(deadline.saturating_sub(now).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_bus::shared;
    use std::sync::mpsc;

    struct Alarm {
        deadline: Option<Nanos>,
        period: u64,
        rang: mpsc::Sender<Nanos>,
    }

    impl Timed for Alarm {
        fn next_deadline(&self) -> Option<Nanos> {
            self.deadline
        }
        fn expire(&mut self, now: Nanos) {
            self.deadline = (self.period > 0).then(|| Nanos(now.0 + self.period));
            let _ = self.rang.send(now);
        }
    }

    fn start(schedule: &Arc<Schedule>, devices: Vec<Shared<dyn Timed>>) -> Timers {
        Timers::start(Arc::clone(schedule), Arc::new(crate::clock::MachineClock::new()), devices).unwrap()
    }

    #[test]
    fn a_device_rings_at_or_after_its_deadline_and_again() {
        let (rang, rings) = mpsc::channel();
        let alarm = shared(Alarm { deadline: Some(Nanos(1_000_000)), period: 1_000_000, rang });
        let timers = start(&Arc::default(), vec![alarm]);
        let first = rings.recv().unwrap();
        let second = rings.recv().unwrap();
        assert!(first.0 >= 1_000_000 && second.0 >= first.0 + 1_000_000);
        drop(timers);
        while rings.try_recv().is_ok() {}
        assert_eq!(rings.recv(), Err(mpsc::RecvError), "the thread and its devices are gone");
    }

    #[test]
    fn a_deadline_set_later_is_seen_after_reschedule() {
        let (rang, rings) = mpsc::channel();
        let alarm = shared(Alarm { deadline: None, period: 0, rang });
        let schedule = Arc::default();
        let _timers = start(&schedule, vec![Arc::clone(&alarm) as Shared<dyn Timed>]);
        lock(&alarm).deadline = Some(Nanos(0));
        schedule.reschedule();
        rings.recv().unwrap();
        assert_eq!(lock(&alarm).deadline, None);
    }
}
