//! Where layers are kept once they are there, and until they are.

use crate::RegistryError;
use crate::digest::{feed, finish};
use motu_store::Digest;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a part of a layer waits to be completed.
const PART_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A place for layers, as they are compressed. A layer that is there is whole and had the right digest when it came.
pub trait BlobSink: Sync {
    /// A blob's file, if it is there.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    fn find(&self, digest: Digest, size: u64) -> Result<Option<PathBuf>, RegistryError>;

    /// Opens what there is of a blob to complete it; `None` while another process does.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    fn begin(&self, digest: Digest) -> Result<Option<Part>, RegistryError>;

    /// Makes a blob of a part whose bytes were found to be right; returns its file.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    fn keep(&self, part: Part) -> Result<PathBuf, RegistryError>;

    /// Deletes a part that can be completed to nothing.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    fn discard(&self, part: Part) -> Result<(), RegistryError>;

    /// Puts a small document where layers are: a manifest, or a configuration.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    fn keep_document(&self, bytes: &[u8]) -> Result<(), RegistryError> {
        let digest = Digest::of(bytes);
        if self.find(digest, bytes.len() as u64)?.is_some() {
            return Ok(());
        }
        // Who writes it already writes the same.
        let Some(mut part) = self.begin(digest)? else { return Ok(()) };
        let written = part.file.set_len(0).and_then(|()| part.file.write_all(bytes));
        written.map_err(RegistryError::io("write", &part.path))?;
        self.keep(part).map(drop)
    }

    /// Fails unless there is room for what lacks of these blobs, which have so many bytes each.
    ///
    /// # Errors
    /// [`RegistryError::NoRoom`], [`RegistryError::Io`].
    fn make_sure_of_room(&self, blobs: &[(Digest, u64)]) -> Result<(), RegistryError>;
}

/// What there is of a blob. Locked (flock) as long as it lives, so that one process at a time writes to it.
#[derive(Debug)]
pub struct Part {
    pub(crate) digest: Digest,
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

/// A folder of layers:
///
/// ```text
/// sha256/HEX     a layer, or a manifest or configuration; never changed
/// partial/HEX    the first bytes of one, for the next try; deleted when a week old
/// lock           locked (flock) by all who use layers, shared, and by who deletes them, alone
/// ```
#[derive(Clone, Debug)]
pub struct LayerCache {
    root: PathBuf,
    /// `lock`, held shared but for the time of a deletion.
    used: Arc<File>,
}

impl LayerCache {
    /// Opens the folder; makes it if it is not there.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, RegistryError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(RegistryError::io("make the folder", &root))?;
        let path = root.join("lock");
        let used = open_or_make(&path).map_err(RegistryError::io("write", &path))?;
        let cache = LayerCache { root, used: Arc::new(used) };
        for folder in [cache.whole(), cache.partial()] {
            fs::create_dir_all(&folder).map_err(RegistryError::io("make the folder", &folder))?;
        }
        cache.lock(FlockOperation::LockShared)?;
        let old = SystemTime::now() - PART_AGE;
        cache.delete_parts(|changed| changed < old)?;
        Ok(cache)
    }

