//! What the tests of several devices stand on.

use motu_bus::{Clock, Device, IrqLine, IrqSink, MsiSink, Nanos};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Remembers interrupt levels, rising edges and messages.
#[derive(Default)]
pub(crate) struct Wires {
    pub levels: Mutex<BTreeMap<u32, bool>>,
    pub edges: Mutex<Vec<u32>>,
    pub messages: Mutex<Vec<(u64, u32)>>,
}

impl Wires {
    pub fn line(self: &Arc<Self>, pin: u32) -> IrqLine {
        IrqLine::new(Arc::<Self>::clone(self), pin)
    }

    pub fn level(&self, pin: u32) -> bool {
        self.levels.lock().unwrap().get(&pin).copied().unwrap_or(false)
    }

    /// Rising edges since the last call.
    pub fn take_edges(&self) -> usize {
        std::mem::take(&mut *self.edges.lock().unwrap()).len()
    }

    /// Messages since the last call.
    pub fn take_messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.messages.lock().unwrap())
    }
}

impl IrqSink for Wires {
    fn set(&self, pin: u32, level: bool) {
        let before = self.levels.lock().unwrap().insert(pin, level).unwrap_or(false);
        if level && !before {
            self.edges.lock().unwrap().push(pin);
        }
    }
}

impl MsiSink for Wires {
    fn signal(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }
}

/// A clock that the test sets.
#[derive(Default)]
pub(crate) struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn set(&self, now: Nanos) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    pub fn advance(&self, by: u64) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) fn read_byte(device: &mut dyn Device, offset: u64) -> u8 {
    let mut byte = [0];
    device.read(offset, &mut byte);
    byte[0]
}

/// One guest access of 1, 2, 4 or 8 bytes, followed by the passing of some time.
pub(crate) type Access = (bool, u64, usize, u64, u64);

/// Random accesses to offsets below `len`.
pub(crate) fn accesses(len: u64) -> impl proptest::strategy::Strategy<Value = Vec<Access>> {
    use proptest::prelude::*;
    proptest::collection::vec((any::<bool>(), 0..len, 0usize..4, any::<u64>(), 0u64..3_000_000_000), 1..200)
}

/// Performs `access` on `device`.
pub(crate) fn perform(device: &mut dyn Device, &(is_write, offset, size, value, _): &Access) {
    let mut data = value.to_le_bytes();
    let data = &mut data[..1 << size];
    if is_write {
        device.write(offset, data);
    } else {
        device.read(offset, data);
    }
}
