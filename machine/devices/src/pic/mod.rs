//! The two 8259A interrupt controllers of a PC, cascaded, with the ELCR of PCI chipsets.

mod chip;
#[cfg(test)]
mod tests;

use chip::Chip;
use motu_bus::{Device, Effect, IrqSink};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The input of the first chip that the second is behind.
const CASCADE: u8 = 2;
/// Inputs that may be level-triggered; 0, 1, 2, 8 and 13 are wired as edges.
const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];
/// What an acknowledge cycle gets when no input asks any more.
const SPURIOUS: u8 = 7;

/// The pair: 16 inputs, one INTR output.
///
/// Lock order: the output is called with the pair locked, so that levels arrive in order. What it
/// calls must not hold, when it calls [`Pic::acknowledge`], a lock that the output takes.
pub struct Pic {
    pair: Mutex<Pair>,
    output: Box<dyn Fn(bool) + Send + Sync>,
}

struct Pair {
    first: Chip,
    second: Chip,
    output: bool,
}

impl Pair {
    fn settle(&mut self) -> bool {
        let cascade = self.second.pending(0).is_some();
        self.first.set_request(CASCADE, cascade);
        self.first.pending(1 << CASCADE).is_some()
    }

    fn acknowledge(&mut self) -> u8 {
        self.settle();
        let Some(input) = self.first.pending(1 << CASCADE) else { return self.first.vector(SPURIOUS) };
        self.first.acknowledge(input);
        if input != CASCADE {
            return self.first.vector(input);
        }
        let Some(input) = self.second.pending(0) else { return self.second.vector(SPURIOUS) };
        self.second.acknowledge(input);
        self.second.vector(input)
    }

    fn chip(&mut self, unit: Unit) -> &mut Chip {
        match unit {
            Unit::First => &mut self.first,
            Unit::Second => &mut self.second,
        }
    }

    fn read(&mut self, unit: Unit, port: u64) -> u8 {
        let cascade = if unit == Unit::First { 1 << CASCADE } else { 0 };
        let chip = self.chip(unit);
        if !chip.take_poll() {
            return chip.read(port);
        }
        match chip.pending(cascade) {
            Some(input) => {
                chip.acknowledge(input);
                0x80 | input
            }
            None => 0,
        }
    }
}

impl Pic {
    /// `output` is the INTR line: called with each new level.
    pub fn new(output: Box<dyn Fn(bool) + Send + Sync>) -> Self {
        let pair = Pair { first: Chip::new(), second: Chip::new(), output: false };
        Self { pair: Mutex::new(pair), output }
    }

    /// The processor's acknowledge cycle: the vector of the interrupt that is now in service, or the
    /// one of IRQ 7 or 15 if none asks any more.
    pub fn acknowledge(&self) -> u8 {
        self.with(Pair::acknowledge)
    }

    /// Ports 0x20 and 0x21.
    pub fn first_ports(self: &Arc<Self>) -> PicPorts {
        PicPorts { pic: Arc::clone(self), unit: Unit::First }
    }

    /// Ports 0xa0 and 0xa1.
    pub fn second_ports(self: &Arc<Self>) -> PicPorts {
        PicPorts { pic: Arc::clone(self), unit: Unit::Second }
    }

    /// Ports 0x4d0 and 0x4d1: which inputs are level-triggered.
    pub fn elcr_ports(self: &Arc<Self>) -> ElcrPorts {
        ElcrPorts { pic: Arc::clone(self) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Pair) -> T) -> T {
        let mut pair: MutexGuard<'_, Pair> = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut pair);
        let output = pair.settle();
        if output != pair.output {
            pair.output = output;
            (self.output)(output);
        }
        result
    }
}

impl IrqSink for Pic {
    fn set(&self, pin: u32, level: bool) {
        let Ok(pin @ 0..16) = u8::try_from(pin) else { return };
        self.with(|pair| match pin {
            CASCADE => {}
            0..8 => pair.first.set_line(pin, level),
            _ => pair.second.set_line(pin - 8, level),
        });
    }
}

impl fmt::Debug for Pic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pic").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    First,
    Second,
}

/// The two ports of one chip.
#[derive(Debug)]
pub struct PicPorts {
    pic: Arc<Pic>,
    unit: Unit,
}

impl Device for PicPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        data.fill(0xff);
        for (byte, port) in data.iter_mut().zip(offset..2) {
            *byte = self.pic.with(|pair| pair.read(self.unit, port));
        }
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        for (&byte, port) in data.iter().zip(offset..2) {
            self.pic.with(|pair| pair.chip(self.unit).write(port, byte));
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.pic.with(|pair| pair.chip(self.unit).reset());
    }
}

/// The edge/level control registers of both chips.
#[derive(Debug)]
pub struct ElcrPorts {
    pic: Arc<Pic>,
}

impl Device for ElcrPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        data.fill(0xff);
        for (byte, unit) in data.iter_mut().zip([Unit::First, Unit::Second].into_iter().skip(offset as usize)) {
            *byte = self.pic.with(|pair| pair.chip(unit).level_triggered);
        }
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let registers = [Unit::First, Unit::Second].into_iter().zip(ELCR_WRITABLE).skip(offset as usize);
        for (&byte, (unit, writable)) in data.iter().zip(registers) {
            self.pic.with(|pair| pair.chip(unit).set_level_triggered(byte & writable));
        }
        Effect::None
    }

    fn reset(&mut self) {
        for unit in [Unit::First, Unit::Second] {
            self.pic.with(|pair| pair.chip(unit).set_level_triggered(0));
        }
    }
}
