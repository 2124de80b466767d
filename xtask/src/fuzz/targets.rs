//! `cargo xtask fuzz TARGET`, and the short runs of `cargo xtask check`.

use super::driver::{Driver, Job, Report, Running};
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Time that each target gets in CI: with two at a time, a minute for all.
const SHORT: Duration = Duration::from_secs(5);
const SHORT_JOBS: usize = 2;
/// The same inputs in every run, as far as time allows.
const SHORT_SEED: u64 = 3;
/// Between two looks at the fuzzers.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Targets to fuzz, one after the other; `all` for every one
    #[arg(value_name = "TARGET", required_unless_present = "list")]
    targets: Vec<String>,
    /// Print the targets and what each is about
    #[arg(long)]
    list: bool,
    /// How long for each target: seconds, or with a unit: s, m, h
    #[arg(long, value_parser = time, default_value = "60s")]
    time: Duration,
    /// Fuzzers at the same time; a single target gets them all
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Inputs by chance and not by coverage, as without a C++ compiler
    #[arg(long)]
    random: bool,
    /// Runs the target on this input once, with a backtrace
    #[arg(long, value_name = "FILE", conflicts_with = "random")]
    input: Option<std::path::PathBuf>,
    /// Options for libFuzzer as they are
    #[arg(last = true)]
    extra: Vec<String>,
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 60s, 5m or 1h");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// A target as `fuzz/src/lib.rs` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub name: String,
    pub about: String,
    pub max_len: usize,
}

/// Every target, out of the source: it is needed before anything is built.
///
/// # Errors
/// The source is not to be read, or not understood.
pub fn known() -> Result<Vec<Known>> {
    let path = workspace::root().join("fuzz/src/lib.rs");
    let source = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let targets: Vec<_> = source.lines().filter_map(|line| known_in(line.trim())).collect();
    ensure!(!targets.is_empty(), "{} lists no target", path.display());
    Ok(targets)
}

/// `target("name", "about", 512, run),`
fn known_in(line: &str) -> Option<Known> {
    let mut parts = line.strip_prefix("target(\"")?.splitn(3, '"');
    let (name, _) = (parts.next()?.to_owned(), parts.next()?);
    let (about, rest) = parts.next()?.split_once("\", ")?;
    let max_len = rest.split(',').next()?.trim().parse().ok()?;
    Some(Known { name, about: about.to_owned(), max_len })
}

/// # Errors
/// There is no such target, nothing can be built, or a target failed.
pub fn run(args: &Args) -> Result<()> {
    let known = known()?;
    if args.list {
        known.iter().for_each(|target| println!("{:<14}{}", target.name, target.about));
        return Ok(());
    }
    let chosen = choose(&known, &args.targets)?;
    if let Some(input) = &args.input {
        return once(&chosen, input);
    }
    let driver = if args.random { Driver::build_random()? } else { Driver::build()? };
    tell(&driver);
    // One target gets as many fuzzers as may run: they exchange what they find in its corpus.
    let copies = if chosen.len() == 1 { args.jobs.max(1) } else { 1 };
    let jobs = chosen.iter().flat_map(|target| std::iter::repeat_n(*target, copies));
    let jobs = jobs.map(|target| Job { target, time: args.time, seed: None, extra: &args.extra });
    let failed = run_all(&driver, jobs.collect(), args.jobs.max(1))?;
    ensure!(failed == 0, "{failed} of {} targets failed", chosen.len());
    Ok(())
}

fn choose<'a>(known: &'a [Known], names: &[String]) -> Result<Vec<&'a str>> {
    if names.iter().any(|name| name == "all") {
        return Ok(known.iter().map(|target| target.name.as_str()).collect());
    }
    let find = |name: &String| {
        let found = known.iter().find(|target| target.name == *name);
        let names = || known.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
        Ok(found.with_context(|| format!("there is no target {name:?}; the targets are {}", names()))?.name.as_str())
    };
    names.iter().map(find).collect()
}

fn once(chosen: &[&str], input: &std::path::Path) -> Result<()> {
    let [target] = chosen else { bail!("an input is for one target") };
    let Driver::Random(program) = Driver::build_random()? else { bail!("motu-fuzz was not built") };
    let status = Command::new(program).arg(target).arg(input).env("RUST_BACKTRACE", "1").status();
    let status = status.context("running motu-fuzz")?;
    ensure!(status.success(), "{target} fails on {}: {status}", input.display());
    Ok(())
}

fn tell(driver: &Driver) {
    match driver {
        Driver::Guided(_) => println!("inputs are guided by coverage (libFuzzer)"),
        Driver::Random(_) => {
            println!("inputs are by chance; a C++ compiler (apt-get install g++) and libFuzzer guide them")
        }
    }
}

/// Runs `jobs`, so many `at_once`; gives how many failed.
fn run_all(driver: &Driver, jobs: VecDeque<Job<'_>>, at_once: usize) -> Result<usize> {
    let (mut waiting, mut running) = (jobs, Vec::<Running>::new());
    let mut failed = 0;
    println!("{:<14}{:>12}{:>9}{:>10}", "target", "executions", "seconds", "coverage");
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < at_once
            && let Some(job) = waiting.pop_front()
        {
            running.push(driver.start(&job)?);
        }
        std::thread::sleep(LOOK);
        let mut left = Vec::new();
        for mut run in running {
            match run.poll()? {
                None => left.push(run),
                Some(report) => {
                    failed += usize::from(report.failure.is_some());
                    show(&report);
                }
            }
        }
        running = left;
    }
    Ok(failed)
}

fn show(report: &Report) {
    let coverage = report.coverage.map_or("-".to_owned(), |edges| edges.to_string());
    println!("{:<14}{:>12}{:>9}{coverage:>10}", report.target, report.executions, report.seconds);
    if let Some(failure) = &report.failure {
        println!("{}: FAILED: {failure}", report.target);
    }
}

/// Every target for a few seconds: what CI runs. Gives how many failed.
///
/// # Errors
/// Nothing can be built or run.
pub fn short() -> Result<usize> {
    let known = known()?;
    let driver = Driver::build()?;
    tell(&driver);
    let job = |target| Job { target, time: SHORT, seed: Some(SHORT_SEED), extra: &[] };
    run_all(&driver, known.iter().map(|target| job(target.name.as_str())).collect(), SHORT_JOBS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        assert_eq!((seconds("90"), seconds("60s"), seconds("5m"), seconds("1h")), (Ok(90), Ok(60), Ok(300), Ok(3600)));
        for wrong in ["", "0", "s", "1d", "-5s", "1h30m", "99999999999999999999s"] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_targets_of_the_source_are_found() {
        let line = "target(\"pit\", \"the 8254's registers, and port 0x61\", 512, devices::pit),";
        let about = "the 8254's registers, and port 0x61".to_owned();
        assert_eq!(known_in(line), Some(Known { name: "pit".to_owned(), about, max_len: 512 }));
        assert_eq!(known_in("const fn target(name: &'static str) -> Target {"), None);
        let known = known().unwrap();
        assert_eq!(choose(&known, &["all".to_owned()]).unwrap().len(), known.len());
        assert_eq!(choose(&known, &["pit".to_owned()]).unwrap(), ["pit"]);
        let error = choose(&known, &["pti".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"pti\"") && error.contains("interpret"), "{error}");
    }
}
