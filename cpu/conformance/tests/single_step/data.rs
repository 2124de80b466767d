//! Where the suites' files come from.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of the 80386's suite: `ADD r/m8, r8` in real-address mode.
const ONE_FILE: &str = "https://raw.githubusercontent.com/SingleStepTests/80386/main/v1_ex_real_mode/00.MOO.gz";

pub enum Found {
    Files {
        /// Names and contents.
        files: Vec<(String, Vec<u8>)>,
        /// Hashes of cases that the suite's author has withdrawn.
        revoked: HashSet<String>,
    },
    /// And why.
    Nothing(String),
}

pub fn find() -> Found {
    match std::env::var_os("MOTU_SINGLE_STEP") {
        Some(folder) => in_folder(Path::new(&folder)),
        None => match fetch() {
            Ok(file) => Found::Files { files: vec![(ONE_FILE.to_owned(), file)], revoked: HashSet::new() },
            Err(why) => Found::Nothing(format!("MOTU_SINGLE_STEP names no folder, and {ONE_FILE} {why}")),
        },
    }
}

fn in_folder(folder: &Path) -> Found {
    let (mut files, mut revoked) = (Vec::new(), HashSet::new());
    for path in below(folder) {
        let name = path.to_string_lossy().into_owned();
        let lower = name.to_lowercase();
        let read = || std::fs::read(&path).unwrap_or_else(|error| panic!("reading {name}: {error}"));
        if lower.ends_with(".moo") {
            files.push((name.clone(), read()));
        } else if lower.ends_with(".moo.gz") {
            let unpacked = unpack(&path).unwrap_or_else(|why| panic!("unpacking {name}: {why}"));
            files.push((name.clone(), unpacked));
        } else if lower.ends_with("revocation_list.txt") {
            revoked.extend(String::from_utf8_lossy(&read()).lines().map(|line| line.trim().to_lowercase()));
        }
    }
    assert!(!files.is_empty(), "MOTU_SINGLE_STEP names {}, which has no *.MOO nor *.MOO.gz", folder.display());
    Found::Files { files, revoked }
}

/// All files below a folder, by name.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("MOTU_SINGLE_STEP: reading {}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

fn fetch() -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("file.gz");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--location", "--max-time", "20", "--output"]);
    output(curl.arg(&file).arg(ONE_FILE))?;
    unpack(&file)
}

fn unpack(file: &Path) -> Result<Vec<u8>, String> {
    output(Command::new("gzip").arg("--decompress").arg("--stdout").arg(file))
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot be had: {program}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("cannot be had: {program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
