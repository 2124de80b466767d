//! A machine's disks, from their names.

use anyhow::Result;
use motu_disk::{Disk, DiskError, Memory, OpenOptions};
use motu_machine::{DiskConfig, DiskFailures};
use motu_seed::{Identity, SeedSpec};
use motu_spec::{DiskSpec, SpecError};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

const _: () = assert!(motu_spec::MAX_DISKS == motu_machine::MAX_DISKS);

/// What the guest finds as the serial number of the disk for cloud-init.
const SEED_SERIAL: &str = "motu-seed";

/// A machine's disks. Those that were made for it are deleted again if there is no machine after all.
#[derive(Debug)]
pub struct Disks {
    open: Vec<DiskConfig>,
    made: Made,
    failures: Arc<DiskFailures>,
}

/// What a disk's size is to be that was asked for with one and is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// That.
    Exact,
    /// That, or more: it may have grown since the machine was made.
    AtLeast,
}

impl Disks {
    /// Opens all disks, after those that are not there and have a size were made.
    ///
    /// # Errors
    /// One of them cannot be used, or made.
    pub fn open(specs: &[DiskSpec], sizes: Sizes) -> Result<Self> {
        let mut disks = Self { open: Vec::new(), made: Made(Vec::new()), failures: Arc::default() };
        let mut files = Vec::new();
        for (n, spec) in specs.iter().enumerate() {
            let file = || fs::metadata(&spec.path).ok().map(|file| (file.dev(), file.ino()));
            // One before has another name for it; its lock would tell of another program.
            if file().is_some_and(|file| files.contains(&file)) {
                return Err(SpecError::DiskTwice(spec.path.clone()).into());
            }
            let disk = disks.open_one(spec, sizes)?;
            files.extend(file());
            disks.put(n, disk, serial(spec, n));
        }
        Ok(disks)
    }

    fn open_one(&mut self, spec: &DiskSpec, sizes: Sizes) -> Result<Box<dyn Disk>, DiskError> {
        let is_there = spec.path.symlink_metadata().is_ok();
        let made = match spec.size {
            Some(size) if !is_there => motu_disk::create(&spec.path, spec.format, size.0).map(|()| true)?,
            _ => false,
        };
        let disk = motu_disk::open(&spec.path, &OpenOptions { format: spec.format, read_only: spec.readonly })?;
        if made {
            // It is locked: nobody else has begun to use it.
            self.made.0.push(spec.path.clone());
        }
        match spec.size {
            Some(asked) if asked.0 > disk.size() || (sizes == Sizes::Exact && asked.0 != disk.size()) => {
                Err(DiskError::Exists { path: spec.path.clone(), size: disk.size(), asked: asked.0 })
            }
            _ => Ok(disk),
        }
    }

    /// Puts a disk before all others.
    pub fn put_first(&mut self, disk: Box<dyn Disk>, serial: &str) {
        self.put(0, disk, serial.to_owned());
    }

    fn put(&mut self, at: usize, disk: Box<dyn Disk>, serial: String) {
        self.open.insert(at, DiskConfig { disk, serial, failures: Arc::clone(&self.failures) });
    }

    /// Will know what the host could not do of what the guest asked of any of them.
    pub fn failures(&self) -> Arc<DiskFailures> {
        Arc::clone(&self.failures)
    }

    /// Puts the disk that cloud-init looks for behind all others, if there is to be one. A machine that stays is known by its identity.
    pub fn add_seed(&mut self, seed: Option<&SeedSpec>, machine: Option<Identity<'_>>) {
        if let Some(seed) = seed {
            self.put(self.open.len(), Box::new(Memory::new(seed.image(machine))), SEED_SERIAL.to_owned());
        }
    }

    /// Takes the disks for a machine.
    pub fn take(&mut self) -> Vec<DiskConfig> {
        std::mem::take(&mut self.open)
    }

    /// There is a machine: what was made for it stays.
    pub fn keep(mut self) {
        self.made.0.clear();
    }
}

/// Disks that were made, and are deleted unless they are kept.
#[derive(Debug)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!("the disk {}, which was made for this machine, stays: {error}", path.display());
            }
        }
    }
}

/// The guest tells disks apart by it.
fn serial(spec: &DiskSpec, n: usize) -> String {
    spec.serial.clone().unwrap_or_else(|| format!("motu-disk{n}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn spec(folder: &Path, text: &str) -> DiskSpec {
        let mut spec = DiskSpec::parse(text.as_ref()).unwrap();
        spec.path = folder.join(spec.path);
        spec
    }

    #[test]
    fn what_was_made_for_no_machine_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |text: &str| spec(folder.path(), text);
        fs::write(folder.path().join("old.raw"), [0; 512]).unwrap();
        let files = || fs::read_dir(folder.path()).unwrap().count();
        assert!(Disks::open(&[at("new.raw,size=1M"), at("old.raw,size=512"), at("none.raw")], Sizes::Exact).is_err());
        assert_eq!(files(), 1);
        let mut disks = Disks::open(&[at("new.raw,size=1M")], Sizes::Exact).unwrap();
        drop(disks.take());
        drop(disks);
        assert_eq!(files(), 1);
        let mut disks = Disks::open(&[at("new.raw,size=1M"), at("old.raw")], Sizes::Exact).unwrap();
        let names: Vec<_> = disks.take().into_iter().map(|disk| disk.serial).collect();
        assert_eq!(names, ["motu-disk0", "motu-disk1"]);
        disks.keep();
        assert_eq!(files(), 2);
    }

    #[test]
    fn a_disk_that_has_grown_is_as_good() {
        let folder = tempfile::tempdir().unwrap();
        let disk = [spec(folder.path(), "a.raw,size=1M")];
        let open = |sizes| Disks::open(&disk, sizes).map(|disks| disks.open[0].disk.size());
        fs::write(folder.path().join("a.raw"), vec![0; 2 << 20]).unwrap();
        assert_eq!(open(Sizes::AtLeast).unwrap(), 2 << 20);
        assert!(open(Sizes::Exact).unwrap_err().to_string().contains("leave the size out"));
        fs::write(folder.path().join("a.raw"), [0; 512]).unwrap();
        assert!(open(Sizes::AtLeast).is_err());
    }

    #[test]
    fn a_file_by_two_names_is_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let one = spec(folder.path(), "a.raw,size=1M");
        let other = spec(folder.path(), "./b/../a.raw,readonly");
        fs::create_dir(folder.path().join("b")).unwrap();
        let error = Disks::open(&[one, other], Sizes::Exact).unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
    }
}
