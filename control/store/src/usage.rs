//! What takes how much of the host's disk.

use crate::lock::{Lock, Mode};
use crate::machines;
use crate::progress::Watch;
use crate::record;
use crate::{Digest, Store, StoreError};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of the disk that a kind of things takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there are.
    pub count: usize,
    /// How many of them are in use.
    pub active: usize,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Bytes that come free when those which are not in use are deleted.
    pub reclaimable: u64,
}

/// What [`Store::usage`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Images: what several of them share is counted once.
    pub images: Usage,
    /// Machines' folders, with what they have written.
    pub machines: Usage,
    /// Packages and layers that save a download.
    pub cache: Usage,
    /// Work under way, and what was left of it.
    pub work: Usage,
}

impl Store {
    /// How much of the disk is used by what.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`], [`StoreError::Cancelled`].
    pub fn usage(&self, watch: Watch<'_>) -> Result<StoreUsage, StoreError> {
        let _nobody_deletes = self.lock(Mode::Shared, watch)?;
        let mut usage = StoreUsage::default();
        let sizes: HashMap<Digest, u64> = self.blobs().all()?.into_iter().collect();
        let sum = |blobs: &HashSet<Digest>| blobs.iter().filter_map(|blob| sizes.get(blob)).sum::<u64>();
        let (mut of_images, mut in_use) = (HashSet::new(), HashSet::new());
        for image in self.images()? {
            usage.images.count += 1;
            let Ok(record) = image.record else { continue };
            of_images.extend(record.blobs());
            if self.user_of(image.digest)?.is_some() {
                usage.images.active += 1;
                in_use.extend(record.blobs());
            }
        }
        usage.images.bytes = sum(&of_images);
        usage.images.reclaimable = usage.images.bytes - sum(&in_use);
        let cached: HashSet<Digest> = sizes.keys().copied().filter(|blob| !of_images.contains(blob)).collect();
        let bytes = sum(&cached);
        usage.cache = Usage { count: cached.len(), active: 0, bytes, reclaimable: bytes };
        for machine in self.machines()? {
            let bytes = used_below(&machine.path);
            usage.machines.count += 1;
            usage.machines.bytes += bytes;
            if machine.running {
                usage.machines.active += 1;
            } else {
                usage.machines.reclaimable += bytes;
            }
        }
        // Machines are counted already, those that are being made among them.
        for file in self.files("tmp")?.iter().filter(|file| !machines::is_of_one(file)) {
            let path = self.tmp().join(file);
            let bytes = used_below(&path);
            usage.work.count += 1;
            usage.work.bytes += bytes;
            if Lock::is_taken(&path)? {
                usage.work.active += 1;
            } else {
                usage.work.reclaimable += bytes;
            }
        }
        Ok(usage)
    }

    /// Bytes of the disk that an image's blobs take, those that it shares with others too.
    pub fn bytes_of(&self, record: &record::ImageRecord) -> u64 {
        let blobs: HashSet<Digest> = record.blobs().into_iter().collect();
        blobs.into_iter().map(|blob| used(&self.blobs().path(blob))).sum()
    }
}

fn used(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Bytes of the disk of a file, or of all files below a folder.
pub(crate) fn used_below(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut paths = vec![path.to_owned()];
    while let Some(path) = paths.pop() {
        bytes += used(&path);
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            paths.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    bytes
}
