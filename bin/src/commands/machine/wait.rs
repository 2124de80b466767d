//! `motu wait`: waits until machines end, and prints what their commands exited with.

use super::kept;
use crate::error::Shown;
use crate::status::Status;
use anyhow::Result;

/// # Errors
/// There is no place for machines. What is wrong with one is told, and the others are waited for.
pub fn run(names: &[String]) -> Result<Status> {
    let machines = kept::machines()?;
    let mut status = Status::Success;
    for name in names {
        let wait = || -> Result<u8> {
            let machine = machines.find(name)?;
            kept::wait_for_end(&machine, None)?;
            Ok(machines.find(&machine.id)?.phase()?.status())
        };
        match wait() {
            Ok(code) => kept::say(&code.to_string())?,
            Err(error) => {
                tell!("motu: {}", Shown(&error));
                status = Status::Failed;
            }
        }
    }
    Ok(status)
}
