//! The kill campaigns of `tests/e2e/tests/kills`, longer than CI has time for.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kills
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// The same moments again, as far as the host is the same
    #[arg(long)]
    seed: Option<u64>,
    /// Not what motu does to its store, but a machine in which this program writes; its packages are fetched
    #[arg(long)]
    guest: Option<Program>,
}

/// A program in the guest that finds out whether something is lost.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Program {
    Fio,
    Sqlite,
}

/// # Errors
/// The store was not whole after a kill, or the test cannot be run.
pub fn run(args: &Args) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--release", "--package", "motu-e2e", "--test", "kills", "--", "--nocapture", "--exact"]);
    match args.guest {
        None => cargo.arg("a_kill_at_any_moment_leaves_everything_whole"),
        Some(program) => {
            let name = program.to_possible_value().context("a program with a name")?;
            cargo.env("MOTU_KILLS_GUEST", name.get_name());
            cargo.arg("programs::what_a_program_was_told_is_on_the_disk")
        }
    };
    cargo.env("MOTU_KILLS", args.count.to_string());
    if let Some(seed) = args.seed {
        cargo.env("MOTU_KILLS_SEED", seed.to_string());
    }
    let status = cargo.status().context("running cargo test")?;
    ensure!(status.success(), "the kill campaign ended with {status}");
    Ok(())
}
