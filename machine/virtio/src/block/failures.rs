//! What the host could not do of what a guest asked of a disk.

use std::io;
use std::sync::OnceLock;

/// What of it came first, on any of a machine's disks. The guest was told of an I/O error each time, and may have made nothing of it.
#[derive(Debug, Default)]
pub struct DiskFailures {
    any: OnceLock<String>,
    lost: OnceLock<String>,
}

impl DiskFailures {
    /// What failed: the end of a sentence.
    pub fn first(&self) -> Option<&str> {
        self.any.get().map(String::as_str)
    }

    /// The same of what should have changed a disk, or made its changes last.
    pub fn first_lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Takes note of one of the disk `name`. The first is told; a guest may cause any number of others.
    pub(super) fn add(&self, name: &str, doing: &str, error: &io::Error) {
        let text = format!("{doing} {name}: {error}");
        if doing != READING {
            let _ = self.lost.set(text.clone());
        }
        match self.any.set(text) {
            Ok(()) => tracing::warn!(
                "the host fails at {doing} {name}, and the guest is told of an I/O error: {error} (more of these are not shown)"
            ),
            Err(text) => tracing::debug!("the host fails at {text}"),
        }
    }
}

/// What loses nothing.
pub(super) const READING: &str = "reading";

/// Whether a request could not be done because of what it asked for.
pub(super) fn is_guests(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::ReadOnlyFilesystem)
}
