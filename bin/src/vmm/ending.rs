//! Why a run ends: the first reason stands, and stops the machine.

use crate::status::Status;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Why the host's side ended a run.
#[derive(Debug)]
pub enum Why {
    /// The guest's command ended; motu exits with this status.
    Command(Status),
    /// The person left.
    Left,
    TimedOut(Duration),
    /// A signal to motu, by number.
    Signal(i32),
    Failed(anyhow::Error),
}

impl Why {
    /// What motu exits with.
    pub fn status(&self) -> Status {
        match self {
            Self::Command(status) => *status,
            Self::Left => Status::Success,
            Self::TimedOut(_) => Status::TimedOut,
            Self::Signal(signo) => Status::signal(*signo),
            Self::Failed(_) => Status::Failed,
        }
    }
}

/// Ends a machine once, from any thread.
pub struct Ending {
    why: Mutex<Option<Why>>,
    stop: Box<dyn Fn(Status) + Send + Sync>,
}

impl Ending {
    /// `stop` makes the machine end soon; it is called once, with what motu will exit with.
    pub fn new(stop: impl Fn(Status) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { why: Mutex::default(), stop: Box::new(stop) })
    }

    /// Stops the machine, because of `why` unless there was a reason before. True if `why` is it.
    pub fn end(&self, why: Why) -> bool {
        let mut slot = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return false;
        }
        let status = why.status();
        *slot = Some(why);
        drop(slot);
        (self.stop)(status);
        true
    }

    /// The reason, if the host's side had one.
    pub fn take(&self) -> Option<Why> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").field("why", &self.why).finish_non_exhaustive()
    }
}

/// Ends the run when its time is over, unless it is dropped before.
#[derive(Debug)]
pub struct Deadline {
    _alive: Sender<()>,
}

impl Deadline {
    /// # Errors
    /// The host gives no thread.
    pub fn start(limit: Duration, ending: Arc<Ending>) -> std::io::Result<Self> {
        let (alive, dropped) = mpsc::channel();
        std::thread::Builder::new().name("deadline".into()).spawn(move || {
            if dropped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                ending.end(Why::TimedOut(limit));
            }
        })?;
        Ok(Self { _alive: alive })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_first_reason_stands() {
        let ending = Ending::new(|_| {});
        assert!(ending.end(Why::Left));
        assert!(!ending.end(Why::Signal(15)));
        assert!(matches!(ending.take(), Some(Why::Left)));
        assert!(ending.take().is_none());
    }

    #[test]
    fn a_deadline_stops_the_machine_and_a_dropped_one_does_not() {
        let (stopped, stops) = mpsc::channel();
        let ending = Ending::new(move |status| {
            let _ = stopped.send(status);
        });
        drop(Deadline::start(Duration::from_secs(3600), Arc::clone(&ending)).unwrap());
        let _deadline = Deadline::start(Duration::from_millis(1), Arc::clone(&ending)).unwrap();
        assert_eq!(stops.recv(), Ok(Status::TimedOut));
        assert!(matches!(ending.take(), Some(Why::TimedOut(limit)) if limit == Duration::from_millis(1)));
    }
}
