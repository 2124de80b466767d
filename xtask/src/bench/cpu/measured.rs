//! The figures of all rounds, and what follows from them.

use super::super::samples::Samples;
use super::rows::Row;
use super::run::{Figure, Outcome, Who};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One run of each.
pub type Round = BTreeMap<Who, Outcome>;

/// All rounds.
#[derive(Debug)]
pub struct Measured {
    pub rows: Vec<&'static Row>,
    pub rounds: Vec<Round>,
}

/// How many times as long one takes as another.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The least time of all rounds over the other's least.
    pub least: f64,
    /// The middle one of the rounds' ratios.
    pub median: f64,
}

impl Measured {
    /// # Errors
    /// A row is missing, or not all of them came to the same.
    pub fn new(rows: Vec<&'static Row>, rounds: Vec<Round>) -> Result<Measured> {
        for row in &rows {
            let mut first: Option<(Who, u64)> = None;
            for (who, outcome) in rounds.iter().flatten() {
                let name = who.name();
                let Figure { check, best, .. } =
                    *outcome.rows.get(row.name).with_context(|| format!("{name} did not run the row {}", row.name))?;
                ensure!(best.is_finite() && best > 0.0, "{name} took {best} ns in the row {}", row.name);
                let &mut (other, same) = first.get_or_insert((*who, check));
                ensure!(
                    check == same,
                    "{} came to {check:016x} ({name}) and {same:016x} ({}): one of them computes wrongly",
                    row.name,
                    other.name()
                );
            }
        }
        Ok(Measured { rows, rounds })
    }

    /// Whether an earlier motu ran too.
    pub fn has(&self, who: Who) -> bool {
        self.rounds.iter().all(|round| round.contains_key(&who))
    }

    /// Whether boots were measured too.
    pub fn boots(&self) -> bool {
        !self.to_init(Who::Soft).is_empty()
    }

    /// Nanoseconds an iteration, one figure a round.
    pub fn times(&self, who: Who, row: &Row) -> Samples {
        Samples::new(self.rounds.iter().filter_map(|round| Some(round.get(&who)?.rows.get(row.name)?.best)))
    }

    pub fn ratio(&self, who: Who, over: Who, row: &Row) -> Ratio {
        let best = |outcome: &Outcome| outcome.rows.get(row.name).map(|figure| figure.best);
        self.ratio_of(who, over, best)
    }

    /// From the program's start to the guest's init, in seconds.
    pub fn to_init(&self, who: Who) -> Samples {
        let seconds = |round: &Round| Some(round.get(&who)?.to_init?.as_secs_f64());
        Samples::new(self.rounds.iter().filter_map(seconds))
    }

    pub fn to_init_ratio(&self, who: Who, over: Who) -> Ratio {
        self.ratio_of(who, over, |outcome| outcome.to_init.map(|time| time.as_secs_f64()))
    }

    fn ratio_of(&self, who: Who, over: Who, figure: impl Fn(&Outcome) -> Option<f64>) -> Ratio {
        let pairs: Vec<_> = self
            .rounds
            .iter()
            .filter_map(|round| Some((figure(round.get(&who)?)?, figure(round.get(&over)?)?)))
            .collect();
        let least = |side: fn(&(f64, f64)) -> f64| Samples::new(pairs.iter().map(side)).min();
        Ratio {
            least: least(|pair| pair.0) / least(|pair| pair.1),
            median: Samples::new(pairs.iter().map(|(one, other)| one / other)).median(),
        }
    }

    /// The geometric mean of the least times' ratios over the rows that are `wanted`; `None` if there are none.
    pub fn mean(&self, who: Who, over: Who, wanted: impl Fn(&Row) -> bool) -> Option<f64> {
        let ratios = self.rows.iter().filter(|row| wanted(row)).map(|row| self.ratio(who, over, row).least);
        geometric_mean(ratios)
    }

    /// The row in which one takes longest against the other, and its ratio.
    pub fn worst(&self, who: Who, over: Who) -> Option<(&'static Row, f64)> {
        let ratios = self.rows.iter().map(|row| (*row, self.ratio(who, over, row).least));
        ratios.max_by(|(_, one), (_, other)| one.total_cmp(other))
    }

    /// The most memory of its own that motu had, in MiB.
    pub fn own_memory(&self) -> f64 {
        Samples::new(self.rounds.iter().filter_map(|round| round.get(&Who::Soft)?.own_memory)).max()
    }

