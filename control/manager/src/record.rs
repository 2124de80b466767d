//! What is written down about a machine.

use crate::ManagerError;
use motu_spec::{CommandSpec, VmSpec};
use motu_store::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The version of the records that this motu writes, and the only one that it reads.
pub const RECORD_VERSION: u32 = 1;

/// Longest record in bytes that is read.
const LONGEST: u64 = 4 << 20;

/// What was asked for: `machine.json`. Paths in it are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The machine.
    pub spec: VmSpec,
    /// What runs in it, with which it ends. If neither this nor the image says anything, the machine runs until it is stopped.
    #[serde(default)]
    pub command: CommandSpec,
}

/// How a machine was started and ended the last time: `state.json`. A machine that was never started has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// When it was started.
    pub started: Timestamp,
    /// Its process.
    pub pid: u32,
    /// When it ended; none while it runs, or if its process was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// What its command exited with, or what motu makes of its end (`motu run --help`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// What a person should know of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Reads a file; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, machine: &str) -> Result<Option<T>, ManagerError> {
    let damaged = |found: String| ManagerError::Damaged { machine: machine.to_owned(), path: path.to_owned(), found };
    match fs::metadata(path) {
        Ok(file) if file.len() > LONGEST => return Err(damaged(format!("has {} bytes", file.len()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let text = fs::read(path).map_err(ManagerError::io("read", path))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| damaged(format!("is no record of this motu's ({error})")))
}

/// A record's bytes in its file.
pub(crate) fn encode<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes a file so that its place holds all of it or what was there before.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), ManagerError> {
    let put = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&encode(record)?)?;
        file.as_file().set_permissions(Permissions::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    };
    put().map_err(ManagerError::io("write", path))
}
