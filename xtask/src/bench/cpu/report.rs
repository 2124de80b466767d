//! The report, in Markdown.

use super::super::guest::MEMORY_MIB;
use super::super::report::judged;
use super::measured::{Measured, Ratio};
use super::rows::{Group, Row};
use super::run::Who;
use std::fmt::{self, Display, Formatter};

/// What the software CPU is to reach, times native unless it says otherwise.
mod targets {
    use super::Group;

    /// Geometric means, at most.
    pub const GROUPS: [(Group, f64); 6] = [
        (Group::Integer, 1.9),
        (Group::Integer, 1.5),
        (Group::Calls, 2.3),
        (Group::Float, 1.3),
        (Group::Simd, 2.6),
        (Group::Memory, 3.0),
    ];
    /// Single rows, at most.
    pub const ROWS: [(&str, f64); 4] = [("getpid", 3.0), ("page-fault", 3.0), ("fork", 5.0), ("pipe", 6.0)];
    /// Kernel to init, times TCG's time, at most.
    pub const TO_INIT: f64 = 0.6;
    /// The slowest row against TCG, times TCG's time, at most.
    pub const WORST: f64 = 1.0;
    /// Geometric mean over all rows, times faster than TCG, at least.
    pub const FASTER: f64 = 4.0;
}

#[derive(Debug)]
pub struct Report {
    pub host: String,
    pub kernel: String,
    pub cmdline: String,
    pub compiler: String,
    /// motu's `--engine`.
    pub engine: String,
    pub measured: Measured,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rounds = self.measured.rounds.len();
        writeln!(f, "Host: {}; {}.", self.host, self.compiler)?;
        writeln!(
            f,
            "Guest: {}, {MEMORY_MIB} MiB, 1 CPU, `{}`; motu: `--engine {}`; QEMU: `-accel tcg -machine q35 -cpu max`. \
             Rounds in turn: {rounds}. motu's own memory: {:.1} MiB at most.\n",
            self.kernel,
            self.cmdline,
            self.engine,
            self.measured.own_memory()
        )?;
        self.rows(f)?;
        self.means(f)?;
        self.targets(f)
    }
}

impl Report {
    /// Who is there besides the host, soft and TCG.
    fn before(&self) -> Option<Who> {
        Some(Who::Before).filter(|who| self.measured.has(*who))
    }

    fn rows(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let measured = &self.measured;
        let before = self.before();
        write!(f, "| | time of one | native | soft | TCG | soft / native | TCG / native | soft / TCG |")?;
        writeln!(f, "{}", if before.is_some() { " soft / soft before |" } else { "" })?;
        write!(f, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        writeln!(f, "{}", if before.is_some() { " ---: |" } else { "" })?;
        for row in &measured.rows {
            write!(f, "| {}: {} | {} |", row.name, row.what, row.per)?;
            for who in [Who::Native, Who::Soft, Who::Tcg] {
                write!(f, " {} |", duration(measured.times(who, row).min()))?;
            }
            let pairs = [(Who::Soft, Who::Native), (Who::Tcg, Who::Native), (Who::Soft, Who::Tcg)];
            for (who, over) in pairs.into_iter().chain(before.map(|before| (Who::Soft, before))) {
                write!(f, " {} |", ratio(measured.ratio(who, over, row)))?;
            }
            writeln!(f)?;
        }
        if measured.boots() { self.to_init(f) } else { Ok(()) }
    }

    fn to_init(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let measured = &self.measured;
        write!(f, "| kernel to init | boot | |")?;
        for who in [Who::Soft, Who::Tcg] {
            write!(f, " {} |", duration(1e9 * measured.to_init(who).min()))?;
        }
        write!(f, " | | {} |", ratio(measured.to_init_ratio(Who::Soft, Who::Tcg)))?;
        match self.before() {
            Some(before) => writeln!(f, " {} |", ratio(measured.to_init_ratio(Who::Soft, before))),
            None => writeln!(f),
        }
    }

    fn means(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| geometric mean | soft / native | TCG / native | soft / TCG |")?;
        writeln!(f, "| --- | ---: | ---: | ---: |")?;
        let line = |f: &mut Formatter<'_>, name: &str, wanted: &dyn Fn(&Row) -> bool| {
            let mean = |who, over| self.measured.mean(who, over, wanted);
            let means = (mean(Who::Soft, Who::Native), mean(Who::Tcg, Who::Native), mean(Who::Soft, Who::Tcg));
            let (Some(soft), Some(tcg), Some(over)) = means else { return Ok(()) };
            writeln!(f, "| {name} | {} | {} | {} |", times(soft), times(tcg), times(over))
        };
        for group in Group::ALL {
            line(f, group.title(), &|row| row.group == group)?;
        }
        line(f, "all rows", &|_| true)
    }

