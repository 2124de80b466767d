//! The registers of an MC146818 (Motorola MC146818 data sheet; Intel ICH data sheets, "RTC").

use super::calendar::DateTime;
use crate::frequency::Frequency;
use motu_bus::Nanos;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
/// Where the BIOS keeps the century; the FADT says so.
const CENTURY: u8 = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// The oscillator runs at 32.768 kHz; periodic rate 1024 Hz.
const A_POWER_UP: u8 = 0x26;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const C_REQUEST: u8 = 1 << 7;
/// The flags of register C, and at the same places the enable bits of register B.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
const D_VALID: u8 = 1 << 7;

const PM: u8 = 1 << 7;
/// An alarm byte with both upper bits set matches everything.
const ALARM_ANY: u8 = 0xc0;
/// The update-in-progress bit is set this long before the time changes.
const UPDATE_WARNING: u64 = 244_000;

#[derive(Clone, Debug)]
pub(super) struct RtcRegs {
    index: u8,
    /// Time registers are current here only while [`B_SET`] is set.
    cmos: [u8; 128],
    /// Unix seconds at machine time zero.
    offset: i64,
    flags: u8,
    /// Up to when events have been noted in `flags`.
    seen: Nanos,
}

impl RtcRegs {
    pub fn new(offset: i64, now: Nanos) -> Self {
        let mut cmos = [0; 128];
        cmos[usize::from(REG_A)] = A_POWER_UP;
        cmos[usize::from(REG_B)] = B_24_HOURS;
        Self { index: 0, cmos, offset, flags: 0, seen: now }
    }

    /// The RESET pin: interrupts off; time and memory live on the battery.
    pub fn reset(&mut self) {
        self.index = 0;
        self.flags = 0;
        *self.byte(REG_B) &= !(PERIODIC | ALARM | UPDATE);
    }

    pub fn set_index(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    pub fn byte(&mut self, index: u8) -> &mut u8 {
        &mut self.cmos[usize::from(index & 0x7f)]
    }

    fn get(&self, index: u8) -> u8 {
        self.cmos[usize::from(index & 0x7f)]
    }

    fn is_set_mode(&self) -> bool {
        self.get(REG_B) & B_SET != 0
    }

    fn unix(&self, now: Nanos) -> i64 {
        self.offset.saturating_add((now.0 / Nanos::PER_SECOND) as i64)
    }

    /// Reads the register that is selected.
    pub fn read(&mut self, now: Nanos) -> u8 {
        self.note_events(now);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY if !self.is_set_mode() => {
                self.show_time(now);
                self.get(self.index)
            }
            REG_A => {
                let left = Nanos::PER_SECOND - now.0 % Nanos::PER_SECOND;
                let updating = !self.is_set_mode() && left <= UPDATE_WARNING;
                self.get(REG_A) | if updating { A_UPDATE_IN_PROGRESS } else { 0 }
            }
            REG_C => {
                let flags = std::mem::take(&mut self.flags);
                flags | if flags & self.get(REG_B) != 0 { C_REQUEST } else { 0 }
            }
            REG_D => D_VALID,
            index => self.get(index),
        }
    }

