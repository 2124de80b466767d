//! From a stream to a tree.

use crate::pack::{io, kind_name};
use crate::place::{Place, temporary};
use crate::stream::{Item, Items, Meta};
use crate::{CopyError, DEEPEST, MOST_LINKS};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown,
    ftruncate, futimens, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is kept of who owns what, and of special bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Owners and all bits, as they were.
    All,
    /// All belongs to who copies; bits as they were.
    Bits,
    /// The same without set-user-ID, set-group-ID and sticky bits: what comes from a guest must not be a way to become somebody
    /// else on the host.
    Plain,
}

/// Where a copy goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// What the person said. A folder that is there is copied into.
    pub path: &'a Path,
    /// What the copy is called in a folder.
    pub name: &'a OsStr,
    /// Of a folder, only what is in it is copied.
    pub contents: bool,
    pub rights: Rights,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, links and folders.
    pub entries: u64,
    /// Bytes of files, without holes.
    pub bytes: u64,
}

/// Makes what a stream says. A file is in its place whole, or not at all.
///
/// # Errors
/// The first thing that cannot be made; what was made before stays.
pub fn unpack(
    from: impl Read,
    target: &Target<'_>,
    progress: &mut dyn FnMut(&Unpacked),
) -> Result<Unpacked, CopyError> {
    let mut items = Items::new(from);
    let first = items.next_item()?;
    let place = Place::find(target, &first)?;
    let top =
        place.folder.try_clone().map_err(|source| CopyError::Io { doing: "open", path: place.path.clone(), source })?;
    let rights = target.rights;
    let mut unpacker = Unpacker {
        items,
        rights,
        top,
        path: place.path,
        folders: Vec::new(),
        links: Links::default(),
        done: Unpacked::default(),
    };
    unpacker.first(first, place.folder, place.name)?;
    while !unpacker.folders.is_empty() {
        unpacker.next()?;
        progress(&unpacker.done);
    }
    match unpacker.items.next_item()? {
        Item::End => Ok(unpacker.done),
        _ => Err(CopyError::Stream("more than one tree")),
    }
}

/// A folder that was entered.
struct Folder {
    fd: OwnedFd,
    /// What it is to be when all is in it; nothing if only what is in it is copied.
    meta: Option<Meta>,
    /// Its name below the folder before; none for the first.
    name: Option<OsString>,
}

/// Files that may get further names.
#[derive(Default)]
struct Links {
    /// The names of the folders on the way from the top, and its own.
    places: HashMap<u64, Vec<OsString>>,
    bytes: usize,
}

