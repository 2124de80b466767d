//! From a file system to a layer: all of its tree as one tar archive (OCI image specification, "Image Layer Filesystem Changeset").
//!
//! The same tree gives the same bytes: names are in order, and nothing is said that depends on where data lies. Headers are ustar's; what
//! does not fit there, times below a second and extended attributes come in PAX records, as all programs that make layers write them.

use crate::ext4::{ROOT_INODE, kind};
use crate::reader::{FileSystem, Inode, damaged};
use crate::tree::Time;
use crate::{Limits, RootfsError, Watch};
use ::tar::{EntryType, Header};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::rc::Rc;

/// Linux's bound on a path.
const LONGEST_PATH: usize = crate::tar::LONGEST_PATH;
/// What a header has room for (POSIX pax, "ustar Interchange Format").
const NAME: usize = 100;
const LARGEST_OWNER: u64 = 0o777_7777;
const LARGEST: u64 = 0o777_7777_7777;
/// What such a name would mean in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// A folder that every ext4 file system has and that is nobody's.
const LOST_FOUND: &[u8] = b"lost+found";

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Sockets, which archives cannot have, and which are nothing without the process that made them.
    pub sockets: u64,
}

/// One thing that is still to be written.
struct Waiting {
    /// Its folder, from the root on, without a slash at its beginning or end.
    folder: Rc<[u8]>,
    /// Empty for the root.
    name: Vec<u8>,
    inode: u32,
}

impl Waiting {
    fn path(&self) -> Vec<u8> {
        if self.folder.is_empty() { self.name.clone() } else { [&*self.folder, b"/", &self.name].concat() }
    }
}

impl FileSystem<'_> {
    /// Writes all of the tree as a tar archive, without its end if something fails. `watch` is told of files' bytes.
    ///
    /// # Errors
    /// [`RootfsError::Unreadable`], [`RootfsError::Disk`]; [`RootfsError::Unpackable`] for a name that means something else in a layer, and
    /// for more than `limits` allow; [`RootfsError::Pack`] if `to` takes it not; [`RootfsError::Cancelled`].
    pub fn archive<W: Write>(&self, to: W, limits: &Limits, watch: &dyn Watch) -> Result<(Archived, W), RootfsError> {
        let mut archive = Archive {
            from: self,
            to: ::tar::Builder::new(to),
            limits,
            watch,
            folders: HashSet::new(),
            links: HashMap::new(),
            metadata: 0,
            archived: Archived::default(),
        };
        if self.inode(ROOT_INODE)?.kind != kind::DIRECTORY {
            return Err(damaged("its root is no folder"));
        }
        let mut waiting = vec![Waiting { folder: Rc::default(), name: Vec::new(), inode: ROOT_INODE }];
        while let Some(next) = waiting.pop() {
            archive.one(&next, &mut waiting)?;
        }
        let archived = archive.archived;
        archive.to.into_inner().map(|to| (archived, to)).map_err(RootfsError::Pack)
    }
}

struct Archive<'f, 'd, W: Write> {
    from: &'f FileSystem<'d>,
    to: ::tar::Builder<W>,
    limits: &'f Limits,
    watch: &'f dyn Watch,
    /// Inodes of folders: none has two names.
    folders: HashSet<u32>,
    /// The first names of files that have several.
    links: HashMap<u32, Vec<u8>>,
    /// Bytes of names, targets and attributes.
    metadata: u64,
    archived: Archived,
}

