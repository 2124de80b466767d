//! Feeds a target with random inputs, or with files: `cargo xtask fuzz` calls it.
//!
//! ```text
//! motu-fuzz --list                                   targets
//! motu-fuzz TARGET --seconds N --seed N --keep FILE FOLDER...
//! motu-fuzz TARGET FILE...                           these inputs, once each
//! ```
#![forbid(unsafe_code)]

use motu_fuzz::random::{self, Random};
use motu_fuzz::{TARGETS, Target};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("motu-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the arguments ask for.
struct Asked {
    target: &'static Target,
    seconds: Option<u64>,
    seed: u64,
    keep: Option<PathBuf>,
    paths: Vec<PathBuf>,
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let first = arguments.next().ok_or("a target is needed, or --list")?;
    if first == "--list" {
        TARGETS.iter().for_each(|target| println!("{:<14}{}", target.name, target.about));
        return Ok(());
    }
    let asked = parse(&first, arguments)?;
    let mut corpus = Vec::new();
    for path in &asked.paths {
        collect(path, &mut corpus).map_err(|error| format!("reading {}: {error}", path.display()))?;
    }
    match asked.seconds {
        Some(seconds) => fuzz(&asked, &corpus, Duration::from_secs(seconds)),
        None => {
            corpus.iter().for_each(|bytes| (asked.target.run)(bytes));
            println!("{} inputs of {}", corpus.len(), asked.target.name);
            Ok(())
        }
    }
}

fn parse(name: &str, mut arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let target = motu_fuzz::find(name).ok_or_else(|| format!("there is no target {name:?}; see --list"))?;
    let mut asked = Asked { target, seconds: None, seed: 1, keep: None, paths: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
        match argument.as_str() {
            "--seconds" => asked.seconds = Some(number(value()?)?),
            "--seed" => asked.seed = number(value()?)?,
            "--keep" => asked.keep = Some(value()?.into()),
            _ => asked.paths.push(argument.into()),
        }
    }
    Ok(asked)
}

/// A file, or the files of a folder; a folder that is not there is empty.
fn collect(path: &Path, corpus: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
    if path.is_file() {
        corpus.push(fs::read(path)?);
    } else if path.is_dir() {
        let mut files = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            corpus.push(fs::read(file)?);
        }
    }
    Ok(())
}

/// The input that is being tried is always in the file `keep`: whatever ends the process, it is there.
fn fuzz(asked: &Asked, corpus: &[Vec<u8>], time: Duration) -> Result<(), String> {
    let target = asked.target;
    let keep = asked.keep.as_deref().map(|path| {
        let file = File::create(path).map_err(|error| format!("making {}: {error}", path.display()))?;
        Ok::<_, String>((path, file))
    });
    let keep = keep.transpose()?;
    let mut random = Random::new(asked.seed);
    let start = Instant::now();
    let mut inputs = 0u64;
    for bytes in corpus.iter().cloned().map(Some).chain(std::iter::repeat(None)) {
        if start.elapsed() >= time {
            break;
        }
        let bytes = bytes.unwrap_or_else(|| random::input(&mut random, corpus, target.max_len));
        if let Some((path, file)) = &keep {
            let kept = file.set_len(bytes.len() as u64).and_then(|()| file.write_all_at(&bytes, 0));
            kept.map_err(|error| format!("writing {}: {error}", path.display()))?;
        }
        (target.run)(&bytes);
        inputs += 1;
    }
    if let Some((path, _)) = keep {
        fs::remove_file(path).map_err(|error| format!("removing {}: {error}", path.display()))?;
    }
    println!("{}: {inputs} inputs in {:.1} s, seed {}", target.name, start.elapsed().as_secs_f64(), asked.seed);
    Ok(())
}
