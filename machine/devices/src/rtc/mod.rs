//! The real-time clock and its battery-backed memory (CMOS).

mod calendar;
mod regs;
#[cfg(test)]
mod tests;

use crate::interrupt_output::InterruptOutput;
use motu_bus::{Clock, Device, Effect, IrqLine, Nanos, Timed};
use regs::RtcRegs;
use std::fmt;
use std::sync::Arc;

const INDEX: u64 = 0;
const DATA: u64 = 1;

/// An MC146818 with 128 bytes: ports 0x70 and 0x71, IRQ 8.
pub struct Rtc {
    regs: RtcRegs,
    clock: Arc<dyn Clock>,
    line: InterruptOutput,
}

impl Rtc {
    /// A clock that shows `unix_at_zero` (seconds since 1970, UTC) when `clock` is at zero.
    pub fn new(clock: Arc<dyn Clock>, line: IrqLine, unix_at_zero: i64) -> Self {
        // Far enough from the ends of the type that the guest's own settings cannot overflow it.
        let offset = unix_at_zero.clamp(-(1 << 40), 1 << 40);
        Self { regs: RtcRegs::new(offset, clock.now()), clock, line: InterruptOutput::new(line) }
    }

    /// Presets a byte of the memory, 0 to 127, as firmware does (sizes of memory and the like).
    /// Not for the clock's own registers, 0 to 13.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        *self.regs.byte(index) = value;
    }

    fn update(&mut self) {
        self.line.set(self.regs.interrupt());
    }
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        let now = self.clock.now();
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = if port == DATA { self.regs.read(now) } else { 0xff };
        }
        self.update();
        Effect::Reschedule
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let now = self.clock.now();
        for (&byte, port) in data.iter().zip(offset..) {
            match port {
                INDEX => self.regs.set_index(byte),
                DATA => self.regs.write(byte, now),
                _ => {}
            }
        }
        self.update();
        Effect::Reschedule
    }

    fn reset(&mut self) {
        self.regs.reset();
        self.update();
    }
}

impl Timed for Rtc {
    fn next_deadline(&self) -> Option<Nanos> {
        self.regs.next_interrupt()
    }

    fn expire(&mut self, now: Nanos) {
        self.regs.note_events(now);
        self.update();
    }
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtc").field("regs", &self.regs).finish_non_exhaustive()
    }
}
