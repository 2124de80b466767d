//! A processor that waits for another one by PAUSE in a loop.
//!
//! Where the host has a CPU for each, waiting costs nobody anything. Where it has not, or others use it, the one that is waited
//! for may not run for as long as the waiting one does: it gives its host CPU away.

use super::Processors;
use std::time::{Duration, Instant};

/// PAUSEs from one look at the clock to the next.
const ROUND: u32 = 64;
/// The longest time of a round of nothing but waiting: what takes longer did something else as well.
const WAITING: Duration = Duration::from_micros(100);
/// Rounds before the host CPU is given away though there are enough: others than these processors may use it.
const PATIENT_ROUNDS: u32 = 16;
/// Times that the host CPU was given away in vain, before the thread sleeps.
const YIELDS: u32 = 64;
const SLEEP: Duration = Duration::from_micros(50);

/// What a processor knows of its waiting.
#[derive(Debug, Default)]
pub struct Spin {
    pauses: u32,
    last: Option<Instant>,
    rounds: u32,
    yields: u32,
}

/// What comes of a PAUSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    Yield,
    Sleep,
}

impl Spin {
    /// PAUSE.
    pub fn pause(&mut self, processors: &Processors) {
        std::hint::spin_loop();
        self.pauses += 1;
        if self.pauses < ROUND {
            return;
        }
        self.pauses = 0;
        match self.round(Instant::now(), processors.are_too_many()) {
            Rest::None => return,
            Rest::Yield => std::thread::yield_now(),
            Rest::Sleep => std::thread::sleep(SLEEP),
        }
        // It may have taken as long as others ran.
        self.last = Some(Instant::now());
    }

    /// A round of PAUSEs is over.
    fn round(&mut self, now: Instant, too_many: bool) -> Rest {
        let waits = self.last.is_some_and(|last| now.saturating_duration_since(last) < WAITING);
        self.last = Some(now);
        if !waits {
            (self.rounds, self.yields) = (0, 0);
            return Rest::None;
        }
        self.rounds += 1;
        if !too_many && self.rounds < PATIENT_ROUNDS {
            return Rest::None;
        }
        self.rounds = 0;
        self.yields += 1;
        if self.yields < YIELDS || !too_many {
            return Rest::Yield;
        }
        self.yields = 0;
        Rest::Sleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of so many rounds of nothing but waiting.
    fn rests(spin: &mut Spin, rounds: u32, too_many: bool) -> Vec<Rest> {
        let mut now = Instant::now();
        let round = |_| {
            now += Duration::from_micros(10);
            spin.round(now, too_many)
        };
        (0..rounds).map(round).collect()
    }

    #[test]
    fn who_waits_gives_way_sooner_where_there_are_too_many() {
        let count = |rests: &[Rest], rest| rests.iter().filter(|&&found| found == rest).count() as u32;
        let patient = rests(&mut Spin::default(), 1 + 8 * PATIENT_ROUNDS, false);
        assert_eq!((count(&patient, Rest::Yield), count(&patient, Rest::Sleep)), (8, 0));
        let hurried = rests(&mut Spin::default(), 1 + 2 * YIELDS, true);
        assert_eq!((count(&hurried, Rest::None), count(&hurried, Rest::Sleep)), (1, 2));
    }

    #[test]
    fn who_does_something_else_between_does_not_wait() {
        let mut spin = Spin::default();
        let start = Instant::now();
        for n in 0..100 {
            assert_eq!(spin.round(start + 3 * n * WAITING, true), Rest::None);
        }
    }
}
