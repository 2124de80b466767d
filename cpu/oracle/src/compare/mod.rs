//! The same cases on the host and on another CPU.

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

/// Runs `cases` on both CPUs; `host` is right. A case that could not be made is counted.
pub fn run(cases: impl Iterator<Item = Option<Case>>, host: &mut dyn UserCpu, other: &mut dyn UserCpu) -> Report {
    let background = cases::background();
    host.window().copy_from_slice(&background);
    other.window().copy_from_slice(&background);
    let mut report = Report::default();
    let mut after = [UserState::new(0), UserState::new(0)];
    for case in cases {
        let Some(case) = case else {
            report.not_made += 1;
            continue;
        };
        let [host_after, other_after] = &mut after;
        let ends = [run_one(host, &case, host_after), run_one(other, &case, other_after)];
        let outcomes = [
            Outcome { end: ends[0], after: host_after, window: host.window() },
            Outcome { end: ends[1], after: other_after, window: other.window() },
        ];
        report.count(&case, &outcomes);
        restore(host.window(), &background);
        restore(other.window(), &background);
    }
    report
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
