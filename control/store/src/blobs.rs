//! Files under the digest of their bytes.
//!
//! What is small is read to its end and compared each time it is used. A disk's layer may have gigabytes, so it is compared when
//! it is stored and when somebody asks for it ([`crate::Store::check`]); when it is used, its file must be the one that was
//! stored: of the same size, inode and times as its *seal* says. A file whose seal is not there, or is another's (as when a store was
//! copied), is read to its end once more and sealed anew.

use crate::progress::Watch;
use crate::{Digest, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Bytes read at a time.
pub(crate) const CHUNK: usize = 1 << 20;

/// Writes a file so that its place holds all of it or what was there before. To be called with the store's lock held alone: what
/// lies in `tmp` may be deleted otherwise.
pub(crate) fn write_atomically(tmp: &Path, place: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = NamedTempFile::new_in(tmp).map_err(StoreError::io("write in", tmp))?;
    file.write_all(bytes).map_err(StoreError::io("write", place))?;
    settle(file.as_file(), place)?;
    file.persist(place).map_err(|error| StoreError::io("write", place)(error.error))?;
    sync_folder_of(place)
}

/// Brings a written file to the disk, never to be written again.
pub(crate) fn settle(file: &File, path: &Path) -> Result<(), StoreError> {
    file.set_permissions(Permissions::from_mode(0o444)).map_err(StoreError::io("write", path))?;
    file.sync_all().map_err(StoreError::io("write", path))
}

/// Makes a file's being there, or its being gone, outlast a power cut.
pub(crate) fn sync_folder_of(place: &Path) -> Result<(), StoreError> {
    sync_folder(place.parent().unwrap_or(place))
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("write", folder))
}

/// The next bytes of a file, as many as come at once; `None` at its end.
pub(crate) fn read_some<'c>(file: &mut File, chunk: &'c mut [u8]) -> io::Result<Option<&'c [u8]>> {
    let count = loop {
        match file.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    Ok(chunk.get(..count).filter(|bytes| !bytes.is_empty()))
}

/// The digest of a file's bytes, told as they are read.
pub(crate) fn digest_of(file: &mut File, path: &Path, watch: Watch<'_>) -> Result<(Digest, u64), StoreError> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        watch.check()?;
        let Some(bytes) = read_some(file, &mut chunk).map_err(StoreError::io("read", path))? else { break };
        hasher.update(bytes);
        size += bytes.len() as u64;
        watch.progress.advance(bytes.len() as u64);
    }
    Ok((Digest::finish(hasher), size))
}

/// What a blob's file was when its bytes were compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    bytes: u64,
    inode: u64,
    /// Seconds and nanoseconds: of the last write (mtime), and of the last change of the inode (ctime), which nobody can set.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Seal {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The folder of blobs, and that of their seals.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
    seals: PathBuf,
}

/// What a blob's file was found to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Whole,
    Missing,
    Other(Digest),
}

impl Found {
    /// What is wrong; the sentence goes on from the file's name.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Found::Whole => None,
            Found::Missing => Some("is missing".to_owned()),
            Found::Other(other) => Some(format!("has the digest {other} now")),
        }
    }
}

impl Blobs {
    pub(crate) fn new(folder: PathBuf, seals: PathBuf) -> Self {
        Blobs { folder, seals }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    fn seal(&self, digest: Digest) -> PathBuf {
        self.seals.join(digest.to_string())
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.path(digest).symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// Reads a blob's file to its end and compares its digest.
    pub(crate) fn check(&self, digest: Digest, watch: Watch<'_>) -> Result<Found, StoreError> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let before = file.metadata().map_err(StoreError::io("read", &path))?;
        let (found, _) = digest_of(&mut file, &path, watch)?;
        if found != digest {
            return Ok(Found::Other(found));
        }
        self.write_seal(digest, &Seal::of(&before));
        Ok(Found::Whole)
    }

    /// A blob's path, after its bytes have been compared.
    pub(crate) fn verified(&self, digest: Digest, image: &str, watch: Watch<'_>) -> Result<PathBuf, StoreError> {
        let path = self.path(digest);
        match self.check(digest, watch)?.problem() {
            None => Ok(path),
            Some(found) => Err(StoreError::Damaged { image: image.to_owned(), path, found }),
        }
    }

    /// A blob's path, after it was made sure by its seal that its file is the one whose bytes were compared; that takes a time
    /// which does not depend on its size. Without such a seal the bytes are compared.
    pub(crate) fn sealed(&self, digest: Digest, image: &str, watch: Watch<'_>) -> Result<PathBuf, StoreError> {
        let path = self.path(digest);
        let Ok(metadata) = fs::metadata(&path) else { return self.verified(digest, image, watch) };
        if self.read_seal(digest) == Some(Seal::of(&metadata)) {
            return Ok(path);
        }
        let what = format!("checking a file of {image} that is new here or was changed");
        watch.step(&what, Some(metadata.len()), || self.verified(digest, image, watch))
    }

    fn read_seal(&self, digest: Digest) -> Option<Seal> {
        serde_json::from_slice(&fs::read(self.seal(digest)).ok()?).ok()
    }

    /// Seals only save time, so that one which cannot be written, or is lost in a power cut, is no trouble.
    fn write_seal(&self, digest: Digest, seal: &Seal) {
        if self.read_seal(digest).as_ref() == Some(seal) {
            return;
        }
        let written = NamedTempFile::new_in(&self.seals).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(seal)?)?;
            file.persist(self.seal(digest)).map_err(|error| error.error)
        });
        if let Err(error) = written {
            tracing::debug!("no seal for the blob {digest}: {error}");
        }
    }

    /// Puts a file that has been compared and settled into its place, over what is there: that may have been damaged. The
    /// folder is to be synced afterwards.
    pub(crate) fn take_in(&self, digest: Digest, file: &Path) -> Result<(), StoreError> {
        let place = self.path(digest);
        fs::rename(file, &place).map_err(StoreError::io("write", &place))?;
        let metadata = fs::metadata(&place).map_err(StoreError::io("read", &place))?;
        self.write_seal(digest, &Seal::of(&metadata));
        Ok(())
    }

    /// Names of all blobs, and their bytes on the disk.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let failed = || StoreError::io("read", &self.folder);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let used = entry.metadata().map_or(0, |metadata| metadata.blocks() * 512);
            all.extend(digest.map(|digest| (digest, used)));
        }
        Ok(all)
    }

    /// Deletes every blob that is not among these, and the seals of those that are gone; returns the bytes that came free. To be called
    /// with the lock held alone.
    pub(crate) fn keep_only(&self, keep: &HashSet<Digest>) -> Result<u64, StoreError> {
        let mut freed = 0u64;
        for folder in [&self.folder, &self.seals] {
            for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
                let entry = entry.map_err(StoreError::io("read", folder))?;
                let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
                if digest.is_some_and(|digest| keep.contains(&digest)) {
                    continue;
                }
                let used = entry.metadata().map_or(0, |metadata| metadata.blocks() * 512);
                match fs::remove_file(entry.path()) {
                    Ok(()) => freed = freed.saturating_add(used),
                    // A seal's temporary name is its writer's.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("delete", &entry.path())(error)),
                }
            }
        }
        Ok(freed)
    }
}
