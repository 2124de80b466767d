//! The store's folder and what can be asked of it.

use crate::blobs::{Blobs, sync_folder_of};
use crate::lock::Lock;
use crate::process::Host;
use crate::progress::{Silent, Watch};
use crate::record::{self, PackagesRecord};
use crate::{Digest, ImageRecord, Package, Progress, StoreError, tiny};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// An image that has been checked and can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The kernel's file, a bzImage. Not to be written to.
    pub kernel: PathBuf,
    /// The initial RAM disk's file. Not to be written to.
    pub initrd: PathBuf,
    /// The kernel's command line, if nobody asks for another.
    pub cmdline: String,
    /// What it was made from.
    pub packages: Vec<Package>,
}

/// A folder of images.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    blobs: Blobs,
    host: Host,
}

/// Where a person's store is: `$MOTU_HOME`, else `$XDG_DATA_HOME/motu`, else `$HOME/.local/share/motu`
/// (XDG Base Directory Specification). `env` reads an environment variable.
///
/// # Errors
/// [`StoreError::NoHome`] if none of them is an absolute path.
pub fn default_path(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, StoreError> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("MOTU_HOME")
        .or_else(|| absolute("XDG_DATA_HOME").map(|data| data.join("motu")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/motu")))
        .ok_or(StoreError::NoHome)
}

impl Store {
    /// Opens the store in this folder; makes the folder if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store, StoreError> {
        let root = root.into();
        for part in ["blobs/sha256", "images", "packages", "tmp"] {
            let folder = root.join(part);
            fs::create_dir_all(&folder).map_err(StoreError::io("make the folder", &folder))?;
        }
        let blobs = Blobs::new(root.join("blobs/sha256"), root.join("tmp"));
        Ok(Store { root, blobs, host: Host::default() })
    }

    /// The same store with other programs of the host.
    #[cfg(test)]
    pub(crate) fn with_host(self, host: Host) -> Store {
        Store { host, ..self }
    }

    /// The `tiny` image with this agent as its init: the distribution's cloud kernel and a static
    /// busybox, from packages that the host's own package client fetches and checks. Made at its first
    /// use, which takes a network; later uses, and those with another agent, take none.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the image is there and not as it was; any other if it cannot be made.
    /// In each case the store is as it was before.
    pub fn tiny(&self, agent: &[u8], progress: &dyn Progress, cancel: &AtomicBool) -> Result<Image, StoreError> {
        let recipe = tiny::Recipe::new(agent);
        if let Some(image) = self.find(&recipe)? {
            return Ok(image);
        }
        let watch = Watch { progress, cancel };
        let _lock = self.lock(watch)?;
        // Another process may have made it while this one waited.
        if let Some(image) = self.find(&recipe)? {
            return Ok(image);
        }
        let record = tiny::make(self, &recipe, watch)?;
        record::write(self, &self.image_record(tiny::NAME), &record)?;
        self.image(tiny::NAME, record)
    }

    /// The records of all images, by name.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a record that cannot be read, [`StoreError::Io`].
    pub fn images(&self) -> Result<Vec<(String, ImageRecord)>, StoreError> {
        let mut images = Vec::new();
        for name in self.names("images")? {
            let record = record::read(&self.image_record(&name), &name)?;
            images.extend(record.map(|record| (name, record)));
        }
        Ok(images)
    }

    /// Forgets an image and deletes what was only its; the packages that it was made from stay until
    /// [`Store::prune`]. Returns whether there was such an image. No machine may be running from it that
    /// has not opened its files yet.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Io`]; [`StoreError::Cancelled`] if it was stopped while it
    /// waited for another process.
    pub fn remove(&self, name: &str, cancel: &AtomicBool) -> Result<bool, StoreError> {
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let other = |c: char| first(c) || matches!(c, '.' | '_' | '-');
        if !name.starts_with(first) || !name.chars().all(other) {
            return Err(StoreError::Name(name.to_owned()));
        }
        let _lock = self.lock(Watch { progress: &Silent, cancel })?;
        let existed = delete(&self.image_record(name))?;
        self.collect()?;
        Ok(existed)
    }

    /// Deletes what only saves time: kept packages and blobs that no image uses. The next image that
    /// is made is made from the newest packages. Returns the bytes that came free.
    ///
    /// # Errors
    /// As [`Store::remove`].
    pub fn prune(&self, cancel: &AtomicBool) -> Result<u64, StoreError> {
        let _lock = self.lock(Watch { progress: &Silent, cancel })?;
        for name in self.names("packages")? {
            delete(&self.packages_record(&name))?;
        }
        self.collect()
    }

    fn find(&self, recipe: &tiny::Recipe<'_>) -> Result<Option<Image>, StoreError> {
        match record::read::<ImageRecord>(&self.image_record(tiny::NAME), tiny::NAME)? {
            Some(record) if recipe.made(&record) => self.image(tiny::NAME, record).map(Some),
            _ => Ok(None),
        }
    }

    fn image(&self, name: &str, record: ImageRecord) -> Result<Image, StoreError> {
        Ok(Image {
            name: name.to_owned(),
            kernel: self.blobs.verified(record.kernel, name)?,
            initrd: self.blobs.verified(record.initrd, name)?,
            cmdline: record.cmdline,
            packages: record.packages,
        })
    }

    /// Deletes the blobs that no record names. To be called with the lock held.
    fn collect(&self) -> Result<u64, StoreError> {
        let mut keep = Vec::<Digest>::new();
        for (_, image) in self.images()? {
            keep.extend([image.kernel, image.initrd]);
        }
        for name in self.names("packages")? {
            match record::read::<PackagesRecord>(&self.packages_record(&name), &name) {
                Ok(kept) => keep.extend(kept.iter().flat_map(|kept| &kept.packages).map(|package| package.digest)),
                // It names what can be fetched again.
                Err(StoreError::Damaged { path, .. }) => drop(delete(&path)?),
                Err(error) => return Err(error),
            }
        }
        self.blobs.keep_only(&keep)
    }

    /// The names of the records in a folder of them, sorted.
    fn names(&self, part: &str) -> Result<Vec<String>, StoreError> {
        let folder = self.root.join(part);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let name = entry.map_err(StoreError::io("read", &folder))?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn lock(&self, watch: Watch<'_>) -> Result<Lock, StoreError> {
        Lock::take(&self.root.join("lock"), &self.tmp(), watch)
    }

    fn image_record(&self, name: &str) -> PathBuf {
        self.root.join("images").join(format!("{name}.json"))
    }

    pub(crate) fn packages_record(&self, name: &str) -> PathBuf {
        self.root.join("packages").join(format!("{name}.json"))
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }
}

fn delete(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("delete", path)(error)),
    }
}
