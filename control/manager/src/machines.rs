//! Machines that stay, by name.

use crate::record::{self, RECORD_VERSION, Record, State};
use crate::{ManagerError, files, names, socket};
use motu_spec::ByteSize;
use motu_store::{Digest, Image, Life, MachineEntry, MachineFolder, Store, StoreError, Timestamp, Trouble, Watch};
use std::path::{Path, PathBuf};

/// Names that are invented one after the other, if others take them meanwhile.
const INVENTIONS: u32 = 8;

/// All machines that stay.
#[derive(Debug, Clone)]
pub struct Machines {
    store: Store,
}

/// A machine as it was found.
#[derive(Debug, Clone)]
pub struct Machine {
    /// 12 hexadecimal digits.
    pub id: String,
    /// What the person calls it.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// Whether a process had it.
    pub running: bool,
    /// The image that it stands on.
    pub image: Option<Digest>,
    /// When it was made.
    pub created: Timestamp,
}

/// Where in its life a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It was never started.
    Created,
    /// It runs, since then.
    Running(Timestamp),
    /// It ended so, at that time.
    Exited(u8, Timestamp),
    /// Its process was killed, or the host went down.
    Killed,
}

impl Phase {
    /// Docker's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running(_) => "running",
            Phase::Exited(..) | Phase::Killed => "exited",
        }
    }

    /// What `motu wait` says of it: as of a process that SIGKILL ended where nothing is known.
    pub fn status(self) -> u8 {
        match self {
            Phase::Exited(status, _) => status,
            Phase::Killed => 137,
            Phase::Created | Phase::Running(_) => 0,
        }
    }
}

impl Machines {
    /// The machines of this store.
    pub fn of(store: Store) -> Self {
        Self { store }
    }

    /// Makes a machine; one without a name gets one. Nothing is left if that fails.
    ///
    /// # Errors
    /// [`ManagerError::Name`]; that of another machine ([`StoreError::MachineExists`]); the host's trouble.
    pub fn create(
        &self,
        image: Option<&Image>,
        name: Option<&str>,
        record: &Record,
        watch: Watch<'_>,
    ) -> Result<Machine, ManagerError> {
        // The folder is seen with the record in it or not at all.
        let record = record::encode(record).map_err(ManagerError::io("write", Path::new(files::RECORD)))?;
        let files = [(files::RECORD, record.as_slice())];
        let make = |name: &str| self.store.create_machine(image, Life::Kept { name: Some(name), files: &files }, watch);
        if let Some(name) = name {
            names::check(name)?;
            return Ok(machine_in(&make(name)?));
        }
        let mut tried = 0;
        loop {
            let taken: Vec<String> = self.all()?.into_iter().map(|machine| machine.name).collect();
            match make(&names::invent(&taken)) {
                Err(StoreError::MachineExists { .. }) if tried < INVENTIONS => tried += 1,
                other => return Ok(machine_in(&other?)),
            }
        }
    }

    /// All machines, the oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn all(&self) -> Result<Vec<Machine>, ManagerError> {
        let kept = self.store.machines()?.into_iter().filter(|entry| !entry.ephemeral);
        Ok(kept.map(machine).collect())
    }

    /// The machine that a person means: its name, or the first digits of its ID.
    ///
    /// # Errors
    /// [`StoreError::NoMachine`] with the names that are near; the store cannot be read.
    pub fn find(&self, text: &str) -> Result<Machine, ManagerError> {
        let entry = self.store.find_machine(text)?;
        if entry.ephemeral {
            return Err(StoreError::NoMachine { text: text.to_owned(), near: Vec::new() }.into());
        }
        Ok(machine(entry))
    }

    /// What of the machines' own files is not as it was written. What the store has of them is the store's to check.
    ///
    /// # Errors
    /// The store, or one of these files, cannot be read at all.
    pub fn check(&self) -> Result<Vec<Trouble>, ManagerError> {
        let mut troubles = Vec::new();
        for machine in self.all()? {
            for damaged in [machine.record().err(), machine.state().err()].into_iter().flatten() {
                match damaged {
                    // It was removed meanwhile.
                    _ if !machine.path.exists() => {}
                    ManagerError::Damaged { path, found, .. } => {
                        troubles.push(Trouble { path, problem: found, affects: vec![machine.name.clone()] });
                    }
                    other => return Err(other),
                }
            }
        }
        Ok(troubles)
    }

    /// Takes a machine that does not run for this process, to run it.
    ///
    /// # Errors
    /// [`ManagerError::Running`]; the store's others.
    pub fn take(&self, machine: &Machine) -> Result<MachineFolder, ManagerError> {
        self.store.open_machine(&machine.id).map_err(|error| machine.refused(error))
    }

    /// Removes a machine that does not run, with all that it has written; a damaged one, too.
    ///
    /// # Errors
    /// [`ManagerError::Running`]; the store's others.
    pub fn remove(&self, machine: &Machine) -> Result<(), ManagerError> {
        self.store.delete_machine(&machine.id).map_err(|error| machine.refused(error))
    }

    /// Gives a machine another name, whether it runs or not.
    ///
    /// # Errors
    /// [`ManagerError::Name`]; that of another machine ([`StoreError::MachineExists`]); the host's trouble.
    pub fn rename(&self, machine: &Machine, name: &str, watch: Watch<'_>) -> Result<(), ManagerError> {
        names::check(name)?;
        Ok(self.store.rename_machine(&machine.id, name, watch)?)
    }
}

