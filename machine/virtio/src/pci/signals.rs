//! What a device tells the driver: interrupts, the ISR status and DEVICE_NEEDS_RESET.

use super::common::NO_VECTOR;
use crate::device::InterruptSink;
use crate::queue::Malformed;
use motu_devices::pci::{Intx, Msix};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// ISR status bits (virtio 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

#[derive(Debug)]
struct State {
    isr: u8,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    needs_reset: bool,
    driver_ok: bool,
    malformed: u64,
}

/// Any thread may signal, with the device locked; behind its lock come only MSI-X, INTx and their sinks.
#[derive(Debug)]
pub struct Signals {
    msix: Msix,
    intx: Option<Intx>,
    state: Mutex<State>,
}

impl Signals {
    pub fn new(msix: Msix, intx: Option<Intx>, queues: usize) -> Self {
        let state = State {
            isr: 0,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            needs_reset: false,
            driver_ok: false,
            malformed: 0,
        };
        Self { msix, intx, state: Mutex::new(state) }
    }

    pub fn reset(&self) {
        let mut state = self.lock();
        state.isr = 0;
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
        state.needs_reset = false;
        state.driver_ok = false;
        if let Some(intx) = &self.intx {
            intx.lower();
        }
    }

    /// From now on a failure is also a configuration change notification (virtio 1.2, 2.1.2).
    pub fn set_driver_ok(&self) {
        self.lock().driver_ok = true;
    }

    pub fn is_failed(&self) -> bool {
        self.lock().needs_reset
    }

    /// How often a driver broke the specification.
    pub fn malformed(&self) -> u64 {
        self.lock().malformed
    }

    /// Reads and clears the ISR status; INTx goes down (virtio 1.2, 4.1.4.5.1).
    pub fn take_isr(&self) -> u8 {
        let mut state = self.lock();
        if let Some(intx) = &self.intx {
            intx.lower();
        }
        std::mem::take(&mut state.isr)
    }

    pub fn config_vector(&self) -> u16 {
        self.lock().config_vector
    }

    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.lock().queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    /// A vector that does not exist reads back as none (virtio 1.2, 4.1.5.1.2.1).
    pub fn set_config_vector(&self, vector: u16) {
        self.lock().config_vector = self.existing(vector);
    }

    /// As [`Signals::set_config_vector`].
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(v) = self.lock().queue_vectors.get_mut(usize::from(queue)) {
            *v = self.existing(vector);
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    fn signal(&self, state: &mut State, vector: u16, isr: u8) {
        if self.msix.is_enabled() {
            if vector != NO_VECTOR {
                self.msix.signal(vector);
            }
        } else {
            state.isr |= isr;
            if let Some(intx) = &self.intx {
                intx.raise();
            }
        }
    }

    fn signal_config(&self, state: &mut State) {
        let vector = state.config_vector;
        self.signal(state, vector, ISR_CONFIG);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterruptSink for Signals {
    fn queue_used(&self, queue: u16) {
        let mut state = self.lock();
        if let Some(&vector) = state.queue_vectors.get(usize::from(queue)) {
            self.signal(&mut state, vector, ISR_QUEUE);
        }
    }

    fn config_changed(&self) {
        self.signal_config(&mut self.lock());
    }

    fn needs_reset(&self, why: Malformed) {
        let mut state = self.lock();
        state.malformed += 1;
        if state.needs_reset {
            return;
        }
        tracing::warn!(error = %why, "the guest's driver broke the virtio specification; the device needs a reset");
        state.needs_reset = true;
        if state.driver_ok {
            self.signal_config(&mut state);
        }
    }
}