struct Unpacker<R> {
    items: Items<R>,
    rights: Rights,
    /// Where the first item was made.
    top: OwnedFd,
    /// Where the next one goes, for people.
    path: PathBuf,
    folders: Vec<Folder>,
    links: Links,
    done: Unpacked,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl<R: Read> Unpacker<R> {
    fn first(&mut self, item: Item, folder: OwnedFd, name: Option<OsString>) -> Result<(), CopyError> {
        match (item, name) {
            (Item::Folder { .. }, None) => {
                self.folders.push(Folder { fd: folder, meta: None, name: None });
                Ok(())
            }
            (Item::Folder { meta, .. }, Some(name)) => self.enter(&folder, name, meta),
            (Item::File { meta, number, .. }, Some(name)) => self.file(&folder, &name, meta, number),
            (Item::Symlink { meta, target, .. }, Some(name)) => self.symlink(&folder, &name, meta, &target),
            _ => Err(CopyError::Stream("what can be no beginning")),
        }
    }

    fn next(&mut self) -> Result<(), CopyError> {
        let item = self.items.next_item()?;
        if item == Item::Up {
            return self.leave();
        }
        let Some(folder) = self.folders.last() else { return Ok(()) };
        let folder = folder.fd.try_clone().map_err(|source| self.trouble("open", source))?;
        let name = match &item {
            Item::Folder { name, .. }
            | Item::File { name, .. }
            | Item::Symlink { name, .. }
            | Item::Link { name, .. } => name.clone(),
            _ => return Err(CopyError::Stream("a piece of no file")),
        };
        self.path.push(&name);
        match item {
            // The path stays that of the folder.
            Item::Folder { meta, .. } => return self.enter(&folder, name, meta),
            Item::File { meta, number, .. } => self.file(&folder, &name, meta, number)?,
            Item::Symlink { meta, target, .. } => self.symlink(&folder, &name, meta, &target)?,
            Item::Link { number, .. } => self.link(&folder, &name, number)?,
            _ => {}
        }
        self.path.pop();
        Ok(())
    }

    fn trouble(&self, doing: &'static str, source: std::io::Error) -> CopyError {
        CopyError::Io { doing, path: self.path.clone(), source }
    }

    fn enter(&mut self, parent: &OwnedFd, name: OsString, meta: Meta) -> Result<(), CopyError> {
        if self.folders.len() >= DEEPEST {
            return Err(CopyError::TooDeep(self.path.clone()));
        }
        match mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io("make", &self.path)(error)),
        }
        let fd = openat(parent, &name, FOLDER, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => self.in_the_way("a folder", parent, &name),
            error => io("open", &self.path)(error),
        })?;
        self.folders.push(Folder { fd, meta: Some(meta), name: Some(name) });
        self.done.entries += 1;
        Ok(())
    }

    fn in_the_way(&self, what: &'static str, folder: &OwnedFd, name: &OsStr) -> CopyError {
        let there = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let is = there.map_or("something else", |there| kind_name(FileType::from_raw_mode(there.st_mode)));
        CopyError::InTheWay { what, path: self.path.clone(), is }
    }

    fn leave(&mut self) -> Result<(), CopyError> {
        let Some(folder) = self.folders.pop() else { return Ok(()) };
        if let Some(meta) = folder.meta {
            self.settle(&folder.fd, meta)?;
        }
        self.path.pop();
        Ok(())
    }

    /// Gives an open file or folder its owner, bits and times, in this order: a change of owner clears bits.
    fn settle(&self, fd: &OwnedFd, meta: Meta) -> Result<(), CopyError> {
        if self.rights == Rights::All {
            fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
                .map_err(io("give away", &self.path))?;
        }
        let mode = if self.rights == Rights::Plain { meta.mode & 0o777 } else { meta.mode };
        fchmod(fd, Mode::from_raw_mode(mode.into())).map_err(io("set the rights of", &self.path))?;
        // A file system may have no room for such a time.
        let _ = futimens(fd, &times(meta));
        Ok(())
    }

    fn file(&mut self, folder: &OwnedFd, name: &OsStr, meta: Meta, number: u64) -> Result<(), CopyError> {
        let new = NewFile::make(folder).map_err(io("write", &self.path))?;
        let mut file = File::from(new.fd.try_clone().map_err(|source| self.trouble("write", source))?);
        let mut size = 0u64;
        loop {
            match self.items.next_item()? {
                Item::Bytes(count) => {
                    file.write_all(&self.items.bytes).map_err(|source| self.trouble("write", source))?;
                    size = size.saturating_add(count as u64);
                    self.done.bytes = self.done.bytes.saturating_add(count as u64);
                }
                Item::Hole(length) => {
                    size = size
                        .checked_add(length)
                        .filter(|size| i64::try_from(*size).is_ok())
                        .ok_or(CopyError::Stream("a file without an end"))?;
                    file.seek(SeekFrom::Start(size)).map_err(|source| self.trouble("write", source))?;
                }
                Item::EndOfFile => break,
                _ => return Err(CopyError::Stream("a file without an end")),
            }
        }
        drop(file);
        // What ends in a hole has no last byte yet.
        ftruncate(&new.fd, size).map_err(io("write", &self.path))?;
        self.settle(&new.fd, meta)?;
        new.put(folder, name, self.done.entries).map_err(|error| match error {
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => self.in_the_way("a file", folder, name),
            error => io("write", &self.path)(error),
        })?;
        self.done.entries += 1;
        if number != 0 {
            self.remember(name, number)?;
        }
        Ok(())
    }

    fn remember(&mut self, name: &OsStr, number: u64) -> Result<(), CopyError> {
        let folders = self.folders.iter().filter_map(|folder| folder.name.clone());
        let place: Vec<OsString> = folders.chain([name.to_owned()]).collect();
        self.links.bytes += place.iter().map(|part| part.len() + size_of::<OsString>()).sum::<usize>();
        if self.links.bytes > MOST_LINKS {
            return Err(CopyError::TooManyLinks);
        }
        self.links.places.insert(number, place);
        Ok(())
    }

    fn symlink(&mut self, folder: &OwnedFd, name: &OsStr, meta: Meta, target: &OsStr) -> Result<(), CopyError> {
        let made = put(folder, name, self.done.entries, |name| symlinkat(target, folder, name));
        made.map_err(|error| match error {
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => self.in_the_way("a link", folder, name),
            error => io("make", &self.path)(error),
        })?;
        if self.rights == Rights::All {
            let (owner, group) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
            chownat(folder, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(io("give away", &self.path))?;
        }
        let _ = utimensat(folder, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW);
        self.done.entries += 1;
        Ok(())
    }

    fn link(&mut self, folder: &OwnedFd, name: &OsStr, number: u64) -> Result<(), CopyError> {
        let place = self.links.places.get(&number).ok_or(CopyError::Stream("a link to a file that did not come"))?;
        let (last, way) = place.split_last().ok_or(CopyError::Stream("a link to nothing"))?;
        let make = |to: &OsStr| -> Result<(), Errno> {
            let mut at = openat(&self.top, ".", FOLDER, Mode::empty())?;
            for part in way {
                at = openat(&at, part, FOLDER, Mode::empty())?;
            }
            linkat(&at, last, folder, to, AtFlags::empty())
        };
        put(folder, name, self.done.entries, make).map_err(|error| match error {
            Errno::ISDIR | Errno::NOTEMPTY => self.in_the_way("a file", folder, name),
            error => io("link", &self.path)(error),
        })?;
        self.done.entries += 1;
        Ok(())
    }
}