fn machine(entry: MachineEntry) -> Machine {
    let name = entry.shown().to_owned();
    let (image, created) = match &entry.record {
        Ok(record) => (record.image, record.created),
        Err(_) => (None, Timestamp::default()),
    };
    Machine { id: entry.id, name, path: entry.path, running: entry.running, image, created }
}

fn machine_in(folder: &MachineFolder) -> Machine {
    let record = folder.record();
    Machine {
        id: folder.id().to_owned(),
        name: record.name.clone().unwrap_or_else(|| folder.id().to_owned()),
        path: folder.path().to_owned(),
        running: false,
        image: record.image,
        created: record.created,
    }
}

impl Machine {
    fn refused(&self, error: StoreError) -> ManagerError {
        match error {
            StoreError::MachineRuns { .. } => ManagerError::Running(self.name.clone()),
            other => other.into(),
        }
    }

    /// What was asked for.
    ///
    /// # Errors
    /// [`ManagerError::Damaged`], [`ManagerError::Io`].
    pub fn record(&self) -> Result<Record, ManagerError> {
        let path = self.path.join(files::RECORD);
        let found = match record::read::<Record>(&path, &self.name)? {
            Some(record) if record.version == RECORD_VERSION => return Ok(record),
            Some(Record { version, .. }) => format!("has version {version}, and this motu reads {RECORD_VERSION}"),
            None => "is missing".to_owned(),
        };
        Err(ManagerError::Damaged { machine: self.name.clone(), path, found })
    }

    /// Writes down that a disk of those that were asked for has grown, if its size was asked for; for the process that has the
    /// machine's folder.
    ///
    /// # Errors
    /// As [`Machine::record`].
    pub fn write_disk_size(&self, disk: usize, size: u64) -> Result<(), ManagerError> {
        let mut record = self.record()?;
        match record.spec.disks.get_mut(disk).and_then(|disk| disk.size.as_mut()) {
            Some(written) if written.0 != size => *written = ByteSize(size),
            _ => return Ok(()),
        }
        record::write(&self.path.join(files::RECORD), &record)
    }

    /// How it was started and ended the last time.
    ///
    /// # Errors
    /// [`ManagerError::Damaged`], [`ManagerError::Io`].
    pub fn state(&self) -> Result<Option<State>, ManagerError> {
        record::read(&self.path.join(files::STATE), &self.name)
    }

    /// Writes down how it was started or ended; for the process that it runs in.
    ///
    /// # Errors
    /// [`ManagerError::Io`].
    pub fn write_state(&self, state: &State) -> Result<(), ManagerError> {
        record::write(&self.path.join(files::STATE), state)
    }

