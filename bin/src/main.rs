//! `motu`: virtual machines anywhere x86-64 Linux runs.

mod agent;
mod cli;
mod commands;
mod doctor;
mod engine;
mod error;
mod host;
mod images;
mod log;
mod status;
mod terminal;
mod vmm;

use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Command, ImageCommand};
use error::Shown;
use status::Status;
use std::process::ExitCode;

fn main() -> ExitCode {
    terminal::give_back_on_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    log::init(cli.verbose);
    let result = match cli.command {
        Command::Run(args) => commands::machine::run::run(*args, cli.verbose),
        Command::Doctor(args) => commands::doctor::run(args.form()),
        Command::Image(ImageCommand::Ls { json }) => commands::image::ls::run(json),
        Command::Image(ImageCommand::Rm { names }) => commands::image::rm::run(&names),
    };
    match result {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("motu: {}", Shown(&error));
            Status::Failed.into()
        }
    }
}

/// Shows what clap has to say; help and the version are no errors.
fn usage(error: &clap::Error) -> Status {
    // A closed stdout or stderr cannot be reported anywhere.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Status::Success,
        _ => Status::Failed,
    }
}
