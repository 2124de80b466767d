//! Files under the digest of their bytes.

use crate::progress::Watch;
use crate::{Digest, StoreError};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Writes a file so that its place holds all of it or what was there before.
pub(crate) fn write_atomically(tmp: &Path, place: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = NamedTempFile::new_in(tmp).map_err(StoreError::io("write in", tmp))?;
    file.write_all(bytes).map_err(StoreError::io("write", place))?;
    settle(file, place)
}

/// Brings a written file to the disk and to its place, in this order.
fn settle(file: NamedTempFile, place: &Path) -> Result<(), StoreError> {
    file.as_file().set_permissions(Permissions::from_mode(0o444)).map_err(StoreError::io("write", place))?;
    file.as_file().sync_all().map_err(StoreError::io("write", place))?;
    file.persist(place).map_err(|error| StoreError::io("write", place)(error.error))?;
    sync_folder_of(place)
}

/// Makes a file's being there, or its being gone, outlast a power cut.
pub(crate) fn sync_folder_of(place: &Path) -> Result<(), StoreError> {
    let folder = place.parent().unwrap_or(place);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("write", folder))
}

/// The folder of blobs.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
    tmp: PathBuf,
}

/// What a blob's file was found to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Whole,
    Missing,
    Other(Digest),
}

impl Blobs {
    pub(crate) fn new(folder: PathBuf, tmp: PathBuf) -> Self {
        Blobs { folder, tmp }
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// Stores bytes. To be called with the lock held.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.check(digest)? != Found::Whole {
            write_atomically(&self.tmp, &self.path(digest), bytes)?;
        }
        Ok(digest)
    }

    /// Stores a file's bytes. To be called with the lock held.
    pub(crate) fn put_file(&self, path: &Path, watch: Watch<'_>) -> Result<Digest, StoreError> {
        let mut source = File::open(path).map_err(StoreError::io("read", path))?;
        let mut file = NamedTempFile::new_in(&self.tmp).map_err(StoreError::io("write in", &self.tmp))?;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            watch.check()?;
            let count = source.read(&mut chunk).map_err(StoreError::io("read", path))?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            file.write_all(bytes).map_err(StoreError::io("write", file.path()))?;
        }
        let digest = Digest::finish(hasher);
        settle(file, &self.path(digest))?;
        Ok(digest)
    }

    /// Reads a blob's file to its end and compares its digest.
    pub(crate) fn check(&self, digest: Digest) -> Result<Found, StoreError> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = file.read(&mut chunk).map_err(StoreError::io("read", &path))?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
        }
        let found = Digest::finish(hasher);
        Ok(if found == digest { Found::Whole } else { Found::Other(found) })
    }

    /// A blob's path, after its bytes have been checked.
    pub(crate) fn verified(&self, digest: Digest, image: &str) -> Result<PathBuf, StoreError> {
        let path = self.path(digest);
        let found = match self.check(digest)? {
            Found::Whole => return Ok(path),
            Found::Missing => "is missing".to_owned(),
            Found::Other(other) => format!("has the digest {other} now"),
        };
        Err(StoreError::Damaged { image: image.to_owned(), path, found })
    }

    /// Deletes every blob that is not among these; returns the bytes that came free. To be called with
    /// the lock held.
    pub(crate) fn keep_only(&self, keep: &[Digest]) -> Result<u64, StoreError> {
        let mut freed = 0u64;
        for entry in fs::read_dir(&self.folder).map_err(StoreError::io("read", &self.folder))? {
            let entry = entry.map_err(StoreError::io("read", &self.folder))?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.parse::<Digest>().ok());
            if digest.is_some_and(|digest| keep.contains(&digest)) {
                continue;
            }
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            fs::remove_file(entry.path()).map_err(StoreError::io("delete", &entry.path()))?;
            freed = freed.saturating_add(size);
        }
        Ok(freed)
    }
}
