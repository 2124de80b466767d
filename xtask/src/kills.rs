//! The kill campaign of `tests/e2e/tests/kills.rs`, longer than CI has time for.

use crate::workspace;
use anyhow::{Context, Result, ensure};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kills
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// The same moments again, as far as the host is the same
    #[arg(long)]
    seed: Option<u64>,
}

/// # Errors
/// The store was not whole after a kill, or the test cannot be run.
pub fn run(args: &Args) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--release", "--package", "motu-e2e", "--test", "kills", "--", "--nocapture"]);
    cargo.env("MOTU_KILLS", args.count.to_string());
    if let Some(seed) = args.seed {
        cargo.env("MOTU_KILLS_SEED", seed.to_string());
    }
    let status = cargo.status().context("running cargo test")?;
    ensure!(status.success(), "the kill campaign ended with {status}");
    Ok(())
}
