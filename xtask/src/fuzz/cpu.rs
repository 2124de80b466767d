//! `cargo xtask fuzz cpu`: as many random instructions as there is time for (`cpu/oracle`).

use crate::workspace::{self, Metadata};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cases to compare
    #[arg(long, default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,
    /// Where the cases come from [default: the time, printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Number of the first case, to make one again
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only these mnemonics or instruction forms, as iced-x86 calls them
    #[arg(long, value_name = "NAME,...")]
    only: Option<String>,
    /// Processes to share the cases out among [default: the host's CPUs]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    threads: Option<u64>,
}

/// Compares the software CPU with the host's; its progress goes to stderr, what it found to stdout.
///
/// # Errors
/// The program does not build, or the CPUs differ.
pub fn run(args: &Args) -> Result<()> {
    let built = workspace::cargo()
        .args(["build", "--release", "--locked", "--package", "motu-oracle"])
        .status()
        .context("building motu-oracle")?;
    ensure!(built.success(), "building motu-oracle: {built}");
    let program = Metadata::read()?.target_directory.join("release/motu-differ");
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("making a seed of the time")?.as_secs(),
    };
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let mut differ = Command::new(&program);
    let numbers = [("--cases", args.cases), ("--seed", seed), ("--first", args.first), ("--jobs", threads)];
    for (name, value) in numbers {
        differ.args([name, &value.to_string()]);
    }
    if let Some(only) = &args.only {
        differ.args(["--only", only]);
    }
    let status = differ.status().with_context(|| format!("running {}", program.display()))?;
    ensure!(
        status.success(),
        "the software CPU and the host differ, or cases could not be made (seed {seed}): {status}"
    );
    Ok(())
}
