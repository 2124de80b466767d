//! `motu rename`: gives a machine another name.

use super::kept;
use crate::status::Status;
use anyhow::Result;
use motu_store::Watch;

/// # Errors
/// There is no such machine, the new name is none, or another machine's.
pub fn run(machine: &str, name: &str) -> Result<Status> {
    let machines = kept::machines()?;
    machines.rename(&machines.find(machine)?, name, Watch::silent())?;
    Ok(Status::Success)
}
