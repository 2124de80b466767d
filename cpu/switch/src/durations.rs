//! How long something took, many times: counted by size, so that it costs the same however often it is.

use motu_x86::Nanos;

/// Sizes of one power of two that are told apart, as a power of two.
const STEPS_SHIFT: u32 = 2;
/// Durations up to 2^40 ns, which is 18 minutes; what is longer counts as that.
const SIZES: usize = 40 << STEPS_SHIFT;

/// A count for each size of durations: each is at most a quarter longer than the one before.
#[derive(Clone, Debug)]
pub struct Durations([u64; SIZES]);

impl Default for Durations {
    fn default() -> Self {
        Self([0; SIZES])
    }
}

/// The size that a duration counts as.
fn size(nanos: u64) -> usize {
    let exponent = nanos.max(1 << STEPS_SHIFT).ilog2();
    let step = (nanos >> (exponent - STEPS_SHIFT)) as usize & ((1 << STEPS_SHIFT) - 1);
    (((exponent as usize) << STEPS_SHIFT) | step).min(SIZES - 1)
}

/// The longest duration of a size.
fn longest(size: usize) -> u64 {
    let (exponent, step) = ((size >> STEPS_SHIFT) as u32, size as u64 & ((1 << STEPS_SHIFT) - 1));
    ((1 << STEPS_SHIFT | step) + 1).checked_shl(exponent.saturating_sub(STEPS_SHIFT)).unwrap_or(u64::MAX) - 1
}

impl Durations {
    pub fn note(&mut self, took: Nanos) {
        self.0[size(took.0)] += 1;
    }

    /// What 99 of 100 took at most, or up to a quarter less.
    pub fn most(&self) -> Nanos {
        let all: u64 = self.0.iter().sum();
        let mut left = all - all / 100;
        let last = self.0.iter().position(|&count| {
            left = left.saturating_sub(count);
            left == 0
        });
        Nanos(last.filter(|_| all != 0).map_or(0, longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_duration_is_told_to_a_quarter(nanos in 4u64..1 << 40) {
            let told = longest(size(nanos));
            prop_assert!(nanos <= told && told - nanos <= nanos / 4);
        }
    }

    #[test]
    fn one_of_a_hundred_does_not_count() {
        let mut durations = Durations::default();
        assert_eq!(durations.most(), Nanos(0));
        (0..99).for_each(|_| durations.note(Nanos(1000)));
        durations.note(Nanos(u64::MAX));
        assert!((1000..1250).contains(&durations.most().0));
        durations.note(Nanos(u64::MAX));
        assert!(durations.most().0 > 1 << 39);
        let mut short = Durations::default();
        short.note(Nanos(0));
        assert!(short.most().0 < 8);
    }
}
