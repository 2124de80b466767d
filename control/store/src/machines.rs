//! Machines' folders: what a machine stands on, and what it has written.
//!
//! ```text
//!   machines/ID       of a machine that stays until it is removed, whether it runs or not
//!   tmp/machine-ID    of one that is gone with its process
//!     base.json       the image that it stands on
//!     disk.overlay    its own writes over the image's root disk
//! ```
//!
//! The folder is locked (flock(2)) by the process that the machine lives in; what else lies in it is that process's. An image that
//! a folder names is not deleted. A folder in `tmp/` whose lock is free is of a machine that was killed: the next motu that
//! begins a machine deletes it.

use crate::blobs::{sync_folder, write_atomically};
use crate::lock::{Lock, Mode};
use crate::near::near;
use crate::progress::Watch;
use crate::record::RootDisk;
use crate::{Digest, Image, Store, StoreError, Timestamp};
use motu_disk::Overlay;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const RECORD: &str = "base.json";
const OVERLAY: &str = "disk.overlay";
/// What stands before an ID in `tmp/`.
const EPHEMERAL: &str = "machine-";
/// A folder before it is locked.
const NEW: &str = ".new-";
/// Bytes of an ID, which is written in hexadecimal digits, as Docker's.
const ID_BYTES: usize = 6;
/// How names begin that files have until they are whole: records (the `tempfile` crate's default) and disks.
const HALF_WRITTEN: [&str; 2] = [".tmp", ".motu-disk-"];
/// The version of the records that this motu writes, and the only one that it reads.
const VERSION: u32 = 1;

/// Whether what has this name in `tmp/` belongs to a machine.
pub(crate) fn is_of_one(file: &str) -> bool {
    file.starts_with(EPHEMERAL) || file.starts_with(NEW)
}

/// What a machine stands on: `base.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineRecord {
    /// 1; another motu's may be another.
    pub version: u32,
    /// The image; none for a machine with a kernel of the person's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// What the person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// A machine that is there.
#[derive(Debug)]
pub struct MachineEntry {
    /// 12 hexadecimal digits.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// Some process has it.
    pub running: bool,
    /// It is gone with its process.
    pub ephemeral: bool,
    /// What it stands on, or what is wrong with its record.
    pub record: Result<MachineRecord, StoreError>,
}

impl MachineEntry {
    /// Its name, or its ID.
    pub fn shown(&self) -> &str {
        self.record.as_ref().ok().and_then(|record| record.name.as_deref()).unwrap_or(&self.id)
    }

    /// Its process was killed, and nobody needs its folder.
    pub(crate) fn is_left(&self) -> bool {
        self.ephemeral && !self.running
    }
}

/// A machine's folder, locked by this process. An ephemeral one is deleted when this is dropped.
#[derive(Debug)]
pub struct MachineFolder {
    store: Store,
    id: String,
    path: PathBuf,
    ephemeral: bool,
    record: MachineRecord,
    _lock: Lock,
}

/// How long a machine stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life<'a> {
    /// As long as its process.
    Ephemeral,
    /// Until it is removed.
    Kept {
        /// What the person calls it.
        name: Option<&'a str>,
        /// What its folder has from the start: names and bytes of files.
        files: &'a [(&'a str, &'a [u8])],
    },
}

impl Store {
    /// Makes a machine's folder. It copies nothing: its disk, if the image has one, begins as the image's.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] if the image was removed meanwhile; [`StoreError::MachineExists`]; [`StoreError::Io`],
    /// [`StoreError::Cancelled`].
    pub fn create_machine(
        &self,
        image: Option<&Image>,
        life: Life<'_>,
        watch: Watch<'_>,
    ) -> Result<MachineFolder, StoreError> {
        self.sweep_machines()?;
        let (name, files) = match life {
            Life::Kept { name, files } => (name, files),
            Life::Ephemeral => (None, &[][..]),
        };
        let mode = if name.is_some() { Mode::Alone } else { Mode::Shared };
        // Nobody deletes the image before the folder says that it is needed, or takes the name, or clears away what is not locked
        // yet.
        let _lock = self.lock(mode, watch)?;
        let new = NewFolder::make(&self.tmp())?;
        let digest = image.map(|image| image.digest);
        let record =
            MachineRecord { version: VERSION, image: digest, name: name.map(str::to_owned), created: Timestamp::now() };
        let ephemeral = life == Life::Ephemeral;
        new.write(&record, files, !ephemeral)?;
        if let Some(image) = image.filter(|image| !self.image_record(image.digest).exists()) {
            return Err(StoreError::NoImage { text: image.name.clone(), near: Vec::new() });
        }
        if let Some(name) = name
            && let Some(other) = self.machines()?.into_iter().find(|other| other.shown() == name)
        {
            return Err(StoreError::MachineExists { name: name.to_owned(), id: other.id });
        }
        let id = new.id.clone();
        let place = if ephemeral {
            self.tmp().join(format!("{EPHEMERAL}{id}"))
        } else {
            self.root().join("machines").join(&id)
        };
        let lock = new.become_(&place)?;
        if !ephemeral {
            sync_folder(&self.root().join("machines"))?;
        }
        Ok(MachineFolder { store: self.clone(), id, path: place, ephemeral, record, _lock: lock })
    }

