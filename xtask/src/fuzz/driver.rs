//! What feeds a target: libFuzzer, or random inputs; how it is built, run and understood.

use crate::workspace::{self, Metadata};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// libFuzzer runs on this host only.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// LLVM's coverage of edges and of comparisons, by options of stable Rust; as cargo-fuzz has them, but for
/// sanitizers, which stable Rust has not (ADR 11).
const INSTRUMENTATION: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Seconds that one input may take.
const INPUT_TIMEOUT: u32 = 10;
/// Memory that a target may use, in MiB; a single allocation is bounded in `fuzz/src/bound.rs`.
const RSS_LIMIT: u32 = 1024;
/// A driver that has not ended so long after its time hangs.
const GRACE: Duration = Duration::from_secs(60);

/// A program that feeds targets.
#[derive(Clone, Debug)]
pub enum Driver {
    /// libFuzzer.
    Guided(PathBuf),
    /// By chance, without knowledge of coverage.
    Random(PathBuf),
}

/// One run of one target.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    pub target: &'a str,
    pub time: Duration,
    pub seed: Option<u64>,
    /// Options for libFuzzer as they are.
    pub extra: &'a [String],
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub target: String,
    pub executions: u64,
    pub seconds: u64,
    /// Edges reached; what random inputs reach nobody counts.
    pub coverage: Option<u64>,
    /// Why it failed, with the file of the input; `None` if it did not.
    pub failure: Option<String>,
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    target: String,
    start: Instant,
    time: Duration,
    log: PathBuf,
    artifacts: PathBuf,
}

/// Where everything goes that is not kept in the repository.
fn scratch() -> Result<PathBuf> {
    Ok(Metadata::read()?.target_directory.join("fuzz"))
}

/// A compiler for libFuzzer's sources, with the headers that they need; `None` if there is none.
fn cpp_compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    named.into_iter().chain(["c++".to_owned(), "g++".to_owned(), "clang++".to_owned()]).find(|name| compiles(name))
}

fn compiles(compiler: &str) -> bool {
    let mut command = Command::new(compiler);
    command.args(["-x", "c++", "-std=c++17", "-fsyntax-only", "-"]);
    let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = started else { return false };
    // A compiler that has gone away already says so by its status.
    let written = child.stdin.take().is_some_and(|mut stdin| stdin.write_all(b"#include <mutex>\n").is_ok());
    child.wait().is_ok_and(|status| written && status.success())
}

impl Driver {
    /// libFuzzer where there is a C++ compiler to build it with, random inputs elsewhere.
    ///
    /// # Errors
    /// It does not build.
    pub fn build() -> Result<Self> {
        match cpp_compiler() {
            Some(compiler) => Self::build_guided(&compiler),
            None => Self::build_random(),
        }
    }

    fn build_guided(compiler: &str) -> Result<Self> {
        let mut cargo = workspace::cargo();
        // With a target named, build scripts and macros are not instrumented.
        cargo.args(["build", "--package=motu-fuzz", "--bin=motu-libfuzzer", "--features=libfuzzer"]);
        cargo.args(["--profile=fuzz", "--locked", "--target", PLATFORM]).env("CXX", compiler);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"));
        let status = cargo.status().context("building the fuzz targets")?;
        ensure!(status.success(), "building the fuzz targets: {status}");
        let folder = Metadata::read()?.target_directory.join(PLATFORM).join("fuzz");
        Ok(Self::Guided(folder.join("motu-libfuzzer")))
    }

    /// The same build as the tests'.
    ///
    /// # Errors
    /// It does not build.
    pub fn build_random() -> Result<Self> {
        let status = workspace::cargo()
            .args(["build", "--package=motu-fuzz", "--bin=motu-fuzz", "--locked"])
            .status()
            .context("building motu-fuzz")?;
        ensure!(status.success(), "building motu-fuzz: {status}");
        Ok(Self::Random(Metadata::read()?.target_directory.join("debug/motu-fuzz")))
    }

    /// Starts a run. What is found goes below `target/fuzz`.
    ///
    /// # Errors
    /// The program does not start, or the folders cannot be made.
    pub fn start(&self, job: &Job<'_>) -> Result<Running> {
        let (scratch, target) = (scratch()?, job.target);
        let (corpus, artifacts) = (scratch.join("corpus").join(target), scratch.join("artifacts").join(target));
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let committed = ["corpus", "regressions"].map(|kind| workspace::root().join("fuzz").join(kind).join(target));
        let committed = committed.into_iter().filter(|folder| folder.is_dir());
        let mut command = match self {
            Self::Guided(program) => guided(program, job, &corpus, &artifacts)?,
            Self::Random(program) => random(program, job, &artifacts),
        };
        let log = scratch.join(format!("{target}.log"));
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let errors = output.try_clone().context("using one file for both outputs")?;
        command.args(committed).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().with_context(|| format!("starting the fuzzer of {target}"))?;
        Ok(Running { child, target: target.to_owned(), start: Instant::now(), time: job.time, log, artifacts })
    }
}

