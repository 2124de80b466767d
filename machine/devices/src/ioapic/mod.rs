//! The I/O APIC: 24 pins that become interrupt messages.

mod regs;
#[cfg(test)]
mod tests;

use motu_bus::{Device, Effect, IrqSink, MsiSink};
use regs::{IoApicRegs, Message};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Register offsets in the memory page.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

/// The controller, reached by devices' lines, by the guest through [`IoApicMmio`], and by the CPUs'
/// ends of interrupt. Messages are sent without any lock held.
pub struct IoApic {
    regs: Mutex<IoApicRegs>,
    sink: Arc<dyn MsiSink>,
}

impl IoApic {
    /// Where it is in every PC.
    pub const ADDRESS: u64 = 0xfec0_0000;
    /// Bytes of its registers.
    pub const SIZE: u64 = 0x1000;

    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        Self { regs: Mutex::new(IoApicRegs::new()), sink }
    }

    /// A local APIC has ended the level-triggered interrupt `vector`. What is still asserted is
    /// delivered again.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.with(|regs| regs.end_of_interrupt(vector));
    }

    /// The registers, as a device for [`IoApic::ADDRESS`].
    pub fn mmio(self: &Arc<Self>) -> IoApicMmio {
        IoApicMmio { io_apic: Arc::clone(self) }
    }

    fn with<M: IntoIterator<Item = Message>>(&self, act: impl FnOnce(&mut IoApicRegs) -> M) {
        let messages = act(&mut self.regs.lock().unwrap_or_else(PoisonError::into_inner));
        for message in messages {
            self.sink.signal(message.address, message.data);
        }
    }
}

impl IrqSink for IoApic {
    /// `level` says whether the pin is asserted; the polarity bit of its entry makes no difference.
    fn set(&self, pin: u32, level: bool) {
        self.with(|regs| regs.set_line(pin, level));
    }
}

impl fmt::Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoApic").finish_non_exhaustive()
    }
}

/// The memory-mapped registers of an [`IoApic`].
#[derive(Debug)]
pub struct IoApicMmio {
    io_apic: Arc<IoApic>,
}

impl Device for IoApicMmio {
    /// Registers are 32 bits wide at 16-byte distance; a narrower read gets the low bytes.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        let mut value = 0;
        self.io_apic.with(|regs| {
            value = match offset {
                SELECT => u32::from(regs.select()),
                WINDOW => regs.read(),
                _ => 0,
            };
            None
        });
        let bytes = u64::from(value).to_le_bytes();
        for (byte, &from) in data.iter_mut().zip(&bytes) {
            *byte = from;
        }
        Effect::None
    }

    /// The index and EOI registers take writes of any width, the data window whole ones.
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let low = data.first().copied().unwrap_or(0);
        let word = data.first_chunk().map(|&bytes| u32::from_le_bytes(bytes));
        match (offset, word) {
            (SELECT, _) => self.io_apic.with(|regs| {
                regs.set_select(low);
                None
            }),
            (WINDOW, Some(word)) => self.io_apic.with(|regs| regs.write(word)),
            (EOI, _) => self.io_apic.end_of_interrupt(low),
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.io_apic.with(|regs| {
            regs.reset();
            None
        });
    }
}
