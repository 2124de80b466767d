//! The host's files, below a root that tests choose.

use rustix::fs::{Access, access};
use std::fs::{self, Metadata};
use std::io::Read;
use std::path::PathBuf;

/// Longest text that is read of a file: /proc/cpuinfo tells the same for hundreds of CPUs.
const ENOUGH: u64 = 64 << 10;

#[derive(Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `path` has no slash in front.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The beginning of a file's text, without the space around it; `None` if it cannot be read.
    pub fn read(&self, path: &str) -> Option<String> {
        let mut text = Vec::new();
        fs::File::open(self.path(path)).ok()?.take(ENOUGH).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub fn metadata(&self, path: &str) -> Option<Metadata> {
        fs::metadata(self.path(path)).ok()
    }

    pub fn is_writable(&self, path: &str) -> bool {
        access(self.path(path), Access::WRITE_OK).is_ok()
    }

    /// Entries of a folder; none if there is no such folder.
    pub fn count(&self, path: &str) -> usize {
        fs::read_dir(self.path(path)).map_or(0, Iterator::count)
    }
}
