//! Work that takes long: downloads, unpacking, building.
//!
//! All of it happens in a folder of its own in `tmp/`, locked by its process, while other motus go on; only
//! [`Work::commit`] takes the store's lock, for some renames. A folder in `tmp/` whose lock is free was left by a motu that
//! was killed, and is deleted by the next that looks.

use crate::blobs::{CHUNK, digest_of, read_some, settle, sync_folder};
use crate::lock::{Lock, Mode};
use crate::progress::Watch;
use crate::record::{self, CacheRecord, NameRecord};
use crate::{Digest, ImageName, ImageRecord, Store, StoreError, Timestamp};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A folder to work in, which is gone when this is dropped or its process ends. What was added becomes a part of the store by
/// [`Work::commit`] or [`Work::cache`], and not at all otherwise.
#[derive(Debug)]
pub struct Work {
    store: Store,
    folder: PathBuf,
    _lock: Lock,
}

/// A blob that was added to some work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
}

/// A blob that is being written from its beginning to its end.
#[derive(Debug)]
pub struct BlobWriter {
    file: NamedTempFile,
    hasher: Sha256,
    bytes: u64,
    staged: PathBuf,
}

impl Store {
    /// Begins work that will add something.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Cancelled`] while it waited for another process.
    pub fn work(&self, watch: Watch<'_>) -> Result<Work, StoreError> {
        let tmp = self.tmp();
        // Nobody clears dead folders away between its making and its locking.
        let _beginning = self.lock(Mode::Shared, watch)?;
        let folder = tempfile::Builder::new().prefix("work-").tempdir_in(&tmp);
        let folder = folder.map_err(StoreError::io("write in", &tmp))?;
        let lock = Lock::try_folder(folder.path())?.ok_or_else(|| {
            StoreError::io("lock", folder.path())(io::Error::new(io::ErrorKind::WouldBlock, "somebody else has it"))
        })?;
        for part in [BLOBS, PINS] {
            let path = folder.path().join(part);
            fs::create_dir(&path).map_err(StoreError::io("make the folder", &path))?;
        }
        Ok(Work { store: self.clone(), folder: folder.keep(), _lock: lock })
    }
}

const BLOBS: &str = "blobs";
const PINS: &str = "pins";

