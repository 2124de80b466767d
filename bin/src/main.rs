//! `motu`: virtual machines anywhere x86-64 Linux runs.

#![deny(clippy::print_stderr)]

#[macro_use]
mod log;

mod agent;
mod cli;
mod commands;
mod doctor;
mod engine;
mod error;
mod host;
mod images;
mod status;
mod terminal;
mod vmm;

use clap::Parser;
use clap::error::ErrorKind;
use cli::life::DiskCommand;
use cli::{Cli, Command, ImageCommand, SystemCommand};
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
        Command::Create(args) => commands::machine::create::run(&args.run),
        Command::Start(names) => commands::machine::start::run(&names.machines),
        Command::Stop(args) => commands::machine::stop::run(&args.names.machines, args.timeout),
        Command::Kill(args) => commands::machine::kill::run(&args.names.machines, args.signal.as_deref()),
        Command::Rm(args) => commands::machine::rm::run(&args.names.machines, args.force),
        Command::Ls(args) => commands::machine::ls::run(&args),
        Command::Inspect(names) => commands::machine::inspect::run(&names.machines),
        Command::Stats(args) => commands::machine::stats::run(&args),
        Command::Logs(args) => commands::machine::logs::run(&args),
        Command::Exec(args) => commands::machine::exec::run(&args),
        Command::Cp(args) => commands::machine::cp::run(&args),
        Command::Rename(args) => commands::machine::rename::run(&args.machine, &args.name),
        Command::Wait(names) => commands::machine::wait::run(&names.machines),
        Command::Vmm(args) => commands::vmm::run(&args.id, args.attached),
        Command::Disk(DiskCommand::Resize(args)) => commands::disk::resize::run(&args),
        Command::Doctor(args) => commands::doctor::run(args.form()),
        Command::Image(command) => image(command),
        Command::System(command) => system(command),
    };
    match result {
        Ok(status) => status.into(),
        Err(error) => {
            tell!("motu: {}", Shown(&error));
            Status::Failed.into()
        }
    }
}

fn image(command: ImageCommand) -> anyhow::Result<Status> {
    use commands::image;
    match command {
        ImageCommand::Ls { json } => image::ls::run(json),
        ImageCommand::Inspect { images, .. } => image::inspect::run(&images),
        ImageCommand::Pull(args) => image::pull::run(&args.source, args.made),
        ImageCommand::Build(args) => image::build::run(&args),
        ImageCommand::Import(args) => image::pull::run(&images::source_of(&args.path)?, args.made),
        ImageCommand::Export { image, output, format } => image::export::run(&image, &output, format),
        ImageCommand::Tag { image, name } => image::tag::run(&image, &name),
        ImageCommand::Rm { images, force } => image::rm::run(&images, force),
        ImageCommand::Prune(args) => image::prune::run(&args, false),
    }
}

fn system(command: SystemCommand) -> anyhow::Result<Status> {
    match command {
        SystemCommand::Df { json } => commands::system::df::run(json),
        SystemCommand::Check { json } => commands::system::check::run(json),
        SystemCommand::Prune(args) => commands::image::prune::run(&args, true),
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