    /// Where in its life it is.
    ///
    /// # Errors
    /// As [`Machine::state`]; [`ManagerError::Io`] if the socket cannot be used.
    pub fn phase(&self) -> Result<Phase, ManagerError> {
        Ok(match (self.running, self.state()?) {
            // Its process has only begun.
            (true, None) => Phase::Running(Timestamp::now()),
            (true, Some(state)) => Phase::Running(state.started),
            (false, None) => Phase::Created,
            (false, Some(State { ended: Some(ended), status, .. })) => Phase::Exited(status.unwrap_or_default(), ended),
            // It may have been started since it was found.
            (false, Some(state)) if socket::connect(&self.path)?.is_some() => Phase::Running(state.started),
            (false, Some(_)) => Phase::Killed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_spec::{CommandSpec, VmSpec};

    fn record() -> Record {
        let command = CommandSpec { argv: vec!["sleep".into(), "9".into()], ..CommandSpec::default() };
        Record { version: record::RECORD_VERSION, spec: VmSpec::default(), command }
    }

    #[test]
    fn a_machine_is_made_found_renamed_and_taken() {
        let home = tempfile::tempdir().unwrap();
        let machines = Machines::of(Store::open(home.path()).unwrap());
        let create = |name| machines.create(None, name, &record(), Watch::silent());
        let web = create(Some("web")).unwrap();
        assert_eq!(web.record().unwrap(), record());
        assert_eq!(web.phase().unwrap(), Phase::Created);
        let other = create(None).unwrap();
        assert!(names::check(&other.name).is_ok());
        let words = |error: ManagerError| error.to_string();
        assert!(words(create(Some("web")).unwrap_err()).contains("already"));
        assert!(words(create(Some("w/b")).unwrap_err()).contains("no machine name"));
        assert!(words(machines.find("wbe").unwrap_err()).contains("web"));
        assert_eq!(machines.find(&web.id[..6]).unwrap().name, "web");
        assert!(words(machines.rename(&web, &other.name, Watch::silent()).unwrap_err()).contains("already"));
        let folder = machines.take(&web).unwrap();
        assert!(matches!(machines.find("web").unwrap().phase(), Ok(Phase::Running(_))));
        assert!(words(machines.take(&web).unwrap_err()).contains("motu stop web"));
        assert!(words(machines.remove(&web).unwrap_err()).contains("motu stop web"));
        machines.rename(&web, "www", Watch::silent()).unwrap();
        drop(folder);
        let www = machines.find("www").unwrap();
        assert_eq!((www.id.as_str(), www.running), (web.id.as_str(), false));
        www.write_state(&State { pid: 1, ..State::default() }).unwrap();
        assert_eq!(www.phase().unwrap(), Phase::Killed);
        let listener = socket::listen(&www.path).unwrap();
        assert!(matches!(www.phase(), Ok(Phase::Running(_))), "it was started after it was found");
        drop(listener);
        let ended = Timestamp::from_unix(9);
        www.write_state(&State { ended: Some(ended), status: Some(3), ..State::default() }).unwrap();
        assert_eq!(www.phase().unwrap(), Phase::Exited(3, ended));
        machines.remove(&www).unwrap();
        assert_eq!(machines.all().unwrap().len(), 1);
    }

    #[test]
    fn a_disk_that_was_asked_for_with_a_size_has_its_new_one_in_the_record() {
        let home = tempfile::tempdir().unwrap();
        let machines = Machines::of(Store::open(home.path()).unwrap());
        let disks = ["a.raw,size=1M", "b.raw"].map(|text| motu_spec::DiskSpec::parse(text.as_ref()).unwrap());
        let spec = VmSpec { disks: disks.to_vec(), ..VmSpec::default() };
        let web = machines.create(None, Some("web"), &Record { spec, ..record() }, Watch::silent()).unwrap();
        for disk in 0..3 {
            web.write_disk_size(disk, 2 << 20).unwrap();
        }
        let sizes: Vec<_> = web.record().unwrap().spec.disks.into_iter().map(|disk| disk.size).collect();
        assert_eq!(sizes, [Some(ByteSize::mib(2)), None]);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let home = tempfile::tempdir().unwrap();
        let machines = Machines::of(Store::open(home.path()).unwrap());
        let web = machines.create(None, Some("web"), &record(), Watch::silent()).unwrap();
        for text in ["", "{}", "{\"version\":1,\"spec\":{\"colour\":1}}", "{\"version\":2,\"spec\":{}}"] {
            std::fs::write(web.path.join(files::RECORD), text).unwrap();
            let error = web.record().unwrap_err().to_string();
            assert!(error.contains("damaged") && error.contains("machine.json"), "{error}");
        }
        std::fs::remove_file(web.path.join(files::RECORD)).unwrap();
        assert!(web.record().unwrap_err().to_string().contains("is missing"));
        std::fs::write(web.path.join(files::STATE), "{").unwrap();
        let troubles = machines.check().unwrap();
        let found: Vec<_> = troubles.iter().map(|trouble| (trouble.path.clone(), trouble.affects.join(" "))).collect();
        let expected = [files::RECORD, files::STATE].map(|file| (web.path.join(file), "web".to_owned()));
        assert_eq!(found, expected);
        std::fs::write(web.path.join("base.json"), "{").unwrap();
        let damaged = machines.find(&web.id).unwrap();
        let error = machines.take(&damaged).unwrap_err().to_string();
        assert!(error.contains(&format!("motu rm {}", web.id)), "{error}");
        machines.remove(&damaged).unwrap();
        assert!(machines.all().unwrap().is_empty());
    }
}
