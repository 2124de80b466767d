//! Images as other programs read them: an OCI image layout in a folder or a tar archive, or what `docker load` takes.
//!
//! ```text
//!   oci             FOLDER/{oci-layout, index.json, blobs/sha256/HEX}
//!   oci-archive     the same as a tar archive
//!   docker-archive  the same with a manifest.json, as `docker save` writes it since version 25
//! ```
//!
//! The same image gives the same bytes: nothing is said of when, where or by whom it was written.

mod documents;
mod layer;

pub use layer::LayerWriter;

use crate::RegistryError;
use crate::digest::finish;
use crate::kept::KeptImage;
use crate::manifest::{MAX_DOCUMENT, OCI_CONFIG};
use crate::retry::check;
use documents::{Blob, Names};
use motu_store::{Digest, ImageConfig, ImageName, Timestamp, Watch};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// How an image is written; the names are skopeo's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveFormat {
    /// `oci`: a folder.
    Oci,
    /// `oci-archive`: the same in a tar archive.
    OciArchive,
    /// `docker-archive`: a tar archive for `docker load`.
    DockerArchive,
}

/// An image that is being written to a new folder or file.
pub struct ImageWriter {
    format: SaveFormat,
    /// What becomes of it.
    root: PathBuf,
    to: To,
    /// Blobs that are there.
    blobs: BTreeSet<Digest>,
}

enum To {
    Folder,
    Archive(tar::Builder<BufWriter<File>>),
}

impl std::fmt::Debug for ImageWriter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { format, root, blobs, .. } = self;
        out.debug_struct("ImageWriter")
            .field("format", format)
            .field("root", root)
            .field("blobs", blobs)
            .finish_non_exhaustive()
    }
}

