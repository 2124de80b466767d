//! The same cases on the host and on another CPU.

mod amd;
mod difference;
mod report;
mod undefined;

#[cfg(test)]
mod tests;

pub use difference::Difference;
pub use report::{Group, Report};

use crate::cases::{self, Case};
use crate::{End, UserCpu, UserState};

/// What a CPU made of a case.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub end: End,
    pub after: &'a UserState,
    pub window: &'a [u8],
}

/// Cases between two comparisons of the whole windows. In between only what a case may touch is looked at.
const PERIOD: u64 = 32;

/// Runs `cases` on both CPUs; `host` is right. A case that could not be made is counted.
pub fn run(cases: impl Iterator<Item = Option<Case>>, host: &mut dyn UserCpu, other: &mut dyn UserCpu) -> Report {
    let mut comparison = Comparison::new(host, other);
    cases.for_each(|case| comparison.add(case));
    comparison.finish()
}

/// A run that goes on.
pub struct Comparison<'a> {
    host: &'a mut dyn UserCpu,
    other: &'a mut dyn UserCpu,
    background: Vec<u8>,
    after: [UserState; 2],
    report: Report,
}

impl<'a> Comparison<'a> {
    pub fn new(host: &'a mut dyn UserCpu, other: &'a mut dyn UserCpu) -> Self {
        let background = cases::background();
        host.window().copy_from_slice(&background);
        other.window().copy_from_slice(&background);
        let after = [UserState::new(0), UserState::new(0)];
        Self { host, other, background, after, report: Report::default() }
    }

    /// What came of the cases so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    pub fn finish(self) -> Report {
        self.report
    }

    /// Runs a case on both; `None` is one that could not be made.
    pub fn add(&mut self, case: Option<Case>) {
        let Some(case) = case else {
            self.report.not_made += 1;
            return;
        };
        let [host_after, other_after] = &mut self.after;
        let ends = [run_one(self.host, &case, host_after), run_one(self.other, &case, other_after)];
        self.report.translated = self.other.translated();
        let (host, other) = (self.host.window(), self.other.window());
        let all = self.report.cases.is_multiple_of(PERIOD);
        let same_windows = match case.touched() {
            Some(mut touched) if !all => touched.all(|range| host[range.clone()] == other[range]),
            _ => host == other,
        };
        let outcomes = [
            Outcome { end: ends[0], after: host_after, window: host },
            Outcome { end: ends[1], after: other_after, window: other },
        ];
        self.report.count(&case, &outcomes, same_windows);
        match case.touched() {
            Some(touched) if !all && same_windows => {
                for range in touched {
                    let was = &self.background[range.clone()];
                    host[range.clone()].copy_from_slice(was);
                    other[range].copy_from_slice(was);
                }
            }
            _ => [host, other].into_iter().for_each(|window| restore(window, &self.background)),
        }
    }
}

impl std::fmt::Debug for Comparison<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison").field("report", &self.report).finish_non_exhaustive()
    }
}

fn run_one(cpu: &mut dyn UserCpu, case: &Case, after: &mut UserState) -> End {
    case.apply(cpu.window());
    cpu.run_one(&case.before, case.code(), after)
}

/// Most cases write little: reading is cheaper than writing it all again.
fn restore(window: &mut [u8], background: &[u8]) {
    const PIECE: usize = 1024;
    for (now, was) in window.chunks_mut(PIECE).zip(background.chunks(PIECE)) {
        if now != was {
            now.copy_from_slice(was);
        }
    }
}
