//! A machine's Unix socket. Its folder may have a longer path than a socket's address holds (unix(7): 108 bytes), so both ends go by
//! the folder's descriptor.

use crate::{ManagerError, files};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Listens in a machine's folder, which this process has locked: an older socket is a dead process's.
///
/// # Errors
/// [`ManagerError::Io`].
pub fn listen(folder: &Path) -> Result<UnixListener, ManagerError> {
    let path = folder.join(files::SOCKET);
    let bind = || -> io::Result<UnixListener> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_folder, short) = short(folder)?;
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(ManagerError::io("listen at", &path))
}

/// Connects to the process of the machine in this folder; `None` if there is none.
///
/// # Errors
/// [`ManagerError::Io`].
pub fn connect(folder: &Path) -> Result<Option<UnixStream>, ManagerError> {
    match short(folder).and_then(|(_folder, short)| UnixStream::connect(short)) {
        Ok(stream) => Ok(Some(stream)),
        // The folder itself may have been removed.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(ManagerError::io("connect to", &folder.join(files::SOCKET))(error)),
    }
}

/// The folder, and a path to its socket that lasts as long as that is open (proc(5), /proc/self/fd).
fn short(folder: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let folder = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), files::SOCKET).into();
    Ok((folder, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_lie_deep_and_a_dead_one_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("x".repeat(120)).join("y".repeat(120));
        fs::create_dir_all(&folder).unwrap();
        assert!(connect(&folder).unwrap().is_none());
        let listener = listen(&folder).unwrap();
        assert!(connect(&folder).unwrap().is_some());
        assert_eq!(fs::metadata(folder.join(files::SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(connect(&folder).unwrap().is_none());
        assert!(connect(&folder.join("gone")).unwrap().is_none());
        let _again = listen(&folder).unwrap();
        assert!(connect(&folder).unwrap().is_some());
    }
}
