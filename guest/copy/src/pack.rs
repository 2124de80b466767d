//! From a tree to a stream.

use crate::stream::{Item, Meta, put, put_bytes};
use crate::{CopyError, DEEPEST, MOST_LINKS, PIECE};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, readlinkat, seek, statat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes that are looked for in a file of none: those of /proc do not say how many they have.
const UNKNOWN: u64 = 16 << 20;

/// Bytes of what is kept of a file with several names.
const KEPT: usize = 64;

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// What could not be sent, and was said to the caller.
    pub left_out: u64,
}

/// Writes the file or tree at `path` as a stream. A symbolic link is sent as one, unless `follow` says that the one at `path` itself is
/// followed. What cannot be read, and what is neither a file, a folder nor a link, is left out and told to `leave_out`.
///
/// # Errors
/// There is nothing at `path`, or nobody takes the stream.
pub fn pack(
    path: &Path,
    follow: bool,
    to: &mut impl Write,
    leave_out: &mut dyn FnMut(&CopyError),
) -> Result<Packed, CopyError> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let status = statat(CWD, path, flags).map_err(io("read", path))?;
    let mut packer = Packer { to, leave_out, links: HashMap::new(), packed: Packed::default() };
    let kind = FileType::from_raw_mode(status.st_mode);
    let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    match kind {
        FileType::Directory => {
            let folder = openat(CWD, path, FOLDER | nofollow, Mode::empty()).map_err(io("read", path))?;
            packer.folder(&folder, OsStr::new(""), &mut path.to_owned(), DEEPEST)?;
        }
        FileType::RegularFile => {
            let file = openat(CWD, path, FILE | nofollow, Mode::empty()).map_err(io("read", path))?;
            packer.file(&file, OsStr::new(""), path)?;
        }
        FileType::Symlink => {
            let target = readlinkat(CWD, path, Vec::new()).map_err(io("read", path))?;
            packer.symlink(OsString::new(), &status, target)?;
        }
        other => return Err(CopyError::Kind { path: path.to_owned(), is: kind_name(other) }),
    }
    put(packer.to, &Item::End)?;
    let packed = packer.packed;
    to.flush().map_err(CopyError::Broken)?;
    Ok(packed)
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A file that became a pipe meanwhile is not waited for.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> CopyError {
    move |error| CopyError::Io { doing, path: path.to_owned(), source: error.into() }
}

pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    }
}

#[allow(clippy::unnecessary_cast, reason = "the types of stat's fields depend on the architecture")]
fn meta_of(status: &Stat) -> Meta {
    Meta {
        mode: (status.st_mode & 0o7777) as u16,
        uid: status.st_uid,
        gid: status.st_gid,
        seconds: status.st_mtime as i64,
        nanos: u32::try_from(status.st_mtime_nsec).unwrap_or(0),
    }
}

struct Packer<'a, W> {
    to: &'a mut W,
    leave_out: &'a mut dyn FnMut(&CopyError),
    /// Files with several names that were sent: device and inode, and their number.
    links: HashMap<(u64, u64), u64>,
    packed: Packed,
}

