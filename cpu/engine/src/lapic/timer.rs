//! The APIC timer (SDM vol. 3, 11.5.4): one-shot and periodic counting of the crystal clock, and
//! the TSC deadline.
//!
//! Nothing here counts: the count is worked out from the time at which it will be zero.

use super::Moment;
use motu_x86::Nanos;
use motu_x86::contract::{APIC_TIMER_HZ, TSC_HZ};

/// Time of one crystal clock; both frequencies divide a second evenly.
const CLOCK_NANOS: u64 = Nanos::PER_SECOND / APIC_TIMER_HZ;
const _: () = assert!(CLOCK_NANOS * APIC_TIMER_HZ == Nanos::PER_SECOND);
// A TSC tick is a nanosecond: a deadline is as far away in time as it is in ticks.
const _: () = assert!(TSC_HZ == Nanos::PER_SECOND);

/// Bits 17 and 18 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl Mode {
    pub(super) fn of_lvt(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timer {
    initial: u32,
    /// The divide configuration register: bits 0, 1 and 3.
    divide: u32,
    /// When the count reaches zero; `None` while it stands still at zero.
    expires: Option<Nanos>,
    /// Guest TSC value, zero when disarmed.
    deadline: u64,
}

impl Timer {
    pub(super) const DIVIDE_BITS: u32 = 0b1011;

    /// A timer at rest.
    pub(super) fn stopped(divide: u32) -> Self {
        Self { divide: divide & Self::DIVIDE_BITS, ..Self::default() }
    }

    /// Goes on counting to zero from `current`; what started it was a write of `initial`.
    pub(super) fn resume(&mut self, mode: Mode, initial: u32, current: u32, now: Nanos) {
        self.start(mode, initial, now);
        if self.expires.is_some() {
            // A periodic count of zero is about to be reloaded; a one-shot one has had its end.
            let runs = current != 0 || mode == Mode::Periodic;
            self.expires = runs.then(|| self.after(now, current));
        }
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Nanoseconds of one count.
    fn tick(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        CLOCK_NANOS << ((code + 1) & 7)
    }

    fn after(&self, now: Nanos, counts: u32) -> Nanos {
        now.saturating_add(Nanos(u64::from(counts) * self.tick()))
    }

    /// The current-count register. Call after [`Timer::expire`].
    pub(super) fn current(&self, now: Nanos) -> u32 {
        let left = self.expires.map_or(0, |expires| expires.saturating_sub(now).0);
        u32::try_from(left.div_ceil(self.tick())).unwrap_or(u32::MAX)
    }

    /// A write of the initial count starts the timer, or stops it with zero; TSC-deadline mode
    /// ignores it (SDM vol. 3, 11.5.4.1).
    pub(super) fn start(&mut self, mode: Mode, initial: u32, now: Nanos) {
        if mode == Mode::TscDeadline {
            return;
        }
        self.initial = initial;
        self.expires = (initial != 0 && mode.counts()).then(|| self.after(now, initial));
    }

    /// A running count goes on from where it is, at the new rate.
    pub(super) fn set_divide(&mut self, divide: u32, now: Nanos) {
        let current = self.current(now);
        self.divide = divide & Self::DIVIDE_BITS;
        if self.expires.is_some() {
            self.expires = Some(self.after(now, current));
        }
    }

    /// A write of IA32_TSC_DEADLINE: ignored outside its mode, zero disarms.
    pub(super) fn set_deadline(&mut self, mode: Mode, deadline: u64) {
        if mode == Mode::TscDeadline {
            self.deadline = deadline;
        }
    }

    /// Going to or from TSC-deadline mode disarms; between one-shot and periodic the count goes on.
    pub(super) fn change_mode(&mut self, from: Mode, to: Mode) {
        if from != to && !(from.counts() && to.counts()) {
            *self = Self::stopped(self.divide);
        }
    }

    /// When [`Timer::expire`] will next have something to do.
    pub(super) fn next(&self, mode: Mode, at: Moment) -> Option<Nanos> {
        match mode {
            Mode::OneShot | Mode::Periodic => self.expires,
            Mode::TscDeadline if self.deadline != 0 => {
                Some(at.now.saturating_add(Nanos(self.deadline.saturating_sub(at.tsc))))
            }
            Mode::TscDeadline | Mode::Reserved => None,
        }
    }

    /// Brings the timer up to `at`: true if it ran out. Periods that were missed count as one.
    pub(super) fn expire(&mut self, mode: Mode, at: Moment) -> bool {
        let Some(expires) = self.next(mode, at).filter(|expires| *expires <= at.now) else { return false };
        self.expires = match mode {
            Mode::Periodic => {
                let period = u64::from(self.initial) * self.tick();
                let late = at.now.saturating_sub(expires).0;
                late.checked_rem(period).map(|into| at.now.saturating_add(Nanos(period - into)))
            }
            _ => None,
        };
        self.deadline = 0;
        true
    }
}
