//! ACPI fixed hardware: power button, sleep control and the power management timer (ACPI 6.5, 4.8).
//!
//! The machine is always in ACPI mode: the FADT names no SMI command port. The reset register is
//! port 0xcf9, which lies among the PCI configuration ports: see [`crate::pci::PciBus`].

#[cfg(test)]
mod tests;

use crate::frequency::Frequency;
use crate::interrupt_output::InterruptOutput;
use motu_bus::{Clock, Device, Effect, IrqLine, Nanos, Timed};
use std::fmt;
use std::sync::Arc;

/// Where fixed hardware is; the FADT and the DSDT say the same.
pub mod ports {
    /// PM1a event block: status and enable, 2 bytes each.
    pub const PM1A_EVT: u16 = 0x600;
    /// PM1a control block, 2 bytes.
    pub const PM1A_CNT: u16 = 0x604;
    /// Power management timer, 4 bytes.
    pub const PM_TMR: u16 = 0x608;
    /// First and number of ports of the whole block.
    pub const BASE: u16 = PM1A_EVT;
    pub const LEN: u16 = 12;
    /// Reset control register; [`RESET_VALUE`] resets the machine.
    pub const RESET: u16 = 0xcf9;
    pub const RESET_VALUE: u8 = 0x06;
    /// SLP_TYP that switches the machine off: the first element of the \_S5 package.
    pub const SLP_TYP_S5: u8 = 5;
    /// The system control interrupt: ISA interrupt 9, level-triggered and active high.
    pub const SCI_IRQ: u8 = 9;
}

const CLOCK: Frequency = Frequency(3_579_545);
/// The FADT does not set TMR_VAL_EXT: the timer has 24 bits, and TMR_STS is set when the highest
/// of them changes (4.8.2.1).
const TIMER_BITS: u32 = 24;

const STS_TIMER: u16 = 1 << 0;
const STS_GLOBAL: u16 = 1 << 5;
const STS_POWER_BUTTON: u16 = 1 << 8;
const STS_WAKE: u16 = 1 << 15;
/// Timer, global lock, power button, sleep button and RTC: the events that have an enable bit.
const EVENTS: u16 = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | 1 << 9 | 1 << 10;
/// Bus master status too is cleared by writing a one.
const STS_CLEARABLE: u16 = EVENTS | 1 << 4 | STS_WAKE;

const CNT_SCI_ENABLE: u16 = 1 << 0;
/// BM_RLD and SLP_TYP keep what is written.
const CNT_WRITABLE: u16 = 1 << 1 | 7 << 10;
const CNT_SLEEP_TYPE_SHIFT: u32 = 10;
const CNT_SLEEP_ENABLE: u16 = 1 << 13;

/// Twelve ports from [`ports::BASE`]; the interrupt is the SCI.
pub struct AcpiPm {
    clock: Arc<dyn Clock>,
    sci: InterruptOutput,
    status: u16,
    enable: u16,
    control: u16,
    /// Up to when the timer's changes have been noted in `status`.
    seen: Nanos,
}

impl AcpiPm {
    pub fn new(clock: Arc<dyn Clock>, sci: IrqLine) -> Self {
        let seen = clock.now();
        Self { clock, sci: InterruptOutput::new(sci), status: 0, enable: 0, control: 0, seen }
    }

    /// Asks the guest to shut down.
    pub fn press_power_button(&mut self) {
        self.status |= STS_POWER_BUTTON;
        self.update();
    }

    fn note_timer(&mut self, now: Nanos) {
        let highest_bit = |at: Nanos| CLOCK.ticks(at) >> (TIMER_BITS - 1);
        if now.0 > self.seen.0 {
            if highest_bit(now) != highest_bit(self.seen) {
                self.status |= STS_TIMER;
            }
            self.seen = now;
        }
    }

    fn update(&mut self) {
        self.sci.set(self.status & self.enable & EVENTS != 0);
    }

    /// All registers as the guest sees them at `now`.
    fn registers(&self, now: Nanos) -> [u8; ports::LEN as usize] {
        let timer = CLOCK.ticks(now) & ((1 << TIMER_BITS) - 1);
        let mut bytes = [0; ports::LEN as usize];
        bytes[..2].copy_from_slice(&self.status.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.enable.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.control | CNT_SCI_ENABLE).to_le_bytes());
        bytes[8..].copy_from_slice(&(timer as u32).to_le_bytes());
        bytes
    }

    fn write_byte(&mut self, port: u64, byte: u8) -> Effect {
        let shift = 8 * (port & 1) as u32;
        let (value, mask) = (u16::from(byte) << shift, 0xff << shift);
        let replace = |old: u16, writable: u16| old & !(mask & writable) | value & writable;
        match port {
            0 | 1 => self.status &= !(value & STS_CLEARABLE),
            2 | 3 => self.enable = replace(self.enable, EVENTS),
            4 | 5 => {
                self.control = replace(self.control, CNT_WRITABLE);
                let sleep_type = (self.control >> CNT_SLEEP_TYPE_SHIFT) as u8 & 7;
                if value & CNT_SLEEP_ENABLE != 0 && sleep_type == ports::SLP_TYP_S5 {
                    return Effect::PowerOff;
                }
            }
            _ => {}
        }
        Effect::Reschedule
    }
}

impl Device for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        let now = self.clock.now();
        self.note_timer(now);
        let registers = self.registers(now);
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(port).ok().and_then(|port| registers.get(port).copied()).unwrap_or(0xff);
        }
        self.update();
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.note_timer(self.clock.now());
        let mut effect = Effect::Reschedule;
        for (&byte, port) in data.iter().zip(offset..) {
            if self.write_byte(port, byte) == Effect::PowerOff {
                effect = Effect::PowerOff;
            }
        }
        self.update();
        effect
    }

    fn reset(&mut self) {
        (self.status, self.enable, self.control) = (0, 0, 0);
        self.update();
    }
}

impl Timed for AcpiPm {
    fn next_deadline(&self) -> Option<Nanos> {
        if self.enable & STS_TIMER == 0 || self.status & STS_TIMER != 0 {
            return None;
        }
        let half = 1 << (TIMER_BITS - 1);
        let next = (CLOCK.ticks(self.seen) / half).saturating_add(1).saturating_mul(half);
        Some(CLOCK.time_of(next))
    }

    fn expire(&mut self, now: Nanos) {
        self.note_timer(now);
        self.update();
    }
}

impl fmt::Debug for AcpiPm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcpiPm")
            .field("status", &self.status)
            .field("enable", &self.enable)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}
