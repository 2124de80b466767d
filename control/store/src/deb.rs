//! What the image takes out of a Debian package.

use crate::StoreError;
use crate::modules;
use crate::process::{self, Host};
use crate::progress::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout};

pub(crate) const DPKG_DEB: &str = "dpkg-deb";

/// Bytes of what dpkg-deb complains of that are shown at most.
const LONGEST_COMPLAINT: u64 = 16 << 10;

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

fn doing(package: &str) -> String {
    format!("unpack {package}")
}

/// Has `read` read the files of a package as a tar archive, which the host's dpkg-deb writes, up to its end or an error. What `read`
/// fails with is inside, with what dpkg-deb had to say.
pub(crate) fn read_files<T, E>(
    host: &Host,
    (package, file): (&str, &Path),
    read: impl FnOnce(ChildStdout) -> Result<T, E>,
) -> Result<Result<T, (E, String)>, StoreError> {
    let child = host.command(DPKG_DEB).arg("--fsys-tarfile").arg(file).spawn();
    let mut child = child.map_err(|error| process::cannot_run(DPKG_DEB, error))?;
    // Both at once: it waits for who reads neither.
    let said = child.stderr.take().map(|stderr| std::thread::spawn(move || complaints(stderr)));
    let failed = |source| StoreError::Run { tool: DPKG_DEB, source };
    let files = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let done = read(files);
    if done.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    let output = said.and_then(|said| said.join().ok()).unwrap_or_default();
    match done {
        Err(error) => Ok(Err((error, output))),
        Ok(done) => process::check(DPKG_DEB, || doing(package), status, || output).map(|()| Ok(done)),
    }
}

/// The beginning of what a program complains of; the rest is read and dropped.
fn complaints(mut stderr: ChildStderr) -> String {
    let mut text = Vec::new();
    // What cannot be read was not said.
    let _ = stderr.by_ref().take(LONGEST_COMPLAINT).read_to_end(&mut text);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&text).trim_end().to_owned()
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
        let read = |files| self.read(Watched { inner: files, watch }, wanted);
        let done = read_files(host, (package, file), read);
        watch.check()?;
        done?.map_err(|(error, output)| StoreError::Tool {
            tool: DPKG_DEB,
            doing: doing(package),
            status: error.to_string(),
            output,
        })
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
