//! Manifests and indexes (OCI image specification, "Image Manifest", "Image Index"; Docker's "Image Manifest Version 2,
//! Schema 2").

use crate::digest::parse_digest;
use motu_store::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// Bytes of a manifest or index at most (OCI distribution specification, "Pushing Manifests"; the registries' own limit).
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Layers at most: Docker's own are 127.
pub(crate) const MAX_LAYERS: usize = 512;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What a layer's media type begins with: OCI's, Docker's. How it is packed comes behind.
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYERS: [&str; 2] = [OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"];
/// Layers that only Windows has, and that no registry gives out.
const FOREIGN: [&str; 2] =
    ["application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign."];
/// The annotation that names a manifest in a layout ("Pre-Defined Annotation Keys").
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A reference to bytes ("Content Descriptors"), checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    /// The name that a layout gives it.
    pub(crate) name: Option<String>,
}

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Platform {
    /// The platform whose images motu runs.
    pub(crate) fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == "amd64"
    }

    /// `linux/arm64/v8`.
    pub(crate) fn words(&self) -> String {
        let text = match self.variant.as_deref() {
            None | Some("") => format!("{}/{}", self.os, self.architecture),
            Some(variant) => format!("{}/{}/{variant}", self.os, self.architecture),
        };
        printable(&text, 60)
    }
}

impl RawDescriptor {
    fn checked(self) -> Result<Descriptor, String> {
        let digest = parse_digest(&self.digest)?;
        let name = self.annotations.and_then(|mut all| all.remove(REF_NAME));
        Ok(Descriptor { media_type: self.media_type, digest, size: self.size, platform: self.platform, name })
    }
}

/// What a document says. `declared` is the media type that the registry or the descriptor gave it. The error goes on from the
/// document's name.
pub(crate) fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Document, String> {
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|error| format!("is no manifest or index ({})", json_problem(&error)))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(
            "has a manifest of Docker's schema 1, which Docker itself gave up in 2017: have it pushed again".to_owned()
        );
    }
    let declared = declared.filter(|kind| is_document(kind));
    if let (Some(inside), Some(declared)) = (raw.media_type.as_deref(), declared)
        && inside != declared
    {
        let inside = printable(inside, 80);
        return Err(format!("is announced as {declared} and says that it is {inside}"));
    }
    let kind = raw.media_type.as_deref().or(declared);
    let all = |list: Vec<RawDescriptor>| list.into_iter().map(RawDescriptor::checked).collect::<Result<Vec<_>, _>>();
    // A document that can be read as both would be whatever its reader likes (CVE-2021-41190).
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) if !matches!(kind, Some(OCI_MANIFEST | DOCKER_MANIFEST)) => {
            Ok(Document::Index(all(manifests)?))
        }
        (None, Some(config), Some(layers)) if !matches!(kind, Some(OCI_INDEX | DOCKER_LIST)) => {
            let manifest = Manifest { config: config.checked()?, layers: all(layers)? };
            manifest.check()?;
            Ok(Document::Manifest(manifest))
        }
        _ => Err(match kind {
            Some(kind) if !is_document(kind) => format!("is {}, and no container image", printable(kind, 80)),
            _ => "is neither a manifest (with config and layers) nor an index (with manifests)".to_owned(),
        }),
    }
}

fn is_document(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST)
}

impl Manifest {
    fn check(&self) -> Result<(), String> {
        let config = self.config.media_type.as_str();
        if !matches!(config, OCI_CONFIG | DOCKER_CONFIG) {
            return Err(format!("is no container image: its configuration is {}", printable(config, 80)));
        }
        if self.config.size > MAX_DOCUMENT {
            let size = self.config.size;
            return Err(format!("has a configuration of {size} bytes; {MAX_DOCUMENT} are allowed"));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(format!("has {} layers; {MAX_LAYERS} are allowed", self.layers.len()));
        }
        self.layers.iter().try_for_each(|layer| check_layer(&layer.media_type))
    }
}

/// The OCI's word for a media type: what Docker calls otherwise is the same.
pub(crate) fn oci_media_type(media_type: &str) -> String {
    if media_type == DOCKER_CONFIG {
        return OCI_CONFIG.to_owned();
    }
    match LAYERS.iter().find_map(|layer| media_type.strip_prefix(layer)) {
        Some(packed) => format!("{OCI_LAYER}{}", packed.replace('.', "+")),
        None => media_type.to_owned(),
    }
}

fn check_layer(media_type: &str) -> Result<(), String> {
    if FOREIGN.iter().any(|foreign| media_type.starts_with(foreign)) {
        return Err("has a layer that registries do not give out: it is an image of Windows".to_owned());
    }
    let rest = LAYERS.iter().find_map(|layer| media_type.strip_prefix(layer));
    if matches!(rest, Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd")) {
        return Ok(());
    }
    let shown = printable(media_type, 80);
    Err(format!("has a layer of the kind {shown:?}; motu knows tar archives, plain or packed with gzip or zstd"))
}

/// The entry of an index that is for us. Of several, that for every amd64 CPU before those for some (the variants v2, v3).
pub(crate) fn choose(index: &[Descriptor]) -> Option<&Descriptor> {
    let ours = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(Platform::is_ours);
    let variant = |entry: &&Descriptor| entry.platform.as_ref().and_then(|platform| platform.variant.clone());
    let best = index.iter().filter(ours).min_by_key(variant);
    // A single entry may leave out what it is for: its configuration says it.
    best.or(match index {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    })
}

/// What an index has, for people.
pub(crate) fn platforms(index: &[Descriptor]) -> String {
    // What builders add about an image, such as signatures, is said to be for "unknown".
    let known = |platform: &&Platform| platform.os != "unknown";
    let mut all: Vec<String> =
        index.iter().filter_map(|entry| entry.platform.as_ref()).filter(known).map(Platform::words).collect();
    all.sort();
    all.dedup();
    all.truncate(20);
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

/// Text that somebody else wrote, so that a terminal takes it as text.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    line.trim().to_owned()
}

/// What is wrong with a document; serde shows what it finds, however long that is.
pub(crate) fn json_problem(error: &serde_json::Error) -> String {
    printable(&error.to_string(), 200)
}

#[cfg(test)]
mod tests;
