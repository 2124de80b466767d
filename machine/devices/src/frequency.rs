//! Counters that run at a fixed rate: whole ticks to time and back, exactly.

use motu_bus::Nanos;

/// A rate in hertz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frequency(pub u64);

impl Frequency {
    /// Whole ticks from time zero to `now`.
    pub fn ticks(self, now: Nanos) -> u64 {
        saturate(u128::from(now.0) * u128::from(self.0) / u128::from(Nanos::PER_SECOND))
    }

    /// The first instant at which [`Frequency::ticks`] is `tick`.
    pub fn time_of(self, tick: u64) -> Nanos {
        Nanos(saturate((u128::from(tick) * u128::from(Nanos::PER_SECOND)).div_ceil(u128::from(self.0))))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tick_begins_exactly_at_its_time(hz in 1u64..1_000_000_000, tick in 1u64..1 << 40) {
            let frequency = Frequency(hz);
            let at = frequency.time_of(tick);
            prop_assume!(at.0 != u64::MAX);
            prop_assert_eq!(frequency.ticks(at), tick);
            prop_assert_eq!(frequency.ticks(Nanos(at.0 - 1)), tick - 1);
        }
    }
}
