//! `cargo xtask bench`: motu and QEMU's software mode side by side, in one run.
//!
//! Both boot the same bytes: the image `tiny`'s kernel and initial RAM disk, to which a second archive
//! with another init is appended (the kernel unpacks one after the other). That init is a shell script
//! whose first act is to print a line on the serial console: the guest's first user-space line.

mod boot;
mod guest;
mod host;
mod idle;
mod report;
mod samples;
mod vmm;

use crate::workspace::{self, Metadata};
use anyhow::{Context, Result, bail, ensure};
use guest::Guest;
use report::Report;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use vmm::Vmm;

/// Between these lines of docs/performance.md the report is written.
const BEGIN: &str = "<!-- cargo xtask bench boot: begin -->";
const END: &str = "<!-- cargo xtask bench boot: end -->";

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
    let motu = match &args.motu {
        Some(motu) => std::path::absolute(motu).context("finding motu")?,
        None => build()?,
    };
    let folder = tempfile::tempdir().context("making a folder for the initial RAM disk")?;
    let guest = Guest::prepare(&motu, folder.path(), args.idle)?.with_parameters(&args.append);
    let vmms = [Vmm::Motu(motu), Vmm::Qemu];
    let before = args.before.as_ref().map(std::path::absolute).transpose().context("finding the earlier motu")?;
    let before = before.map(Vmm::Motu);

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
        write(&report.to_string())?;
    }
    Ok(())
}

/// Builds motu as its users do.
fn build() -> Result<PathBuf> {
    let status = workspace::cargo()
        .args(["build", "--release", "--locked", "--package", "motu"])
        .status()
        .context("building motu")?;
    ensure!(status.success(), "building motu: {status}");
    Ok(Metadata::read()?.target_directory.join("release/motu"))
}

fn write(report: &str) -> Result<()> {
    let path = workspace::root().join("docs/performance.md");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let text = replaced(&text, report).with_context(|| format!("putting the report into {}", path.display()))?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// `text` with `report` between the two marks.
fn replaced(text: &str, report: &str) -> Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else { bail!("the line {BEGIN:?} is not in it") };
    let Some((_, after)) = rest.split_once(END) else { bail!("the line {END:?} is not in it, or before the other") };
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", report.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("# Title\n{BEGIN}\nold\n{END}\nend\n");
        let new = replaced(&text, "new\n").unwrap();
        assert_eq!(new, format!("# Title\n{BEGIN}\nnew\n{END}\nend\n"));
        assert_eq!(replaced(&new, "new").unwrap(), new);
        assert!(replaced("# Title", "new").unwrap_err().to_string().contains(BEGIN));
    }
}
