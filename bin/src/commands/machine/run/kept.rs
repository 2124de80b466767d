//! `motu run` of a machine that stays: made, started, and attached to unless it is detached.

use crate::cli::RunArgs;
use crate::commands::machine::kept::{self, Followed};
use crate::status::Status;
use crate::terminal;
use anyhow::{Result, bail};
use motu_manager::wire::Request;
use motu_manager::{Machine, Machines, ManagerError};

/// # Errors
/// Bad input, or the host's trouble; a machine that could not be started is gone again.
pub fn run(args: &RunArgs) -> Result<Status> {
    let machine = kept::create(args)?;
    let machines = kept::machines()?;
    if let Err(error) = kept::launch(&machine, !args.detach) {
        machines.remove(&machine)?;
        let Some(ManagerError::Refused { status, message }) = error.downcast_ref() else { return Err(error) };
        tell!("motu: {message}");
        return Ok(Status::Code(*status));
    }
    if args.detach {
        kept::say(&machine.name)?;
        return Ok(Status::Success);
    }
    attach(&machines, &machine)
}

fn attach(machines: &Machines, machine: &Machine) -> Result<Status> {
    let tty = machine.record()?.command.tty;
    let size = terminal::term_size();
    let term = std::env::var("TERM").ok();
    let request = Request::Main { size: (size.rows, size.cols), term, stdin: true };
    match kept::follow(machine, &request, None, tty, true)? {
        Followed::Ended(status) => {
            kept::wait_for_end(machine, None)?;
            Ok(status)
        }
        Followed::Left => {
            tell!("motu: the machine {} goes on; `motu stop {0}` stops it", machine.name);
            Ok(Status::Success)
        }
        Followed::Lost(why) => {
            kept::wait_for_end(machine, None)?;
            let machine = machines.find(&machine.id)?;
            match machine.state()? {
                Some(state) if state.ended.is_some() => {
                    state.error.iter().for_each(|error| tell!("motu: {error}"));
                    Ok(Status::Code(state.status.unwrap_or_default()))
                }
                _ => bail!("the machine {} ended before its command: {why}", machine.name),
            }
        }
    }
}
