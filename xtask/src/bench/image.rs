//! `cargo xtask bench image`: a layer becomes a root file system, and the same layer is unpacked by tar, in turn, on the same disk.

use super::samples::Samples;
use super::{document, host};
use crate::workspace::{self, Metadata};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of the layer's files, and how large they are on the mean: about what distributions have.
const LAYER: u64 = 100 << 20;
const MEAN: u64 = 20 << 10;

/// How a layer may come: a name, and the program that compresses it.
const FORMS: [(&str, &[&str]); 3] =
    [("plain", &["cat"]), ("gzip", &["gzip", "--fast", "--stdout"]), ("zstd", &["zstd", "-3", "--stdout", "--quiet"])];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs of each, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where all of it is written
    #[arg(long, value_name = "FOLDER", default_value = "target")]
    folder: PathBuf,
    /// Put the report into docs/performance.md too
    #[arg(long)]
    write: bool,
}

/// Making a root file system of a 100 MB layer, and tar.
///
/// # Errors
/// tar, gzip or zstd is not installed, or fails.
pub fn run(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir_in(&args.folder).context("making a folder")?;
    let unpack = build()?;
    let plain = folder.path().join("layer");
    let files = layer(&plain)?;
    let mut text = format!(
        "Host: {}. The layer: {files} files, {} MiB; both sync what they wrote.\n\n\
         | unpacking, {} rounds in turn | motu, seconds | tar -x, seconds | times tar, pair by pair | |\n\
         | --- | ---: | ---: | ---: | --- |\n",
        host::description(&tar_version()?),
        LAYER >> 20,
        args.rounds
    );
    for (form, compress) in FORMS {
        let packed = folder.path().join(form);
        compressed(compress, &plain, &packed)?;
        let mut pairs = Vec::new();
        for round in 0..args.rounds {
            // Who goes first changes, so that neither always finds the host as the other left it.
            let motu = |at: &Path| timed(Command::new(&unpack).arg(at.join("disk.qcow2")).arg(&packed), at);
            let tar = |at: &Path| timed(Command::new("tar").arg("-xf").arg(&packed).arg("-C").arg(at), at);
            pairs.push(if round % 2 == 0 {
                let motu = motu(&fresh(folder.path())?)?;
                (motu, tar(&fresh(folder.path())?)?)
            } else {
                let tar = tar(&fresh(folder.path())?)?;
                (motu(&fresh(folder.path())?)?, tar)
            });
        }
        let motu = Samples::new(pairs.iter().map(|(motu, _)| motu.as_secs_f64()));
        let tar = Samples::new(pairs.iter().map(|(_, tar)| tar.as_secs_f64()));
        let ratio = Samples::new(pairs.iter().map(|(motu, tar)| motu.as_secs_f64() / tar.as_secs_f64()));
        let kept = if ratio.median() <= 1.5 { "kept" } else { "**not reached**" };
        writeln!(
            text,
            "| {form} | {:.2} | {:.2} | {:.2} ({:.2} to {:.2}) | ≤ 1.5: {kept} |",
            motu.median(),
            tar.median(),
            ratio.median(),
            ratio.min(),
            ratio.max()
        )?;
    }
    println!("{text}");
    if args.write {
        document::write("image", &text)?;
    }
    Ok(())
}

fn tar_version() -> Result<String> {
    let output = Command::new("tar").arg("--version").output().context("running tar: apt-get install tar")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// The program that does what the store does with a layer.
fn build() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--locked", "--package", "motu-rootfs", "--example", "unpack"]);
    let status = cargo.status().context("building the example unpack")?;
    ensure!(status.success(), "building the example unpack: {status}");
    Ok(Metadata::read()?.target_directory.join("release/examples/unpack"))
}

/// Makes a layer of files of many sizes, half of whose bytes repeat themselves; returns how many.
fn layer(path: &Path) -> Result<u64> {
    let tree = path.with_extension("tree");
    let mut state = 0x6d6f_7475_u64;
    let mut random = move || {
        // xorshift64 (Marsaglia): it is to be the same each time, and no more.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut files, mut bytes) = (0, 0);
    while bytes < LAYER {
        let folder = tree.join(format!("usr/share/{}/{}", files % 40, files % 7));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        // Many are small, few are large.
        let len = ((MEAN / 4) << (random() % 5)) + random() % MEAN;
        let mut data = Vec::new();
        while (data.len() as u64) < len {
            data.extend(random().to_le_bytes());
            data.extend(b"the same");
        }
        data.truncate(usize::try_from(len)?);
        let file = folder.join(format!("file-{files}"));
        fs::write(&file, &data).with_context(|| format!("writing {}", file.display()))?;
        (files, bytes) = (files + 1, bytes + len);
    }
    let status = Command::new("tar").arg("-cf").arg(path).arg("-C").arg(&tree).arg("usr").status();
    ensure!(status.context("running tar")?.success(), "tar could not make the layer");
    fs::remove_dir_all(&tree).with_context(|| format!("deleting {}", tree.display()))?;
    Ok(files)
}

fn compressed(program: &[&str], plain: &Path, packed: &Path) -> Result<()> {
    let [name, arguments @ ..] = program else { return Ok(()) };
    let open = |path: &Path| File::open(path).with_context(|| format!("reading {}", path.display()));
    let output = File::create(packed).with_context(|| format!("writing {}", packed.display()))?;
    let status = Command::new(name).args(arguments).stdin(open(plain)?).stdout(output).status();
    let status = status.with_context(|| format!("running {name}: apt-get install {name}"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// An empty folder, when all that was written before is on the disk and deleted.
fn fresh(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("out");
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("deleting {}", path.display()))?;
    }
    fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
    sync(folder)?;
    Ok(path)
}

/// From the start of the program until what it wrote is on the disk.
fn timed(command: &mut Command, at: &Path) -> Result<Duration> {
    let started = Instant::now();
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    sync(at)?;
    Ok(started.elapsed())
}

/// Writes the folder's file system to its disk (sync(1)).
fn sync(folder: &Path) -> Result<()> {
    let status = Command::new("sync").arg("--file-system").arg(folder).status().context("running sync")?;
    ensure!(status.success(), "sync: {status}");
    Ok(())
}
