//! One counter of the 8254 (Intel 8254 data sheet, order number 231164), in whole clock ticks.
//!
//! Nothing is counted: a counter remembers when it was loaded, and everything else follows from the
//! tick at which it is looked at.

/// How count bytes are transferred (control word, bits 5 and 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Low,
    High,
    LowThenHigh,
}

/// The six modes; 6 and 7 are other codes of 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    InterruptOnTerminalCount = 0,
    OneShot = 1,
    RateGenerator = 2,
    SquareWave = 3,
    SoftwareStrobe = 4,
    HardwareStrobe = 5,
}

impl Mode {
    fn from_control(control: u8) -> Self {
        match control >> 1 & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    mode: Mode,
    bcd: bool,
    transfer: Transfer,
    gate: bool,
    /// The initial count, 1 to 65536 (10000 in BCD); none since the control word.
    count: Option<i64>,
    /// When `count` was loaded into the counting element; none if it was not.
    loaded: Option<i64>,
    /// How far the count was when the gate stopped it.
    held: Option<i64>,
    /// A count that is loaded at a later tick (the end of a period, or a trigger at `i64::MAX`).
    next: Option<(i64, i64)>,
    low_byte: Option<u8>,
    high_is_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    pub fn new(gate: bool) -> Self {
        Self {
            mode: Mode::InterruptOnTerminalCount,
            bcd: false,
            transfer: Transfer::LowThenHigh,
            gate,
            count: None,
            loaded: None,
            held: None,
            next: None,
            low_byte: None,
            high_is_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word for this counter; the counter latch command is not one.
    pub fn write_control(&mut self, control: u8) {
        *self = Self {
            mode: Mode::from_control(control),
            bcd: control & 1 != 0,
            transfer: match control >> 4 & 3 {
                1 => Transfer::Low,
                2 => Transfer::High,
                _ => Transfer::LowThenHigh,
            },
            ..Self::new(self.gate)
        };
    }

    /// Writes a byte of the count at tick `now`.
    pub fn write_count(&mut self, byte: u8, now: i64) {
        self.settle(now);
        let raw = match (self.transfer, self.low_byte.take()) {
            (Transfer::Low, _) => u16::from(byte),
            (Transfer::High, _) => u16::from(byte) << 8,
            (Transfer::LowThenHigh, Some(low)) => u16::from_le_bytes([low, byte]),
            (Transfer::LowThenHigh, None) => {
                self.low_byte = Some(byte);
                if self.mode == Mode::InterruptOnTerminalCount {
                    // The first byte stops the count and OUT goes low (Mode 0).
                    (self.count, self.loaded, self.held) = (None, None, None);
                }
                return;
            }
        };
        let count = match self.count_of(raw) {
            0 => self.modulus(),
            count => count,
        };
        let period_end = self.end_of_phase(now);
        match self.mode {
            mode if mode.is_triggered() => {
                if self.loaded.is_some() {
                    self.next = Some((count, i64::MAX));
                } else {
                    self.count = Some(count);
                }
            }
            mode if mode.is_periodic() && period_end.is_some() => self.next = period_end.map(|at| (count, at)),
            _ => {
                // Loaded by the next clock, which does not count yet.
                (self.count, self.next) = (Some(count), None);
                self.loaded = Some(now + 1);
                self.held = if self.gate { None } else { Some(0) };
            }
        }
    }

    /// When a periodic counter reloads next, after `now`: each period in mode 2, each half in mode 3.
    fn end_of_phase(&self, now: i64) -> Option<i64> {
        let (count, loaded, None) = (self.count?, self.loaded?, self.held) else { return None };
        let position = (now - loaded).max(0);
        let start = loaded + position / count * count;
        let half = start + (count + 1) / 2;
        let end = if self.mode == Mode::SquareWave && now < half { half } else { start + count };
        Some(end)
    }

    /// Loads a count whose time has come.
    fn settle(&mut self, now: i64) {
        let Some((count, at)) = self.next.filter(|&(_, at)| at <= now) else { return };
        let was_high = self.out_at(at - 1);
        self.next = None;
        self.count = Some(count);
        // `loaded` is where the high half of a square wave began or would have begun.
        let starts_low = self.mode == Mode::SquareWave && was_high;
        self.loaded = Some(if starts_low { at - (count + 1) / 2 } else { at });
    }

    /// The gate input is now `level`.
    pub fn set_gate(&mut self, level: bool, now: i64) {
        self.settle(now);
        if level == std::mem::replace(&mut self.gate, level) {
            return;
        }
        let edge_starts = self.mode.is_triggered() || self.mode.is_periodic();
        if level && edge_starts {
            if let Some((count, _)) = self.next.take() {
                self.count = Some(count);
            }
            if self.count.is_some() {
                (self.loaded, self.held) = (Some(now + 1), None);
            }
        } else if level {
            if let Some(held) = self.held.take() {
                self.loaded = Some(now - held);
            }
        } else if !self.mode.is_triggered() {
            self.held = self.position(now);
        }
    }

    /// Ticks since the count was loaded.
    fn position(&self, now: i64) -> Option<i64> {
        self.held.or(self.loaded.map(|loaded| (now - loaded).max(0)))
    }

    /// The OUT pin at tick `now`.
    pub fn out(&mut self, now: i64) -> bool {
        self.settle(now);
        self.out_at(now)
    }

    fn out_at(&self, now: i64) -> bool {
        let (Some(count), Some(position)) = (self.count, self.position(now)) else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => position >= count,
            Mode::RateGenerator => !self.gate || position % count != count - 1,
            Mode::SquareWave => !self.gate || position % count < (count + 1) / 2,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => position != count,
        }
    }

    /// The first tick after `since` at which OUT rises, unless the guest steps in.
    fn next_rise(&self, since: i64) -> Option<i64> {
        let (count, loaded, None) = (self.count?, self.loaded?, self.held) else { return None };
        let first = match self.mode {
            Mode::SoftwareStrobe | Mode::HardwareStrobe => loaded + count + 1,
            _ => loaded + count,
        };
        if self.mode.is_periodic() && count == 1 {
            // Not a legal count; OUT never changes.
            return None;
        }
        if self.mode.is_periodic() && first <= since {
            return Some(first + ((since - first) / count + 1) * count);
        }
        (first > since).then_some(first)
    }

    /// When [`Channel::has_risen`] should be asked again.
    pub fn next_event(&self, since: i64) -> Option<i64> {
        let reload = self.next.map(|(_, at)| at).filter(|&at| at != i64::MAX);
        [self.next_rise(since), reload].into_iter().flatten().min()
    }

    /// Whether OUT has risen after tick `since`, up to `now`.
    pub fn has_risen(&mut self, since: i64, now: i64) -> bool {
        let rises = |channel: &Self, from, to| channel.next_rise(from).is_some_and(|at| at <= to);
        let Some((_, at)) = self.next.filter(|&(_, at)| at <= now) else { return rises(self, since, now) };
        let before = rises(self, since, at);
        self.settle(now);
        before || rises(self, since.max(at), now)
    }

    /// Counter latch command.
    pub fn latch_count(&mut self, now: i64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(now));
        }
    }

