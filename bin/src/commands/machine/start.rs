//! `motu start`: starts machines that stay.

use super::kept;
use crate::status::Status;
use anyhow::Result;
use motu_manager::wire::Request;
use motu_manager::{Connection, Machine};

/// # Errors
/// There is no place for machines. What is wrong with one is told, and the others are started.
pub fn run(names: &[String]) -> Result<Status> {
    kept::each(names, |machines, machine| {
        // As Docker's: one that runs is what was wanted. It may still be on its way up.
        let is_up = |machine: &Machine| Ok(Connection::open(machine)?.ask(&Request::Ready)?);
        if machine.running {
            return is_up(machine);
        }
        kept::launch(machine, false).or_else(|error| match machines.find(&machine.id) {
            // Somebody else started it at the same time.
            Ok(machine) if machine.running => is_up(&machine),
            _ => Err(error),
        })
    })
}
