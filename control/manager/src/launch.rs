//! Starting a machine's process.

use crate::wire::{self, Report};
use crate::{Machine, ManagerError, files};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Bytes of a log at most when a process begins.
const LOG: u64 = 1 << 20;

/// Bytes of the process's last words that are shown if it says nothing else.
const LAST_WORDS: u64 = 2000;

/// A machine that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// Its process.
    pub pid: u32,
}

/// Starts `program` as the process of this machine, by its mode `vmm`, and waits until the machine is up and its command runs.
/// With `attached`, the command waits for [`wire::Request::Main`], and the machine need only be up. The process goes on if the
/// caller ends.
///
/// # Errors
/// [`ManagerError::Refused`] in the process's own words, [`ManagerError::Died`], [`ManagerError::Spawn`].
pub fn launch(program: &Path, machine: &Machine, attached: bool) -> Result<Launched, ManagerError> {
    let log = machine.path.join(files::VMM);
    // The machine may have been started by somebody else meanwhile, whose log it is.
    let said = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let said = said.map_err(ManagerError::io("write", &log))?;
    if said.metadata().is_ok_and(|file| file.len() > LOG) {
        // What is not shortened is only longer.
        let _ = said.set_len(0);
    }
    let mut command = Command::new(program);
    command.arg("vmm").args(attached.then_some("--attached")).arg(&machine.id);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    let mut child = command.spawn().map_err(ManagerError::Spawn)?;
    let pid = child.id();
    let report = child.stdout.take().and_then(|mut report| wire::get(&mut report).ok().flatten());
    match report {
        Some(Report::Up) => Ok(Launched { pid }),
        Some(Report::Failed { status, message }) => {
            let _ = child.wait();
            Err(ManagerError::Refused { status, message })
        }
        None => {
            let _ = child.wait();
            Err(ManagerError::Died { machine: machine.name.clone(), said: last_words(&log), log })
        }
    }
}

fn last_words(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
        let mut text = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    match read() {
        Ok(text) if !text.trim().is_empty() => format!("\n{}", text.trim_end()),
        _ => " nothing".to_owned(),
    }
}
