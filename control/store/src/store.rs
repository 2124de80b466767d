//! The store's folder, and how an image is found in it.

use crate::blobs::{Blobs, sync_folder_of};
use crate::lock::{Lock, Mode};
use crate::near::near;
use crate::process::Host;
use crate::progress::Watch;
use crate::record::{self, Boot, ImageRecord, Kernel, NameRecord, RECORD_VERSION, RootDisk};
use crate::{Digest, ImageName, Progress, StoreError, tiny};
use motu_disk::Disk;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Digits of a digest that a person may name an image by, at least.
const SHORTEST_DIGEST: usize = 4;

/// The folders of a store.
const FOLDERS: [&str; 10] =
    ["blobs/sha256", "seals", "images", "names", "packages", "cache", "steps", "machines", "turns", "tmp"];

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As it was asked for: a name, or a part of its digest.
    pub name: String,
    /// Of its record's bytes.
    pub digest: Digest,
    /// What it is made of.
    pub record: ImageRecord,
}

/// A kernel that can be booted. The files have been checked and are not to be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initial RAM disk's file.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, if nobody asks for another.
    pub cmdline: String,
}

/// An image as it is listed.
#[derive(Debug)]
pub struct Listed {
    /// Of its record's bytes.
    pub digest: Digest,
    /// All of its names; none if it is dangling.
    pub names: Vec<ImageName>,
    /// What it is made of, or what is wrong with its record.
    pub record: Result<ImageRecord, StoreError>,
}

