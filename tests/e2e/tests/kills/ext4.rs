//! What other programs of the host's find in a file system: e2fsprogs, if they are there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Replays the file system's journal, as mounting it does, and has `e2fsck` look at all of it. False if there is no `e2fsck`.
///
/// # Panics
/// It finds anything.
pub fn is_whole(disk: &Path) -> bool {
    let path = disk.to_str().expect("a path of letters");
    // Any answer but 8 (an operational error) is of what was found in the journal (e2fsck(8)).
    let Some(replayed) = tool("e2fsck", &["-y", "-E", "journal_only", path]) else { return false };
    assert!(matches!(replayed.status.code(), Some(0 | 1)), "{}", said(&replayed));
    let Some(found) = tool("e2fsck", &["-f", "-n", path]) else { return false };
    assert!(found.status.success(), "{}", said(&found));
    true
}

/// What was in a folder of a file system.
pub struct Content(PathBuf);

impl Content {
    pub fn read(&self, file: &str) -> Option<Vec<u8>> {
        fs::read(self.0.join(file)).ok()
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies a folder out of a file system, into a folder.
///
/// # Panics
/// It cannot be read.
pub fn content_of(disk: &Path, folder: &str, to: &Path) -> Content {
    let request = format!("rdump {folder} {}", to.display());
    let copied = tool("debugfs", &["-R", &request, disk.to_str().expect("a path of letters")]).expect("e2fsprogs");
    let content = Content(to.join(folder.trim_start_matches('/')));
    assert!(copied.status.success() && content.0.is_dir(), "{}", said(&copied));
    content
}

/// Has `qemu-img` look at an image, if it is there.
///
/// # Panics
/// It finds damage. Clusters that nothing uses are none (qemu-img(1): status 3).
pub fn qcow2_is_whole(disk: &Path) {
    if let Some(found) = tool("qemu-img", &["check", "-f", "qcow2", disk.to_str().expect("a path of letters")]) {
        assert!(matches!(found.status.code(), Some(0 | 3)), "{}", said(&found));
    }
}

fn said(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn tool(name: &str, line: &[&str]) -> Option<Output> {
    // They lie where not all have their path.
    let path = std::env::var("PATH").unwrap_or_default();
    match Command::new(name).args(line).env("PATH", format!("{path}:/usr/sbin:/sbin")).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("SKIPPED: what {name} says of it: {error}");
            None
        }
    }
}
