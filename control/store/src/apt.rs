//! Packages through the host's own `apt-get`, as an ordinary user and without a change to the host.
//!
//! apt is told to keep all that it writes in a folder of ours. Sources, keys, proxies and preferences
//! stay the host's: which packages there are, and whether they are genuine, is for apt to say. What the
//! host has configured to be run or fetched beside that (hooks, icons, translations) is left out.

mod plan;
mod status;

use crate::StoreError;
use crate::process::{self, Host, Outcome};
use crate::progress::Watch;
pub(crate) use plan::{Planned, Suite};
use status::DownloadStatus;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const APT_GET: &str = "apt-get";
const APT_CACHE: &str = "apt-cache";

/// How old the host's own lists may be to do for us.
const FRESH: Duration = Duration::from_secs(3 * 24 * 3600);

/// apt.conf(5): `#clear` takes back what the host's files have set.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb-src;
#clear Acquire::IndexTargets::deb::Translations;
#clear Acquire::IndexTargets::deb::Contents-deb;
#clear Acquire::IndexTargets::deb::CNF;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
";

/// What apt knows of a package that it would install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Names that it depends on, the first of each group of alternatives, without versions.
    pub(crate) depends: Vec<String>,
    /// Bytes of its `.deb`.
    pub(crate) size: u64,
}

/// apt with its own folder to write in.
#[derive(Debug)]
pub(crate) struct Apt<'a> {
    host: &'a Host,
    folder: PathBuf,
    lists: PathBuf,
    /// What the last update complained of although it went well.
    warnings: String,
}

impl<'a> Apt<'a> {
    /// Prepares a folder for apt. It is to be deleted afterwards.
    pub(crate) fn new(folder: PathBuf, host: &'a Host) -> Result<Self, StoreError> {
        for part in ["lists/partial", "cache/archives/partial", "packages", "log"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(StoreError::io("make the folder", &path))?;
        }
        for (name, text) in [("status", ""), ("apt.conf", CONFIGURATION)] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(StoreError::io("write", &path))?;
        }
        let lists = folder.join("lists");
        Ok(Apt { host, folder, lists, warnings: String::new() })
    }

    /// Reads the lists that the host has; returns whether they are new enough.
    pub(crate) fn use_host_lists(&mut self) -> bool {
        // Fetched lists bear the time at which they were published; only their folders tell when.
        let fetched = [self.host.lists.clone(), self.host.lists.join("partial")];
        let fetched = fetched.iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max();
        let age = fetched.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        let fresh = age.is_some_and(|age| age < FRESH) && has_packages(&self.host.lists);
        if fresh {
            self.lists.clone_from(&self.host.lists);
        }
        fresh
    }

    /// Fetches the lists into apt's folder and reads those from now on.
    pub(crate) fn update(&mut self, watch: Watch<'_>) -> Result<(), StoreError> {
        self.lists = self.folder.join("lists");
        let outcome = watch.step("fetching the lists of packages", None, || {
            let mut command = self.command(APT_GET);
            process::run((APT_GET, command.args(["--quiet", "update"])), &self.folder, watch, |_| {})
        })?;
        // One source of several that cannot be reached need not matter; that no package is found does.
        self.warnings = outcome.complaints;
        if has_packages(&self.lists) {
            return Ok(());
        }
        let doing = || "fetch the lists of packages".to_owned();
        process::check(APT_GET, doing, outcome.status, || self.warnings.clone())?;
        Err(StoreError::Tool {
            tool: APT_GET,
            doing: doing(),
            status: "no list came".to_owned(),
            output: self.warnings.clone(),
        })
    }

    /// What the last [`Apt::update`] complained of.
    pub(crate) fn warnings(&self) -> &str {
        &self.warnings
    }

    /// The version of a package that apt would install; `None` if it knows none.
    pub(crate) fn candidate(&self, name: &str, watch: Watch<'_>) -> Result<Option<Candidate>, StoreError> {
        let mut text = String::new();
        let mut command = self.command(APT_CACHE);
        command.args(["--no-all-versions", "show", name]);
        let outcome = process::run((APT_CACHE, &mut command), &self.folder, watch, |line| {
            text.push_str(line);
            text.push('\n');
        })?;
        // For a name that it does not know it fails, with a message for people.
        Ok(if outcome.status.success() { candidate_in(&text, name) } else { None })
    }

    /// Fetches packages, whose signatures apt checks. Returns the file of each, in the same order.
    pub(crate) fn download(&self, packages: &[Candidate], watch: Watch<'_>) -> Result<Vec<PathBuf>, StoreError> {
        let total = packages.iter().fold(0u64, |sum, package| sum.saturating_add(package.size));
        let folder = self.folder.join("packages");
        let outcome: Outcome = watch.step("fetching packages", Some(total), || {
            let mut done = 0;
            let mut command = self.command(APT_GET);
            command.args(["--quiet", "download"]).current_dir(&folder);
            command.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
            process::run((APT_GET, &mut command), &self.folder, watch, |line| {
                let now = line.parse().map_or(done, |status: DownloadStatus| status.of(total)).max(done);
                watch.progress.advance(now - done);
                done = now;
            })
        })?;
        let doing = || {
            let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
            format!("fetch {}", names.join(" and "))
        };
        process::check(APT_GET, doing, outcome.status, || outcome.complaints.clone())?;
        packages.iter().map(|package| find_package(&folder, package)).collect()
    }

    /// apt with all that it writes in our folder (apt.conf(5)).
    fn command(&self, tool: &'static str) -> Command {
        let option = |name: &str, path: &Path| {
            let mut option = std::ffi::OsString::from(name);
            option.push("=");
            option.push(path);
            option
        };
        let mut command = self.host.command(tool);
        command.arg("-c").arg(self.folder.join("apt.conf"));
        for (name, part) in [
            ("Dir::State", ""),
            ("Dir::State::status", "status"),
            ("Dir::State::extended_states", "extended_states"),
            ("Dir::Cache", "cache"),
            ("Dir::Log", "log"),
        ] {
            command.arg("-o").arg(option(name, &self.folder.join(part)));
        }
        command.arg("-o").arg(option("Dir::State::lists", &self.lists));
        for setting in [
            "Dir::Cache::pkgcache=pkgcache.bin",
            "Dir::Cache::srcpkgcache=srcpkgcache.bin",
            "Acquire::Languages=none",
            "Acquire::GzipIndexes=true",
            "APT::Get::AllowUnauthenticated=false",
            "APT::Status-Fd=1",
            // As root apt would give its rights to a user who may not write in our folder.
            "APT::Sandbox::User=root",
            // The whole folder is ours and under our own lock.
            "Debug::NoLocking=true",
        ] {
            command.arg("-o").arg(setting);
        }
        command
    }
}

