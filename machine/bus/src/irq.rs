//! Interrupt lines and messages.

use std::fmt;
use std::sync::Arc;

/// Where interrupt lines end: an interrupt controller, or several.
pub trait IrqSink: Send + Sync {
    /// The level of input `pin` changed, or was asserted again.
    fn set(&self, pin: u32, level: bool);
}

/// Where message-signalled interrupts go (PCI 3.0, 6.8; SDM vol. 3, 11.11).
pub trait MsiSink: Send + Sync {
    fn signal(&self, address: u64, data: u32);
}

/// One interrupt line, from a device to pin `pin` of a sink.
///
/// Lock order: a device may drive its line while it is locked; a sink never calls a device.
#[derive(Clone)]
pub struct IrqLine {
    sink: Arc<dyn IrqSink>,
    pin: u32,
}

impl IrqLine {
    pub fn new(sink: Arc<dyn IrqSink>, pin: u32) -> Self {
        Self { sink, pin }
    }

    pub fn raise(&self) {
        self.sink.set(self.pin, true);
    }

    pub fn lower(&self) {
        self.sink.set(self.pin, false);
    }

    pub fn set(&self, level: bool) {
        self.sink.set(self.pin, level);
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IrqLine({})", self.pin)
    }
}
