//! The processes that belong to one store, found by their environment.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Whom a kill hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The motu that a person started, and what started it.
    Client,
    /// The process of each machine that stays.
    Machines,
    All,
}

impl Victim {
    /// Kills it, at once. False if there is nobody.
    pub fn kill(self, home: &Path) -> bool {
        let killed = processes(home).into_iter().filter(|(_, is_machine)| match self {
            Self::Client => !is_machine,
            Self::Machines => *is_machine,
            Self::All => true,
        });
        killed.filter(|(pid, _)| kill_process(*pid, Signal::KILL).is_ok()).count() != 0
    }
}

/// Kills all there are, and waits until they are gone.
pub fn end_all(home: &Path) {
    while Victim::All.kill(home) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All processes of this store but those that have ended, and whether each is a machine's.
fn processes(home: &Path) -> Vec<(Pid, bool)> {
    let setting = [b"MOTU_HOME=", home.as_os_str().as_bytes()].concat();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // Of one that has ended it is empty.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if let Some(pid) = pid
            && environment.split(|byte| *byte == 0).any(|one| one == setting)
        {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, line.split(|byte| *byte == 0).nth(1) == Some(b"vmm")));
        }
    }
    found
}
