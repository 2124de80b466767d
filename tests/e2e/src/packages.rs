//! Debian packages whose files are guests: fetched by `apt-get`, unpacked, never installed.
//!
//! As for `tiny`, apt keeps all that it writes in a folder of ours and may be asked for another
//! architecture's packages without a change to the host.

use crate::target;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A Debian architecture's packages.
#[derive(Debug)]
pub struct Packages {
    architecture: &'static str,
    folder: PathBuf,
}

impl Packages {
    /// Fetches the lists of packages, once for all tests of a program.
    ///
    /// # Errors
    /// This host has no apt, or its sources have no packages of this architecture.
    pub fn of(architecture: &'static str) -> Result<Self, String> {
        static LISTS: Mutex<Option<HashMap<&str, Result<(), String>>>> = Mutex::new(None);
        let packages = Self { architecture, folder: target().join("e2e-packages").join(architecture) };
        let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
        let fetched = lists.get_or_insert_default().entry(architecture).or_insert_with(|| packages.update());
        fetched.clone()?;
        drop(lists);
        Ok(packages)
    }

    fn update(&self) -> Result<(), String> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(part)).map_err(|error| error.to_string())?;
        }
        fs::write(self.folder.join("status"), "").map_err(|error| error.to_string())?;
        let output = self.apt("apt-get", &["--quiet", "update"]);
        // One source of several may have nothing for this architecture.
        let names = fs::read_dir(self.folder.join("lists")).map_err(|error| error.to_string())?;
        let has_some = names.flatten().any(|name| name.file_name().to_string_lossy().contains("_Packages"));
        if has_some { Ok(()) } else { Err(output.err().unwrap_or_else(|| "apt-get fetched no list".to_owned())) }
    }

    /// The folder of a package's files. Where the package only depends on others, as `linux-image-686`
    /// does, that is the first of those whose name begins like its own.
    ///
    /// # Errors
    /// The sources have no such package, or it cannot be fetched.
    pub fn unpacked(&self, name: &str) -> Result<PathBuf, String> {
        let shown = self.apt("apt-cache", &["--no-all-versions", "show", name])?;
        let stem = name.rsplit_once('-').map_or(name, |(stem, _)| stem);
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let mut concrete = depends.split([',', '|']).filter_map(|group| group.split_whitespace().next());
        let name = concrete.find(|one| one.starts_with(stem)).unwrap_or(name);
        let folder = self.folder.join(name);
        if !folder.is_dir() {
            let fetched = self.folder.join(format!("{name}.tmp"));
            drop(fs::remove_dir_all(&fetched));
            fs::create_dir_all(&fetched).map_err(|error| error.to_string())?;
            let output = self.command("apt-get", &["--quiet", "download", name]).current_dir(&fetched).output();
            succeeded("apt-get download", output)?;
            let package = fs::read_dir(&fetched).map_err(|error| error.to_string())?.flatten().next();
            let package = package.ok_or_else(|| format!("apt-get downloaded no file of {name}"))?.path();
            let files = self.folder.join(format!("{name}.files"));
            let output = Command::new("dpkg-deb").arg("--extract").args([&package, &files]).output();
            succeeded("dpkg-deb", output)?;
            fs::rename(&files, &folder).map_err(|error| error.to_string())?;
            drop(fs::remove_dir_all(&fetched));
        }
        Ok(folder)
    }

    fn apt(&self, tool: &str, args: &[&str]) -> Result<String, String> {
        succeeded(tool, self.command(tool, args).output())
    }

    fn command(&self, tool: &str, args: &[&str]) -> Command {
        let mut command = Command::new(tool);
        command.env("LC_ALL", "C");
        for (name, part) in [
            ("Dir::State", ""),
            ("Dir::State::status", "status"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{name}={}", self.folder.join(part).display()));
        }
        let architecture = self.architecture;
        for setting in [
            &format!("APT::Architecture={architecture}"),
            &format!("APT::Architectures={architecture}"),
            "Acquire::Languages=none",
            "Acquire::GzipIndexes=true",
            "APT::Sandbox::User=root",
            "Debug::NoLocking=true",
        ] {
            command.arg("-o").arg(setting);
        }
        command.args(args);
        command
    }
}

fn succeeded(tool: &str, output: std::io::Result<std::process::Output>) -> Result<String, String> {
    let output = output.map_err(|error| format!("{tool}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The file in a folder whose name begins like this.
///
/// # Errors
/// There is none.
pub fn file(folder: &Path, beginning: &str) -> Result<PathBuf, String> {
    let names = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let found = names.flatten().find(|name| name.file_name().to_string_lossy().starts_with(beginning));
    found.map(|name| name.path()).ok_or_else(|| format!("{} has no {beginning}*", folder.display()))
}
