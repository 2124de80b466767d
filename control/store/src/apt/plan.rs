//! What a whole system is made of, as apt would install it from nothing.

use super::{APT_GET, Apt, DownloadStatus};
use crate::StoreError;
use crate::process;
use crate::progress::Watch;
use std::path::PathBuf;
use std::process::Command;

/// All that the distribution says no system can be without, for the only kind of processor that there is (apt-patterns(7)).
const ESSENTIAL: &str = "?and(?essential,?architecture(amd64))";

/// A release among the host's sources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suite {
    /// `bookworm`.
    pub(crate) codename: String,
    /// `oldstable`.
    pub(crate) suite: String,
    /// As the host's sources have it.
    pub(crate) release: String,
    /// `Debian`.
    pub(crate) origin: String,
}

impl Suite {
    /// Whether a person may mean it by this name.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        [&self.codename, &self.suite, &self.release].into_iter().any(|known| known == name)
    }
}

/// A package that is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Bytes of its `.deb`.
    pub(crate) size: u64,
    /// Where its `.deb` is after it was fetched.
    pub(crate) file: PathBuf,
}

impl Apt<'_> {
    /// The releases of the host's sources.
    pub(crate) fn suites(&self, watch: Watch<'_>) -> Result<Vec<Suite>, StoreError> {
        let mut suites = Vec::new();
        let mut command = self.command(APT_GET);
        command.args(["indextargets", "--format", "$(CODENAME)|$(SUITE)|$(RELEASE)|$(ORIGIN)", "Created-By: Packages"]);
        let outcome = process::run((APT_GET, &mut command), &self.folder, watch, |line| {
            if let [codename, suite, release, origin] = line.split('|').collect::<Vec<_>>().as_slice() {
                let [codename, suite, release, origin] =
                    [codename, suite, release, origin].map(|text| (*text).to_owned());
                suites.push(Suite { codename, suite, release, origin });
            }
        })?;
        process::check(
            APT_GET,
            || "list the host's sources".to_owned(),
            outcome.status,
            || outcome.complaints.clone(),
        )?;
        suites.sort();
        suites.dedup();
        Ok(suites)
    }

    /// What apt would install into an empty system: all that is essential, `packages`, and what these need, of one release
    /// if there is a choice.
    pub(crate) fn plan(
        &self,
        packages: &[String],
        release: Option<&str>,
        watch: Watch<'_>,
    ) -> Result<Vec<Planned>, StoreError> {
        let archives = self.folder.join("cache/archives");
        let mut planned = Vec::new();
        let mut command = self.command(APT_GET);
        command.args(["--quiet", "--print-uris"]);
        install(&mut command, packages, release);
        let outcome = process::run((APT_GET, &mut command), &self.folder, watch, |line| {
            planned.extend(planned_in(line, &archives));
        })?;
        let doing = || "choose packages".to_owned();
        process::check(APT_GET, doing, outcome.status, || outcome.complaints.clone())?;
        Ok(planned)
    }

    /// Fetches what [`Apt::plan`] gave for the same packages; apt checks the signatures.
    pub(crate) fn download_planned(
        &self,
        (packages, release): (&[String], Option<&str>),
        planned: &[Planned],
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let total = planned.iter().fold(0u64, |sum, package| sum.saturating_add(package.size));
        let outcome = watch.step("fetching packages", Some(total), || {
            let mut done = 0;
            let mut command = self.command(APT_GET);
            command.args(["--quiet", "--yes", "--download-only"]);
            install(&mut command, packages, release);
            process::run((APT_GET, &mut command), &self.folder, watch, |line| {
                let now = line.parse().map_or(done, |status: DownloadStatus| status.of(total)).max(done);
                watch.progress.advance(now - done);
                done = now;
            })
        })?;
        let doing = || format!("fetch {} packages", planned.len());
        process::check(APT_GET, doing, outcome.status, || outcome.complaints.clone())?;
        match planned.iter().find(|package| !package.file.is_file()) {
            Some(missing) => Err(StoreError::Tool {
                tool: APT_GET,
                doing: format!("fetch {}", missing.name),
                status: "it went well, and no file came".to_owned(),
                output: outcome.complaints,
            }),
            None => Ok(()),
        }
    }
}

fn install(command: &mut Command, packages: &[String], release: Option<&str>) {
    command.args(["-o", "APT::Install-Recommends=false", "-o", "APT::Install-Suggests=false"]);
    if let Some(release) = release {
        command.args(["-t", release]);
    }
    command.args(["install", ESSENTIAL]).args(packages);
}

/// A line `'URI' FILE SIZE HASH` of `--print-uris`.
fn planned_in(line: &str, archives: &std::path::Path) -> Option<Planned> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut fields = rest.split(' ');
    let (file, size) = (fields.next()?, fields.next()?.parse().ok()?);
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    // What lies in a folder of the host's is used there.
    let file = match uri.strip_prefix("file:") {
        Some(path) => PathBuf::from(unescape(path)),
        None => archives.join(file),
    };
    Some(Planned { name: name.to_owned(), version: unescape(version), size, file })
}

/// `%3a` for a colon, and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_apt_prints_is_understood() {
        let line =
            "'https://example.org/pool/p/procps_4.0.2-3_amd64.deb' procps_2%3a4.0.2-3_amd64.deb 708712 SHA256:38";
        let planned = planned_in(line, Path::new("/a")).unwrap();
        assert_eq!((planned.name.as_str(), planned.version.as_str(), planned.size), ("procps", "2:4.0.2-3", 708_712));
        assert_eq!(planned.file, Path::new("/a/procps_2%3a4.0.2-3_amd64.deb"));
        let local = planned_in("'file:/srv/a%20b/x_1_all.deb' x_1_all.deb 5 ", Path::new("/a")).unwrap();
        assert_eq!(local.file, Path::new("/srv/a b/x_1_all.deb"));
        for line in ["", "Reading package lists...", "'x' y", "'http://x/y' y.deb z"] {
            assert_eq!(planned_in(line, Path::new("/a")), None, "{line:?}");
        }
    }
}
