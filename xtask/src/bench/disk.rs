//! `cargo xtask bench disk`: the same program reads and writes the same raw file as a virtio disk, in motu's software CPU
//! and in QEMU's, in turn.

use super::guest::{self, Guest, Image, Init};
use super::samples::Samples;
use super::vmm::{PATIENCE, Running, Vmm};
use super::{document, find, host};
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the disk.
const DISK: u64 = 256 << 20;

/// A row's name, as the program prints it, and what it is called.
const ROWS: [(&str, &str); 7] = [
    ("random-read-4k", "4 KiB random read"),
    ("random-write-4k", "4 KiB random write"),
    ("random-read-4k-16", "4 KiB random read, 16 at once"),
    ("random-write-4k-16", "4 KiB random write, 16 at once"),
    ("write-4k-sync", "4 KiB write, each synced"),
    ("sequential-read-1m", "1 MiB sequential read"),
    ("sequential-write-1m", "1 MiB sequential write"),
];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs of each, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds for each row
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    budget: u32,
    /// Where the disk is made; by default in the host's memory, so that the host's own disk is no part of what is measured
    #[arg(long, value_name = "FOLDER", default_value = "/dev/shm")]
    folder: PathBuf,
    /// Use this motu instead of building one
    #[arg(long, value_name = "FILE")]
    motu: Option<PathBuf>,
    /// Put the report into docs/performance.md too
    #[arg(long)]
    write: bool,
}

/// Requests a second, by row.
type Rates = BTreeMap<String, f64>;

/// A disk's reads and writes.
///
/// # Errors
/// gcc or QEMU is not installed, motu does not build, or a guest fails.
pub fn run(args: &Args) -> Result<()> {
    let qemu = host::qemu_version()?;
    let motu = find(args.motu.as_deref())?;
    let folder = tempfile::tempdir_in(&args.folder).context("making a folder for the disk")?;
    let program = compile(folder.path())?;
    let image = Image::tiny(&motu)?;
    let mut guest = image.guest(folder.path().join("initrd"), &guest::disk_init(program, args.budget)?)?;
    let disk = folder.path().join("disk");
    fill(&disk)?;
    guest.disk = Some(disk);
    let vmms = [Vmm::motu(motu), Vmm::Qemu];
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        eprintln!("round {} of {}", number + 1, args.rounds);
        let [motu, qemu] = &vmms;
        // Who goes first changes, so that neither always finds the host as the other left it.
        let pair = if number % 2 == 0 {
            let motu = measure(motu, &guest)?;
            (motu, measure(qemu, &guest)?)
        } else {
            let qemu = measure(qemu, &guest)?;
            (measure(motu, &guest)?, qemu)
        };
        rounds.push(pair);
    }
    let report = report(&host::description(&qemu), &guest, &rounds)?;
    println!("{report}");
    if args.write {
        document::write("disk", &report)?;
    }
    Ok(())
}

fn compile(folder: &Path) -> Result<Vec<u8>> {
    let program = folder.join("disk-bench");
    let source = workspace::root().join("tests/guests/disk-bench/main.c");
    let status = Command::new("gcc").args(["-O2", "-static", "-s", "-o"]).arg(&program).arg(source).status();
    let status = status.context("running gcc, which compiles the guest's program: apt-get install gcc libc6-dev")?;
    ensure!(status.success(), "gcc: {status}; it has to link statically: apt-get install gcc libc6-dev");
    fs::read(&program).with_context(|| format!("reading {}", program.display()))
}

/// Makes the disk of bytes that are no zeros, so that nothing of it is a hole.
fn fill(disk: &Path) -> Result<()> {
    let failed = || format!("writing {}", disk.display());
    let mut file = File::create(disk).with_context(failed)?;
    let mut random = File::open("/dev/urandom").context("opening /dev/urandom")?;
    let mut part = vec![0; 1 << 20];
    for _ in 0..DISK / part.len() as u64 {
        random.read_exact(&mut part).context("reading /dev/urandom")?;
        file.write_all(&part).with_context(failed)?;
    }
    file.sync_all().with_context(failed)
}

fn measure(vmm: &Vmm, guest: &Guest) -> Result<Rates> {
    let ended = Running::start(vmm, guest, Init::Disk)?.finish(PATIENCE)?;
    let text = ended.text();
    let rates = rates(&text);
    if rates.len() == ROWS.len() {
        return Ok(rates);
    }
    bail!("{} did not measure its disk ({}); it said:\n{text}{}", vmm.name(), ended.status, ended.errors)
}

/// What the program printed: `row NAME REQUESTS NANOSECONDS`.
fn rates(text: &str) -> Rates {
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["row", name, requests, nanoseconds] = words[..] else { return None };
        let (requests, nanoseconds): (f64, f64) = (requests.parse().ok()?, nanoseconds.parse().ok()?);
        (nanoseconds > 0.0).then(|| (name.to_owned(), requests * 1e9 / nanoseconds))
    };
    text.lines().filter_map(row).collect()
}

fn report(host: &str, guest: &Guest, rounds: &[(Rates, Rates)]) -> Result<String> {
    let mut text = format!(
        "Host: {host}.\nGuest: {}, 1 CPU, `{}`; QEMU: `-accel tcg -machine q35 -cpu max -device virtio-blk-pci`, its cache and \
         threads as they come.\n\n\
         | requests a second, {} rounds in turn, median | motu | QEMU TCG | times TCG, pair by pair | |\n\
         | --- | ---: | ---: | ---: | --- |\n",
        guest.kernel_name,
        guest.cmdline,
        rounds.len()
    );
    for (name, title) in ROWS {
        let pairs: Option<Vec<(f64, f64)>> =
            rounds.iter().map(|(motu, qemu)| Some((*motu.get(name)?, *qemu.get(name)?))).collect();
        let pairs = pairs.with_context(|| format!("a run has no row {name}"))?;
        let motu = Samples::new(pairs.iter().map(|(motu, _)| *motu));
        let qemu = Samples::new(pairs.iter().map(|(_, qemu)| *qemu));
        let ratio = Samples::new(pairs.iter().map(|(motu, qemu)| motu / qemu));
        let kept = if ratio.median() >= 2.0 { "kept" } else { "**not reached**" };
        writeln!(
            text,
            "| {title} | {:.0} | {:.0} | {:.1} ({:.1} to {:.1}) | ≥ 2: {kept} |",
            motu.median(),
            qemu.median(),
            ratio.median(),
            ratio.min(),
            ratio.max()
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_among_other_lines() {
        let text = "booting\nrow a 100 500000000\r\nrow b x 1\nrow c 1 0\n[1.0] row d 1 1\nrow e 3 1000000000\n";
        assert_eq!(rates(text), Rates::from([("a".into(), 200.0), ("e".into(), 3.0)]));
    }

    #[test]
    fn the_program_has_the_rows_that_are_reported() {
        let source = fs::read_to_string(workspace::root().join("tests/guests/disk-bench/main.c")).unwrap();
        for (name, _) in ROWS {
            assert!(source.contains(&format!("{{ \"{name}\",")), "{name}");
        }
        assert_eq!(source.matches("\t{ \"").count(), ROWS.len());
    }
}
