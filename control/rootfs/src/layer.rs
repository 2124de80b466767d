//! One layer on top of others (OCI image specification, "Applying Changesets").

use crate::builder::Builder;
use crate::ext4::{Xattrs, is_known};
use crate::output::BLOCK;
use crate::space::Run;
use crate::tar::{Archive, Entry, Kind, TarError};
use crate::tree::{Attributes, Found, NodeId, NodeKind, Place, Way};
use crate::{Compression, RootfsError};
use std::collections::BTreeSet;
use std::io::{self, Read};

/// What hides a name of lower layers, and what hides all names of a folder in them.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own files, which Docker's layers may have: they are nothing to others.
const AUFS: &[u8] = b".wh..wh.";

/// Links to a file (fs/ext4/ext4.h, EXT4_LINK_MAX).
const MOST_LINKS: u32 = 65_000;

/// A layer, which is read apart from this.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// What a person knows it by; errors name it.
    pub name: &'a str,
    /// How it is compressed.
    pub compression: Compression,
}

/// A package's data: what a `.deb` has as `data.tar` (deb(5)). No name in it is a whiteout, and a folder in it leaves a symbolic link to
/// a folder as it is, as with dpkg(1).
#[derive(Clone, Copy, Debug)]
pub struct PackageData<'a> {
    /// The package.
    pub name: &'a str,
    /// How it is compressed.
    pub compression: Compression,
    /// Files that it only suggests to have as they are (deb-conffiles(5)), without a slash before them. They get the suffix
    /// `.dpkg-new`, which dpkg takes away when it configures the package.
    pub conffiles: &'a BTreeSet<Vec<u8>>,
}

/// What dpkg has not configured yet.
const NEW: &[u8] = b".dpkg-new";

/// Is told how much was read, and says whether it is still wanted.
pub trait Watch {
    /// So many bytes more of the layer were read, as it is, compressed.
    fn advance(&self, bytes: u64);
    /// Whether the work is no longer wanted.
    fn is_cancelled(&self) -> bool;
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unattended;

impl Watch for Unattended {
    fn advance(&self, _: u64) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Reads on only while it is wanted.
struct Watched<'w, R> {
    inner: R,
    watch: &'w dyn Watch,
    /// Whether what is read is to be told.
    tells: bool,
    /// Bytes that may be read still.
    left: u64,
}

/// What a reader fails with that read as much as it may.
#[derive(Debug, thiserror::Error)]
#[error("more than it may be")]
struct TooLong;

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        let read = self.inner.read(buffer)?;
        if self.tells {
            self.watch.advance(read as u64);
        }
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(TooLong))?;
        Ok(read)
    }
}

/// Applies a layer or a package's data; returns the names in that.
pub(crate) fn apply(
    builder: &mut Builder<'_>,
    layer: &Layer<'_>,
    conffiles: Option<&BTreeSet<Vec<u8>>>,
    packed: impl Read,
    watch: &dyn Watch,
) -> Result<Vec<Vec<u8>>, RootfsError> {
    builder.layers = builder.layers.saturating_add(1);
    let packed = Watched { inner: packed, watch, tells: true, left: u64::MAX };
    let unpacked = layer.compression.unpack(packed);
    let left = builder.limits.bytes.saturating_sub(builder.report.unpacked);
    let mut archive = Archive::new(Watched { inner: unpacked, watch, tells: false, left });
    let mut applying = Applying { builder, layer, conffiles, watch, freed: Vec::new(), current: String::new() };
    let mut names = Vec::new();
    loop {
        let next = archive.next();
        let Some(mut entry) = next.map_err(|error| applying.tar_error(error))? else { break };
        if let Some(conffiles) = conffiles {
            names.push(entry.path.clone());
            if entry.kind == Kind::File && conffiles.contains(plain(&entry.path)) {
                entry.path.extend(NEW);
            }
        }
        applying.entry(&mut archive, entry)?;
    }
    builder.report.unpacked = builder.report.unpacked.saturating_add(archive.position());
    Ok(names)
}

/// A layer that is being applied.
struct Applying<'b, 'd> {
    builder: &'b mut Builder<'d>,
    layer: &'b Layer<'b>,
    /// Those of a package.
    conffiles: Option<&'b BTreeSet<Vec<u8>>>,
    watch: &'b dyn Watch,
    /// Space of what was replaced.
    freed: Vec<Run>,
    /// The name of the current entry, for errors.
    current: String,
}