impl<W: Write> Archive<'_, '_, W> {
    fn one(&mut self, this: &Waiting, waiting: &mut Vec<Waiting>) -> Result<(), RootfsError> {
        if self.watch.is_cancelled() {
            return Err(RootfsError::Cancelled);
        }
        let path = this.path();
        if this.name.starts_with(WHITEOUT) {
            return Err(refused(&path, "a name that begins with .wh. takes names away there".to_owned()));
        }
        if path.len() > LONGEST_PATH {
            return Err(refused(&path, format!("its path has {} bytes; {LONGEST_PATH} can be", path.len())));
        }
        let inode = self.from.inode(this.inode)?;
        if inode.kind == kind::SOCKET {
            self.archived.sockets += 1;
            return Ok(());
        }
        if inode.kind == kind::DIRECTORY {
            if !self.folders.insert(this.inode) {
                return Err(damaged(format!("the folder that is inode {} has two names", this.inode)));
            }
            let names = self.from.names(&inode, self.limits.entries)?;
            if path == LOST_FOUND && names.is_empty() {
                return Ok(());
            }
            self.metadata += names.iter().map(|(name, _)| name.len() as u64).sum::<u64>();
            let entries = self.archived.entries + (waiting.len() + names.len()) as u64;
            if entries > self.limits.entries || self.metadata > self.limits.metadata {
                let Limits { entries, metadata, .. } = self.limits;
                let mib = metadata >> 20;
                let problem = format!("there are more than {entries} files, or {mib} MiB of names and attributes");
                return Err(refused(&path, problem));
            }
            let folder: Rc<[u8]> = path.as_slice().into();
            let below =
                names.into_iter().rev().map(|(name, inode)| Waiting { folder: Rc::clone(&folder), name, inode });
            // The last is the next to be written.
            waiting.extend(below);
        }
        self.archived.entries += 1;
        self.write(path, &inode)
    }

    fn write(&mut self, path: Vec<u8>, inode: &Inode) -> Result<(), RootfsError> {
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_mode(u32::from(inode.mode));
        let mut entry = Entry { header, records: Vec::new() };
        entry.owner(inode);
        entry.time(inode.mtime);
        if inode.links > 1 && inode.kind != kind::DIRECTORY {
            if let Some(first) = self.links.get(&inode.number) {
                entry.header.set_entry_type(EntryType::Link);
                entry.name("path", &path);
                entry.name("linkpath", first);
                return self.put(entry, io::empty());
            }
            self.metadata += path.len() as u64;
            self.links.insert(inode.number, path.clone());
        }
        let mut size = 0;
        match inode.kind {
            kind::FILE => {
                entry.header.set_entry_type(EntryType::Regular);
                size = inode.size;
            }
            kind::DIRECTORY => entry.header.set_entry_type(EntryType::Directory),
            kind::SYMLINK => {
                entry.header.set_entry_type(EntryType::Symlink);
                let target = self.from.target(inode)?;
                self.metadata += target.len() as u64;
                entry.name("linkpath", &target);
            }
            kind::FIFO => entry.header.set_entry_type(EntryType::Fifo),
            kind::CHARACTER_DEVICE => entry.device(EntryType::Char, inode.device())?,
            kind::BLOCK_DEVICE => entry.device(EntryType::Block, inode.device())?,
            other => return Err(damaged(format!("the inode {} is of the kind {other:#x}", inode.number))),
        }
        self.archived.bytes = self.archived.bytes.saturating_add(size);
        if self.archived.bytes > self.limits.bytes {
            let problem = format!("with it the files have more than {} GiB", self.limits.bytes >> 30);
            return Err(refused(&path, problem));
        }
        for (name, value) in self.from.xattrs(inode)? {
            self.metadata += (name.len() + value.len()) as u64;
            let Some(name) = String::from_utf8(name).ok().filter(|name| !name.contains('=')) else {
                let problem = "it has an extended attribute whose name has a '=' or is no UTF-8".to_owned();
                return Err(refused(&path, problem));
            };
            entry.records.push((format!("SCHILY.xattr.{name}"), value));
        }
        entry.name("path", &name_in_archive(&path, inode.kind));
        entry.size(size);
        if size == 0 {
            return self.put(entry, io::empty());
        }
        let mut content = Watched { inner: self.from.content(inode), watch: self.watch };
        match put(&mut self.to, entry, &mut content) {
            Ok(()) => Ok(()),
            Err(error) => Err(match content.inner.error.take() {
                Some(reading) => reading,
                None if self.watch.is_cancelled() => RootfsError::Cancelled,
                None => RootfsError::Pack(error),
            }),
        }
    }

