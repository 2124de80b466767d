//! A run of many cases: in this process, or shared out among several.
//!
//! The stub's addresses, its context and the fault signals belong to a process, so that what runs at once runs in
//! processes of its own.

use crate::cases::{Generator, Skip};
use crate::compare::{Comparison, Report};
use crate::native::{Oracle, OracleError};
use crate::{Mode, Soft, UserCpu};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Which cases to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub cases: u64,
    pub seed: u64,
    /// Number of the first case.
    pub first: u64,
    /// Mnemonics to be left in; all where empty.
    pub only: Vec<String>,
    /// How many cases in a hundred have EFLAGS.AC set.
    pub alignment_checks: u64,
    /// Processes to share the cases out among; at least 1.
    pub jobs: u64,
}

/// What cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Oracle(#[from] OracleError),
    #[error("the software CPU: {0}")]
    Soft(#[from] motu_hv::HvError),
    #[error("{doing}: {source}")]
    Process { doing: &'static str, source: io::Error },
}

pub const USAGE: &str =
    "motu-differ [--cases N] [--seed S] [--first N] [--only MNEMONIC,...] [--ac PERCENT] [--jobs N]";

/// The seed where none is given.
pub const DEFAULT_SEED: u64 = 20_260_101;
/// Cases in a hundred with EFLAGS.AC set where nothing else is asked for.
const ALIGNMENT_CHECKS: u64 = 2;
/// Between two lines about how far a run has come.
const PROGRESS: Duration = Duration::from_secs(2);
/// Cases between two looks at the clock.
const SLICE: u64 = 4096;
/// So many cases have all kinds of instructions among them, and so small a part of them at least runs translated.
const MANY: u64 = 100_000;
const TRANSLATED: u64 = 6;
/// Begins the line in which one process tells another what came of its share.
const SUMMARY: &str = "motu-differ:";

impl Spec {
    /// Reads the arguments of the command line.
    ///
    /// # Errors
    /// An unknown argument, or a value that is no number.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, RunError> {
        let mut spec = Self {
            cases: 1_000_000,
            seed: DEFAULT_SEED,
            first: 0,
            only: Vec::new(),
            alignment_checks: ALIGNMENT_CHECKS,
            jobs: 1,
        };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let value =
                arguments.next().ok_or_else(|| RunError::Usage(format!("{name} needs a value; usage: {USAGE}")))?;
            let number = || {
                let plain = value.replace('_', "");
                plain.parse().map_err(|_| RunError::Usage(format!("{name} {value}: that is no number")))
            };
            match name.as_str() {
                "--cases" => spec.cases = number()?,
                "--seed" => spec.seed = number()?,
                "--first" => spec.first = number()?,
                "--ac" => spec.alignment_checks = number()?,
                "--jobs" => spec.jobs = number()?.max(1),
                "--only" => spec.only = value.split(',').map(str::to_owned).collect(),
                _ => return Err(RunError::Usage(format!("there is no argument {name}; usage: {USAGE}"))),
            }
        }
        Ok(spec)
    }

    /// The share of process `job`, as arguments.
    fn share(&self, job: u64) -> (u64, Vec<String>) {
        let (start, end) = (self.cases * job / self.jobs, self.cases * (job + 1) / self.jobs);
        let mut arguments = Vec::new();
        let numbers = [
            ("--cases", end - start),
            ("--seed", self.seed),
            ("--first", self.first + start),
            ("--ac", self.alignment_checks),
        ];
        for (name, value) in numbers {
            arguments.extend([name.to_owned(), value.to_string()]);
        }
        if !self.only.is_empty() {
            arguments.extend(["--only".to_owned(), self.only.join(",")]);
        }
        (end - start, arguments)
    }
}

/// What a process says of its share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    cases: u64,
    retired: u64,
    not_made: u64,
    mismatches: u64,
    translated: u64,
    vendors_own: u64,
}

impl Counts {
    fn of(report: &Report) -> Self {
        let Report { cases, retired, not_made, mismatches, translated, vendors_own, .. } = *report;
        Self { cases, retired, not_made, mismatches, translated, vendors_own }
    }