impl Applying<'_, '_> {
    fn tar_error(&self, error: TarError) -> RootfsError {
        let layer = self.layer.name.to_owned();
        match error {
            TarError::Read(_) if self.watch.is_cancelled() => RootfsError::Cancelled,
            TarError::Read(source) if source.get_ref().is_some_and(|error| error.is::<TooLong>()) => {
                self.too_much(format!("{} MiB in its layers", self.builder.limits.bytes >> 20))
            }
            TarError::Read(source) => RootfsError::Read { layer, source },
            TarError::Archive(problem) => RootfsError::Archive { layer, problem },
            TarError::Entry { path, problem } => {
                RootfsError::Entry { layer, entry: String::from_utf8_lossy(&path).into_owned(), problem }
            }
        }
    }

    fn refuse(&self, problem: impl Into<String>) -> RootfsError {
        RootfsError::Entry { layer: self.layer.name.to_owned(), entry: self.current.clone(), problem: problem.into() }
    }

    fn too_much(&self, limit: String) -> RootfsError {
        RootfsError::TooMuch { layer: self.layer.name.to_owned(), entry: self.current.clone(), limit }
    }

    fn entry<R: Read>(&mut self, archive: &mut Archive<R>, entry: Entry) -> Result<(), RootfsError> {
        if self.watch.is_cancelled() {
            return Err(RootfsError::Cancelled);
        }
        self.current = String::from_utf8_lossy(&entry.path).into_owned();
        self.count(&entry)?;
        let name = last_name(&entry.path);
        if self.conffiles.is_none() && name.starts_with(WHITEOUT) {
            self.whiteout(&entry.path, name)?;
        } else {
            self.put(archive, entry)?;
        }
        self.builder.space.give_back(self.freed.drain(..));
        Ok(())
    }

    /// Holds the bounds.
    fn count(&mut self, entry: &Entry) -> Result<(), RootfsError> {
        let limits = self.builder.limits;
        let xattrs: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let metadata = entry.path.len().saturating_add(entry.target.len()).saturating_add(xattrs);
        self.builder.report.entries = self.builder.report.entries.saturating_add(1);
        self.builder.metadata = self.builder.metadata.saturating_add(metadata as u64);
        self.count_names()?;
        if self.builder.metadata > limits.metadata {
            return Err(self.too_much(format!("{} MiB of names and attributes", limits.metadata >> 20)));
        }
        Ok(())
    }

    /// Folders that only names of others speak of count as well: one long name makes two thousand.
    fn count_names(&self) -> Result<(), RootfsError> {
        let (most, made) = (self.builder.limits.entries, self.builder.tree.implied());
        if self.builder.report.entries.saturating_add(made) > most {
            return Err(self.too_much(format!("{most} files and folders")));
        }
        Ok(())
    }

    /// Where an entry goes; folders on the way there are made.
    fn make_way(&mut self, path: &[u8]) -> Result<Found, RootfsError> {
        let (layer, implied) = (self.builder.layers, self.builder.implied());
        let found = self.builder.tree.resolve(path, Way::Make(&implied), layer);
        let found = found.map_err(|error| self.refuse(error.problem()))?;
        self.count_names()?;
        Ok(found)
    }

    fn whiteout(&mut self, path: &[u8], name: &[u8]) -> Result<(), RootfsError> {
        let folder = path.get(..path.len().saturating_sub(name.len())).unwrap_or_default();
        let hidden = if name == OPAQUE {
            b"x"
        } else if name.starts_with(AUFS) {
            return Ok(());
        } else {
            name.get(WHITEOUT.len()..).unwrap_or_default()
        };
        if [&b""[..], b".", b".."].contains(&hidden) {
            return Err(self.refuse("a whiteout of nothing"));
        }
        let layer = self.builder.layers;
        // What is not there is hidden already.
        let Ok(Found::Place(place)) = self.builder.tree.resolve(&[folder, hidden].concat(), Way::Find, layer) else {
            return Ok(());
        };
        if name == OPAQUE {
            self.builder.tree.hide_below(place.directory, layer, &mut self.freed);
        } else {
            self.builder.tree.hide(&place, &mut self.freed);
        }
        Ok(())
    }

    fn put<R: Read>(&mut self, archive: &mut Archive<R>, mut entry: Entry) -> Result<(), RootfsError> {
        let attributes = self.attributes(&mut entry)?;
        let place = match (self.make_way(&entry.path)?, entry.kind) {
            (Found::Place(place), _) => place,
            (Found::Directory(id), Kind::Directory) => {
                self.set(id, attributes);
                return Ok(());
            }
            (Found::Directory(_), _) => return Err(self.refuse("whose name is that of a folder")),
        };
        let kind = match entry.kind {
            Kind::Directory => return self.directory(&place, &entry.path, attributes),
            Kind::HardLink => return self.hard_link(&place, &entry.target),
            Kind::File => self.file(archive, entry.size)?,
            Kind::Symlink => NodeKind::Symlink(entry.target.into()),
            Kind::CharacterDevice => NodeKind::CharacterDevice(entry.device.0, entry.device.1),
            Kind::BlockDevice => NodeKind::BlockDevice(entry.device.0, entry.device.1),
            Kind::Fifo => NodeKind::Fifo,
        };
        let put = self.builder.tree.put(&place, attributes, kind, &mut self.freed);
        put.map(|_| ()).ok_or_else(|| self.refuse("one more than there can be"))
    }