/// What live work in this folder needs to stay: images and blobs.
pub(crate) fn pins(folder: &Path) -> Vec<Digest> {
    let entries = fs::read_dir(folder.join(PINS)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

impl Work {
    /// For anything; deleted in the end.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The store that it will be added to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Keeps an image, or a blob, from being deleted as long as this work lasts. Returns whether it is there.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn pin(&self, digest: Digest, watch: Watch<'_>) -> Result<bool, StoreError> {
        let _nobody_deletes = self.store.lock(Mode::Shared, watch)?;
        let there = self.store.blobs().has(digest) || self.store.image_record(digest).exists();
        if there {
            self.write_pin(digest)?;
        }
        Ok(there)
    }

    /// To be called with the store's lock held.
    fn write_pin(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.folder.join(PINS).join(digest.to_string());
        File::create(&path).map(drop).map_err(StoreError::io("write", &path))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn add(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        let mut writer = self.blob()?;
        writer.write_all(bytes).map_err(StoreError::io("write in", &self.folder))?;
        writer.finish()
    }

    /// Adds what is written to the writer until it is finished.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn blob(&self) -> Result<BlobWriter, StoreError> {
        let staged = self.folder.join(BLOBS);
        let file = NamedTempFile::new_in(&staged).map_err(StoreError::io("write in", &staged))?;
        Ok(BlobWriter { file, hasher: Sha256::new(), bytes: 0, staged })
    }

    /// Adds a file that lies in [`Work::folder`]; it is gone from its place then. It is read once, told as bytes of progress.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn add_file(&self, path: &Path, watch: Watch<'_>) -> Result<Blob, StoreError> {
        let mut file = File::open(path).map_err(StoreError::io("read", path))?;
        let (digest, bytes) = digest_of(&mut file, path, watch)?;
        settle(&file, path)?;
        let place = self.staged(digest);
        fs::rename(path, &place).map_err(StoreError::io("write", &place))?;
        Ok(Blob { digest, bytes })
    }

    /// Adds a copy of a file that lies anywhere.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn add_copy(&self, path: &Path, watch: Watch<'_>) -> Result<Blob, StoreError> {
        let mut source = File::open(path).map_err(StoreError::io("read", path))?;
        let mut writer = self.blob()?;
        let mut chunk = vec![0; CHUNK];
        loop {
            watch.check()?;
            let Some(bytes) = read_some(&mut source, &mut chunk).map_err(StoreError::io("read", path))? else { break };
            writer.write_all(bytes).map_err(StoreError::io("write in", &self.folder))?;
            watch.progress.advance(bytes.len() as u64);
        }
        writer.finish()
    }

    fn staged(&self, digest: Digest) -> PathBuf {
        self.folder.join(BLOBS).join(digest.to_string())
    }

    /// The file of a blob that was added, or is in the store; to be read only.
    pub fn path_of(&self, digest: Digest) -> PathBuf {
        let staged = self.staged(digest);
        if staged.exists() { staged } else { self.store.blobs().path(digest) }
    }

    /// Puts a blob that was added into the store, to stay until [`Store::prune`]: it saves a download.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn cache(&self, blob: Digest, what: &str, watch: Watch<'_>) -> Result<(), StoreError> {
        let _lock = self.store.lock(Mode::Alone, watch)?;
        self.take_in([blob])?;
        let record = CacheRecord { what: what.to_owned(), since: Timestamp::now() };
        record::write(&self.store.tmp(), &self.store.cache_record(blob), &record)?;
        self.write_pin(blob)
    }

    /// Puts the packages that `name` is made from into the store, to stay until [`Store::prune`], or until `name` is made from others.
    pub(crate) fn keep_packages(
        &self,
        name: &str,
        record: &record::PackagesRecord,
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let _lock = self.store.lock(Mode::Alone, watch)?;
        self.take_in(record.packages.iter().map(|package| package.digest))?;
        record::write(&self.store.tmp(), &self.store.packages_record(name), record)?;
        record.packages.iter().try_for_each(|package| self.write_pin(package.digest))
    }

    /// Makes an image of what was added, and of what is in the store already: whole, with all of these names, or not at
    /// all. A name that another image has goes over to this one. Returns the image's digest.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if a blob that the record names was neither added nor is there; [`StoreError::Io`];
    /// [`StoreError::Cancelled`].
    pub fn commit(&self, record: &ImageRecord, names: &[ImageName], watch: Watch<'_>) -> Result<Digest, StoreError> {
        let _lock = self.store.lock(Mode::Alone, watch)?;
        self.commit_locked(record, names)
    }

    /// The same in place of the image that had the name, which goes unless something else needs it: it could be made anew.
    pub(crate) fn replace(
        &self,
        record: &ImageRecord,
        name: &ImageName,
        watch: Watch<'_>,
    ) -> Result<Digest, StoreError> {
        let _lock = self.store.lock(Mode::Alone, watch)?;
        let before = self.store.digest_of_name(name).ok().flatten();
        let digest = self.commit_locked(record, std::slice::from_ref(name))?;
        if let Some(before) = before.filter(|before| *before != digest) {
            self.store.forget_if_unneeded(before)?;
        }
        Ok(digest)
    }

    fn commit_locked(&self, record: &ImageRecord, names: &[ImageName]) -> Result<Digest, StoreError> {
        let store = &self.store;
        if let Some(problem) = record.problem() {
            return Err(StoreError::Record { source_text: record.source.clone(), problem });
        }
        self.take_in(record.blobs())?;
        let failed = |error| StoreError::io("write", &self.folder)(io::Error::other(error));
        let (text, digest) = record.encode().map_err(failed)?;
        crate::blobs::write_atomically(&store.tmp(), &store.image_record(digest), &text)?;
        for name in names {
            store.write_name(name, &NameRecord { image: digest })?;
        }
        Ok(digest)
    }

    /// Blobs into their places. To be called with the lock held alone.
    fn take_in(&self, blobs: impl IntoIterator<Item = Digest>) -> Result<(), StoreError> {
        for blob in blobs {
            let staged = self.staged(blob);
            if staged.exists() {
                self.store.blobs().take_in(blob, &staged)?;
            } else if !self.store.blobs().has(blob) {
                return Err(StoreError::Lost(blob));
            }
        }
        sync_folder(self.store.blobs().folder())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!("{} stays until the next that looks: {error}", self.folder.display());
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.bytes
    }

    /// It ends here.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn finish(self) -> Result<Blob, StoreError> {
        let Self { file, hasher, bytes, staged } = self;
        let digest = Digest::finish(hasher);
        settle(file.as_file(), file.path())?;
        let place = staged.join(digest.to_string());
        file.persist(&place).map_err(|error| StoreError::io("write", &place)(error.error))?;
        Ok(Blob { digest, bytes })
    }
}
