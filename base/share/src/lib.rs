//! A folder of the host for guests: a FUSE server that a virtio-fs device asks (virtio 1.2, 5.11).
//!
//! [`Share::answer`] takes one message of the guest's kernel and gives the reply. A guest is held to the folder: names have no
//! slashes, are not `..`, and links are followed by the guest's kernel, never here; a node is a file that is open (`nodes.rs`), not a
//! path. Devices and sockets that lie in the folder are not opened.
//!
//! Everything is done as the user who runs motu. As root, what a guest's user makes is theirs; as anybody else, it is whose motu is.
//! Set-user-ID and set-group-ID bits are left out of files: whoever runs such a program on the host would do so as motu's user.
//!
//! What is cached in the guest counts for a second; then changes of the host's are seen.
#![forbid(unsafe_code)]

mod answer;
mod attributes;
mod entries;
mod files;
mod folders;
mod limit;
mod nodes;
mod wire;

#[cfg(test)]
mod tests;

use files::Handles;
use limit::Limit;
use nodes::Nodes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes that one message writes or reads at most.
pub const MAX_DATA: usize = 1 << 20;

/// Bytes of a message at most: data, and what is around it.
pub const MAX_MESSAGE: usize = MAX_DATA + 4096;

/// Why a folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It cannot be opened.
    #[error("the folder {} cannot be shared: {source}", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The host has no `/proc`, by which files that are only named are reached.
    #[error("/proc/self/fd, by which folders are shared, cannot be opened: {source}; mount proc on /proc")]
    Proc {
        /// The host's reason.
        source: io::Error,
    },
    /// It is a file.
    #[error("{} is no folder, and only folders can be shared; name the folder that it is in", path.display())]
    NoFolder {
        /// What was named.
        path: PathBuf,
    },
}

/// A folder, and what one guest knows of it.
#[derive(Debug)]
pub struct Share {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    nodes: Nodes,
    handles: Handles,
    read_only: bool,
    /// What is made is given to who asked for it.
    is_root: bool,
}

impl Share {
    /// A folder for one guest. The guest may have as many of its files open as the process may at this moment, but for some.
    ///
    /// # Errors
    /// There is no such folder, it cannot be opened, or the host has no `/proc`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, ShareError> {
        let failed = |errno: Errno| match errno {
            Errno::NOTDIR if path.exists() => ShareError::NoFolder { path: path.into() },
            _ => ShareError::Open { path: path.into(), source: errno.into() },
        };
        let open = |path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = open(path).map_err(failed)?;
        let links = open(Path::new("/proc/self/fd")).map_err(|error| ShareError::Proc { source: error.into() })?;
        let limit = Limit::of_process();
        let nodes = Nodes::new(root, links, limit).map_err(failed)?;
        let is_root = rustix::process::geteuid().is_root();
        Ok(Self { inner: Mutex::new(Inner { nodes, handles: Handles::new(limit), read_only, is_root }) })
    }

    /// The reply to one message, of at most `room` bytes; nothing for a message that wants none.
    pub fn answer(&self, message: &[u8], room: usize) -> Option<Vec<u8>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).answer(message, room)
    }

    /// The guest has begun anew: what it knew is forgotten, and its files are closed.
    pub fn reset(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
