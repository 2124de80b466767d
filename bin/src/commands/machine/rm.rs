//! `motu rm`: removes machines, with all that they have written.

use super::kept;
use crate::status::Status;
use anyhow::Result;
use motu_manager::wire::Request;

/// # Errors
/// There is no place for machines. What is wrong with one is told, and the others are removed.
pub fn run(names: &[String], force: bool) -> Result<Status> {
    kept::each(names, |machines, machine| {
        if force {
            kept::wait_for_end(machine, Some(&Request::Kill))?;
        }
        Ok(machines.remove(machine)?)
    })
}
