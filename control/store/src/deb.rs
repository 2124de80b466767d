//! What the image takes out of a Debian package.

use crate::StoreError;
use crate::modules;
use crate::process::{self, Host};
use crate::progress::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;

const DPKG_DEB: &str = "dpkg-deb";

/// Largest member in bytes that is taken: kernels have some 15 MiB, unstripped modules a few.
const LARGEST: u64 = 128 << 20;

/// Members of packages, by what they are.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// The kernel, a bzImage.
    pub(crate) kernel: Option<Vec<u8>>,
    /// The static busybox.
    pub(crate) busybox: Option<Vec<u8>>,
    /// The names of the modules that the kernel has built in.
    pub(crate) builtin: BTreeSet<String>,
    /// Modules by name: path and bytes, compressed as the package has them.
    pub(crate) modules: BTreeMap<String, (String, Vec<u8>)>,
}

/// Stops a long reading when it is no longer wanted.
struct Watched<'a, R> {
    inner: R,
    watch: Watch<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.check().is_err() {
            return Err(io::Error::other("stopped"));
        }
        self.inner.read(buffer)
    }
}

impl Members {
    /// Reads a package and keeps the kernel, busybox, and those modules whose names are wanted.
    pub(crate) fn take(
        &mut self,
        host: &Host,
        (package, file): (&str, &Path),
        wanted: &[String],
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let mut command = host.command(DPKG_DEB);
        command.arg("--fsys-tarfile").arg(file);
        let mut child = command.spawn().map_err(|error| process::cannot_run(DPKG_DEB, error))?;
        let read = match child.stdout.take() {
            Some(stdout) => self.read(Watched { inner: stdout, watch }, wanted),
            None => Ok(()),
        };
        if read.is_err() {
            let _ = child.kill();
        }
        let ended = child.wait_with_output().map_err(|source| StoreError::Run { tool: DPKG_DEB, source })?;
        watch.check()?;
        let doing = || format!("unpack {package}");
        if let Err(error) = read {
            return Err(StoreError::Tool {
                tool: DPKG_DEB,
                doing: doing(),
                status: error.to_string(),
                output: String::from_utf8_lossy(&ended.stderr).trim_end().to_owned(),
            });
        }
        process::check(DPKG_DEB, doing, ended.status, || String::from_utf8_lossy(&ended.stderr).into_owned())
    }

    fn read(&mut self, tar: impl Read, wanted: &[String]) -> io::Result<()> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path()?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./");
            // Distributions are moving everything from / to /usr.
            let path = path.strip_prefix("usr/").unwrap_or(path);
            let in_modules = path.strip_prefix("lib/modules/").and_then(|path| path.split_once('/'));
            if path.starts_with("boot/vmlinuz-") || in_modules.is_some_and(|(_, path)| path == "vmlinuz") {
                self.kernel = Some(contents(&mut entry)?);
            } else if path == "bin/busybox" {
                self.busybox = Some(contents(&mut entry)?);
            } else if in_modules.is_some_and(|(_, path)| path == "modules.builtin") {
                let list = contents(&mut entry)?;
                self.builtin.extend(String::from_utf8_lossy(&list).lines().filter_map(modules::name_of));
            } else if in_modules.is_some()
                && let Some(name) = modules::name_of(path)
                && wanted.contains(&name)
            {
                let data = contents(&mut entry)?;
                self.modules.insert(name, (path.to_owned(), data));
            }
        }
        Ok(())
    }
}

fn contents(member: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    member.take(LARGEST.saturating_add(1)).read_to_end(&mut data)?;
    if data.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("a member is larger than {LARGEST} bytes")));
    }
    Ok(data)
}
