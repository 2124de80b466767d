//! An initial RAM disk: a cpio archive of the "newc" kind, as the kernel unpacks it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same entries give the same bytes: they are sorted, and times are 0. It is not compressed: a
//! guest on a CPU made of software takes longer to unpack than the host to read a few MiB.

use std::borrow::Cow;
use std::collections::BTreeMap;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// The kernel's limit for a path, its final NUL included (PATH_MAX).
const LONGEST_PATH: usize = 4096;

/// Why an entry cannot be in an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpioError {
    /// The path is empty, absolute, too long, or has an empty, `.` or `..` part.
    #[error("{0:?} cannot be the path of an entry")]
    Path(String),
    /// The path is there already, or something that is no folder is where a folder must be.
    #[error("there is something else at {0:?} already")]
    Taken(String),
    /// The format has 32 bits for a size.
    #[error("{path:?} has {size} bytes: 4 GiB less one is the most")]
    Size {
        /// The entry.
        path: String,
        /// Its size.
        size: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<'a> {
    mode: u32,
    device: (u32, u32),
    data: Cow<'a, [u8]>,
}

/// The entries of an archive. Folders that are needed on the way to an entry come of themselves.
#[derive(Debug, Clone, Default)]
pub struct Archive<'a> {
    entries: BTreeMap<String, Entry<'a>>,
}

impl<'a> Archive<'a> {
    /// An archive with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder. It may be there already.
    ///
    /// # Errors
    /// [`CpioError::Path`], [`CpioError::Taken`].
    pub fn folder(&mut self, path: &str, permissions: u32) -> Result<(), CpioError> {
        let is_folder = |entry: &Entry<'_>| entry.mode & !0o7777 == DIRECTORY;
        self.entries.retain(|taken, entry| taken != path || !is_folder(entry));
        self.add(path, DIRECTORY | permissions & 0o7777, (0, 0), Cow::Borrowed(&[]))
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Any [`CpioError`].
    pub fn file(&mut self, path: &str, permissions: u32, data: impl Into<Cow<'a, [u8]>>) -> Result<(), CpioError> {
        self.add(path, REGULAR | permissions & 0o7777, (0, 0), data.into())
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// Any [`CpioError`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        if target.is_empty() || target.len() >= LONGEST_PATH {
            return Err(CpioError::Path(target.to_owned()));
        }
        self.add(path, SYMLINK | 0o777, (0, 0), Cow::Owned(target.as_bytes().to_vec()))
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// [`CpioError::Path`], [`CpioError::Taken`].
    pub fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        (major, minor): (u32, u32),
    ) -> Result<(), CpioError> {
        self.add(path, CHARACTER | permissions & 0o7777, (major, minor), Cow::Borrowed(&[]))
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), data: Cow<'a, [u8]>) -> Result<(), CpioError> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !path.split('/').all(plain) || path.len() >= LONGEST_PATH {
            return Err(CpioError::Path(path.to_owned()));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(CpioError::Size { path: path.to_owned(), size: data.len() });
        }
        for (end, _) in path.match_indices('/') {
            let parent = path.split_at(end).0;
            let folder = Entry { mode: DIRECTORY | 0o755, device: (0, 0), data: Cow::Borrowed(&[]) };
            let there = self.entries.entry(parent.to_owned()).or_insert(folder);
            if there.mode & !0o7777 != DIRECTORY {
                return Err(CpioError::Taken(parent.to_owned()));
            }
        }
        if self.entries.contains_key(path) {
            return Err(CpioError::Taken(path.to_owned()));
        }
        self.entries.insert(path.to_owned(), Entry { mode, device, data });
        Ok(())
    }

    /// The archive's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.entries.iter().map(|(path, entry)| path.len() + entry.data.len() + 120).sum();
        let mut out = Vec::with_capacity(size);
        for (number, (path, entry)) in (1u32..).zip(&self.entries) {
            member(&mut out, number, path, entry);
        }
        let trailer = Entry { mode: 0, device: (0, 0), data: Cow::Borrowed(&[]) };
        member(&mut out, 0, "TRAILER!!!", &trailer);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn member(out: &mut Vec<u8>, number: u32, path: &str, entry: &Entry<'_>) {
    let links = if entry.mode & !0o7777 == DIRECTORY { 2 } else { 1 };
    // `add` has bounded both lengths.
    let data_size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(path.len().saturating_add(1)).unwrap_or(u32::MAX);
    out.extend_from_slice(b"070701");
    let (major, minor) = entry.device;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    for field in [number, entry.mode, 0, 0, links, 0, data_size, 0, 0, major, minor, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(&entry.data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests;
