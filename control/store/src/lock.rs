//! Who may change what, while several motus use one store.
//!
//! ```text
//!   lock           the store's lock: held alone to put records in their places and to delete, for milliseconds;
//!                  held shared to begin with something that a deletion must not miss (a machine, some work)
//!   turns/NAME     whose turn it is to make NAME; held as long as that takes
//!   tmp/work-*     a folder locked by the process that works in it
//!   machines/ID    a folder locked by the process that the machine lives in
//! ```
//!
//! All are flock(2): they end with their process, however it ends. A turn is taken before the store's lock; while that is held,
//! nothing is waited for but moments: who only looks whether a folder is locked shares its lock, so that those who look do not take
//! each other for its owner, and an owner waits for them.

use crate::StoreError;
use crate::progress::Watch;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a waiting process sleeps before it asks again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// How long who looks at a folder may have its lock: no longer than a busy host leaves a process standing.
const LOOK: Duration = Duration::from_secs(5);

/// A wait that is over sooner is not told.
const QUIET: Duration = Duration::from_millis(300);

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With others who hold it so.
    Shared,
    /// By one.
    Alone,
}

/// A right that lasts until it is dropped, or until its process ends in any other way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until the file's lock can be had; `waiting` says for what. The file is made if it is not there.
    pub(crate) fn take(path: &Path, mode: Mode, waiting: &str, watch: Watch<'_>) -> Result<Lock, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(StoreError::io("write", path))?;
        let begun = Instant::now();
        let mut pause = PAUSES.0;
        while !try_lock(&file, mode, path)? {
            if begun.elapsed() >= QUIET {
                watch.step(waiting, None, || {
                    while !try_lock(&file, mode, path)? {
                        watch.check()?;
                        std::thread::sleep(PAUSES.1);
                    }
                    Ok(())
                })?;
                break;
            }
            watch.check()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
        Ok(Lock { _file: file })
    }

    /// Takes the lock of a folder; `None` if somebody else has it, or if it is gone.
    pub(crate) fn try_folder(path: &Path) -> Result<Option<Lock>, StoreError> {
        let Some(file) = open_folder(path)? else { return Ok(None) };
        let begun = Instant::now();
        while !try_lock(&file, Mode::Alone, path)? {
            // Who looks shares it; its owner does not.
            if begun.elapsed() >= LOOK || !try_lock(&file, Mode::Shared, path)? {
                return Ok(None);
            }
            std::thread::sleep(PAUSES.0);
        }
        // It may have been deleted, or moved, since it was opened.
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|folder| (folder.dev(), folder.ino())).ok();
        let is_there = inode(file.metadata()) == inode(fs::metadata(path));
        Ok(is_there.then_some(Lock { _file: file }))
    }

    /// Whether somebody has the lock of a folder that is there.
    pub(crate) fn is_taken(path: &Path) -> Result<bool, StoreError> {
        open_folder(path)?.map_or(Ok(false), |file| Ok(!try_lock(&file, Mode::Shared, path)?))
    }
}

fn open_folder(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

fn try_lock(file: &File, mode: Mode, path: &Path) -> Result<bool, StoreError> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(StoreError::io("lock", path)(error.into())),
    }
}
