//! Root disks: made in work, taken from elsewhere, given away.
//!
//! The store's own form is qcow2 without a word of a backing file: what is zeros takes no space, so that hashing and copying cost
//! what there is and not what there could be. Which layer lies over which is the image's record's to say.

use crate::progress::Watch;
use crate::record::{Boot, ImageConfig, Kernel, Layer, RECORD_VERSION, RootDisk};
use crate::work::Work;
use crate::{Image, ImageName, ImageRecord, Source, Store, StoreError, Timestamp};
use motu_disk::{Disk, Format, OpenOptions, Overlay};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a root file system that motu makes: room to write in, which takes no space until it is written.
pub const ROOT_SIZE: u64 = 10 << 30;

/// A disk that is to become an image.
#[derive(Debug, Clone, Copy)]
pub struct DiskImport<'a> {
    /// Its file.
    pub path: &'a Path,
    /// Its format, if the person says it; else its name and content do, as for a disk that is only read.
    pub format: Option<Format>,
    /// A kernel beside it.
    pub kernel: Option<&'a Path>,
    /// An initial RAM disk beside it.
    pub initrd: Option<&'a Path>,
    /// The kernel's command line.
    pub cmdline: Option<&'a str>,
}

impl Work {
    /// A new, empty disk of `size` bytes in [`Work::folder`], for [`Work::add_disk`] once it is written.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn new_disk(&self, size: u64) -> Result<(PathBuf, Box<dyn Disk>), StoreError> {
        let path = self.unused("disk");
        motu_disk::create(&path, Some(Format::Qcow2), size)?;
        let options = OpenOptions { format: Some(Format::Qcow2), read_only: false };
        Ok((path.clone(), motu_disk::open(&path, &options)?))
    }

    /// Takes a disk of [`Work::new_disk`] that has been written, and is closed, for a layer.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn add_disk(&self, path: &Path, watch: Watch<'_>) -> Result<Layer, StoreError> {
        let bytes = path.metadata().map_err(StoreError::io("read", path))?.len();
        let blob = watch.step("hashing the disk", Some(bytes), || self.add_file(path, watch))?;
        Ok(Layer { digest: blob.digest, format: Format::Qcow2, bytes: blob.bytes })
    }

    /// Takes what a machine has written over an image's disk for a layer over that disk; `None` if it has changed nothing. `base` is
    /// opened once more than the overlay has it, by the caller ([`Store::open_disk`]).
    ///
    /// # Errors
    /// [`StoreError::Disk`], [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn add_changes(
        &self,
        overlay: &Overlay,
        base: Box<dyn Disk>,
        watch: Watch<'_>,
    ) -> Result<Option<Layer>, StoreError> {
        let path = self.unused("layer");
        if overlay.next_changed(0).is_none() {
            return Ok(None);
        }
        let layer = motu_disk::create_layer(&path, base)?;
        watch.step("keeping what was written", Some(overlay.size()), || {
            copied(&path, watch, motu_disk::copy_changes(overlay, layer.as_ref(), |bytes| advance(watch, bytes)))?;
            layer.flush().map_err(StoreError::io("write", &path))
        })?;
        drop(layer);
        self.add_disk(&path, watch).map(Some)
    }

    /// A path in the folder that nothing has.
    fn unused(&self, what: &str) -> PathBuf {
        let mut number = 0;
        loop {
            let path = self.folder().join(format!("{what}-{number}.qcow2"));
            if !path.exists() {
                return path;
            }
            number += 1;
        }
    }
}

fn advance(watch: Watch<'_>, bytes: u64) -> io::Result<()> {
    watch.progress.advance(bytes);
    watch.check().map_err(|_| io::ErrorKind::Interrupted.into())
}

/// What became of a copy: its error is the host's, or that it is no longer wanted.
fn copied(path: &Path, watch: Watch<'_>, result: io::Result<()>) -> Result<(), StoreError> {
    watch.check()?;
    result.map_err(StoreError::io("copy the disk to", path))
}