    /// Only targets of rows that were measured.
    fn targets(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let measured = &self.measured;
        writeln!(f, "\n| figure | target | measured | |")?;
        writeln!(f, "| --- | ---: | ---: | --- |")?;
        let most = |f: &mut Formatter<'_>, name: &str, target: f64, value: f64| {
            judged(f, name, ("≤", target), (value, 2), value <= target)
        };
        for (group, target) in targets::GROUPS {
            if let Some(mean) = measured.mean(Who::Soft, Who::Native, |row| row.group == group) {
                most(f, &format!("{}, geometric mean, times native", group.title()), target, mean)?;
            }
        }
        for (name, target) in targets::ROWS {
            if let Some(row) = measured.rows.iter().find(|row| row.name == name) {
                let times = measured.ratio(Who::Soft, Who::Native, row).least;
                most(f, &format!("{name}, times native"), target, times)?;
            }
        }
        if measured.boots() {
            let to_init = measured.to_init_ratio(Who::Soft, Who::Tcg).least;
            most(f, "kernel to init, times TCG's time", targets::TO_INIT, to_init)?;
        }
        if let Some((row, times)) = measured.worst(Who::Soft, Who::Tcg) {
            most(f, &format!("slowest row ({}), times TCG's time", row.name), targets::WORST, times)?;
        }
        if let Some(faster) = measured.mean(Who::Tcg, Who::Soft, |_| true) {
            let name = "all rows, geometric mean, times faster than TCG";
            judged(f, name, ("≥", targets::FASTER), (faster, 2), faster >= targets::FASTER)?;
        }
        Ok(())
    }
}

fn ratio(ratio: Ratio) -> String {
    format!("{} ({})", times(ratio.least), times(ratio.median))
}

/// With three digits that count, more or less.
pub fn times(value: f64) -> String {
    let digits = match value {
        99.95.. => 0,
        9.995.. => 1,
        0.0995.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn duration(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        999_500_000.0.. => (nanoseconds / 1e9, "s"),
        999_500.0.. => (nanoseconds / 1e6, "ms"),
        999.5.. => (nanoseconds / 1e3, "µs"),
        _ => (nanoseconds, "ns"),
    };
    if value < 0.9995 { format!("{value:.3} {unit}") } else { format!("{} {unit}", times(value)) }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::measured;
    use super::*;

    fn report(factor: f64) -> String {
        let text = |text: &str| text.to_owned();
        let (host, kernel, cmdline) = (text("host"), text("kernel"), text("quiet"));
        let measured = measured(factor);
        Report { host, kernel, cmdline, compiler: text("gcc 1"), engine: text("soft"), measured }.to_string()
    }

    #[test]
    fn targets_are_judged_by_what_was_measured() {
        let fast = report(1.4);
        assert!(fast.contains("| integer, geometric mean, times native | ≤ 1.9 | 1.40 | kept |"), "{fast}");
        assert!(fast.contains("| scalar floating point, geometric mean, times native | ≤ 1.3 | 1.40 | **missed** |"));
        assert!(fast.contains("| kernel to init, times TCG's time | ≤ 0.6 | 0.50 | kept |"), "{fast}");
        assert!(fast.contains("| all rows, geometric mean, times faster than TCG | ≥ 4 | 7.14 | kept |"), "{fast}");
        let slow = report(20.0);
        assert!(slow.contains("), times TCG's time | ≤ 1 | 2.00 | **missed** |"), "{slow}");
        assert!(slow.contains("| all rows, geometric mean, times faster than TCG | ≥ 4 | 0.50 | **missed** |"));
    }

    #[test]
    fn each_row_has_its_line() {
        let text = report(4.0);
        let row = "| fib: recursion | call | 2.00 ns | 8.00 ns | 20.0 ns | 4.00 (4.00) | 10.0 (10.0) | 0.40 (0.40) |\n";
        assert!(text.contains(row), "{text}");
        let boot = "| kernel to init | boot | | 1.00 s | 2.00 s | | | 0.50 (0.50) |\n";
        assert!(text.contains(boot), "{text}");
        assert!(text.contains("| all rows | 4.00 | 10.0 | 0.40 |\n"), "{text}");
    }

    #[test]
    fn numbers_have_as_many_digits_as_count() {
        let values = [0.0123, 0.123, 9.876, 9.9999, 12.34, 123.4];
        assert_eq!(values.map(times), ["0.012", "0.12", "9.88", "10.0", "12.3", "123"]);
        let times = [0.1412, 12.34, 999.9, 1234.5, 1_234_567.8, 3.5e9];
        assert_eq!(times.map(duration), ["0.141 ns", "12.3 ns", "1.00 µs", "1.23 µs", "1.23 ms", "3.50 s"]);
    }
}
