//! What leaves the store: a file or a folder in a place of the person's, whole or not at all.
//!
//! It is made in a hidden folder beside its place, locked by its process, and renamed. What a killed motu left there is deleted by
//! the next that delivers something to the same folder.

use crate::blobs::sync_folder;
use crate::lock::Lock;
use crate::{Store, StoreError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What the names of such folders begin with.
const PREFIX: &str = ".motu-export-";

/// How often a folder is made anew that somebody took for a dead motu's before it was locked.
const TRIES: u32 = 8;

/// Something that is being made for a place outside the store; gone when this is dropped.
#[derive(Debug)]
pub struct Delivery {
    to: PathBuf,
    /// The folder that it goes to.
    parent: PathBuf,
    place: TempDir,
    _lock: Lock,
}

impl Store {
    /// Begins a delivery to a place where nothing is yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; [`StoreError::Io`] if its folder is not there or cannot be written.
    pub fn deliver(&self, to: &Path) -> Result<Delivery, StoreError> {
        if to.symlink_metadata().is_ok() {
            return Err(StoreError::Exists(to.to_owned()));
        }
        let parent = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        fs::metadata(&parent).map_err(StoreError::io("write in", &parent))?;
        delete_left(&parent)?;
        let failed = || StoreError::io("write in", &parent);
        for _ in 0..TRIES {
            let place = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent).map_err(failed())?;
            // Whoever had the lock may have deleted it; with the lock, it stays.
            if let Some(lock) = Lock::try_folder(place.path())?
                && place.path().exists()
            {
                return Ok(Delivery { to: to.to_owned(), parent, place, _lock: lock });
            }
        }
        Err(failed()(io::Error::other("its folders are deleted while they are made")))
    }
}

/// Deletes what killed motus left in a folder.
fn delete_left(parent: &Path) -> Result<(), StoreError> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_one = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // Another person's stays.
        if is_one && let Ok(Some(_dead)) = Lock::try_folder(&path) {
            fs::remove_dir_all(&path).map_err(StoreError::io("delete", &path))?;
        }
    }
    Ok(())
}

impl Delivery {
    /// A folder for anything that is needed meanwhile.
    pub fn folder(&self) -> &Path {
        self.place.path()
    }

    /// Puts a file or folder of [`Delivery::folder`], whose content was synced, into its place.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if something came there meanwhile; [`StoreError::Io`].
    pub fn finish(self, made: &Path) -> Result<(), StoreError> {
        match renameat_with(CWD, made, CWD, &self.to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(StoreError::Exists(self.to)),
            // Some network file systems cannot do that.
            Err(Errno::INVAL | Errno::NOSYS) => self.finish_without_rename_flags(made)?,
            Err(error) => return Err(StoreError::io("write", &self.to)(error.into())),
        }
        sync_folder(&self.parent)
    }

    /// A link fails where a file has come meanwhile, and a folder's rename where a folder with anything in it has.
    fn finish_without_rename_flags(&self, made: &Path) -> Result<(), StoreError> {
        let moved = if made.is_dir() { fs::rename(made, &self.to) } else { fs::hard_link(made, &self.to) };
        moved.map_err(StoreError::io("write", &self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let to = place.path().join("out");
        let dropped = store.deliver(&to).unwrap();
        fs::write(dropped.folder().join("part"), "x").unwrap();
        drop(dropped);
        assert!(names(place.path()).is_empty());
        for is_folder in [true, false] {
            let delivery = store.deliver(&to).unwrap();
            let made = delivery.folder().join("made");
            if is_folder {
                fs::create_dir(&made).unwrap()
            } else {
                fs::write(&made, "x").unwrap()
            }
            // Of two that make the same, one comes too late.
            let other = store.deliver(&to).unwrap();
            let late = other.folder().join("made");
            fs::write(&late, "late").unwrap();
            delivery.finish(&made).unwrap();
            assert!(matches!(other.finish(&late), Err(StoreError::Exists(path)) if path == to));
            assert_eq!((names(place.path()), to.is_dir()), (vec!["out".to_owned()], is_folder));
            assert!(matches!(store.deliver(&to), Err(StoreError::Exists(_))));
            if is_folder { fs::remove_dir(&to).unwrap() } else { fs::remove_file(&to).unwrap() }
        }
        let error = store.deliver(&place.path().join("none/out")).unwrap_err().to_string();
        assert!(error.contains("cannot write in") && error.contains("none"), "{error}");
    }

    #[test]
    fn what_the_dead_left_is_deleted_and_the_livings_stays() {
        let home = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        fs::create_dir(place.path().join(".motu-export-dead")).unwrap();
        let living = store.deliver(&place.path().join("one")).unwrap();
        let other = store.deliver(&place.path().join("two")).unwrap();
        assert!(living.folder().exists() && other.folder().exists());
        assert!(!place.path().join(".motu-export-dead").exists());
    }
}
