//! Documents that are made from the code.

use crate::workspace;
use anyhow::{Result, ensure};

/// Writes the tables of docs/cpu.md. The test that finds them stale is what writes them: the chores see no
/// engine (ARCHITECTURE.md).
///
/// # Errors
/// The test cannot be built, or fails.
pub fn run() -> Result<()> {
    let status = workspace::cargo()
        .args(["test", "--quiet", "-p", "motu-engine", "--test", "cpu_table", "the_document"])
        .env("MOTU_WRITE_DOCS", "1")
        .status()?;
    ensure!(status.success(), "docs/cpu.md could not be written: {status}");
    Ok(())
}