fn guided(program: &Path, job: &Job<'_>, corpus: &Path, artifacts: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command.env("MOTU_FUZZ_TARGET", job.target);
    command.arg(format!("-max_total_time={}", job.time.as_secs()));
    command.arg(format!("-max_len={}", max_len(job.target)?));
    command.arg(format!("-timeout={INPUT_TIMEOUT}")).arg(format!("-rss_limit_mb={RSS_LIMIT}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg("-print_final_stats=1");
    if let Some(seed) = job.seed {
        command.arg(format!("-seed={seed}"));
    }
    command.args(job.extra).arg(corpus);
    Ok(command)
}

fn random(program: &Path, job: &Job<'_>, artifacts: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(job.target).arg("--seconds").arg(job.time.as_secs().to_string());
    command.arg("--seed").arg(job.seed.unwrap_or(1).to_string()).arg("--keep").arg(artifacts.join("last-input"));
    command
}

/// Longest input of a target, as its source says it.
fn max_len(target: &str) -> Result<usize> {
    let found = super::targets::known()?.into_iter().find(|known| known.name == target);
    found.map(|known| known.max_len).with_context(|| format!("no target {target:?} in fuzz/src/lib.rs"))
}

impl Running {
    /// The report, if the run has ended; one that hangs is ended.
    ///
    /// # Errors
    /// The process cannot be asked, or its log not be read.
    pub fn poll(&mut self) -> Result<Option<Report>> {
        let hangs = self.start.elapsed() > self.time + GRACE;
        if hangs {
            self.child.kill().context("ending a fuzzer")?;
        }
        let status = self.child.try_wait().context("waiting for a fuzzer")?;
        let Some(status) = status else { return Ok(None) };
        let log = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        let mut report = understand(&log);
        report.target.clone_from(&self.target);
        report.seconds = self.start.elapsed().as_secs();
        if !status.success() || hangs {
            let input = input_of(&log).unwrap_or_else(|| self.artifacts.join("last-input").display().to_string());
            let what = if hangs { "it hangs".to_owned() } else { complaint(&log).unwrap_or(status.to_string()) };
            report.failure = Some(format!("{what}; input: {input}; log: {}", self.log.display()));
        }
        Ok(Some(report))
    }
}

/// Counts in what a driver printed.
fn understand(log: &str) -> Report {
    let mut report = Report::default();
    for line in log.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let behind = |word: &str| {
            let at = words.iter().position(|found| *found == word)?;
            words.get(at + 1)?.parse().ok()
        };
        if line.starts_with('#') {
            report.coverage = behind("cov:").or(report.coverage);
            let count = words.first().and_then(|word| word.trim_matches(['#', ':']).parse().ok());
            report.executions = count.unwrap_or(report.executions);
        } else if let Some(count) = behind("stat::number_of_executed_units:") {
            report.executions = count;
        } else if let [_, count, "inputs", "in", ..] = words.as_slice() {
            report.executions = count.parse().unwrap_or(0);
        }
    }
    report
}

/// The line that says what went wrong.
fn complaint(log: &str) -> Option<String> {
    let mut lines = log.lines().skip_while(|line| !line.contains(" panicked at "));
    if let (Some(place), Some(message)) = (lines.next(), lines.next()) {
        return Some(format!("{}: {}", place.trim(), message.trim()));
    }
    log.lines().find(|line| line.starts_with("SUMMARY: ") || line.contains("ERROR: ")).map(str::to_owned)
}

/// The file that libFuzzer left the input in.
fn input_of(log: &str) -> Option<String> {
    log.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_compiler_is_not_taken_for_one() {
        assert!(!compiles("motu-has-no-such-compiler") && !compiles("false"));
    }

    #[test]
    fn the_end_of_a_good_run_is_understood() {
        let log = "#2\tINITED cov: 40 ft: 41 corp: 1/1b\n#9000\tpulse  cov: 77 ft: 90 corp: 9/40b\n\
                   Done 9120 runs in 6 second(s)\nstat::number_of_executed_units: 9120\n";
        let report = understand(log);
        assert_eq!((report.executions, report.coverage), (9120, Some(77)));
        assert_eq!((complaint(log), input_of(log)), (None, None));
        let report = understand("pit: 51234 inputs in 5.0 s, seed 1\n");
        assert_eq!((report.executions, report.coverage), (51234, None));
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_input() {
        let log = "#7\tNEW    cov: 5 ft: 5\n\nthread '<unnamed>' (1) panicked at machine/x.rs:3:9:\nboom\n\
                   ==1== ERROR: libFuzzer: deadly signal\nTest unit written to /t/crash-1\n";
        assert_eq!(complaint(log).unwrap(), "thread '<unnamed>' (1) panicked at machine/x.rs:3:9:: boom");
        assert_eq!(input_of(log).unwrap(), "/t/crash-1");
        assert_eq!(understand(log).executions, 7);
    }

    #[test]
    fn without_a_panic_the_fuzzers_own_words_are_told() {
        let log = "==1== ERROR: libFuzzer: timeout after 10 seconds\nSUMMARY: libFuzzer: timeout\n";
        assert_eq!(complaint(log).unwrap(), "==1== ERROR: libFuzzer: timeout after 10 seconds");
    }
}