    fn attributes(&mut self, entry: &mut Entry) -> Result<Attributes, RootfsError> {
        let mut xattrs = std::mem::take(&mut entry.xattrs);
        let given = xattrs.len();
        xattrs.retain(|(name, _)| is_known(name));
        let skipped = given.saturating_sub(xattrs.len()) as u64;
        self.builder.report.skipped_xattrs = self.builder.report.skipped_xattrs.saturating_add(skipped);
        Xattrs::new(&xattrs).map_err(|problem| self.refuse(problem))?;
        let (major, minor) = entry.device;
        // Linux's own bounds (include/linux/kdev_t.h): 12 and 20 bits.
        if major > 0xfff || minor > 0xf_ffff {
            return Err(self.refuse(format!("the device {major}:{minor}; 4095:1048575 is the largest there is")));
        }
        // Linux gives symbolic links all permissions.
        let mode = if entry.kind == Kind::Symlink { 0o777 } else { entry.mode };
        Ok(Attributes { mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs })
    }

    fn set(&mut self, id: NodeId, attributes: Attributes) {
        if let Some(node) = self.builder.tree.get_mut(id) {
            node.attributes = attributes;
        }
    }

    /// A folder keeps what is in it if it was one before.
    fn directory(&mut self, place: &Place, path: &[u8], attributes: Attributes) -> Result<(), RootfsError> {
        let tree = &mut self.builder.tree;
        if let Some(child) = tree.child(place.directory, &place.name) {
            if tree.directory(child.node).is_some() {
                tree.touch(place);
                self.set(child.node, attributes);
                return Ok(());
            }
            let is_link = matches!(tree.get(child.node).map(|node| &node.kind), Some(NodeKind::Symlink(_)));
            // A name below it can be resolved if it leads to a folder.
            let below = [path, b"/x"].concat();
            if self.conffiles.is_some() && is_link && tree.resolve(&below, Way::Find, place.layer).is_ok() {
                return Ok(());
            }
        }
        let made = self.builder.tree.put_directory(place, attributes, &mut self.freed);
        made.map(|_| ()).ok_or_else(|| self.refuse("one more than there can be"))
    }

    fn hard_link(&mut self, place: &Place, target: &[u8]) -> Result<(), RootfsError> {
        let tree = &mut self.builder.tree;
        let Ok(id) = tree.find(target) else {
            return Err(
                self.refuse(format!("a hard link to {:?}, which is not there", String::from_utf8_lossy(target)))
            );
        };
        let links = tree.get(id).map_or(0, |node| node.links);
        if tree.directory(id).is_some() {
            return Err(self.refuse(format!("a hard link to the folder {:?}", String::from_utf8_lossy(target))));
        }
        if links >= MOST_LINKS {
            return Err(self.refuse(format!("one hard link more than the {MOST_LINKS} that a file can have")));
        }
        let linked = tree.link(place, id, &mut self.freed);
        linked.ok_or_else(|| self.refuse("whose folder is not there"))
    }

    /// Writes the data of a file to where it stays.
    fn file<R: Read>(&mut self, archive: &mut Archive<R>, size: u64) -> Result<NodeKind, RootfsError> {
        let runs = self.builder.take(size.div_ceil(BLOCK as u64))?;
        let mut left = size;
        for run in &runs {
            self.builder.output.seek(run.start)?;
            let mut here = left.min(run.blocks.saturating_mul(BLOCK as u64));
            left -= here;
            while here > 0 {
                let room = self.builder.output.room()?;
                let some = usize::try_from(here).unwrap_or(usize::MAX).min(room.len());
                let read = archive.read_data(room.get_mut(..some).unwrap_or_default());
                let read = read.map_err(|error| self.tar_error(error))?;
                self.builder.output.advance(read);
                here -= read as u64;
            }
            self.builder.output.pad()?;
        }
        Ok(NodeKind::File { size, runs })
    }
}

/// The name that a path ends with.
fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// A path without what stands before its first name.
fn plain(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b".").unwrap_or(path);
    path.strip_prefix(b"/").unwrap_or(path)
}