    /// Deletes all layers and parts but those that are being written; returns the bytes that came free. Layers only save
    /// downloads: images are whole without them. As long as somebody else has the folder open, whole layers stay, since that may be making an
    /// image of them.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn prune(&self) -> Result<u64, RegistryError> {
        let mut freed = self.delete_parts(|_| true)?;
        if self.lock(FlockOperation::NonBlockingLockExclusive)? {
            for path in files(&self.whole())? {
                freed = freed.saturating_add(delete(&path)?);
            }
        }
        // A lock is given up when another is asked for, whether that is had or not (flock(2)).
        self.lock(FlockOperation::LockShared)?;
        Ok(freed)
    }

    /// Whether it could be locked so.
    fn lock(&self, how: FlockOperation) -> Result<bool, RegistryError> {
        try_lock(&self.used, how).map_err(RegistryError::io("lock", &self.root.join("lock")))
    }

    /// How many layers and parts there are, and bytes of the disk that they take.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn usage(&self) -> Result<(usize, u64), RegistryError> {
        let paths = [files(&self.whole())?, files(&self.partial())?].concat();
        let sizes = paths.iter().filter_map(|path| fs::symlink_metadata(path).ok());
        let blocks = sizes.fold(0u64, |blocks, metadata| blocks.saturating_add(metadata.blocks()));
        Ok((paths.len(), blocks.saturating_mul(512)))
    }

    /// Deletes a layer whose bytes are no longer what they were when it came, so that it is fetched anew; returns whether that is
    /// so. To be asked when a layer cannot be unpacked: it is read once more for this.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn forget_if_damaged(&self, digest: Digest) -> Result<bool, RegistryError> {
        let path = self.place(digest);
        let mut hasher = Sha256::new();
        let read = File::open(&path).and_then(|file| feed(&mut hasher, file, |_| Ok(())));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            read => drop(read.map_err(RegistryError::io("read", &path))?),
        }
        if finish(hasher) == digest {
            return Ok(false);
        }
        delete(&path).map(|_| true)
    }

    /// Where a blob is, if it is there.
    pub(crate) fn place(&self, digest: Digest) -> PathBuf {
        self.whole().join(digest.to_string())
    }

    fn whole(&self) -> PathBuf {
        self.root.join("sha256")
    }

    fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn delete_parts(&self, which: impl Fn(SystemTime) -> bool) -> Result<u64, RegistryError> {
        let mut freed = 0u64;
        for path in files(&self.partial())? {
            let changed = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if !changed.is_ok_and(&which) {
                continue;
            }
            // Held until it is deleted: whoever begins meanwhile would write to what is nowhere any more.
            if let Some(_held) = lock(&path)? {
                freed = freed.saturating_add(delete(&path)?);
            }
        }
        Ok(freed)
    }
}

impl BlobSink for LayerCache {
    fn find(&self, digest: Digest, size: u64) -> Result<Option<PathBuf>, RegistryError> {
        let path = self.place(digest);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == size => Ok(Some(path)),
            // Either it is damaged, and is replaced when the layer has come anew; or who asks has been told a wrong size.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RegistryError::io("look at", &path)(error)),
        }
    }

    fn begin(&self, digest: Digest) -> Result<Option<Part>, RegistryError> {
        let path = self.partial().join(digest.to_string());
        Ok(lock(&path)?.map(|file| Part { digest, file, path }))
    }

    fn keep(&self, part: Part) -> Result<PathBuf, RegistryError> {
        let place = self.place(part.digest);
        let write = || RegistryError::io("write", &place);
        part.file.sync_all().map_err(write())?;
        fs::rename(&part.path, &place).map_err(write())?;
        File::open(self.whole()).and_then(|folder| folder.sync_all()).map_err(write())?;
        Ok(place)
    }

    fn discard(&self, part: Part) -> Result<(), RegistryError> {
        delete(&part.path).map(drop)
    }

    fn make_sure_of_room(&self, blobs: &[(Digest, u64)]) -> Result<(), RegistryError> {
        const MIB: u64 = 1 << 20;
        let lacking = blobs.iter().map(|(digest, size)| {
            let part = fs::metadata(self.partial().join(digest.to_string()));
            size.saturating_sub(part.map_or(0, |part| part.len()))
        });
        let bytes = lacking.fold(0, u64::saturating_add);
        let disk =
            rustix::fs::statvfs(&self.root).map_err(|error| RegistryError::io("look at", &self.root)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        Err(RegistryError::NoRoom { path: self.root.clone(), free: free / MIB, needed: bytes.div_ceil(MIB) })
    }
}

/// Opens a part's file with the right to write to it; `None` if another process has that.
fn lock(path: &Path) -> Result<Option<File>, RegistryError> {
    loop {
        let file = open_or_make(path).map_err(RegistryError::io("write", path))?;
        let is_locked = try_lock(&file, FlockOperation::NonBlockingLockExclusive);
        if !is_locked.map_err(RegistryError::io("lock", path))? {
            return Ok(None);
        }
        // Whoever had the lock before may have made a blob of the file, or have deleted it.
        let mine = file.metadata().map_err(RegistryError::io("look at", path))?.ino();
        if fs::metadata(path).is_ok_and(|there| there.ino() == mine) {
            return Ok(Some(file));
        }
    }
}

