//! The 8254 interval timer of a PC, with port 0x61 that gates and shows its third counter.

mod channel;
#[cfg(test)]
mod tests;

use crate::frequency::Frequency;
use crate::interrupt_output::InterruptOutput;
use channel::Channel;
use motu_bus::{Clock, Device, Effect, IrqLine, Nanos, Timed};
use std::fmt;
use std::sync::Arc;

/// The counters' clock, as kernels know it (a twelfth of 14.31818 MHz).
const CLOCK: Frequency = Frequency(1_193_182);
/// Ticks of the memory refresh, which bit 4 of port 0x61 toggles with: 15 µs.
const REFRESH_TICKS: i64 = 18;

const CONTROL: u64 = 3;
const SPEAKER_GATE: u8 = 1 << 0;
const SPEAKER_DATA: u8 = 1 << 1;

/// Ports 0x40 to 0x43 at offsets 0 to 3, and port 0x61 at offset [`Pit::SPEAKER`] (to be mapped by
/// [`crate::ports::Window`]). Counter 0 drives IRQ 0.
pub struct Pit {
    clock: Arc<dyn Clock>,
    line: InterruptOutput,
    channels: [Channel; 3],
    speaker: u8,
    /// The tick up to which counter 0 has been looked at for interrupts.
    seen: i64,
}

impl Pit {
    /// Offset of port 0x61.
    pub const SPEAKER: u64 = 0x21;

    pub fn new(clock: Arc<dyn Clock>, line: IrqLine) -> Self {
        let seen = tick(clock.now());
        Self { clock, line: InterruptOutput::new(line), channels: power_up(), speaker: 0, seen }
    }

    /// An interrupt for what counter 0 did up to `now`. Several periods give one.
    fn catch_up(&mut self, now: i64) {
        let [counter, ..] = &mut self.channels;
        if counter.has_risen(self.seen, now) {
            self.line.pulse();
        }
        self.seen = self.seen.max(now);
    }

    fn read_port(&mut self, offset: u64, now: i64) -> u8 {
        match offset {
            Self::SPEAKER => {
                let [_, _, counter] = &mut self.channels;
                let refresh = ((now / REFRESH_TICKS) & 1) as u8;
                self.speaker | refresh << 4 | u8::from(counter.out(now)) << 5
            }
            _ => self.channel(offset).map_or(0xff, |channel| channel.read(now)),
        }
    }

    fn write_port(&mut self, offset: u64, value: u8, now: i64) {
        match offset {
            Self::SPEAKER => {
                self.speaker = value & (SPEAKER_GATE | SPEAKER_DATA);
                let [_, _, counter] = &mut self.channels;
                counter.set_gate(value & SPEAKER_GATE != 0, now);
            }
            CONTROL if value >> 6 == 3 => self.read_back(value, now),
            CONTROL => {
                let number = value >> 6;
                let Some(channel) = self.channel(u64::from(number)) else { return };
                if value & 0x30 == 0 {
                    channel.latch_count(now);
                    return;
                }
                channel.write_control(value);
                if number == 0 && !channel.out(now) {
                    self.line.set(false);
                }
            }
            _ => {
                if let Some(channel) = self.channel(offset) {
                    channel.write_count(value, now);
                }
            }
        }
    }

    /// Latches count, status or both of several counters; a zero bit asks.
    fn read_back(&mut self, command: u8, now: i64) {
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if command & 2 << number == 0 {
                continue;
            }
            if command & 0x20 == 0 {
                channel.latch_count(now);
            }
            if command & 0x10 == 0 {
                channel.latch_status(now);
            }
        }
    }

    fn channel(&mut self, number: u64) -> Option<&mut Channel> {
        self.channels.get_mut(usize::try_from(number).ok()?)
    }
}

/// The gates of counters 0 and 1 are always on.
fn power_up() -> [Channel; 3] {
    [Channel::new(true), Channel::new(true), Channel::new(false)]
}

/// Ticks at `now`: below 2^55 for every instant.
fn tick(now: Nanos) -> i64 {
    CLOCK.ticks(now) as i64
}

impl Device for Pit {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        let now = tick(self.clock.now());
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = self.read_port(port, now);
        }
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let now = tick(self.clock.now());
        self.catch_up(now);
        for (&byte, port) in data.iter().zip(offset..) {
            self.write_port(port, byte, now);
        }
        Effect::Reschedule
    }

    fn reset(&mut self) {
        self.channels = power_up();
        self.speaker = 0;
        self.line.set(false);
    }
}

impl Timed for Pit {
    fn next_deadline(&self) -> Option<Nanos> {
        let [counter, ..] = &self.channels;
        let at = counter.next_event(self.seen)?;
        u64::try_from(at).ok().map(|at| CLOCK.time_of(at))
    }

    fn expire(&mut self, now: Nanos) {
        self.catch_up(tick(now));
    }
}

impl fmt::Debug for Pit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pit").field("channels", &self.channels).finish_non_exhaustive()
    }
}
