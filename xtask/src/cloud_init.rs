//! cloud-init's own package in a guest: the part of `tests/e2e/tests/cloud_init.rs` that CI has no time for.

use crate::workspace;
use anyhow::{Context, Result, ensure};

/// # Errors
/// cloud-init did not do what it was told, or the test cannot be run.
pub fn run() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--release", "--package", "motu-e2e", "--test", "cloud_init", "--", "--nocapture", "itself"]);
    let status = cargo.env("MOTU_CLOUD_INIT", "1").status().context("running cargo test")?;
    ensure!(status.success(), "the test of cloud-init ended with {status}");
    Ok(())
}