fn open_or_make(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether a file could be locked so: another may have it.
fn try_lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    match rustix::io::retry_on_intr(|| flock(file, how)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let entries = fs::read_dir(folder).map_err(RegistryError::io("read", folder))?;
    entries.map(|entry| Ok(entry.map_err(RegistryError::io("read", folder))?.path())).collect()
}

/// Deletes a file if it is there; returns its size.
fn delete(path: &Path) -> Result<u64, RegistryError> {
    let size = fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
    match fs::remove_file(path) {
        Ok(()) => Ok(size),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(RegistryError::io("delete", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_becomes_a_layer() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        let digest = Digest::of(b"layer");
        assert_eq!(cache.find(digest, 5).expect("looked"), None);
        let mut part = cache.begin(digest).expect("begun").expect("nobody else");
        assert!(cache.begin(digest).expect("asked").is_none(), "one at a time");
        part.file.write_all(b"layer").expect("written");
        assert_eq!(cache.prune().expect("pruned"), 0, "what is being written stays");
        let path = cache.keep(part).expect("kept");
        assert_eq!(cache.find(digest, 5).expect("looked"), Some(path.clone()));
        assert_eq!(fs::read(&path).expect("read"), b"layer");
        assert!(!cache.forget_if_damaged(digest).expect("looked"));
        let (count, bytes) = cache.usage().expect("measured");
        assert!(count == 1 && bytes >= 5);
        assert_eq!(cache.prune().expect("pruned"), 5);
        assert_eq!(cache.find(digest, 5).expect("looked"), None);
    }

    #[test]
    fn layers_that_somebody_uses_stay() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let (one, other) = (LayerCache::open(folder.path()), LayerCache::open(folder.path()));
        let (one, other) = (one.expect("a cache"), other.expect("a cache"));
        let path = folder.path().join("sha256").join(Digest::of(b"layer").to_string());
        fs::write(&path, "layer").expect("written");
        assert_eq!(other.prune().expect("pruned"), 0);
        assert_eq!(one.prune().expect("pruned"), 0, "the other is there still");
        assert!(path.exists());
        drop(one);
        assert_eq!(other.prune().expect("pruned"), 5);
    }

    #[test]
    fn a_layer_of_another_size_is_none() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        let digest = Digest::of(b"layer");
        let path = folder.path().join("sha256").join(digest.to_string());
        fs::write(&path, "lay").expect("written");
        assert_eq!(cache.find(digest, 5).expect("looked"), None);
        assert_eq!(
            cache.find(digest, 3).expect("looked"),
            Some(path),
            "a wrong size that an image says harms no other"
        );
    }

    #[test]
    fn a_damaged_layer_is_forgotten() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        let digest = Digest::of(b"layer");
        assert!(!cache.forget_if_damaged(digest).expect("there is none"));
        fs::write(folder.path().join("sha256").join(digest.to_string()), "lawer").expect("written");
        assert!(cache.forget_if_damaged(digest).expect("looked"));
        assert_eq!(cache.find(digest, 5).expect("looked"), None);
    }

    #[test]
    fn parts_do_not_grow_old() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        for digest in [old, new] {
            let mut part = cache.begin(digest).expect("begun").expect("nobody else");
            part.file.write_all(b"x").expect("written");
            if digest == old {
                part.file.set_modified(SystemTime::now() - 2 * PART_AGE).expect("made old");
            }
        }
        LayerCache::open(folder.path()).expect("opened again");
        let left: Vec<PathBuf> = files(&folder.path().join("partial")).expect("listed");
        assert_eq!(left, [folder.path().join("partial").join(new.to_string())]);
    }

    #[test]
    fn no_disk_has_room_for_everything() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        let digest = Digest::of(b"layer");
        cache.make_sure_of_room(&[(digest, 1), (digest, 0)]).expect("room for one byte");
        let needed = |blobs: &[_]| cache.make_sure_of_room(blobs).expect_err("no disk is that large").to_string();
        let all = needed(&[(digest, u64::MAX), (digest, 1)]);
        assert!(all.contains("17592186044416 MiB are to be fetched"), "{all}");
        let part = cache.begin(digest).expect("begun").expect("nobody else");
        part.file.set_len(1 << 30).expect("a part");
        let rest = needed(&[(digest, u64::MAX)]);
        assert!(rest.contains("17592186043392 MiB are to be fetched"), "{rest}");
    }
}