    fn line(&self) -> String {
        let Self { cases, retired, not_made, mismatches, translated, vendors_own } = self;
        format!("{SUMMARY} {cases} {retired} {not_made} {mismatches} {translated} {vendors_own}")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.strip_prefix(SUMMARY)?.split_whitespace().map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            cases: next()?,
            retired: next()?,
            not_made: next()?,
            mismatches: next()?,
            translated: next()?,
            vendors_own: next()?,
        })
    }

    fn sum(all: &[Self]) -> Self {
        all.iter().fold(Self::default(), |a, b| Self {
            cases: a.cases + b.cases,
            retired: a.retired + b.retired,
            not_made: a.not_made + b.not_made,
            mismatches: a.mismatches + b.mismatches,
            translated: a.translated + b.translated,
            vendors_own: a.vendors_own + b.vendors_own,
        })
    }
}

/// Runs what the command line asks for. Success is no mismatch, and cases that could be made.
///
/// # Errors
/// As [`RunError`] says; a host that cannot judge is no error.
pub fn main(arguments: impl IntoIterator<Item = String>) -> Result<ExitCode, RunError> {
    let spec = Spec::parse(arguments)?;
    let start = Instant::now();
    let Some(generator) = generator(&spec)? else { return Ok(ExitCode::SUCCESS) };
    let forms =
        Mode::ALL.map(|mode| format!("{} forms in {}-bit mode", generator.forms(mode).len(), mode.bits())).join(", ");
    println!("seed {}, {} cases from number {} over {forms}", spec.seed, spec.cases, spec.first);
    let counts = if spec.jobs > 1 { shared(&spec)? } else { alone(&spec, generator)? };
    let seconds = start.elapsed().as_secs_f64();
    let Counts { cases, retired, not_made, mismatches, translated, vendors_own } = counts;
    if vendors_own != 0 {
        println!("not compared: {vendors_own} cases: AMD's processors do it in a way of their own (compare/amd.rs)");
    }
    println!(
        "{cases} cases compared over {forms}; {retired} retired, {} raised an exception, {not_made} not made; \
         {translated} translated; \
         {mismatches} mismatches; {seconds:.1} s, {:.0} a second; seed {}",
        cases - retired,
        cases as f64 / seconds.max(0.001),
        spec.seed,
    );
    let unmade = not_made > spec.cases / 1000;
    // Which forms are translated is the engine's affair; of all of them it is most of 64-bit code's.
    let interpreted = spec.only.is_empty() && cases > MANY && translated < cases / TRANSLATED;
    if interpreted {
        println!("too few cases ran translated");
    }
    Ok(if mismatches == 0 && !unmade && !interpreted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The generator of `spec`; tells what is left out. `None` where the host cannot be the judge.
fn generator(spec: &Spec) -> Result<Option<Generator>, RunError> {
    if let Err(error) = Oracle::check() {
        println!("SKIPPED: {error}");
        return Ok(None);
    }
    let mut generator = Generator::new(spec.seed);
    generator.check_alignment(spec.alignment_checks);
    for ((mode, reason), forms) in generator.skipped() {
        let marker = if matches!(reason, Skip::HostLacks(_)) { "SKIPPED" } else { "not compared" };
        println!("{marker} in {}-bit mode: {} forms: {reason}", mode.bits(), forms.len());
    }
    if !spec.only.is_empty() {
        let is_wanted = |name: &str| spec.only.iter().any(|only| only.eq_ignore_ascii_case(name));
        generator.retain(|code| is_wanted(&format!("{:?}", code.mnemonic())) || is_wanted(&format!("{code:?}")));
        if Mode::ALL.iter().all(|mode| generator.forms(*mode).is_empty()) {
            return Err(RunError::Usage(format!("no form that is compared is called {}", spec.only.join(" or "))));
        }
    }
    Ok(Some(generator))
}

fn alone(spec: &Spec, mut generator: Generator) -> Result<Counts, RunError> {
    let (mut host, mut soft) = (Oracle::new()?, Soft::new()?);
    let mut comparison = Comparison::new(&mut host as &mut dyn UserCpu, &mut soft);
    let mut told = Instant::now();
    let mut shown = 0;
    for number in spec.first..spec.first + spec.cases {
        comparison.add(generator.case(number));
        if number % SLICE == 0 && told.elapsed() >= PROGRESS {
            told = Instant::now();
            println!("{}", Counts::of(comparison.report()).line());
            let mismatches = comparison.report().mismatches;
            if shown == 0 && mismatches != 0 {
                // Long runs are looked at before they end.
                println!("{}", comparison.report());
            }
            shown = mismatches;
        }
    }
    let report = comparison.finish();
    if report.mismatches != 0 {
        println!("{report}");
    }
    let counts = Counts::of(&report);
    println!("{}", counts.line());
    Ok(counts)
}

/// Shares the cases out among processes of this program and adds up what they say.
fn shared(spec: &Spec) -> Result<Counts, RunError> {
    let process = |doing| move |source| RunError::Process { doing, source };
    let program = std::env::current_exe().map_err(process("finding this program"))?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut children: Vec<(u64, Child)> = Vec::new();
    for job in 0..spec.jobs {
        let (cases, arguments) = spec.share(job);
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(process("starting a process for a share of the cases"))?;
        let stdout = child.stdout.take();
        let sender = sender.clone();
        std::thread::spawn(move || {
            let lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines());
            lines.map_while(Result::ok).for_each(|line| drop(sender.send((job as usize, line))));
        });
        children.push((cases, child));
    }
    drop(sender);
    let mut counts = vec![Counts::default(); children.len()];
    let start = Instant::now();
    let mut told = start;
    for (job, line) in receiver {
        match Counts::parse(&line) {
            Some(count) => counts[job] = count,
            // The first process speaks for all of them about what they have in common.
            None if line.starts_with("not compared") || line.starts_with("SKIPPED") || is_heading(&line) => {}
            None if is_total(&line) => {}
            None => println!("{line}"),
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            progress(&Counts::sum(&counts), spec.cases, start);
        }
    }
    for ((cases, mut child), counts) in children.into_iter().zip(&mut counts) {
        let status = child.wait().map_err(process("waiting for a share of the cases"))?;
        let all = counts.cases + counts.not_made == cases;
        if !all || (!status.success() && counts.mismatches == 0) {
            println!("a process ended before its share was done: {status}");
            counts.mismatches += 1;
        }
    }
    Ok(Counts::sum(&counts))
}

/// What a process says first. Mismatches begin with their seed too.
fn is_heading(line: &str) -> bool {
    line.starts_with("seed ") && line.contains(" cases from number ")
}

fn is_total(line: &str) -> bool {
    line.contains(" cases compared over ")
}

/// How far a run has come, for a person.
fn progress(counts: &Counts, cases: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = counts.cases as f64 / seconds.max(0.001);
    let left = cases.saturating_sub(counts.cases) as f64 / rate.max(1.0);
    let mut line = String::new();
    let _ = write!(
        line,
        "{} of {cases} cases, {} mismatches, {rate:.0} a second, {left:.0} s left",
        counts.cases, counts.mismatches
    );
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Spec, RunError> {
        Spec::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn shares_cover_all_cases_once() {
        let spec = parse("--cases 1_000 --first 7 --jobs 3 --only add,Sub").unwrap();
        let shares: Vec<_> = (0..3).map(|job| parse(&spec.share(job).1.join(" ")).unwrap()).collect();
        assert_eq!(shares[0].first, 7);
        for pair in shares.windows(2) {
            assert_eq!(pair[0].first + pair[0].cases, pair[1].first);
        }
        assert_eq!(shares.iter().map(|share| share.cases).sum::<u64>(), 1000);
        assert!(shares.iter().all(|share| share.seed == spec.seed && share.only == spec.only && share.jobs == 1));
    }

    #[test]
    fn unknown_arguments_are_refused() {
        for (words, said) in [("--case 1", "--case"), ("--cases", "needs a value"), ("--seed x", "no number")] {
            assert!(parse(words).unwrap_err().to_string().contains(said));
        }
    }

    #[test]
    fn counts_survive_their_line() {
        let counts = Counts { cases: 6, retired: 5, not_made: 4, mismatches: 3, translated: 2, vendors_own: 1 };
        assert_eq!(Counts::parse(&counts.line()), Some(counts));
        assert_eq!(Counts::parse("seed 5"), None);
    }
}