    /// Writes the register that is selected.
    pub fn write(&mut self, value: u8, now: Nanos) {
        self.note_events(now);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                if self.is_set_mode() {
                    *self.byte(self.index) = value;
                } else {
                    self.show_time(now);
                    *self.byte(self.index) = value;
                    self.take_time(now);
                }
            }
            REG_A => *self.byte(REG_A) = value & !A_UPDATE_IN_PROGRESS,
            REG_B => {
                let was_set = self.is_set_mode();
                if !was_set {
                    self.show_time(now);
                }
                // Entering SET mode ends update interrupts (data sheet, register B).
                let value = if value & B_SET != 0 { value & !UPDATE } else { value };
                *self.byte(REG_B) = value;
                if was_set && !self.is_set_mode() {
                    self.take_time(now);
                }
            }
            REG_C | REG_D => {}
            index => *self.byte(index) = value,
        }
    }

    /// Puts the current time into the time registers.
    fn show_time(&mut self, now: Nanos) {
        let time = DateTime::from_unix(self.unix(now));
        let hour = self.encode_hour(time.hour);
        let encoded = [
            (SECONDS, self.encode(time.second)),
            (MINUTES, self.encode(time.minute)),
            (HOURS, hour),
            (WEEKDAY, self.encode(time.weekday)),
            (DAY, self.encode(time.day)),
            (MONTH, self.encode(time.month)),
            (YEAR, self.encode(time.year.rem_euclid(100))),
            (CENTURY, to_bcd(time.year.div_euclid(100).rem_euclid(100))),
        ];
        for (index, value) in encoded {
            *self.byte(index) = value;
        }
    }

    /// Makes the time registers the current time.
    fn take_time(&mut self, now: Nanos) {
        let field = |index| self.decode(self.get(index));
        let time = DateTime {
            year: from_bcd(self.get(CENTURY)) * 100 + field(YEAR),
            month: field(MONTH).clamp(1, 12),
            day: field(DAY),
            hour: self.decode_hour(self.get(HOURS)),
            minute: field(MINUTES),
            second: field(SECONDS),
            weekday: 1,
        };
        self.offset = 0;
        self.offset = time.to_unix() - self.unix(now);
    }

    fn encode(&self, value: i64) -> u8 {
        if self.get(REG_B) & B_BINARY != 0 { value as u8 } else { to_bcd(value) }
    }

    fn decode(&self, value: u8) -> i64 {
        if self.get(REG_B) & B_BINARY != 0 { i64::from(value) } else { from_bcd(value) }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.get(REG_B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let half_day = self.encode((hour + 11) % 12 + 1);
        half_day | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.get(REG_B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let afternoon = if value & PM != 0 { 12 } else { 0 };
        self.decode(value & !PM) % 12 + afternoon
    }

    /// When the alarm goes off next, after `unix`.
    fn next_alarm(&self, unix: i64) -> Option<i64> {
        let wanted = |index: u8| {
            let value = self.get(index);
            let hour = index == HOURS_ALARM;
            let decoded = if hour { self.decode_hour(value) } else { self.decode(value) };
            (value & ALARM_ANY != ALARM_ANY).then_some(decoded)
        };
        let (hour, minute, second) = (wanted(HOURS_ALARM), wanted(MINUTES_ALARM), wanted(SECONDS_ALARM));
        let mut at = unix.saturating_add(1);
        // Seconds and minutes to a full hour, then hours, minutes and seconds come right.
        for _ in 0..60 + 60 + 24 + 60 + 60 {
            let time = DateTime::from_unix(at);
            let skip = if hour.is_some_and(|h| h != time.hour) {
                3_600 - time.minute * 60 - time.second
            } else if minute.is_some_and(|m| m != time.minute) {
                60 - time.second
            } else if second.is_some_and(|s| s != time.second) {
                1
            } else {
                return Some(at);
            };
            at = at.saturating_add(skip);
        }
        None
    }

    /// The rate of the periodic interrupt, if there is one (data sheet, table 5).
    fn periodic(&self) -> Option<Frequency> {
        match self.get(REG_A) & 0x0f {
            0 => None,
            rate @ (1 | 2) => Some(Frequency(256 >> (rate - 1))),
            rate => Some(Frequency(32_768 >> (rate - 1))),
        }
    }

    /// Sets the flags of what happened up to `now`.
    pub fn note_events(&mut self, now: Nanos) {
        if now.0 <= self.seen.0 {
            return;
        }
        let (before, after) = (self.unix(self.seen), self.unix(now));
        if self.periodic().is_some_and(|rate| rate.ticks(now) != rate.ticks(self.seen)) {
            self.flags |= PERIODIC;
        }
        if !self.is_set_mode() && after != before {
            self.flags |= UPDATE;
            if self.next_alarm(before).is_some_and(|at| at <= after) {
                self.flags |= ALARM;
            }
        }
        self.seen = now;
    }

    /// The interrupt pin; it stays until register C is read.
    pub fn interrupt(&self) -> bool {
        self.flags & self.get(REG_B) & (PERIODIC | ALARM | UPDATE) != 0
    }

    /// When the interrupt pin rises next, if the guest does nothing.
    pub fn next_interrupt(&self) -> Option<Nanos> {
        if self.interrupt() {
            return None;
        }
        let enabled = |bit: u8| self.get(REG_B) & bit != 0;
        let second = self.seen.0 / Nanos::PER_SECOND;
        let start_of = |second: u64| Nanos(second.saturating_mul(Nanos::PER_SECOND));
        let periodic = self.periodic().filter(|_| enabled(PERIODIC));
        let periodic = periodic.map(|rate| rate.time_of(rate.ticks(self.seen).saturating_add(1)));
        let counting = !self.is_set_mode();
        let update = (counting && enabled(UPDATE)).then(|| start_of(second.saturating_add(1)));
        let alarm = || {
            let unix = self.unix(self.seen);
            let wait = u64::try_from(self.next_alarm(unix)? - unix).ok()?;
            Some(start_of(second.saturating_add(wait)))
        };
        let alarm = if counting && enabled(ALARM) { alarm() } else { None };
        [periodic, update, alarm].into_iter().flatten().min_by_key(|at| at.0)
    }
}

fn to_bcd(value: i64) -> u8 {
    (value / 10 % 10 * 16 + value % 10) as u8
}

fn from_bcd(value: u8) -> i64 {
    i64::from(value >> 4) * 10 + i64::from(value & 0x0f)
}
