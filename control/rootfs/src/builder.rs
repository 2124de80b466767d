//! From layers to a file system.

use crate::ext4::{self, Identity, Layout, WriteError};
use crate::layer::{self, Layer, PackageData, Watch};
use crate::output::Output;
use crate::space::{Full, Run, Space};
use crate::tree::{Attributes, NodeId, Place, Time, Tree};
use crate::{Limits, RootfsError};
use motu_disk::Disk;
use std::io::{self, Read};

/// Where files go that lost their names; e2fsck(8) wants it to be there.
const LOST_FOUND: &[u8] = b"lost+found";

/// What is the caller's to choose. The same layers with the same options give the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file system's UUID. It should be another for each image: derived from the digests of its layers, say.
    pub uuid: [u8; 16],
    /// Its label: 16 bytes at most, what is beyond is cut off.
    pub label: String,
    /// When it was made, in seconds since 1970. Folders that no layer has an entry for are of this time, too.
    pub time: i64,
    /// How much layers may ask for.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options { uuid: *b"motu\0\0\x40\0\x80\0\0\0\0\0\0\0", label: String::new(), time: 0, limits: Limits::default() }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files, folders and links of all layers, those included that others have replaced.
    pub entries: u64,
    /// Bytes of all layers, decompressed.
    pub unpacked: u64,
    /// Bytes of the file system that are in use: data, directories, tables and the journal.
    pub used: u64,
    /// Bytes of the file system.
    pub size: u64,
    /// Extended attributes that were left out, as neither Linux nor ext4 has a place for them.
    pub skipped_xattrs: u64,
}

/// A root file system that is being made on a disk.
///
/// After an error, what is on the disk is of no use, and the builder neither.
pub struct Builder<'d> {
    disk: &'d dyn Disk,
    pub(crate) output: Output<'d>,
    layout: Layout,
    pub(crate) space: Space,
    pub(crate) tree: Tree,
    identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) report: Report,
    pub(crate) layers: u32,
    /// Bytes of names and attributes so far.
    pub(crate) metadata: u64,
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("layout", &self.layout).field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'d> Builder<'d> {
    /// Begins a file system that is as large as the disk, which is all zeros.
    ///
    /// # Errors
    /// The disk is too small or too large.
    pub fn new(disk: &'d dyn Disk, options: &Options) -> Result<Self, RootfsError> {
        let layout = Layout::of(disk.size())?;
        let mut label = [0; 16];
        for (place, byte) in label.iter_mut().zip(options.label.bytes()) {
            *place = byte;
        }
        let (words, _) = options.uuid.as_chunks::<4>();
        let mut hash_seed = [0; 4];
        for (seed, word) in hash_seed.iter_mut().zip(words) {
            // Any numbers do; these are the same for the same file system.
            *seed = u32::from_le_bytes(*word).rotate_left(13) ^ 0x6d6f_7475;
        }
        let root = implied(options.time);
        Ok(Self {
            disk,
            output: Output::new(disk),
            space: Space::new(layout.blocks, layout.copies()),
            tree: Tree::new(root),
            identity: Identity { uuid: options.uuid, hash_seed, label, time: options.time },
            limits: options.limits,
            report: Report { size: layout.blocks * crate::output::BLOCK as u64, ..Report::default() },
            layout,
            layers: 0,
            metadata: 0,
        })
    }

    /// Applies a layer on top of those before. It is read to its end.
    ///
    /// # Errors
    /// It cannot be read, is no tar archive, has what cannot be or is too much, does not fit, or is no longer wanted.
    pub fn apply(&mut self, layer: &Layer<'_>, packed: impl Read, watch: &dyn Watch) -> Result<(), RootfsError> {
        layer::apply(self, layer, None, packed, watch).map(drop)
    }

    /// Unpacks a package's data as dpkg would, and returns the names in it, as they are there.
    ///
    /// # Errors
    /// As for [`Builder::apply`].
    pub fn apply_package(
        &mut self,
        package: &PackageData<'_>,
        packed: impl Read,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u8>>, RootfsError> {
        let layer = Layer { name: package.name, compression: package.compression };
        layer::apply(self, &layer, Some(package.conffiles), packed, watch)
    }

    /// Writes names and tables, and makes the disk keep all of it.
    ///
    /// # Errors
    /// The files do not fit, or the host's.
    pub fn finish(mut self) -> Result<Report, RootfsError> {
        let lost_found = self.lost_found();
        let Self { disk, mut output, layout, mut space, tree, identity, report, .. } = self;
        let size = report.size;
        let written = ext4::write(disk, &mut output, (&layout, &mut space), (&tree, lost_found), &identity);
        written.map_err(|error| match error {
            WriteError::Io(error) => RootfsError::Write(error),
            WriteError::Full => RootfsError::Full { size },
        })?;
        disk.flush().map_err(RootfsError::Write)?;
        let used: u64 = space.used_in(Run { start: 0, blocks: layout.blocks }).iter().map(|run| run.blocks).sum();
        Ok(Report { used: used * crate::output::BLOCK as u64, ..report })
    }

    /// Attributes of a folder that no layer has an entry for.
    pub(crate) fn implied(&self) -> Attributes {
        implied(self.identity.time)
    }

    pub(crate) fn take(&mut self, blocks: u64) -> Result<Vec<Run>, RootfsError> {
        self.space.take(blocks).map_err(|Full| RootfsError::Full { size: self.report.size })
    }

    /// The directory of that name, made if there is none; `None` if the name is something else's.
    fn lost_found(&mut self) -> Option<NodeId> {
        if let Some(child) = self.tree.child(NodeId::ROOT, LOST_FOUND) {
            return self.tree.directory(child.node).map(|_| child.node);
        }
        let attributes = Attributes { mode: 0o700, ..self.implied() };
        let place = Place { directory: NodeId::ROOT, name: LOST_FOUND.into(), layer: self.layers };
        self.tree.put_directory(&place, attributes, &mut Vec::new())
    }
}

fn implied(time: i64) -> Attributes {
    Attributes { mode: 0o755, mtime: Time { seconds: time, nanos: 0 }, ..Attributes::default() }
}

impl From<io::Error> for RootfsError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}