    /// Takes the folder of a machine that does not run, by its ID.
    ///
    /// # Errors
    /// [`StoreError::MachineRuns`]; [`StoreError::NoMachine`]; [`StoreError::DamagedMachine`], [`StoreError::Io`].
    pub fn open_machine(&self, id: &str) -> Result<MachineFolder, StoreError> {
        let (path, lock) = self.lock_machine(id)?;
        let record = read_record(&path, id)?;
        clear_half_written(&path)?;
        Ok(MachineFolder { store: self.clone(), id: id.to_owned(), path, ephemeral: false, record, _lock: lock })
    }

    /// Deletes a machine that does not run, by its ID, and all that it has written, whatever state its files are in.
    ///
    /// # Errors
    /// [`StoreError::MachineRuns`]; [`StoreError::NoMachine`]; [`StoreError::Io`].
    pub fn delete_machine(&self, id: &str) -> Result<(), StoreError> {
        let (path, _lock) = self.lock_machine(id)?;
        // From here on it is what a dead process left, so that nobody sees half of it.
        let place = self.tmp().join(format!("{EPHEMERAL}{id}"));
        fs::rename(&path, &place).map_err(StoreError::io("delete", &path))?;
        sync_folder(&self.root().join("machines"))?;
        remove_folder(&place)
    }

    /// The folder of a machine that stays, with its lock.
    fn lock_machine(&self, id: &str) -> Result<(PathBuf, Lock), StoreError> {
        let none = || StoreError::NoMachine { text: id.to_owned(), near: Vec::new() };
        if id.len() != 2 * ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none());
        }
        let path = self.root().join("machines").join(id);
        match Lock::try_folder(&path)? {
            Some(lock) => Ok((path, lock)),
            None if path.is_dir() => Err(StoreError::MachineRuns { machine: id.to_owned() }),
            None => Err(none()),
        }
    }

    /// The machine that a person means: its name, or the first digits of its ID.
    ///
    /// # Errors
    /// [`StoreError::NoMachine`] with the names that are near; [`StoreError::Io`].
    pub fn find_machine(&self, text: &str) -> Result<MachineEntry, StoreError> {
        let mut machines = self.machines()?;
        let known: Vec<String> = machines.iter().map(|machine| machine.shown().to_owned()).collect();
        let by_name = machines.iter().position(|machine| machine.shown() == text);
        let by_id = || {
            let mut found = machines.iter().enumerate().filter(|(_, machine)| machine.id.starts_with(text));
            let first = found.next().filter(|_| !text.is_empty());
            first.filter(|_| found.next().is_none()).map(|(at, _)| at)
        };
        match by_name.or_else(by_id) {
            Some(at) => Ok(machines.swap_remove(at)),
            None => Err(StoreError::NoMachine { text: text.to_owned(), near: near(text, &known) }),
        }
    }

    /// Gives a machine that stays another name, whether it runs or not.
    ///
    /// # Errors
    /// [`StoreError::NoMachine`], [`StoreError::MachineExists`]; [`StoreError::DamagedMachine`], [`StoreError::Io`],
    /// [`StoreError::Cancelled`].
    pub fn rename_machine(&self, id: &str, name: &str, watch: Watch<'_>) -> Result<(), StoreError> {
        let _lock = self.lock(Mode::Alone, watch)?;
        let machines = self.machines()?;
        let none = || StoreError::NoMachine { text: id.to_owned(), near: Vec::new() };
        let machine = machines.iter().find(|machine| machine.id == id && !machine.ephemeral).ok_or_else(none)?;
        if let Some(other) = machines.iter().find(|other| other.id != id && other.shown() == name) {
            return Err(StoreError::MachineExists { name: name.to_owned(), id: other.id.clone() });
        }
        let record = read_record(&machine.path, id)?;
        let record = MachineRecord { name: Some(name.to_owned()), ..record };
        let path = machine.path.join(RECORD);
        let text = serde_json::to_vec_pretty(&record).map_err(|error| StoreError::io("write", &path)(error.into()))?;
        write_atomically(&self.tmp(), &path, &text)
    }

    /// All machines, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn machines(&self) -> Result<Vec<MachineEntry>, StoreError> {
        let kept = self.files("machines")?.into_iter().map(|id| (id, false));
        let ephemeral = self.files("tmp")?;
        let ephemeral = ephemeral.iter().filter_map(|name| Some((name.strip_prefix(EPHEMERAL)?.to_owned(), true)));
        let mut machines = Vec::new();
        for (id, ephemeral) in kept.chain(ephemeral) {
            let path = if ephemeral {
                self.tmp().join(format!("{EPHEMERAL}{id}"))
            } else {
                self.root().join("machines").join(&id)
            };
            let running = Lock::is_taken(&path)?;
            let record = read_record(&path, &id);
            // Gone since the folder was read.
            if path.exists() {
                machines.push(MachineEntry { id, path, running, ephemeral, record });
            }
        }
        machines.sort_by_key(|machine| {
            (machine.record.as_ref().map(|record| record.created).unwrap_or_default(), machine.id.clone())
        });
        Ok(machines)
    }

    /// Deletes the folders of ephemeral machines whose process was killed; returns the bytes that came free. Needs no lock: a
    /// folder gets its name when it is locked already.
    pub(crate) fn sweep_machines(&self) -> Result<u64, StoreError> {
        let mut freed = 0;
        for file in self.files("tmp")?.iter().filter(|file| file.starts_with(EPHEMERAL)) {
            let path = self.tmp().join(file);
            if let Some(_dead) = Lock::try_folder(&path)? {
                freed += crate::usage::used_below(&path);
                remove_folder(&path)?;
            }
        }
        Ok(freed)
    }
}

