//! What begins a switch.

use crate::meeting::Meeting;
use motu_hv::HvError;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Has machines go over to the other engine: all those that were made with it, or with a clone of it.
#[derive(Clone, Debug, Default)]
pub struct Trigger(Arc<Mutex<Vec<Weak<Meeting>>>>);

impl Trigger {
    /// Begins a switch of each machine whose CPUs all run; it comes before the next instruction of a CPU that calls this.
    pub fn pull(&self) {
        let mut machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        machines.retain(|machine| machine.upgrade().inspect(|machine| machine.pull()).is_some());
    }

    pub(crate) fn add(&self, machine: &Arc<Meeting>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(machine));
    }
}

/// A thread that pulls every so often.
pub(crate) struct Clock {
    ends: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// # Errors
    /// The host gives no thread.
    pub fn start(machine: &Arc<Meeting>, period: Duration) -> Result<Self, HvError> {
        let ends = Arc::new((Mutex::new(false), Condvar::new()));
        let (machine, shared) = (Arc::downgrade(machine), Arc::clone(&ends));
        let run = move || {
            let (ends, changed) = &*shared;
            let mut ended = ends.lock().unwrap_or_else(PoisonError::into_inner);
            while !*ended {
                let waited = changed.wait_timeout(ended, period).unwrap_or_else(PoisonError::into_inner);
                ended = waited.0;
                if waited.1.timed_out()
                    && let Some(machine) = machine.upgrade()
                {
                    machine.pull();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("switch".into())
            .spawn(run)
            .map_err(|source| HvError::Host { doing: "starting the thread that switches engines".into(), source })?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let (ends, changed) = &*self.ends;
        *ends.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            let _ = thread.join();
        }
    }
}