    /// Every figure, as comma-separated values with a line for their names.
    pub fn raw(&self) -> String {
        let mut text = "round,who,row,best_ns,mean_ns,units,check\n".to_owned();
        for (number, round) in (1..).zip(&self.rounds) {
            for (who, outcome) in round {
                let who = who.name();
                for row in &self.rows {
                    let Some(Figure { best, mean, units, check }) = outcome.rows.get(row.name) else { continue };
                    // Writing to a string does not fail.
                    let _ = writeln!(text, "{number},{who},{},{best},{mean},{units},{check:016x}", row.name);
                }
                if let Some(time) = outcome.to_init {
                    let time = time.as_nanos();
                    let _ = writeln!(text, "{number},{who},kernel-to-init,{time},{time},1,");
                }
            }
        }
        text
    }
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values {
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
pub mod tests {
    use super::super::rows::{Group, ROWS};
    use super::*;
    use std::time::Duration;

    /// Two rounds in which `soft` takes `factor` times as long as native, and TCG ten times; the second is slower by a
    /// half for all.
    pub fn measured(factor: f64) -> Measured {
        let outcome = |scale: f64, to_init: Option<f64>| Outcome {
            rows: ROWS
                .iter()
                .map(|row| (row.name.to_owned(), Figure { best: 2.0 * scale, mean: 3.0 * scale, units: 5, check: 7 }))
                .collect(),
            to_init: to_init.map(Duration::from_secs_f64),
            own_memory: to_init,
        };
        let round = |slow: f64| {
            Round::from([
                (Who::Native, outcome(slow, None)),
                (Who::Soft, outcome(slow * factor, Some(slow))),
                (Who::Tcg, outcome(slow * 10.0, Some(2.0 * slow))),
            ])
        };
        Measured::new(ROWS.iter().collect(), vec![round(1.5), round(1.0)]).unwrap()
    }

    fn change(measured: Measured, change: impl Fn(&mut Outcome)) -> Result<Measured> {
        let Measured { rows, mut rounds } = measured;
        change(rounds[1].get_mut(&Who::Soft).unwrap());
        Measured::new(rows, rounds)
    }

    #[test]
    fn ratios_are_of_the_least_and_their_medians_of_rounds() {
        let mut measured = measured(4.0);
        let [first, ..] = ROWS;
        measured.rounds[0].get_mut(&Who::Soft).unwrap().rows.get_mut(first.name).unwrap().best = 30.0;
        let ratio = measured.ratio(Who::Soft, Who::Native, &first);
        // 8 / 2 is the ratio of the least; those of the rounds are 10 and 4.
        assert_eq!((ratio.least, ratio.median), (4.0, 7.0));
        assert_eq!(measured.times(Who::Soft, &first).max(), 30.0);
        assert_eq!(measured.to_init_ratio(Who::Soft, Who::Tcg).least, 0.5);
        assert_eq!(measured.own_memory(), 1.5);
    }

    #[test]
    fn means_are_geometric_and_of_their_rows_only() {
        let measured = change(measured(4.0), |outcome| outcome.rows.get_mut("fib").unwrap().best = 2.0).unwrap();
        let mean = |group| measured.mean(Who::Soft, Who::Native, |row| row.group == group).unwrap();
        assert!((mean(Group::Integer) - 4.0).abs() < 1e-9);
        assert!((mean(Group::Calls) - 16f64.cbrt()).abs() < 1e-9);
        assert_eq!(measured.mean(Who::Soft, Who::Native, |_| false), None);
        let (worst, ratio) = measured.worst(Who::Tcg, Who::Soft).unwrap();
        assert_eq!((worst.name, ratio), ("fib", 10.0));
    }

    #[test]
    fn what_computes_wrongly_or_not_at_all_gives_no_figures() {
        let wrong = change(measured(2.0), |outcome| outcome.rows.get_mut("fib").unwrap().check = 8).unwrap_err();
        assert!(wrong.to_string().starts_with("fib came to 0000000000000008 (soft) and 0000000000000007 (native)"));
        let missing = change(measured(2.0), |outcome| outcome.rows.retain(|name, _| name != "fib")).unwrap_err();
        assert_eq!(missing.to_string(), "soft did not run the row fib");
        let never = change(measured(2.0), |outcome| outcome.rows.get_mut("fib").unwrap().best = 0.0).unwrap_err();
        assert_eq!(never.to_string(), "soft took 0 ns in the row fib");
    }

    #[test]
    fn raw_figures_have_a_line_each() {
        let raw = measured(4.0).raw();
        assert!(raw.starts_with("round,who,row,best_ns,mean_ns,units,check\n"), "{raw}");
        assert!(raw.contains("\n2,soft,fib,8,12,5,0000000000000007\n"), "{raw}");
        assert!(raw.contains("\n2,TCG,kernel-to-init,2000000000,2000000000,1,\n"), "{raw}");
        assert_eq!(raw.lines().count(), 1 + 2 * (3 * ROWS.len() + 2));
    }
}
