//! `cargo xtask bench cpu`: the same static program on the host, in motu's software CPU and in QEMU's, in turn.
//!
//! The program times itself by the guest's clock, which is held against the host's, and every row comes to a checksum
//! that has to be the same everywhere.

mod borrowed;
mod chart;
mod measured;
mod program;
mod report;
mod rows;
mod run;

use super::guest::{self, Guest, Image};
use super::vmm::Vmm;
use super::{document, find, host};
use crate::workspace;
use anyhow::{Context, Result};
use measured::{Measured, Round};
use program::Programs;
use report::Report;
use rows::{BORROWED, ROWS, Row};
use run::{Plan, Runner, Who};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs of each, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// These rows only
    #[arg(long, value_name = "ROW", value_delimiter = ',', conflicts_with = "write")]
    only: Vec<String>,
    /// Milliseconds that each row is repeated for, at least
    #[arg(long, value_name = "MS", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..))]
    budget: u32,
    /// Options of motu's engine, such as translate=off: --engine soft,TEXT
    #[arg(long, value_name = "TEXT", default_value = "")]
    engine_options: String,
    /// Use this motu instead of building one
    #[arg(long, value_name = "FILE")]
    motu: Option<PathBuf>,
    /// An earlier motu, to be compared with in the same rounds
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Keep kernel, initial RAM disk and programs in this folder, and say how to run them by hand
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Write every figure to this file, as comma-separated values
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Put the report into docs/performance.md, its chart and every figure beside it
    #[arg(long)]
    write: bool,
}

/// Programs on the host, in motu and in QEMU.
///
/// # Errors
/// gcc or QEMU is not installed, motu does not build, a program fails, or not all came to the same.
pub fn run(args: &Args) -> Result<()> {
    let qemu = host::qemu_version()?;
    let rows = rows::chosen(&args.only)?;
    let temporary = tempfile::tempdir().context("making a folder for the programs")?;
    let folder = match &args.keep {
        Some(folder) => {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            std::path::absolute(folder).context("finding the folder to keep")?
        }
        None => temporary.path().to_owned(),
    };
    let programs = program::compile(&folder)?;
    let motu = find(args.motu.as_deref())?;
    let image = Image::tiny(&motu)?;
    // A guest that is kept can run every row.
    let able = if args.keep.is_some() { rows::chosen(&[])? } else { rows.clone() };
    let guest = prepare(&image, &folder, &programs, &able)?;
    if args.keep.is_some() {
        keep(&guest, &folder)?;
    }
    let plan = plan(args, &image, guest, &rows)?;
    let runners = runners(args, programs.cpu, motu)?;
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        eprintln!("round {} of {}", number + 1, args.rounds);
        rounds.push(round(&runners, number as usize, &plan)?);
    }

    let engine = if args.engine_options.is_empty() { String::new() } else { format!(",{}", args.engine_options) };
    let report = Report {
        host: host::description(&qemu),
        kernel: plan.guest.kernel_name,
        cmdline: plan.guest.cmdline,
        compiler: programs.compiler,
        engine: format!("soft{engine}"),
        measured: Measured::new(rows, rounds)?,
    };
    println!("{report}");
    let save = |path: &Path, text: String| fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    if let Some(path) = &args.raw {
        save(path, report.measured.raw())?;
    }
    if args.write {
        document::write("cpu", &report.to_string())?;
        save(&workspace::root().join("docs/performance-cpu.svg"), chart::draw(&report.measured))?;
        save(&workspace::root().join("docs/performance-cpu.csv"), report.measured.raw())?;
    }
    Ok(())
}

/// The guest with the programs, and what they need on the host beside them.
fn prepare(image: &Image, folder: &Path, programs: &Programs, rows: &[&Row]) -> Result<Guest> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut archive = guest::cpu_init(read(&programs.cpu)?, read(&programs.tiny)?)?;
    for (program, _) in BORROWED {
        if rows.iter().any(|row| row.borrows() == Some(program)) {
            borrowed::lend(program, folder, &mut archive).with_context(|| format!("taking the host's {program}"))?;
        }
    }
    program::executable(&folder.join("busybox"), image.busybox()?)?;
    image.guest(folder.join("initrd"), &archive)
}

/// What each runs. Boots are left out where single rows are asked for.
fn plan(args: &Args, image: &Image, guest: Guest, rows: &[&Row]) -> Result<Plan> {
    let mut parameters = vec![("bench_ms", args.budget.to_string())];
    if rows.len() < ROWS.len() {
        let names: Vec<_> = rows.iter().map(|row| row.name).collect();
        parameters.push(("bench", names.join(",")));
    }
    let words: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let boots = args.only.is_empty().then(|| {
        let initrd = guest.initrd.with_file_name("initrd-boot");
        image.guest(initrd, &guest::boot_inits(0)?)
    });
    Ok(Plan { guest: guest.with_parameters(&words.join(" ")), boots: boots.transpose()?, parameters })
}

/// The kernel too goes into the folder, and how to run all that by hand is told.
fn keep(guest: &Guest, folder: &Path) -> Result<()> {
    let kernel = folder.join("kernel");
    // The store's file is not writable, and a copy of it would not be replaced the next time.
    let bytes = fs::read(&guest.kernel).with_context(|| format!("reading {}", guest.kernel.display()))?;
    fs::write(&kernel, bytes).with_context(|| format!("writing {}", kernel.display()))?;
    eprintln!(
        "the guest is in {folder}; some rows by hand:\n  \
         motu run --engine soft --kernel {folder}/kernel --initrd {folder}/initrd --append '{cmdline} bench=fib,sha256'\n  \
         bench=fib,sha256 {folder}/cpu",
        folder = folder.display(),
        cmdline = guest.cmdline(guest::Init::Cpu),
    );
    Ok(())
}

/// Who runs, in the first round's order.
fn runners(args: &Args, program: PathBuf, motu: PathBuf) -> Result<Vec<(Who, Runner)>> {
    let soft = Vmm::Motu { program: motu, engine_options: args.engine_options.clone() };
    let mut runners = vec![(Who::Native, Runner::Native(program)), (Who::Soft, Runner::Guest(soft))];
    if let Some(before) = &args.before {
        let before = std::path::absolute(before).context("finding the earlier motu")?;
        runners.push((Who::Before, Runner::Guest(Vmm::motu(before))));
    }
    runners.push((Who::Tcg, Runner::Guest(Vmm::Qemu)));
    Ok(runners)
}

/// One run of each. Who goes first changes, so that none always finds the host as the same other left it.
fn round(runners: &[(Who, Runner)], number: usize, plan: &Plan) -> Result<Round> {
    let first = number % runners.len().max(1);
    let mut round = Round::new();
    for (who, runner) in runners.iter().cycle().skip(first).take(runners.len()) {
        let start = Instant::now();
        let outcome = runner.run(plan).with_context(|| format!("running the programs: {}", who.name()))?;
        eprintln!("  {}: {:.1} s", who.name(), start.elapsed().as_secs_f64());
        round.insert(*who, outcome);
    }
    Ok(round)
}