fn has_packages(lists: &Path) -> bool {
    let is_list = |entry: fs::DirEntry| entry.file_name().to_string_lossy().contains("_Packages");
    fs::read_dir(lists).is_ok_and(|entries| entries.flatten().any(is_list))
}

/// Reads a package's paragraph (Debian Policy 5.1).
fn candidate_in(text: &str, name: &str) -> Option<Candidate> {
    let paragraph = text.split("\n\n").find(|paragraph| field(paragraph, "Package").as_deref() == Some(name))?;
    let depends = field(paragraph, "Depends").unwrap_or_default();
    let first = |group: &str| group.split([' ', '(', '|', ':']).find(|word| !word.is_empty()).map(str::to_owned);
    Some(Candidate {
        name: name.to_owned(),
        version: field(paragraph, "Version")?,
        depends: depends.split(',').filter_map(first).collect(),
        size: field(paragraph, "Size").and_then(|size| size.parse().ok()).unwrap_or(0),
    })
}

fn field(paragraph: &str, name: &str) -> Option<String> {
    let mut lines = paragraph.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut value = value.trim().to_owned();
    for more in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push(' ');
        value.push_str(more.trim());
    }
    Some(value)
}

/// apt names a file `NAME_VERSION_ARCHITECTURE.deb`.
fn find_package(folder: &Path, package: &Candidate) -> Result<PathBuf, StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let path = entry.map_err(StoreError::io("read", folder))?.path();
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if file.ends_with(".deb") && file.split('_').next() == Some(package.name.as_str()) {
            return Ok(path);
        }
    }
    Err(StoreError::Tool {
        tool: APT_GET,
        doing: format!("fetch {}", package.name),
        status: "it went well, and no file came".to_owned(),
        output: String::new(),
    })
}

#[cfg(test)]
mod tests;