    fn put(&mut self, entry: Entry, data: impl Read) -> Result<(), RootfsError> {
        put(&mut self.to, entry, data).map_err(RootfsError::Pack)
    }
}

fn put(to: &mut ::tar::Builder<impl Write>, mut entry: Entry, data: impl Read) -> io::Result<()> {
    entry.header.set_cksum();
    to.append_pax_extensions(entry.records.iter().map(|(keyword, value)| (keyword.as_str(), value.as_slice())))?;
    to.append(&entry.header, data)
}

fn refused(path: &[u8], problem: String) -> RootfsError {
    RootfsError::Unpackable { path: format!("/{}", String::from_utf8_lossy(path)), problem }
}

/// Folders end with a slash; the root has no name.
fn name_in_archive(path: &[u8], of: u16) -> Vec<u8> {
    match (path, of) {
        (b"", _) => b"./".to_vec(),
        (path, kind::DIRECTORY) => [path, b"/"].concat(),
        (path, _) => path.to_vec(),
    }
}

/// A header, and the PAX records that come before it.
struct Entry {
    header: Header,
    records: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn record(&mut self, keyword: &str, value: impl Into<Vec<u8>>) {
        self.records.push((keyword.to_owned(), value.into()));
    }

    /// `path` or `linkpath`: in the header if it fits.
    fn name(&mut self, keyword: &str, name: &[u8]) {
        if name.len() > NAME {
            self.record(keyword, name);
        }
        let old = self.header.as_old_mut();
        let field = if keyword == "path" { &mut old.name } else { &mut old.linkname };
        field.iter_mut().zip(name.iter().take(NAME)).for_each(|(to, from)| *to = *from);
    }

    fn owner(&mut self, inode: &Inode) {
        for (keyword, id) in [("uid", inode.uid), ("gid", inode.gid)] {
            if u64::from(id) > LARGEST_OWNER {
                self.record(keyword, id.to_string());
            }
        }
        let fits = |id: u32| u64::from(id).min(LARGEST_OWNER);
        self.header.set_uid(fits(inode.uid));
        self.header.set_gid(fits(inode.gid));
    }

    fn size(&mut self, size: u64) {
        if size > LARGEST {
            self.record("size", size.to_string());
        }
        self.header.set_size(size.min(LARGEST));
    }

    fn time(&mut self, Time { seconds, nanos }: Time) {
        let whole = u64::try_from(seconds).ok().filter(|seconds| *seconds <= LARGEST);
        if nanos > 0 || whole.is_none() {
            self.record("mtime", decimal(seconds, nanos));
        }
        self.header.set_mtime(whole.unwrap_or(0));
    }

    fn device(&mut self, kind: EntryType, (major, minor): (u32, u32)) -> Result<(), RootfsError> {
        self.header.set_entry_type(kind);
        let set = self.header.set_device_major(major).and_then(|()| self.header.set_device_minor(minor));
        set.map_err(RootfsError::Pack)
    }
}

/// Seconds with nine digits behind the point, or none if they are zeros. Nanoseconds count forward, digits away from 0.
fn decimal(seconds: i64, nanos: u32) -> String {
    let all = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (sign, all) = (if all < 0 { "-" } else { "" }, all.unsigned_abs());
    match (all / 1_000_000_000, all % 1_000_000_000) {
        (whole, 0) => format!("{sign}{whole}"),
        (whole, rest) => format!("{sign}{whole}.{rest:09}"),
    }
}

/// Tells bytes as they are read, and stops when nobody wants more.
struct Watched<'w, R> {
    inner: R,
    watch: &'w dyn Watch,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        let count = self.inner.read(buffer)?;
        self.watch.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn times_are_decimal_numbers() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (1_700_000_000, 500_000_000, "1700000000.500000000"),
            (-2, 750_000_000, "-1.250000000"),
            (-1, 1, "-0.999999999"),
            (-3, 0, "-3"),
        ] {
            assert_eq!(decimal(seconds, nanos), text);
        }
    }
}
