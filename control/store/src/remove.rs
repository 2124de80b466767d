//! Names that come and go, and the deletion of what nothing needs any more.

use crate::lock::{Lock, Mode};
use crate::progress::Watch;
use crate::record::{self, NameRecord, PackagesRecord};
use crate::store::delete;
use crate::work;
use crate::{Digest, ImageName, Store, StoreError};
use std::collections::HashSet;
use std::fs;

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are free now.
    pub untagged: Vec<ImageName>,
    /// The image, if it is gone.
    pub deleted: Option<Digest>,
}

/// What [`Store::prune`] deletes beside what is half made and images without a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prune {
    /// All images that no machine stands on.
    pub unused: bool,
    /// What only saves a download: kept packages and layers.
    pub caches: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images that are gone, with the names that they had.
    pub images: Vec<(Digest, Vec<ImageName>)>,
    /// Bytes of the disk that came free.
    pub bytes: u64,
}

impl Store {
    /// Gives an image one more name; another image that has it loses it.
    ///
    /// # Errors
    /// As [`Store::find`]; [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn tag(&self, image: &str, name: &ImageName, watch: Watch<'_>) -> Result<Digest, StoreError> {
        let _lock = self.lock(Mode::Alone, watch)?;
        let image = self.find(image)?;
        self.write_name(name, &NameRecord { image: image.digest })?;
        Ok(image.digest)
    }

    /// Takes a name from an image and, if it was the last one, deletes the image and what was only its. Named by its digest, an
    /// image loses all of its names. A name whose record is damaged is only taken away. What was kept to save a download stays until [`Store::prune`]. With `force`, an image that is in
    /// use only loses its names.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::Ambiguous`]; [`StoreError::InUse`] and [`StoreError::ManyNames`] without `force`;
    /// [`StoreError::Damaged`] for another name's record that cannot be read; [`StoreError::Io`], [`StoreError::Cancelled`]. The image
    /// is as it was then.
    pub fn remove(&self, image: &str, force: bool, watch: Watch<'_>) -> Result<Removed, StoreError> {
        let _lock = self.lock(Mode::Alone, watch)?;
        if let Ok(name) = image.parse()
            && let Err(StoreError::Damaged { path, .. }) = self.digest_of_name(&name)
        {
            // What it stood for nobody knows any more.
            delete(&path)?;
            return Ok(Removed { untagged: vec![name], deleted: None });
        }
        let digest = self.digest_of_text(image)?;
        let mut names: Vec<ImageName> =
            self.names()?.into_iter().filter(|(_, of)| *of == digest).map(|(name, _)| name).collect();
        let named = image.parse().ok().filter(|name| names.contains(name));
        if let Some(name) = &named
            && names.len() > 1
        {
            delete(&self.name_record(name))?;
            return Ok(Removed { untagged: vec![name.clone()], deleted: None });
        }
        if named.is_none() && names.len() > 1 && !force {
            return Err(StoreError::ManyNames { image: image.to_owned(), names });
        }
        let user = self.user_of(digest)?;
        if let Some(user) = &user
            && !force
        {
            return Err(StoreError::InUse { image: image.to_owned(), user: user.clone() });
        }
        for name in &names {
            delete(&self.name_record(name))?;
        }
        names.sort();
        let deleted = if user.is_none() {
            delete(&self.image_record(digest))?;
            self.collect()?;
            Some(digest)
        } else {
            None
        };
        Ok(Removed { untagged: names, deleted })
    }

    /// Deletes images that nothing needs, as far as `what` says, and all that was left by motus that were killed.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`]; [`StoreError::Damaged`] for a name's record that cannot be read.
    pub fn prune(&self, what: Prune, watch: Watch<'_>) -> Result<Pruned, StoreError> {
        let _lock = self.lock(Mode::Alone, watch)?;
        let mut pruned = Pruned::default();
        if what.caches {
            for folder in ["packages", "steps", "cache"] {
                for file in self.files(folder)? {
                    delete(&self.root().join(folder).join(file))?;
                }
            }
        }
        for image in self.images()? {
            let unneeded = image.names.is_empty() || what.unused;
            if unneeded && self.user_of(image.digest)?.is_none() {
                for name in &image.names {
                    delete(&self.name_record(name))?;
                }
                delete(&self.image_record(image.digest))?;
                pruned.images.push((image.digest, image.names));
            }
        }
        pruned.bytes = self.collect()?;
        Ok(pruned)
    }

    /// Deletes an image that has no name and no user. To be called with the lock held alone.
    pub(crate) fn forget_if_unneeded(&self, digest: Digest) -> Result<(), StoreError> {
        let has_name = self.names()?.values().any(|of| *of == digest);
        if !has_name && self.user_of(digest)?.is_none() {
            delete(&self.image_record(digest))?;
            self.collect()?;
        }
        Ok(())
    }

    /// Who needs an image, as a person knows it: a machine, or work that is under way.
    pub(crate) fn user_of(&self, digest: Digest) -> Result<Option<String>, StoreError> {
        for machine in self.machines()? {
            if machine.is_left() {
                continue;
            }
            match &machine.record {
                Ok(record) if record.image == Some(digest) => {
                    return Ok(Some(format!("the machine {}", machine.shown())));
                }
                Ok(_) => {}
                // Nobody knows what it stands on. One that just ends has no record any more.
                Err(_) if machine.ephemeral => {}
                Err(_) => return Ok(Some(format!("perhaps the machine {}, which is damaged", machine.id))),
            }
        }
        for file in self.files("tmp")? {
            let folder = self.tmp().join(file);
            if work::pins(&folder).contains(&digest) && Lock::is_taken(&folder)? {
                return Ok(Some("work that is under way, such as a build".to_owned()));
            }
        }
        Ok(None)
    }

    /// Deletes what nothing names: what killed motus left, blobs and seals. Where a record cannot be read, nobody knows what it
    /// names, and blobs stay. Returns the bytes that came free. To be called with the lock held alone.
    pub(crate) fn collect(&self) -> Result<u64, StoreError> {
        let mut keep = HashSet::<Digest>::new();
        let mut freed = self.clear_tmp(&mut keep)?;
        freed += self.sweep_machines()?;
        // Records of version 1 had names for their files' names. All that they were of can be made anew.
        for file in self.files("images")? {
            if file.strip_suffix(".json").is_none_or(|stem| stem.parse::<Digest>().is_err()) {
                delete(&self.root().join("images").join(file))?;
            }
        }
        for digest in self.image_digests()? {
            match self.record(digest, &digest.short()) {
                Ok(record) => keep.extend(record.iter().flat_map(record::ImageRecord::blobs)),
                Err(error) => {
                    tracing::warn!("no blob is deleted: {error}");
                    return Ok(freed);
                }
            }
        }
        for file in self.files("packages")? {
            let path = self.root().join("packages").join(&file);
            match record::read::<PackagesRecord>(&path, &file) {
                Ok(kept) => keep.extend(kept.iter().flat_map(|kept| &kept.packages).map(|package| package.digest)),
                // It names what can be fetched again.
                Err(StoreError::Damaged { path, .. }) => drop(delete(&path)?),
                Err(error) => return Err(error),
            }
        }
        for file in self.files("cache")? {
            keep.extend(file.strip_suffix(".json").and_then(|digest| digest.parse::<Digest>().ok()));
        }
        Ok(freed + self.blobs().keep_only(&keep)?)
    }

    /// Deletes what dead processes left in `tmp`, and finds what the living need.
    fn clear_tmp(&self, keep: &mut HashSet<Digest>) -> Result<u64, StoreError> {
        let mut freed = 0;
        for file in self.files("tmp")? {
            let path = self.tmp().join(file);
            if !path.is_dir() {
                // Only who holds the lock has files there.
                delete(&path)?;
                continue;
            }
            // Held until it is deleted.
            match Lock::try_folder(&path)? {
                Some(_dead) => {
                    freed += crate::usage::used_below(&path);
                    fs::remove_dir_all(&path).map_err(StoreError::io("delete", &path))?;
                }
                None => keep.extend(work::pins(&path)),
            }
        }
        Ok(freed)
    }
}
