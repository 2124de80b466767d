//! What the store writes down about an image, as JSON.

use crate::blobs::write_atomically;
use crate::{Digest, StoreError, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// The version of the records that this motu writes, and the only one that it reads. Those of version 1 had no number.
pub const RECORD_VERSION: u32 = 2;

/// Layers of a root disk at most: each is one more place where a block may lie.
pub const MAX_LAYERS: usize = 64;

/// A package that something was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name, `linux-image-6.1.0-56-cloud-amd64`.
    pub name: String,
    /// Its version as its distribution writes it.
    pub version: String,
    /// The digest of its `.deb`.
    pub digest: Digest,
}

/// An image: `images/DIGEST.json`, named by the digest of these very bytes. It is never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Where it comes from, as a person would say it to `motu image pull`; `tiny`, or `build` for a Motufile's.
    pub source: String,
    /// The digest that it has there: an OCI image's manifest's, or its configuration's where it has no manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// When it was made, where it was made first.
    pub created: Timestamp,
    /// What its kernel is.
    pub boot: Boot,
    /// Its root disk; without one it lives in its initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<RootDisk>,
    /// What is run in it if nobody asks for anything else.
    #[serde(default)]
    pub config: ImageConfig,
    /// What it was made from, as far as that is packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
}

/// How an image is booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Boot {
    /// By motu's own kernel and initial RAM disk, those of `tiny`, as containers run on their host's kernel: the agent in
    /// it mounts the root disk, and goes there. So a newer motu, or a newer kernel, needs no new image.
    Default,
    /// By a kernel of the image's own.
    Kernel(Kernel),
    /// By the boot loader on its disk.
    Firmware,
}

/// A kernel of an image's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The kernel, such as a bzImage.
    pub kernel: Digest,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Digest>,
    /// The kernel's command line, if nobody asks for another.
    pub cmdline: String,
    /// motu's agent, if the initial RAM disk has it; otherwise there is a console and no commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
}

/// Which agent was put into an image, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The agent's program.
    pub digest: Digest,
    /// The way the image was made: the number of the recipe in the motu that made it.
    pub recipe: u32,
}

/// A root disk: blobs, each over the one before. None is ever written; a machine's own writes are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootDisk {
    /// Bytes: a multiple of 512.
    pub size: u64,
    /// The file system that the whole disk is, as mount(8) names it; without one the disk has partitions, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// One at least, the lowest first; [`MAX_LAYERS`] at most.
    pub layers: Vec<Layer>,
}

/// A blob of a root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The blob.
    pub digest: Digest,
    /// What it is. Only the lowest layer can be raw.
    pub format: motu_disk::Format,
    /// Bytes of the blob.
    pub bytes: u64,
}

/// What is run in an image if nobody asks for anything else: the part of an OCI image's configuration that is not about
/// layers (OCI image specification, "Image Configuration", `config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// The program, and arguments that a command comes behind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, or the entry point's arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`; root without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The folder that commands start in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `80/tcp`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// What its makers say of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl ImageRecord {
    /// Every blob that the image needs, each once for each use.
    pub fn blobs(&self) -> Vec<Digest> {
        let mut blobs = Vec::new();
        if let Boot::Kernel(own) = &self.boot {
            blobs.push(own.kernel);
            blobs.extend(own.initrd);
        }
        blobs.extend(self.disk.iter().flat_map(|disk| &disk.layers).map(|layer| layer.digest));
        blobs
    }

    /// The bytes that stand for it, and their digest: the image's.
    pub(crate) fn encode(&self) -> Result<(Vec<u8>, Digest), serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let digest = Digest::of(&text);
        Ok((text, digest))
    }

    /// What is wrong with it beside its form; the sentence goes on from the record's file.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.version != RECORD_VERSION {
            let version = self.version;
            return Some(format!("has version {version}, and this motu reads {RECORD_VERSION}; a newer motu made it"));
        }
        let disk = self.disk.as_ref()?;
        let layers = disk.layers.len();
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Some(format!("has a disk of {layers} layers; a disk has 1 to {MAX_LAYERS}"));
        }
        let raw_over_another = disk.layers.iter().skip(1).any(|layer| layer.format == motu_disk::Format::Raw);
        raw_over_another.then(|| "has a raw layer over another".to_owned())
    }
}

/// The packages that an image was made from: `packages/NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackagesRecord {
    pub(crate) packages: Vec<Package>,
}

/// What a name stands for: `names/NAME.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameRecord {
    pub(crate) image: Digest,
}

/// A blob that is kept because it saves a download: `cache/DIGEST.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheRecord {
    /// What it is, for a person.
    pub(crate) what: String,
    pub(crate) since: Timestamp,
}

/// Reads a record; `None` if there is none. `what` names what it is about.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Option<T>, StoreError> {
    let Some(text) = read_bytes(path)? else { return Ok(None) };
    parse(path, what, &text).map(Some)
}

pub(crate) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

pub(crate) fn parse<T: DeserializeOwned>(path: &Path, what: &str, text: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(text).map_err(|error| StoreError::Damaged {
        image: what.to_owned(),
        path: path.to_owned(),
        found: format!("is no record of this motu's ({error})"),
    })
}

/// Puts a record in its place. To be called with the lock held and after its blobs are in theirs.
pub(crate) fn write<T: Serialize>(tmp: &Path, path: &Path, record: &T) -> Result<(), StoreError> {
    let mut text =
        serde_json::to_vec_pretty(record).map_err(|error| StoreError::io("write", path)(io::Error::other(error)))?;
    text.push(b'\n');
    write_atomically(tmp, path, &text)
}