fn times(meta: Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.seconds, tv_nsec: meta.nanos.into() },
    }
}

/// Has `make` make something under a name; where something has that, under another one first, and then in its place.
fn put(folder: &OwnedFd, name: &OsStr, number: u64, make: impl Fn(&OsStr) -> Result<(), Errno>) -> Result<(), Errno> {
    match make(name) {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    let temporary = temporary(number);
    // Left by a process of the same number that was killed.
    let _ = unlinkat(folder, &temporary, AtFlags::empty());
    make(&temporary)?;
    let replaced = renameat(folder, &temporary, folder, name);
    // It failed; or both are names of the same file, and stay (rename(2)).
    let _ = unlinkat(folder, &temporary, AtFlags::empty());
    replaced
}

/// A file that is gone unless it gets its name: one without any, or, where the file system has none of these, one with another name.
struct NewFile<'a> {
    fd: OwnedFd,
    named: Option<(&'a OwnedFd, OsString)>,
}

impl<'a> NewFile<'a> {
    fn make(folder: &'a OwnedFd) -> Result<Self, Errno> {
        let mode = Mode::from_raw_mode(0o600);
        match openat(folder, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(fd) => Ok(Self { fd, named: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let name = temporary(u64::MAX);
                // Left by a process of the same number that was killed.
                let _ = unlinkat(folder, &name, AtFlags::empty());
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                let fd = openat(folder, &name, flags, mode)?;
                Ok(Self { fd, named: Some((folder, name)) })
            }
            Err(error) => Err(error),
        }
    }

    fn put(mut self, folder: &OwnedFd, name: &OsStr, number: u64) -> Result<(), Errno> {
        if let Some((folder, temporary)) = &self.named {
            renameat(*folder, temporary, *folder, name)?;
            self.named = None;
            return Ok(());
        }
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        put(folder, name, number, |name| linkat(CWD, &own, folder, name, AtFlags::SYMLINK_FOLLOW))
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some((folder, name)) = &self.named {
            let _ = unlinkat(*folder, name, AtFlags::empty());
        }
    }
}
