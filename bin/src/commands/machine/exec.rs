//! `motu exec`: a command in a machine that runs.

use super::kept::{self, Followed};
use crate::cli::life::ExecArgs;
use crate::status::Status;
use crate::terminal;
use anyhow::{Result, bail};
use motu_manager::wire::Request;
use motu_proto::Exec;
use std::os::unix::ffi::OsStrExt;

/// # Errors
/// There is no such machine, it does not run, or it ended before the command.
pub fn run(args: &ExecArgs) -> Result<Status> {
    let machine = kept::find(&args.machine)?;
    let around = args.around.spec()?;
    let bytes = |text: String| text.into_bytes();
    let term = std::env::var_os("TERM").filter(|_| args.tty);
    let term = term.map(|term| (b"TERM".to_vec(), term.as_bytes().to_vec()));
    let given = around.env.into_iter().map(|(name, value)| (bytes(name), bytes(value)));
    let exec = Exec {
        argv: args.command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: term.into_iter().chain(given).collect(),
        cwd: around.workdir.map(bytes),
        user: around.user.map(bytes),
        tty: args.tty.then(terminal::term_size),
        stdin: args.interactive,
        ..Exec::default()
    };
    match kept::follow(&machine, &Request::Exec, Some(exec), args.tty, args.interactive)? {
        Followed::Ended(status) => Ok(status),
        Followed::Left => Ok(Status::Success),
        Followed::Lost(why) => bail!("the machine {} ended before the command: {why}", machine.name),
    }
}
