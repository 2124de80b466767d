//! The programs, compiled.

use super::super::guest::MARKER;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the order of the rows.
pub const SOURCES: [&str; 8] =
    ["main.c", "integer.c", "calls.c", "float.c", "simd.c", "memory.c", "system.c", "programs.c"];

/// The file that is for a newer processor than the others.
const V3: &str = "simd-v3.c";

/// Plain code for every x86-64: neither vectors nor memcpy where the source has a loop, and no look at errno for roots.
pub const FLAGS: [&str; 7] = [
    "-O2",
    "-march=x86-64",
    "-fno-tree-vectorize",
    "-fno-tree-loop-distribute-patterns",
    "-fno-math-errno",
    "-static",
    "-s",
];

/// Compiled programs.
#[derive(Debug)]
pub struct Programs {
    /// The one with all rows.
    pub cpu: PathBuf,
    /// The least one, which the row `exec` starts.
    pub tiny: PathBuf,
    /// The compiler, and its version.
    pub compiler: String,
}

/// Where the sources are.
pub fn folder() -> PathBuf {
    workspace::root().join("tests/guests/cpu-bench")
}

/// Compiles the programs into `to`.
///
/// # Errors
/// There is no C compiler that links statically.
pub fn compile(to: &Path) -> Result<Programs> {
    let (cpu, tiny, v3) = (to.join("cpu"), to.join("tiny"), to.join("simd-v3.o"));
    gcc(&FLAGS, &["-march=x86-64-v3", "-c", V3], &v3)?;
    let marker = format!("-DMARKER=\"{MARKER}\"");
    let mut arguments: Vec<OsString> = vec![marker.into()];
    arguments.extend(SOURCES.iter().map(OsString::from));
    arguments.push(v3.into());
    gcc(&FLAGS, &arguments, &cpu)?;
    gcc(&FLAGS, &["-nostdlib", "tiny.c"], &tiny)?;
    Ok(Programs { cpu, tiny, compiler: version()? })
}

/// Writes a program that can be run.
pub fn executable(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, permissions).with_context(|| format!("making {} executable", path.display()))
}

fn gcc(flags: &[&str], arguments: &[impl AsRef<OsStr>], to: &Path) -> Result<()> {
    let status = Command::new("gcc").args(flags).args(arguments).arg("-o").arg(to).current_dir(folder()).status();
    match status {
        Ok(status) => {
            ensure!(
                status.success(),
                "gcc {} for {}: {status}; it has to link statically: apt-get install gcc libc6-dev",
                flags.join(" "),
                to.display()
            );
            Ok(())
        }
        Err(error) => bail!("gcc: {error}; it compiles the guest's programs: apt-get install gcc libc6-dev"),
    }
}

fn version() -> Result<String> {
    let output = Command::new("gcc").arg("-dumpfullversion").output().context("asking gcc for its version")?;
    Ok(format!("gcc {}", String::from_utf8_lossy(&output.stdout).trim()))
}

#[cfg(test)]
mod tests {
    use super::super::measured::{Measured, Round};
    use super::super::rows::{Group, ROWS};
    use super::super::run::{Who, run_native};
    use super::*;

    #[test]
    fn the_rows_run_and_come_to_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let programs = compile(folder.path()).unwrap();
        let v3 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        // The programs are not there.
        let rows = ROWS.iter().filter(|row| row.group != Group::Programs && (v3 || row.name != "matrix-avx2"));
        let rows: Vec<_> = rows.collect();
        let names: Vec<_> = rows.iter().map(|row| row.name).collect();
        let parameters = [("bench", names.join(",")), ("bench_ms", "1".to_owned())];
        let run = || run_native(&programs.cpu, &parameters).unwrap();
        let rounds = vec![Round::from([(Who::Native, run())]), Round::from([(Who::Native, run())])];
        assert_eq!(rounds[0][&Who::Native].rows.len(), rows.len());
        Measured::new(rows, rounds).unwrap();
    }
}