    /// Read-back command for the status.
    pub fn latch_status(&mut self, now: i64) {
        let out = self.out(now);
        let not_loaded = self.next.is_some() || self.loaded.is_none_or(|at| now < at);
        let transfer = match self.transfer {
            Transfer::Low => 1,
            Transfer::High => 2,
            Transfer::LowThenHigh => 3,
        };
        let status = u8::from(out) << 7
            | u8::from(not_loaded) << 6
            | transfer << 4
            | (self.mode as u8) << 1
            | u8::from(self.bcd);
        self.latched_status.get_or_insert(status);
    }

    /// Reads the status or count latch, or else the counter as it is.
    pub fn read(&mut self, now: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(now)).to_le_bytes();
        let (byte, is_last) = match self.transfer {
            Transfer::Low => (low, true),
            Transfer::High => (high, true),
            Transfer::LowThenHigh if self.high_is_next => (high, true),
            Transfer::LowThenHigh => (low, false),
        };
        self.high_is_next = !is_last;
        if is_last {
            self.latched_count = None;
        }
        byte
    }

    /// The counting element at tick `now`, as the guest reads it.
    fn value(&mut self, now: i64) -> u16 {
        self.settle(now);
        let (Some(count), Some(position)) = (self.count, self.position(now)) else { return 0 };
        let value = match self.mode {
            Mode::RateGenerator => count - position % count,
            Mode::SquareWave => {
                let position = position % count;
                let high = (count + 1) / 2;
                // An odd count is loaded one less, so that steps of two reach zero.
                let top = count & !1;
                top - 2 * if position < high { position } else { position - high }
            }
            _ => (count - position).rem_euclid(self.modulus()),
        };
        self.register_of(value % self.modulus())
    }

    fn modulus(&self) -> i64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    fn register_of(&self, value: i64) -> u16 {
        let digit = |place: i64| value / place % 10;
        let value = if self.bcd { digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1) } else { value };
        value as u16
    }

    /// Digits above 9 have no meaning in BCD; they count as they stand.
    fn count_of(&self, raw: u16) -> i64 {
        if !self.bcd {
            return i64::from(raw);
        }
        let value = (0..4).rev().fold(0, |value, digit| value * 10 + i64::from(raw >> (4 * digit) & 0xf));
        value.min(self.modulus())
    }
}
