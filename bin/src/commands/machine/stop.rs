//! `motu stop`: has machines end their processes and switch themselves off.

use super::kept;
use crate::status::Status;
use anyhow::Result;
use motu_manager::wire::Request;
use std::time::Duration;

/// # Errors
/// There is no place for machines. What is wrong with one is told, and the others are stopped.
pub fn run(names: &[String], grace: Duration) -> Result<Status> {
    let grace = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
    // A machine that is stopped is what was wanted.
    kept::each(names, |_, machine| Ok(kept::wait_for_end(machine, Some(&Request::Stop { grace })).map(drop)?))
}
