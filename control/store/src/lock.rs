//! One writer at a time.

use crate::StoreError;
use crate::progress::Watch;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

/// How often a waiting process asks again.
const PAUSE: Duration = Duration::from_millis(100);

/// The right to write to a store; given back when it is dropped, and by the kernel when its process
/// ends in any other way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no other process writes, and clears what a killed writer left in `tmp`.
    pub(crate) fn take(path: &Path, tmp: &Path, watch: Watch<'_>) -> Result<Lock, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(StoreError::io("write", path))?;
        if !try_lock(&file, path)? {
            watch.step("waiting for another motu to finish with the images", None, || {
                while !try_lock(&file, path)? {
                    watch.check()?;
                    std::thread::sleep(PAUSE);
                }
                Ok(())
            })?;
        }
        clear(tmp)?;
        Ok(Lock { _file: file })
    }
}

fn try_lock(file: &File, path: &Path) -> Result<bool, StoreError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(StoreError::io("lock", path)(error.into())),
    }
}

fn clear(tmp: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(tmp).map_err(StoreError::io("read", tmp))? {
        let entry = entry.map_err(StoreError::io("read", tmp))?;
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(StoreError::io("delete", &path))?;
    }
    Ok(())
}
