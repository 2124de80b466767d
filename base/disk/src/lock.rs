//! Two machines never write one disk.
//!
//! The locks are QEMU's (block/file-posix.c), so that it and motu keep out of each other's images: a reader lock on
//! byte 100 + p for each permission p that is used, and on byte 200 + p for each that nobody else may use. Who
//! finds a lock on the byte opposite to one of its own has come second. They are locks of the open file
//! description (fcntl(2), "Open file description locks"): they end with the process, however it ends.

use crate::DiskError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How often, and how long between, a disk in use is looked at again: who had it may be ending, and a process
/// that is just being started has the files of the one that starts it for a moment.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);
const USED: i64 = 100;
const NOT_SHARED: i64 = 200;
/// Bytes from the first of these on in which all locks lie.
const LOCKED: i64 = 200;
/// Permissions, by QEMU's numbers.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Takes the locks of a disk that is read, or with `write` written too. They last as long as any clone of `file`.
///
/// # Errors
/// Somebody else has it, or the host's.
pub fn take(file: &File, path: &Path, write: bool) -> Result<(), DiskError> {
    for _ in 1..TRIES {
        match try_take(file, path, write) {
            Err(DiskError::Locked { .. }) => {
                // Two that begin together would keep each other out otherwise.
                release(file);
                sleep(PAUSE);
            }
            other => return other,
        }
    }
    try_take(file, path, write)
}

fn try_take(file: &File, path: &Path, write: bool) -> Result<(), DiskError> {
    let used: &[i64] = if write { &[READ, WRITE] } else { &[READ] };
    let not_shared = [WRITE, RESIZE];
    let locked = || DiskError::Locked { path: path.to_owned(), write };
    let own = used.iter().map(|p| USED + p).chain(not_shared.iter().map(|p| NOT_SHARED + p));
    for byte in own {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(locked()),
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => return take_whole(file, path, write),
            Err(error) => return Err(DiskError::io("locking", path)(error.into())),
        }
    }
    let opposite = used.iter().map(|p| NOT_SHARED + p).chain(not_shared.iter().map(|p| USED + p));
    for byte in opposite {
        let mut found = range(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|error| DiskError::io("locking", path)(error.into()))?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            return Err(locked());
        }
    }
    Ok(())
}

fn release(file: &File) {
    // What cannot be given back ends with the file.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&libc::flock { l_len: LOCKED, ..range(libc::F_UNLCK, USED) }));
}

/// For hosts without such locks (gVisor): flock(2), which QEMU does not look at.
fn take_whole(file: &File, path: &Path, write: bool) -> Result<(), DiskError> {
    let taken = if write { file.try_lock() } else { file.try_lock_shared() };
    taken.map_err(|error| match error {
        TryLockError::WouldBlock => DiskError::Locked { path: path.to_owned(), write },
        TryLockError::Error(source) => DiskError::io("locking", path)(source),
    })
}

fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (a, b, c) = (open(), open(), open());
        take(&a, file.path(), false).unwrap();
        take(&b, file.path(), false).unwrap();
        assert!(matches!(take(&c, file.path(), true), Err(DiskError::Locked { write: true, .. })));
        drop((a, b, c));
        let (a, b) = (open(), open());
        take(&a, file.path(), true).unwrap();
        assert!(matches!(take(&b, file.path(), true), Err(DiskError::Locked { .. })));
        let c = open();
        assert!(matches!(take(&c, file.path(), false), Err(DiskError::Locked { write: false, .. })));
        drop((a, b, c));
        take(&open(), file.path(), true).unwrap();
    }

    #[test]
    fn who_waits_for_a_lock_has_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (a, b) = (open(), open());
        try_take(&a, file.path(), true).unwrap();
        assert!(try_take(&b, file.path(), true).is_err());
        release(&b);
        try_take(&a, file.path(), true).unwrap();
        release(&a);
        try_take(&b, file.path(), true).unwrap();
    }

    #[test]
    fn without_such_locks_the_whole_file_is_locked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (a, b) = (open(), open());
        take_whole(&a, file.path(), true).unwrap();
        assert!(matches!(take_whole(&b, file.path(), false), Err(DiskError::Locked { .. })));
    }
}
