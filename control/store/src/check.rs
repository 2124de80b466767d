//! Whether all that the store has is as it was stored.

use crate::lock::Mode;
use crate::progress::Watch;
use crate::record::ImageRecord;
use crate::{Digest, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What [`Store::check`] found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Images that were looked at, and blobs that were read.
    pub images: usize,
    /// See `images`.
    pub blobs: usize,
    /// Bytes of the blobs.
    pub bytes: u64,
    /// Machines that were looked at.
    pub machines: usize,
    /// What is not as it should be.
    pub troubles: Vec<Trouble>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; the sentence goes on from its name.
    pub problem: String,
    /// The images, or the machine, that suffer from it.
    pub affects: Vec<String>,
}

impl Store {
    /// Reads everything that an image, a name or a machine needs, and compares it with what was stored. What was left by motus that
    /// were killed is no trouble: nobody uses it.
    ///
    /// # Errors
    /// [`StoreError::Io`] if something cannot be read at all; [`StoreError::Cancelled`].
    pub fn check(&self, watch: Watch<'_>) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport::default();
        let names = {
            // A name that comes or goes is seen with its image or not at all. What is read afterwards takes long, and may be removed
            // meanwhile.
            let _nobody_writes = self.lock(Mode::Shared, watch)?;
            self.check_names(&mut report)?
        };
        let mut needed = BTreeMap::<Digest, BTreeSet<String>>::new();
        for digest in self.image_digests()? {
            report.images += 1;
            let shown = names.get(&digest).cloned().unwrap_or_else(|| digest.short());
            match self.record(digest, &shown) {
                Ok(Some(record)) => self.check_record(&record, &shown, &mut needed),
                // Removed since.
                Ok(None) => {}
                Err(error) => report.add(error, &self.image_record(digest), &shown)?,
            }
        }
        for file in self.files("cache")? {
            let digest = file.strip_suffix(".json").and_then(|digest| digest.parse().ok());
            digest.map(|digest| needed.entry(digest).or_default());
        }
        self.check_blobs(&needed, &mut report, watch)?;
        self.check_machines(&mut report)?;
        Ok(report)
    }

    /// Finds names that cannot be read, or stand for no image; returns a name of each image.
    fn check_names(&self, report: &mut CheckReport) -> Result<BTreeMap<Digest, String>, StoreError> {
        let mut names = BTreeMap::new();
        for file in self.files("names")? {
            let path = self.root().join("names").join(&file);
            let Some(name) = crate::ImageName::from_file_name(&file) else {
                report.troubles.push(Trouble {
                    path,
                    problem: "is no name of an image".to_owned(),
                    affects: Vec::new(),
                });
                continue;
            };
            match self.digest_of_name(&name) {
                Ok(Some(digest)) if self.image_record(digest).exists() => {
                    names.entry(digest).or_insert_with(|| name.to_string());
                }
                Ok(Some(digest)) => report.troubles.push(Trouble {
                    path,
                    problem: format!("stands for the image {digest}, which is not there"),
                    affects: vec![name.to_string()],
                }),
                Ok(None) => {}
                Err(error) => report.add(error, &path, &name.to_string())?,
            }
        }
        Ok(names)
    }

    fn check_record(&self, record: &ImageRecord, shown: &str, needed: &mut BTreeMap<Digest, BTreeSet<String>>) {
        for blob in record.blobs() {
            needed.entry(blob).or_default().insert(shown.to_owned());
        }
    }

    fn check_blobs(
        &self,
        needed: &BTreeMap<Digest, BTreeSet<String>>,
        report: &mut CheckReport,
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let sizes: Vec<u64> =
            needed.keys().filter_map(|blob| Some(self.blobs().path(*blob).metadata().ok()?.len())).collect();
        (report.blobs, report.bytes) = (needed.len(), sizes.iter().sum());
        watch.step("checking all images", Some(report.bytes), || {
            for (blob, images) in needed {
                let Some(problem) = self.blobs().check(*blob, watch)?.problem() else { continue };
                let still = self.still_needed(*blob)?;
                if still {
                    let affects = images.iter().cloned().collect();
                    report.troubles.push(Trouble { path: self.blobs().path(*blob), problem, affects });
                }
            }
            Ok(())
        })
    }

    /// Whether an image, or the cache, still names a blob: it may have been removed meanwhile.
    fn still_needed(&self, blob: Digest) -> Result<bool, StoreError> {
        if self.cache_record(blob).exists() {
            return Ok(true);
        }
        for digest in self.image_digests()? {
            if let Ok(Some(record)) = self.record(digest, "")
                && record.blobs().contains(&blob)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn check_machines(&self, report: &mut CheckReport) -> Result<(), StoreError> {
        for machine in self.machines()? {
            report.machines += 1;
            if machine.is_left() {
                continue;
            }
            let shown = machine.shown().to_owned();
            match machine.record {
                Ok(record) => {
                    if let Some(image) = record.image.filter(|image| !self.image_record(*image).exists()) {
                        let problem = format!("stands on the image {image}, which is not there");
                        report.troubles.push(Trouble { path: machine.path, problem, affects: vec![shown] });
                    }
                }
                // It ended meanwhile.
                Err(_) if machine.ephemeral => {}
                Err(error) => report.add(error, &machine.path, &shown)?,
            }
        }
        Ok(())
    }
}

impl CheckReport {
    /// Notes that a file, or something in a folder, is damaged; any other error is one.
    fn add(&mut self, error: StoreError, file: &Path, what: &str) -> Result<(), StoreError> {
        match error {
            StoreError::Damaged { path, found, .. } | StoreError::DamagedMachine { path, found, .. } => {
                self.troubles.push(Trouble { path, problem: found, affects: vec![what.to_owned()] });
                Ok(())
            }
            StoreError::Newer { version, .. } => {
                let problem = format!("has version {version}, which this motu does not know");
                self.troubles.push(Trouble { path: file.to_owned(), problem, affects: vec![what.to_owned()] });
                Ok(())
            }
            other => Err(other),
        }
    }
}