impl<W: Write> Packer<'_, W> {
    fn left_out(&mut self, error: &CopyError) {
        (self.leave_out)(error);
        self.packed.left_out += 1;
    }

    fn folder(&mut self, folder: &OwnedFd, name: &OsStr, path: &mut PathBuf, depth: usize) -> Result<(), CopyError> {
        let Some(depth) = depth.checked_sub(1) else {
            self.left_out(&CopyError::TooDeep(path.clone()));
            return Ok(());
        };
        let read = |path: &Path| -> Result<(Stat, Vec<CString>), CopyError> {
            let status = fstat(folder).map_err(io("read", path))?;
            let mut names = Vec::new();
            for entry in Dir::read_from(folder).map_err(io("read", path))? {
                let entry = entry.map_err(io("read", path))?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    names.push(entry.file_name().to_owned());
                }
            }
            names.sort();
            Ok((status, names))
        };
        let (status, names) = match read(path) {
            Ok(read) => read,
            Err(error) => {
                self.left_out(&error);
                return Ok(());
            }
        };
        put(self.to, &Item::Folder { name: name.to_owned(), meta: meta_of(&status) })?;
        for name in names {
            path.push(OsStr::from_bytes(name.to_bytes()));
            let sent = self.entry(folder, OsStr::from_bytes(name.to_bytes()), path, depth);
            match sent {
                // Nobody takes the stream any more.
                Err(error @ (CopyError::Broken(_) | CopyError::TooManyLinks)) => return Err(error),
                Err(error) => self.left_out(&error),
                Ok(()) => {}
            }
            path.pop();
        }
        put(self.to, &Item::Up)
    }

    /// Sends what has this name in a folder. An error that is not the stream's comes before anything was sent.
    fn entry(&mut self, folder: &OwnedFd, name: &OsStr, path: &mut PathBuf, depth: usize) -> Result<(), CopyError> {
        let status = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io("read", path))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                let inner = openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(io("read", path))?;
                self.folder(&inner, name, path, depth)
            }
            FileType::RegularFile => {
                let file = openat(folder, name, FILE | OFlags::NOFOLLOW, Mode::empty()).map_err(io("read", path))?;
                self.file(&file, name, path)
            }
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new()).map_err(io("read", path))?;
                self.symlink(name.to_owned(), &status, target)
            }
            other => Err(CopyError::Kind { path: path.clone(), is: kind_name(other) }),
        }
    }

    fn symlink(&mut self, name: OsString, status: &Stat, target: CString) -> Result<(), CopyError> {
        put(self.to, &Item::Symlink { name, meta: meta_of(status), target: OsString::from_vec(target.into_bytes()) })
    }

    fn file(&mut self, file: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), CopyError> {
        let status = fstat(file).map_err(io("read", path))?;
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind != FileType::RegularFile {
            return Err(CopyError::Kind { path: path.to_owned(), is: kind_name(kind) });
        }
        let mut number = 0;
        if status.st_nlink > 1 {
            let key = (status.st_dev, status.st_ino);
            if let Some(&number) = self.links.get(&key) {
                return put(self.to, &Item::Link { name: name.to_owned(), number });
            }
            if self.links.len() >= MOST_LINKS / KEPT {
                return Err(CopyError::TooManyLinks);
            }
            number = self.links.len() as u64 + 1;
            self.links.insert(key, number);
        }
        put(self.to, &Item::File { name: name.to_owned(), meta: meta_of(&status), number })?;
        // A file that grows meanwhile has an end all the same.
        if let Err(error) = self.content(file, u64::try_from(status.st_size).unwrap_or(0), path) {
            if matches!(error, CopyError::Broken(_)) {
                return Err(error);
            }
            self.left_out(&error);
        }
        put(self.to, &Item::EndOfFile)
    }

    fn content(&mut self, file: &OwnedFd, size: u64, path: &Path) -> Result<(), CopyError> {
        let mut buffer = vec![0; PIECE];
        let mut at = 0u64;
        if size == 0 {
            return self.bytes(file, (0, UNKNOWN), &mut buffer, path).map(drop);
        }
        while at < size {
            // Where holes are not known, all is data.
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                Err(_) => at,
            };
            if data > at {
                put(self.to, &Item::Hole(data - at))?;
                at = data;
                continue;
            }
            let until = seek(file, SeekFrom::Hole(at)).unwrap_or(size).min(size);
            seek(file, SeekFrom::Start(at)).map_err(io("read", path))?;
            // A file system may say that nothing is there; bytes are.
            let until = if until > at { until } else { size };
            let sent = self.bytes(file, (at, until), &mut buffer, path)?;
            if sent < until - at {
                return Ok(());
            }
            at = until;
        }
        Ok(())
    }

    /// Sends what can be read from one place up to another; how many bytes these were.
    fn bytes(
        &mut self,
        file: &OwnedFd,
        (from, until): (u64, u64),
        buffer: &mut [u8],
        path: &Path,
    ) -> Result<u64, CopyError> {
        let mut at = from;
        while at < until {
            let room = usize::try_from(until - at).unwrap_or(PIECE).min(PIECE);
            let count = match rustix::io::read(file.as_fd(), buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(io("read", path)(error)),
            };
            put_bytes(self.to, buffer.get(..count).unwrap_or_default())?;
            at += count as u64;
        }
        Ok(at - from)
    }
}
