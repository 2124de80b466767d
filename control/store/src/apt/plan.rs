//! What a whole system is made of, as apt would install it from nothing.

use super::{APT_GET, Apt};
use crate::process;
use crate::progress::Watch;
use crate::{Digest, StoreError};
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
    /// The digest of its `.deb` that the release's lists have, if that is a SHA-256.
    pub(crate) digest: Option<Digest>,
    /// Its `.deb`, if that is a file of this host's sources.
    pub(crate) local: Option<PathBuf>,
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
        let mut planned = Vec::new();
        let mut command = self.command(APT_GET);
        // Otherwise MD5 is printed where there is one (apt-get(8)).
        command.args(["--quiet", "--print-uris", "-o", "Acquire::ForceHash=SHA256"]);
        install(&mut command, packages, release);
        let outcome = process::run((APT_GET, &mut command), &self.folder, watch, |line| {
            planned.extend(planned_in(line));
        })?;
        let doing = || "choose packages".to_owned();
        process::check(APT_GET, doing, outcome.status, || outcome.complaints.clone())?;
        Ok(planned)
    }
}

fn install(command: &mut Command, packages: &[String], release: Option<&str>) {
    command.args(["-o", "APT::Install-Recommends=false", "-o", "APT::Install-Suggests=false"]);
    if let Some(release) = release {
        // With what belongs to it: by its name alone, its security updates would be others' packages.
        command.arg("-t").arg(format!("/^{release}(|-security|-updates)$/"));
    }
    command.args(["install", ESSENTIAL]).args(packages);
}

/// A line `'URI' FILE SIZE HASH` of `--print-uris`.
fn planned_in(line: &str) -> Option<Planned> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut fields = rest.split(' ');
    let (file, size) = (fields.next()?, fields.next()?.parse().ok()?);
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    let digest = fields.next().and_then(|hash| hash.strip_prefix("SHA256:")?.parse().ok());
    // What lies in a folder of the host's is used there.
    let local = uri.strip_prefix("file:").map(|path| PathBuf::from(unescape(path)));
    Some(Planned { name: name.to_owned(), version: unescape(version), size, digest, local })
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

    #[test]
    fn what_apt_prints_is_understood() {
        let digest = Digest::of(b"a package");
        let uri = "'https://example.org/pool/p/procps_4.0.2-3_amd64.deb' procps_2%3a4.0.2-3_amd64.deb 708712";
        let planned = planned_in(&format!("{uri} SHA256:{digest}")).unwrap();
        assert_eq!((planned.name.as_str(), planned.version.as_str(), planned.size), ("procps", "2:4.0.2-3", 708_712));
        assert_eq!((planned.digest, planned.local), (Some(digest), None));
        for other in ["MD5Sum:00", "SHA256:38", ""] {
            assert_eq!(planned_in(&format!("{uri} {other}")).unwrap().digest, None, "{other}");
        }
        let local = planned_in("'file:/srv/a%20b/x_1_all.deb' x_1_all.deb 5 ").unwrap();
        assert_eq!(local.local.as_deref(), Some(std::path::Path::new("/srv/a b/x_1_all.deb")));
        for line in ["", "Reading package lists...", "'x' y", "'http://x/y' y.deb z"] {
            assert_eq!(planned_in(line), None, "{line:?}");
        }
    }
}