/// A folder of images and machines.
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
        for part in FOLDERS {
            let folder = root.join(part);
            fs::create_dir_all(&folder).map_err(StoreError::io("make the folder", &folder))?;
        }
        let blobs = Blobs::new(root.join("blobs/sha256"), root.join("seals"));
        Ok(Store { root, blobs, host: Host::default() })
    }

    /// The same store with other programs of the host.
    #[cfg(test)]
    pub(crate) fn with_host(self, host: Host) -> Store {
        Store { host, ..self }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The `tiny` image with this agent as its init: the distribution's cloud kernel and a static
    /// busybox, from packages that the host's own package client fetches and checks. Made at its first
    /// use, which takes a network; later uses, and those with another agent, take none.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the image is there and its record is not as it was; any other if it cannot be made.
    /// In each case the store is as it was before.
    pub fn tiny(&self, agent: &[u8], progress: &dyn Progress, cancel: &AtomicBool) -> Result<Image, StoreError> {
        let recipe = tiny::Recipe::new(agent);
        if let Some(image) = self.find_tiny(&recipe)? {
            return Ok(image);
        }
        let watch = Watch { progress, cancel };
        let _turn = self.turn(tiny::NAME, watch)?;
        // Another process may have made it while this one waited.
        if let Some(image) = self.find_tiny(&recipe)? {
            return Ok(image);
        }
        let work = self.work(watch)?;
        let record = tiny::make(&work, &recipe, watch)?;
        let digest = work.replace(&record, &tiny::name()?, watch)?;
        Ok(Image { name: tiny::NAME.to_owned(), digest, record })
    }

    fn find_tiny(&self, recipe: &tiny::Recipe<'_>) -> Result<Option<Image>, StoreError> {
        match self.find(tiny::NAME) {
            Ok(image) if recipe.made(&image.record) => Ok(Some(image)),
            Ok(_) | Err(StoreError::NoImage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The image that a person means: a name, with its tag or `latest`; or the digest, or its first digits, with or without
    /// `sha256:` before them.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] with the names that are near; [`StoreError::Ambiguous`]; [`StoreError::Damaged`].
    pub fn find(&self, text: &str) -> Result<Image, StoreError> {
        let digest = self.digest_of_text(text)?;
        let record = self.record(digest, text)?.ok_or_else(|| StoreError::Damaged {
            image: text.to_owned(),
            path: self.image_record(digest),
            found: "is missing".to_owned(),
        })?;
        Ok(Image { name: text.to_owned(), digest, record })
    }

    /// The same as far as its digest; its record may be damaged, or missing.
    pub(crate) fn digest_of_text(&self, text: &str) -> Result<Digest, StoreError> {
        if let Ok(name) = text.parse::<ImageName>()
            && let Some(digest) = self.digest_of_name(&name)?
        {
            return Ok(digest);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if is_hex && (SHORTEST_DIGEST..=64).contains(&digits.len()) {
            let mut found = self.image_digests()?;
            found.retain(|digest| digest.to_string().starts_with(digits));
            match found.as_slice() {
                [] => {}
                [digest] => return Ok(*digest),
                [one, other, ..] => {
                    return Err(StoreError::Ambiguous { text: text.to_owned(), one: *one, other: *other });
                }
            }
        }
        let names = self.names()?;
        let known = names.keys().map(ToString::to_string).collect::<Vec<_>>();
        Err(StoreError::NoImage { text: text.to_owned(), near: near(text, &known) })
    }

    /// What a name stands for.
    pub(crate) fn digest_of_name(&self, name: &ImageName) -> Result<Option<Digest>, StoreError> {
        let record: Option<NameRecord> = record::read(&self.name_record(name), &name.to_string())?;
        Ok(record.map(|record| record.image))
    }

    /// An image's record, after its bytes have been compared; `None` if there is none.
    pub(crate) fn record(&self, digest: Digest, image: &str) -> Result<Option<ImageRecord>, StoreError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path = self.image_record(digest);
        let Some(text) = record::read_bytes(&path)? else { return Ok(None) };
        let damaged = |found| StoreError::Damaged { image: image.to_owned(), path: path.clone(), found };
        if Digest::of(&text) != digest {
            return Err(damaged("has another digest than its name says".to_owned()));
        }
        // A newer motu's has keys that this one does not know.
        if let Ok(Versioned { version }) = serde_json::from_slice(&text)
            && version > RECORD_VERSION
        {
            return Err(StoreError::Newer { image: image.to_owned(), version });
        }
        let record: ImageRecord = record::parse(&path, image, &text)?;
        record.problem().map_or(Ok(Some(record)), |problem| Err(damaged(problem)))
    }

    /// All images, those with names first, by name.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Damaged`] for a name's record that cannot be read.
    pub fn images(&self) -> Result<Vec<Listed>, StoreError> {
        let mut names = BTreeMap::<Digest, Vec<ImageName>>::new();
        for (name, digest) in self.names()? {
            names.entry(digest).or_default().push(name);
        }
        let mut images = Vec::new();
        for digest in self.image_digests()? {
            let names = names.remove(&digest).unwrap_or_default();
            let shown = names.first().map_or_else(|| digest.short(), ToString::to_string);
            // It may have been removed since.
            let Some(record) = self.record(digest, &shown).transpose() else { continue };
            images.push(Listed { digest, names, record });
        }
        images.sort_by_key(|image| (image.names.is_empty(), image.names.first().cloned(), image.digest));
        Ok(images)
    }

    /// All names and what they stand for.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn names(&self) -> Result<BTreeMap<ImageName, Digest>, StoreError> {
        let mut names = BTreeMap::new();
        for file in self.files("names")? {
            let Some(name) = ImageName::from_file_name(&file) else { continue };
            names.extend(self.digest_of_name(&name)?.map(|digest| (name, digest)));
        }
        Ok(names)
    }

    /// The digests of all images, whether their records can be read or not.
    pub(crate) fn image_digests(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests: Vec<Digest> =
            self.files("images")?.iter().filter_map(|file| file.strip_suffix(".json")?.parse().ok()).collect();
        digests.sort();
        Ok(digests)
    }

    /// The kernel of an image's own, with its files as they were compared with their digests; `None` if it has none and is booted by motu's own
    /// kernel ([`Store::tiny`]'s).
    ///
    /// # Errors
    /// [`StoreError::Damaged`]; [`StoreError::NoFirmware`] for one that only its own boot loader can boot.
    pub fn boot_files(&self, image: &Image, watch: Watch<'_>) -> Result<Option<BootFiles>, StoreError> {
        match &image.record.boot {
            Boot::Default => Ok(None),
            Boot::Firmware => Err(StoreError::NoFirmware { image: image.name.clone() }),
            Boot::Kernel(Kernel { kernel, initrd, cmdline, .. }) => Ok(Some(BootFiles {
                kernel: self.blobs.sealed(*kernel, &image.name, watch)?,
                initrd: initrd.map(|initrd| self.blobs.sealed(initrd, &image.name, watch)).transpose()?,
                cmdline: cmdline.clone(),
            })),
        }
    }

    /// An image's root disk, to be read only.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Disk`]; [`StoreError::Cancelled`] while a layer was read whose seal is not there.
    pub fn open_disk(&self, image: &str, disk: &RootDisk, watch: Watch<'_>) -> Result<Box<dyn Disk>, StoreError> {
        let mut opened: Option<Box<dyn Disk>> = None;
        for layer in &disk.layers {
            let path = self.blobs.sealed(layer.digest, image, watch)?;
            opened = Some(motu_disk::open_layer(&path, layer.format, opened)?);
        }
        let damaged = |found| StoreError::Damaged { image: image.to_owned(), path: self.root.join("images"), found };
        match opened {
            Some(opened) if opened.size() == disk.size => Ok(opened),
            Some(opened) => {
                let (size, said) = (opened.size(), disk.size);
                Err(damaged(format!("has a record that says {said} bytes of a disk of {size}")))
            }
            None => Err(damaged("has a record of a disk without layers".to_owned())),
        }
    }

    /// The names of the files in a folder, sorted.
    pub(crate) fn files(&self, part: &str) -> Result<Vec<String>, StoreError> {
        let folder = self.root.join(part);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let name = entry.map_err(StoreError::io("read", &folder))?.file_name();
            names.extend(name.to_str().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The store's lock.
    pub(crate) fn lock(&self, mode: Mode, watch: Watch<'_>) -> Result<Lock, StoreError> {
        Lock::take(&self.root.join("lock"), mode, "waiting for another motu to finish with the images", watch)
    }

    /// The turn to make something that two motus should not make at once; held until it is dropped.
    pub(crate) fn turn(&self, what: &str, watch: Watch<'_>) -> Result<Lock, StoreError> {
        // Any text has a file.
        let file = self.root.join("turns").join(Digest::of(what.as_bytes()).to_string());
        Lock::take(&file, Mode::Alone, &format!("waiting for another motu that is making {what}"), watch)
    }

    pub(crate) fn write_name(&self, name: &ImageName, record: &NameRecord) -> Result<(), StoreError> {
        record::write(&self.tmp(), &self.name_record(name), record)
    }

    pub(crate) fn name_record(&self, name: &ImageName) -> PathBuf {
        self.root.join("names").join(name.file_name())
    }

    pub(crate) fn image_record(&self, digest: Digest) -> PathBuf {
        self.root.join("images").join(format!("{digest}.json"))
    }

    pub(crate) fn cache_record(&self, digest: Digest) -> PathBuf {
        self.root.join("cache").join(format!("{digest}.json"))
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

/// Deletes a file; returns whether it was there.
pub(crate) fn delete(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("delete", path)(error)),
    }
}