impl Store {
    /// Makes an image of a disk, which is copied into the store's own form and not touched itself. With a kernel it is booted by
    /// that. Without one, a disk that is one ext4 file system as a whole is a root file system for motu's own kernel; any other is
    /// for its own boot loader.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if the disk cannot be used; [`StoreError::Io`], [`StoreError::Cancelled`]. The store is as it was then.
    pub fn import_disk(
        &self,
        import: &DiskImport<'_>,
        names: &[ImageName],
        watch: Watch<'_>,
    ) -> Result<Image, StoreError> {
        let options = OpenOptions { format: import.format, read_only: true };
        let from = motu_disk::open(import.path, &options)?;
        let work = self.work(watch)?;
        let boot = match import.kernel {
            Some(kernel) => Boot::Kernel(Kernel {
                kernel: work.add_copy(kernel, Watch { progress: &crate::Silent, ..watch })?.digest,
                initrd: import
                    .initrd
                    .map(|initrd| work.add_copy(initrd, Watch { progress: &crate::Silent, ..watch }))
                    .transpose()?
                    .map(|blob| blob.digest),
                cmdline: import.cmdline.unwrap_or_default().to_owned(),
                agent: None,
            }),
            None if is_ext4(from.as_ref()) => Boot::Default,
            None => Boot::Firmware,
        };
        let (path, to) = work.new_disk(from.size())?;
        let what = format!("copying the disk {}", import.path.display());
        watch.step(&what, Some(from.size()), || {
            let done = motu_disk::copy(from.as_ref(), to.as_ref(), |bytes| advance(watch, bytes));
            copied(&path, watch, done)?;
            to.flush().map_err(StoreError::io("write", &path))
        })?;
        drop(to);
        let disk = RootDisk {
            size: from.size(),
            filesystem: (boot == Boot::Default).then(|| "ext4".to_owned()),
            layers: vec![work.add_disk(&path, watch)?],
        };
        let record = ImageRecord {
            version: RECORD_VERSION,
            source: Source::Disk(import.path.to_owned()).to_string(),
            manifest: None,
            created: Timestamp::now(),
            boot,
            disk: Some(disk),
            config: ImageConfig::default(),
            packages: Vec::new(),
        };
        let digest = work.commit(&record, names, watch)?;
        let name = names.first().map_or_else(|| digest.short(), ToString::to_string);
        Ok(Image { name, digest, record })
    }

    /// Writes an image's root disk, all layers in one, to a new file, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::NoDisk`]; [`StoreError::Exists`]; as [`Store::open_disk`]; [`StoreError::Io`].
    pub fn export_disk(&self, image: &Image, format: Format, to: &Path, watch: Watch<'_>) -> Result<(), StoreError> {
        let Some(disk) = &image.record.disk else { return Err(StoreError::NoDisk { image: image.name.clone() }) };
        let delivery = self.deliver(to)?;
        let from = self.open_disk(&image.name, disk, watch)?;
        let path = delivery.folder().join("disk");
        motu_disk::create(&path, Some(format), from.size())?;
        let target = motu_disk::open(&path, &OpenOptions { format: Some(format), read_only: false })?;
        watch.step(&format!("writing {}", to.display()), Some(from.size()), || {
            copied(to, watch, motu_disk::copy(from.as_ref(), target.as_ref(), |bytes| advance(watch, bytes)))?;
            target.flush().map_err(StoreError::io("write", to))
        })?;
        drop(target);
        delivery.finish(&path)
    }
}

/// Whether a disk begins as an ext4 file system does (Linux, Documentation/filesystems/ext4/super.rst: `s_magic`).
fn is_ext4(disk: &dyn Disk) -> bool {
    let mut sectors = [0; 1024];
    let read = disk.size() >= 2048 && disk.read(1024, &mut sectors).is_ok();
    read && sectors.get(0x38..0x3a) == Some(&[0x53, 0xef])
}
