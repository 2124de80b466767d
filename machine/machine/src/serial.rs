//! What is typed to the first serial port.

use motu_bus::{Shared, lock};
use motu_devices::uart::Uart;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Input to the first serial port; clones are the same port.
#[derive(Clone)]
pub struct SerialInput {
    uart: Shared<Uart>,
    room: Arc<Room>,
}

/// Lock order: the UART, then this.
#[derive(Debug, Default)]
struct Room {
    /// The guest took what waited, since somebody last looked; or the machine ended.
    drained: Mutex<bool>,
    changed: Condvar,
}

impl Room {
    fn signal(&self) {
        *self.drained.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        while !*drained {
            drained = self.changed.wait(drained).unwrap_or_else(PoisonError::into_inner);
        }
        *drained = false;
    }
}

impl SerialInput {
    pub(crate) fn new(uart: Shared<Uart>) -> Self {
        let room: Arc<Room> = Arc::default();
        let signal = Arc::clone(&room);
        lock(&uart).on_drained(Box::new(move || signal.signal()));
        Self { uart, room }
    }

    /// Sends all of `data` to the guest; waits while the port's queue is full, for ever if the guest
    /// never reads.
    pub fn send(&self, mut data: &[u8]) {
        loop {
            let accepted = lock(&self.uart).input(data);
            data = data.get(accepted..).unwrap_or_default();
            if data.is_empty() {
                return;
            }
            self.room.wait();
        }
    }
}

impl std::fmt::Debug for SerialInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SerialInput")
    }
}