impl ImageWriter {
    /// Begins to write. `scratch` is an empty folder, for what is made and for what is needed meanwhile.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn create(format: SaveFormat, scratch: &Path) -> Result<Self, RegistryError> {
        let root = scratch.join("image");
        let to = match format {
            SaveFormat::Oci => {
                fs::create_dir(&root).map_err(RegistryError::io("make the folder", &root))?;
                To::Folder
            }
            SaveFormat::OciArchive | SaveFormat::DockerArchive => {
                let file = File::create_new(&root).map_err(RegistryError::io("write", &root))?;
                To::Archive(tar::Builder::new(BufWriter::with_capacity(1 << 18, file)))
            }
        };
        let mut writer = Self { format, root, to, blobs: BTreeSet::new() };
        writer.folder("blobs/")?;
        writer.folder("blobs/sha256/")?;
        writer.put("oci-layout", documents::LAYOUT.len() as u64, documents::LAYOUT)?;
        Ok(writer)
    }

    /// Begins a layer of a tar archive that the caller writes.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn layer(&self) -> Result<LayerWriter, RegistryError> {
        LayerWriter::create(&self.root.with_file_name("layer"))
    }

    /// Writes an image that was kept, its configuration and layers as they came; with the manifest that it came with, or, if that was
    /// Docker's, with one that says the same in the OCI's words. Bytes of layers are told as progress. Returns what was made.
    ///
    /// # Errors
    /// [`RegistryError::Io`]; [`RegistryError::Tampered`] if a layer is no longer what it was; [`RegistryError::Cancelled`].
    pub fn write_kept(
        mut self,
        image: KeptImage,
        name: Option<&ImageName>,
        watch: Watch<'_>,
    ) -> Result<PathBuf, RegistryError> {
        let KeptImage { manifest, parsed, config, layers } = image;
        let manifest = if documents::is_oci(&parsed) { manifest } else { documents::manifest_of(&parsed)? };
        for layer in layers {
            let blob = Blob::of(&layer.descriptor);
            self.blob(&blob, layer.file, watch)?;
        }
        let order = parsed.layers.iter().map(|layer| layer.digest).collect();
        self.end(manifest, config, (order, name))
    }

    /// Writes an image of one layer. Returns what was made.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn write_made(
        mut self,
        layer: LayerWriter,
        (config, created): (&ImageConfig, Timestamp),
        name: Option<&ImageName>,
    ) -> Result<PathBuf, RegistryError> {
        let layer = layer.finish()?;
        let config = documents::config(config, created, layer.diff_id)?;
        let described = Blob::new(OCI_CONFIG, Digest::of(&config), config.len() as u64);
        let manifest = documents::manifest(&described, std::slice::from_ref(&layer.blob))?;
        self.take(&layer.blob, &layer.path)?;
        self.end(manifest, config, (vec![layer.blob.digest], name))
    }

    /// Writes the documents, and syncs all of it.
    fn end(
        mut self,
        manifest: Vec<u8>,
        config: Vec<u8>,
        (layers, name): (Vec<Digest>, Option<&ImageName>),
    ) -> Result<PathBuf, RegistryError> {
        let names = Names::of(name);
        let config_digest = Digest::of(&config);
        for document in [&config, &manifest] {
            debug_assert!(document.len() as u64 <= MAX_DOCUMENT);
            let digest = Digest::of(document);
            if self.blobs.insert(digest) {
                self.put(&documents::place(digest), document.len() as u64, document.as_slice())?;
            }
        }
        let index = documents::index(&manifest, &names)?;
        self.put("index.json", index.len() as u64, index.as_slice())?;
        if self.format == SaveFormat::DockerArchive {
            let list = documents::docker(config_digest, &layers, &names)?;
            self.put("manifest.json", list.len() as u64, list.as_slice())?;
        }
        let Self { root, to, .. } = self;
        let synced = match to {
            To::Folder => ["blobs/sha256", "blobs", "."].iter().try_for_each(|folder| sync(&root.join(folder))),
            To::Archive(archive) => archive.into_inner().and_then(|mut buffer| {
                buffer.flush()?;
                buffer.get_ref().sync_all()
            }),
        };
        synced.map_err(RegistryError::io("write", &root))?;
        Ok(root)
    }

    fn folder(&mut self, name: &str) -> Result<(), RegistryError> {
        let made = match &mut self.to {
            To::Folder => fs::create_dir(self.root.join(name)),
            To::Archive(archive) => {
                let mut header = header(EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, name, io::empty())
            }
        };
        made.map_err(RegistryError::io("write", &self.root))
    }

    /// A file of so many bytes.
    fn put(&mut self, name: &str, size: u64, mut data: impl Read) -> Result<(), RegistryError> {
        let written = match &mut self.to {
            To::Folder => File::create_new(self.root.join(name)).and_then(|mut file| {
                io::copy(&mut data, &mut file)?;
                file.sync_all()
            }),
            To::Archive(archive) => archive.append_data(&mut header(EntryType::Regular, 0o644, size), name, data),
        };
        written.map_err(RegistryError::io("write", &self.root))
    }

    /// A blob that somebody else has, compared with its digest on the way.
    fn blob(&mut self, blob: &Blob, data: impl Read, watch: Watch<'_>) -> Result<(), RegistryError> {
        if !self.blobs.insert(blob.digest) {
            return Ok(());
        }
        let mut read = Hashed { inner: data.take(blob.size), hasher: Sha256::new(), bytes: 0, watch };
        let put = self.put(&documents::place(blob.digest), blob.size, &mut read);
        check(watch.cancel)?;
        put?;
        let (found, bytes) = (finish(read.hasher), read.bytes);
        if found == blob.digest && bytes == blob.size {
            return Ok(());
        }
        let what = format!("the layer sha256:{}", blob.digest);
        Err(RegistryError::Tampered { what, problem: format!("it has {bytes} bytes of the digest sha256:{found}") })
    }

    /// A blob that was made, and is synced; it is gone from its place then.
    fn take(&mut self, blob: &Blob, path: &Path) -> Result<(), RegistryError> {
        self.blobs.insert(blob.digest);
        let name = documents::place(blob.digest);
        if matches!(self.to, To::Folder) {
            let place = self.root.join(name);
            return fs::rename(path, &place).map_err(RegistryError::io("write", &place));
        }
        let file = File::open(path).map_err(RegistryError::io("read", path))?;
        self.put(&name, blob.size, file)?;
        fs::remove_file(path).map_err(RegistryError::io("delete", path))
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Hashes and tells what is read, and stops when nobody wants more.
struct Hashed<'w, R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
    watch: Watch<'w>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.watch.cancel).map_err(io::Error::other)?;
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        self.watch.progress.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
