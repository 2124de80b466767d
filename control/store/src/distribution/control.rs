//! What a package says of itself: `control.tar` of its `.deb` (deb(5), deb-control(5)).

use crate::StoreError;
use crate::deb::DPKG_DEB;
use crate::process::{self, Host};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;

/// Bytes of all members together: package managers' own largest have a few MiB.
const LARGEST: u64 = 64 << 20;

/// A package's control archive.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The paragraph of the file `control`.
    pub(crate) paragraph: String,
    /// Its other files: scripts, checksums, lists. Permissions and bytes.
    pub(crate) files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Control {
    /// Reads that of a package by the host's dpkg-deb.
    pub(crate) fn read(host: &Host, package: &str, file: &Path) -> Result<Self, StoreError> {
        let mut command = host.command(DPKG_DEB);
        command.arg("--ctrl-tarfile").arg(file);
        let ended = command.output().map_err(|error| process::cannot_run(DPKG_DEB, error))?;
        let doing = || format!("read {package}");
        process::check(DPKG_DEB, doing, ended.status, || String::from_utf8_lossy(&ended.stderr).into_owned())?;
        let bad = |problem: String| StoreError::Package { package: package.to_owned(), problem };
        let control = Self::parse(&ended.stdout).map_err(|error| bad(format!("a damaged control archive: {error}")))?;
        let named = control.field("Package");
        if named == Some(package) {
            Ok(control)
        } else {
            Err(bad(format!("the control file of {}", named.unwrap_or("nothing"))))
        }
    }

    pub(crate) fn parse(tar: &[u8]) -> io::Result<Self> {
        let mut control = Self::default();
        let mut left = LARGEST;
        let too_large = || io::Error::other(format!("its members have more than {LARGEST} bytes"));
        for entry in tar::Archive::new(tar).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            if !entry.header().entry_type().is_file() || name.is_empty() || name.contains('/') {
                continue;
            }
            let mode = entry.header().mode()? & 0o755;
            let mut data = Vec::new();
            entry.by_ref().take(left.saturating_add(1)).read_to_end(&mut data)?;
            left = left.checked_sub(data.len() as u64).ok_or_else(too_large)?;
            if name == "control" {
                control.paragraph = String::from_utf8_lossy(&data).trim().to_owned();
            } else {
                control.files.insert(name, (mode, data));
            }
        }
        Ok(control)
    }

    /// A field's first line.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let value = self.paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim())
    }

    /// What dpkg calls it in its database: one that may be there for several architectures has its own in the name.
    pub(crate) fn database_name(&self) -> String {
        let name = self.field("Package").unwrap_or_default();
        match self.field("Architecture") {
            Some(architecture) if self.field("Multi-Arch") == Some("same") => format!("{name}:{architecture}"),
            _ => name.to_owned(),
        }
    }

    /// Its configuration files, without a slash before them.
    pub(crate) fn conffiles(&self) -> BTreeSet<Vec<u8>> {
        let lines = self.lines("conffiles");
        // What has a flag before it is no file of this version (deb-conffiles(5)).
        lines.filter_map(|line| Some(line.strip_prefix('/')?.as_bytes().to_vec())).collect()
    }

    /// Triggers that it is interested in, and whether who activates them waits for it (deb-triggers(5)).
    pub(crate) fn interests(&self) -> Vec<(String, bool)> {
        let interests = self.lines("triggers").filter_map(|line| {
            let (directive, name) = line.split_once(char::is_whitespace)?;
            let awaits = match directive {
                "interest" | "interest-await" => true,
                "interest-noawait" => false,
                _ => return None,
            };
            Some((name.trim().to_owned(), awaits))
        });
        interests.collect()
    }

    fn lines(&self, file: &str) -> impl Iterator<Item = String> {
        let bytes = self.files.get(file).map_or(&[][..], |(_, bytes)| bytes);
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#'))
    }
}