fn read_record(path: &Path, id: &str) -> Result<MachineRecord, StoreError> {
    let path = path.join(RECORD);
    let damaged = |found: String| StoreError::DamagedMachine { machine: id.to_owned(), path: path.clone(), found };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("is missing".to_owned())),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let record: MachineRecord =
        serde_json::from_slice(&text).map_err(|error| damaged(format!("is no record of this motu's ({error})")))?;
    match record.version {
        VERSION => Ok(record),
        version => Err(damaged(format!("has version {version}, and this motu reads {VERSION}"))),
    }
}

/// Deletes what a killed process had not given its name yet: nobody else writes in a folder whose lock is held.
fn clear_half_written(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let entry = entry.map_err(StoreError::io("read", folder))?;
        let name = entry.file_name();
        if HALF_WRITTEN.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
            fs::remove_file(entry.path()).map_err(StoreError::io("delete", &entry.path()))?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(error)),
        _ => Ok(()),
    }
}

/// A folder that has its lock before it has its name; deleted unless it gets one.
struct NewFolder {
    id: String,
    path: PathBuf,
    lock: Option<Lock>,
}

impl NewFolder {
    fn make(tmp: &Path) -> Result<Self, StoreError> {
        let mut bytes = [0; ID_BYTES];
        let failed = |error: rustix::io::Errno| StoreError::io("take a random number for", tmp)(error.into());
        // So few bytes come at once (getrandom(2)).
        getrandom(&mut bytes, GetRandomFlags::empty()).map_err(failed)?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = tmp.join(format!("{NEW}{id}"));
        // What a guest writes, and what its commands say, is nobody else's on this host.
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(StoreError::io("make the folder", &path))?;
        let lock = Lock::try_folder(&path)?;
        Ok(Self { id, path, lock })
    }

    fn write(&self, record: &MachineRecord, files: &[(&str, &[u8])], lasting: bool) -> Result<(), StoreError> {
        let text =
            serde_json::to_vec_pretty(record).map_err(|error| StoreError::io("write", &self.path)(error.into()))?;
        for (name, bytes) in [(RECORD, text.as_slice())].iter().chain(files) {
            let path = self.path.join(name);
            let write = || -> io::Result<()> {
                let mut file = fs::File::create_new(&path)?;
                file.write_all(bytes)?;
                if lasting { file.sync_all() } else { Ok(()) }
            };
            write().map_err(StoreError::io("write", &path))?;
        }
        if lasting { sync_folder(&self.path) } else { Ok(()) }
    }

    fn become_(mut self, place: &Path) -> Result<Lock, StoreError> {
        let gone = || StoreError::io("make the folder", place)(io::ErrorKind::NotFound.into());
        let lock = self.lock.take().ok_or_else(gone)?;
        fs::rename(&self.path, place).map_err(StoreError::io("make the folder", place))?;
        Ok(lock)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl MachineFolder {
    /// 12 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder, for what else the machine needs.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it stands on.
    pub fn record(&self) -> &MachineRecord {
        &self.record
    }

    /// The machine's root disk: its own writes over the image's disk, which is never written. It is made at its first use. Both
    /// take a time that does not depend on the disk's size.
    ///
    /// # Errors
    /// As [`Store::open_disk`]; [`StoreError::Disk`].
    pub fn open_disk(&self, image: &str, disk: &RootDisk, watch: Watch<'_>) -> Result<Overlay, StoreError> {
        let base = self.store.open_disk(image, disk, watch)?;
        let layers: Vec<u8> = disk.layers.iter().flat_map(|layer| layer.digest.bytes()).collect();
        let id = Digest::of(&layers).bytes();
        let path = self.path.join(OVERLAY);
        Ok(match () {
            () if path.exists() => Overlay::open(&path, base, &id)?,
            () if self.ephemeral => Overlay::create_ephemeral(&path, base, &id)?,
            () => Overlay::create(&path, base, &id)?,
        })
    }
}

impl Drop for MachineFolder {
    fn drop(&mut self) {
        if self.ephemeral
            && let Err(error) = remove_folder(&self.path)
        {
            tracing::debug!("{error}: the next machine that begins will delete it");
        }
    }
}
