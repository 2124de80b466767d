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
//! All are flock(2): they end with their process, however it ends. A turn is taken before the store's lock; nothing is
//! waited for while the store's lock is held.

use crate::StoreError;
use crate::progress::Watch;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a waiting process sleeps before it asks again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

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
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path)(error)),
        };
        Ok(try_lock(&file, Mode::Alone, path)?.then_some(Lock { _file: file }))
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
