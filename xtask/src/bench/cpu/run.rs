//! One run of all rows: on the host, or in a guest.

use super::super::boot::{self, Stats};
use super::super::guest::{Guest, Init};
use super::super::vmm::{Line, Running, Vmm};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// No run of all rows takes as long.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What glibc's functions are chosen by on the host is taken down to what both guests have: AVX2, and no RTM, for which
/// it has functions of their own.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-RTM");

/// A guest's clock may go wrong by this part of the time, besides what its lines need to get here.
const CLOCK_TOLERANCE: f64 = 0.1;
const CLOCK_SLACK: f64 = 0.25;

/// Who runs the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Native,
    Soft,
    /// An earlier motu.
    Before,
    Tcg,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Who::Native => "native",
            Who::Soft => "soft",
            Who::Before => "soft before",
            Who::Tcg => "TCG",
        }
    }
}

/// How.
#[derive(Debug)]
pub enum Runner {
    Native(PathBuf),
    Guest(Vmm),
}

/// A row's figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Nanoseconds an iteration, in the fastest unit of work.
    pub best: f64,
    /// The same, over all units.
    pub mean: f64,
    pub units: u64,
    /// What all units came to.
    pub check: u64,
}

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub rows: BTreeMap<String, Figure>,
    /// From the program's start to the first user-space line of a guest that only boots.
    pub to_init: Option<Duration>,
    /// motu's memory above the guest's RAM, in MiB.
    pub own_memory: Option<f64>,
}

/// What is run.
#[derive(Debug)]
pub struct Plan {
    /// The guest with the programs.
    pub guest: Guest,
    /// The same without them, which only boots: their files are most of what a kernel has to unpack.
    pub boots: Option<Guest>,
    /// `NAME=VALUE`, which the programs find in their environment, as a kernel passes it to its init.
    pub parameters: Vec<(&'static str, String)>,
}

impl Runner {
    /// Runs the rows once.
    ///
    /// # Errors
    /// The program or the guest does not run to its end.
    pub fn run(&self, plan: &Plan) -> Result<Outcome> {
        match self {
            Self::Native(program) => run_native(program, &plan.parameters),
            Self::Guest(vmm) => {
                let boot = plan.boots.as_ref().map(|guest| boot::run(vmm, guest)).transpose()?;
                let ended = Running::start(vmm, &plan.guest, Init::Cpu)?.finish(PATIENCE)?;
                let text = ended.text();
                ensure!(ended.status.success(), "{} ended with {}:\n{text}{}", vmm.name(), ended.status, ended.errors);
                let rows = figures(&text).with_context(|| format!("reading the figures from {}", vmm.name()))?;
                check_clock(&ended.output).with_context(|| format!("in {}", vmm.name()))?;
                let own_memory = Stats::of(vmm, &ended.errors)?.map(|stats| stats.own_memory);
                Ok(Outcome { rows, to_init: boot.map(|boot| boot.wall), own_memory })
            }
        }
    }
}

/// Runs the rows once on the host.
///
/// # Errors
/// The program does not run to its end.
pub fn run_native(program: &Path, parameters: &[(&str, String)]) -> Result<Outcome> {
    let mut command = Command::new(program);
    command.env_clear().env(TUNABLES.0, TUNABLES.1);
    command.envs(parameters.iter().map(|(name, value)| (name, value)));
    let output = command.output().with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the programs ended with {} on the host:\n{text}", output.status);
    Ok(Outcome { rows: figures(&text)?, to_init: None, own_memory: None })
}

/// The figures of a run that has printed `text`.
fn figures(text: &str) -> Result<BTreeMap<String, Figure>> {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        if let Some(what) = line.strip_prefix("failed ") {
            bail!("{what}");
        }
        if let Some(line) = line.strip_prefix("row ") {
            let (name, figure) = figure(line).with_context(|| format!("{line:?} is no row's line"))?;
            ensure!(rows.insert(name.to_owned(), figure).is_none(), "the row {name} comes twice");
        }
    }
    ensure!(text.lines().any(|line| line == "done"), "the rows did not all run:\n{text}");
    Ok(rows)
}

fn figure(line: &str) -> Option<(&str, Figure)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let best = field("best")?.parse().ok()?;
    let mean = field("mean")?.parse().ok()?;
    let units = field("units")?.parse().ok()?;
    let check = u64::from_str_radix(field("check")?, 16).ok()?;
    Some((name, Figure { best, mean, units, check }))
}

/// Every figure is by the guest's clock, so that has to go as the host's does.
fn check_clock(output: &[Line]) -> Result<()> {
    let clocks: Vec<_> = output
        .iter()
        .filter_map(|line| Some((line.at, line.text.strip_prefix("clock ")?.parse::<u64>().ok()?)))
        .collect();
    let [(host_start, guest_start), (host_end, guest_end)] = clocks.as_slice() else {
        bail!("the guest told its time {} times instead of twice", clocks.len());
    };
    let host = host_end.duration_since(*host_start).as_secs_f64();
    let guest = Duration::from_nanos(guest_end.saturating_sub(*guest_start)).as_secs_f64();
    ensure!(
        (guest - host).abs() <= CLOCK_SLACK + CLOCK_TOLERANCE * host,
        "{guest:.3} s passed by the guest's clock and {host:.3} s by the host's"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn rows_are_read_as_the_program_prints_them() {
        let text = "\
first line of user space
clock 100
row fib best=1.7500 mean=2.2500 units=274 check=0000000000012511
[    3.1] a line of the kernel
row getpid best=105.0000 mean=170.0000 units=177 check=ffffffffffffffff
clock 200
done
";
        let rows = figures(text).unwrap();
        assert_eq!(rows["fib"], Figure { best: 1.75, mean: 2.25, units: 274, check: 0x12511 });
        assert_eq!(rows["getpid"].check, u64::MAX);
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn what_went_wrong_is_told() {
        let error = |text: &str| figures(text).unwrap_err().to_string();
        assert_eq!(error("failed fork: Cannot allocate memory\ndone\n"), "fork: Cannot allocate memory");
        assert!(error("row fib best=1 mean=1 units=1 check=1\n").starts_with("the rows did not all run"));
        assert!(error("row fib best=x mean=1 units=1 check=1\ndone\n").contains("no row's line"));
        let twice = "row fib best=1 mean=1 units=1 check=1\n".repeat(2) + "done\n";
        assert_eq!(error(&twice), "the row fib comes twice");
    }

    #[test]
    fn a_clock_that_goes_wrong_is_noticed() {
        let start = Instant::now();
        let line =
            |seconds: f64, text: &str| Line { at: start + Duration::from_secs_f64(seconds), text: text.to_owned() };
        let check = |host: f64| check_clock(&[line(0.0, "clock 1000000000"), line(host, "clock 11000000000")]);
        assert!(check(10.5).is_ok());
        assert!(check(9.5).is_ok());
        assert!(check(20.0).unwrap_err().to_string().starts_with("10.000 s passed by the guest's clock and 20.000 s"));
        assert!(check(5.0).is_err());
        assert!(check_clock(&[line(0.0, "clock 1")]).is_err());
    }
}
