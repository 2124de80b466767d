//! `cargo xtask bench`: motu and QEMU's software mode side by side, in one run.
//!
//! Both boot the same bytes: the image `tiny`'s kernel and initial RAM disk, with another init, whose first act is to
//! print a line on the serial console: the guest's first user-space line.

mod boot;
mod cpu;
mod disk;
mod document;
mod guest;
mod host;
mod idle;
mod image;
mod report;
mod samples;
mod smp;
mod vmm;

pub use cpu::{Args as CpuArgs, run as cpu};
pub use disk::{Args as DiskArgs, run as disk};
pub use image::{Args as ImageArgs, run as image};
pub use smp::{Args as SmpArgs, run as smp};

use crate::workspace::{self, Metadata};
use anyhow::{Context, Result, ensure};
use guest::Image;
use report::Report;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmm::Vmm;

#[derive(Debug, clap::Args)]
pub struct BootArgs {
    /// Boots of each, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds over which an idle guest is watched; 0 leaves that part out
    #[arg(long, default_value_t = 20)]
    idle: u64,
    /// Kernel parameters to add, for both
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Use this motu instead of building one
    #[arg(long, value_name = "FILE")]
    motu: Option<PathBuf>,
    /// An earlier motu, to be compared with in the same rounds
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Put the report into docs/performance.md too
    #[arg(long)]
    write: bool,
}

/// Kernel to init, and an idle guest.
///
/// # Errors
/// QEMU is not installed, motu does not build, or a guest does not boot.
pub fn boot(args: &BootArgs) -> Result<()> {
    let qemu = host::qemu_version()?;
    let motu = find(args.motu.as_deref())?;
    let folder = tempfile::tempdir().context("making a folder for the initial RAM disk")?;
    let guest = Image::tiny(&motu)?.guest(folder.path().join("initrd"), &guest::boot_inits(args.idle)?)?;
    let guest = guest.with_parameters(&args.append);
    let vmms = [Vmm::motu(motu), Vmm::Qemu];
    let before = args.before.as_ref().map(std::path::absolute).transpose().context("finding the earlier motu")?;
    let before = before.map(Vmm::motu);

    let (mut pairs, mut befores) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        // Who goes first changes, so that neither always finds the host as the other left it.
        let motu_first = round % 2 == 0;
        let [motu, qemu] = &vmms;
        let (first, second) = if motu_first { (motu, qemu) } else { (qemu, motu) };
        let first = boot::run(first, &guest)?;
        let earlier = before.as_ref().map(|before| boot::run(before, &guest)).transpose()?;
        let second = boot::run(second, &guest)?;
        let (motu, qemu) = if motu_first { (first, second) } else { (second, first) };
        eprintln!(
            "round {} of {}: motu {:.2} s, QEMU {:.2} s to init",
            round + 1,
            args.rounds,
            motu.wall.as_secs_f64(),
            qemu.wall.as_secs_f64()
        );
        pairs.push((motu, qemu));
        befores.extend(earlier);
    }
    let watch = Duration::from_secs(args.idle);
    let idle = match args.idle {
        0 => None,
        seconds => {
            eprintln!("watching idle guests for {seconds} s each");
            let [motu, qemu] = &vmms;
            Some((idle::run(motu, &guest, watch)?, idle::run(qemu, &guest, watch)?))
        }
    };
    let report = Report {
        host: host::description(&qemu),
        cmdline: guest.cmdline,
        kernel: guest.kernel_name,
        pairs,
        befores,
        idle,
        watch,
    };
    println!("{report}");
    if args.write {
        document::write("boot", &report.to_string())?;
    }
    Ok(())
}

/// The motu that was given, or one that is built as its users do.
fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(motu) = given {
        return std::path::absolute(motu).context("finding motu");
    }
    let status = workspace::cargo()
        .args(["build", "--release", "--locked", "--package", "motu"])
        .status()
        .context("building motu")?;
    ensure!(status.success(), "building motu: {status}");
    Ok(Metadata::read()?.target_directory.join("release/motu"))
}
