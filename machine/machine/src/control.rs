//! What anything on the board may ask of the machine as a whole, and how the CPUs are halted for it.

use crate::debug::DebugRequest;
use motu_bus::Effect;
use motu_hv::{CrashReport, DebugStop, Kick};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// What happened, for the driver's one queue.
#[derive(Debug)]
pub(crate) enum Event {
    /// The guest asked for a reset.
    Reset,
    /// The guest switched the machine off.
    PowerOff,
    /// The guest ended the machine with this value.
    DebugExit(u32),
    /// The host wants the machine to end.
    Stop,
    /// A vCPU thread runs no guest code until it is told to.
    Parked,
    /// A vCPU shut down (triple fault); [`Event::Parked`] follows.
    Crashed {
        cpu: u32,
        report: Box<CrashReport>,
    },
    /// A vCPU came to what the debugger had asked for; [`Event::Parked`] follows.
    Stopped {
        cpu: u32,
        stop: DebugStop,
    },
    Debug(DebugRequest),
    /// A vCPU's thread ended without being told to.
    CpuLost {
        id: u32,
    },
    /// A vCPU refused the state that it was to start from, or its engine cannot go on.
    Refused(motu_hv::HvError),
}

/// Shared by the board, the vCPU threads, the driver and [`crate::MachineHandle`]s.
pub(crate) struct Control {
    events: Sender<Event>,
    /// vCPU threads leave guest code while it is set.
    halt: AtomicBool,
    kickers: Mutex<Vec<Arc<dyn Kick>>>,
}

impl Control {
    pub fn new(events: Sender<Event>) -> Self {
        Self { events, halt: AtomicBool::new(false), kickers: Mutex::default() }
    }

    pub fn add_vcpu(&self, kicker: Arc<dyn Kick>) {
        self.kickers.lock().unwrap_or_else(PoisonError::into_inner).push(kicker);
    }

    /// Queues `event`. That nobody listens any more is no error: the machine has ended.
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Acts on what a device access asked for; `Reschedule` is the board's own business. The CPU
    /// that made the access is halted at once: no guest expects to run on after it.
    pub fn request(&self, effect: Effect) {
        let event = match effect {
            Effect::None | Effect::Reschedule => return,
            Effect::Reset => Event::Reset,
            Effect::PowerOff => Event::PowerOff,
            Effect::DebugExit(value) => Event::DebugExit(value),
        };
        self.send(event);
        self.halt();
    }

    /// Makes every vCPU thread leave guest code soon.
    pub fn halt(&self) {
        self.halt.store(true, Ordering::SeqCst);
        for kicker in self.kickers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            kicker.kick();
        }
    }

    /// Lets vCPU threads run again; only while all are parked.
    pub fn clear_halt(&self) {
        self.halt.store(false, Ordering::SeqCst);
    }

    pub fn is_halted(&self) -> bool {
        self.halt.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("halted", &self.is_halted()).finish_non_exhaustive()
    }
}
