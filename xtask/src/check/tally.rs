//! Counts what test programs say of themselves (libtest's lines), and keeps the rest readable.

use std::fmt;

/// Sums over all test programs that ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    in_list: bool,
}

/// `N passed, N failed`.
#[derive(Clone, Copy, Debug)]
pub struct Sum(Tally);

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.0.passed, self.0.failed)
    }
}

impl Tally {
    /// Takes one line of output; whether it is worth showing.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.in_list = false;
            return self.result(counts);
        }
        // With --show-output the names of all tests that passed come once more, indented.
        match line {
            "successes:" => self.in_list = true,
            _ if line.starts_with("    ") && self.in_list => {}
            "" => {}
            _ => self.in_list = false,
        }
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        !(self.in_list || passed || line.is_empty())
    }

    /// `ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`. A program
    /// without tests is not worth a line.
    fn result(&mut self, counts: &str) -> bool {
        let count = |what: &str| {
            let number = counts.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what));
            number.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let (passed, failed, ignored) = (count(" passed"), count(" failed"), count(" ignored"));
        self.programs += 1;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        passed + failed + ignored != 0
    }

    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The sum; `None` if no test program ran.
    pub fn sum(&self) -> Option<Sum> {
        (self.programs != 0).then_some(Sum(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 2 tests
test arch::tests::a ... ok
test b ... FAILED

successes:

---- arch::tests::a stdout ----
seed 7

successes:
    arch::tests::a

failures:

---- b stdout ----
boom

failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
running 0 tests
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: ok. 11 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.00s";

    #[test]
    fn results_are_summed_over_all_programs() {
        let mut tally = Tally::default();
        assert!(tally.sum().is_none());
        for line in OUTPUT.lines() {
            tally.line(line);
        }
        assert_eq!((tally.programs, tally.failed(), tally.ignored()), (3, 1, 2));
        assert_eq!(tally.sum().unwrap().to_string(), "12 passed, 1 failed");
    }

    #[test]
    fn what_failed_and_what_was_printed_is_shown_and_what_passed_is_not() {
        let mut tally = Tally::default();
        let shown: Vec<_> = OUTPUT.lines().filter(|line| tally.line(line)).collect();
        for line in ["test b ... FAILED", "---- arch::tests::a stdout ----", "seed 7", "boom", "    b"] {
            assert!(shown.contains(&line), "{line:?} in {shown:#?}");
        }
        assert!(!shown.iter().any(|line| line.ends_with(" ok") || *line == "    arch::tests::a"), "{shown:#?}");
        assert_eq!(shown.iter().filter(|line| line.starts_with("test result")).count(), 2);
    }
}
