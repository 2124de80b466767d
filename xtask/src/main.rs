//! The project's own chores. `cargo xtask --help` lists them.
#![forbid(unsafe_code)]

mod arch;
mod bench;
mod check;
mod cloud_init;
mod docs;
mod fuzz;
mod kills;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// motu's own chores
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Everything that CI runs, or the steps that are named
    Check(check::Args),
    /// Whether the crates keep the layers' directions (ARCHITECTURE.md)
    Arch,
    /// Write the documents that are made from the code: the tables of docs/cpu.md
    Docs,
    /// Hostile input: fuzz targets
    Fuzz(fuzz::Args),
    /// Kill motu at random moments of all that it does to its store, and look at the store
    Kills(kills::Args),
    /// Have cloud-init's own package in a guest read what motu gives it
    CloudInit,
    /// Measurements
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Kernel to init and an idle guest, motu and QEMU's TCG in turn
    Boot(bench::BootArgs),
    /// Programs on the host, in motu's software CPU and in QEMU's TCG, in turn
    Cpu(bench::CpuArgs),
    /// A disk's reads and writes, in motu's software CPU and in QEMU's TCG, in turn
    Disk(bench::DiskArgs),
    /// A layer that becomes a root file system, and is unpacked by tar, in turn
    Image(bench::ImageArgs),
    /// A boot with several CPUs and with one, in motu and QEMU TCG
    Smp(bench::SmpArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Check(args) => check::run(&args),
        Chore::Arch => arch::run(),
        Chore::Docs => docs::run(),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Kills(args) => kills::run(&args),
        Chore::CloudInit => cloud_init::run(),
        Chore::Bench { what: Bench::Boot(args) } => bench::boot(&args),
        Chore::Bench { what: Bench::Cpu(args) } => bench::cpu(&args),
        Chore::Bench { what: Bench::Disk(args) } => bench::disk(&args),
        Chore::Bench { what: Bench::Image(args) } => bench::image(&args),
        Chore::Bench { what: Bench::Smp(args) } => bench::smp(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
