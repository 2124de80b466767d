//! `motu create`: makes a machine that stays.

use super::kept;
use crate::cli::RunArgs;
use crate::status::Status;
use anyhow::Result;

/// # Errors
/// Bad input, or the host's trouble; there is no machine then.
pub fn run(args: &RunArgs) -> Result<Status> {
    let machine = kept::create(args)?;
    kept::say(&machine.name)?;
    Ok(Status::Success)
}
