//! The documents of an image that is written (OCI image specification, "Image Layout", "Image Index", "Image Manifest", "Image
//! Configuration"; Docker's image specification v1.2, `manifest.json`).

use crate::manifest::{Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST, REF_NAME, oci_media_type};
use crate::{Reference, RegistryError};
use motu_store::{Digest, ImageConfig, ImageName, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// `oci-layout`.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The whole name of an image in an index, for programs of containerd's and Docker's, where the specification's has only a tag.
const WHOLE_NAME: &str = "io.containerd.image.name";

/// A reference to bytes ("Content Descriptors").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Blob {
    pub(super) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size }
    }

    /// The same in the OCI's words.
    pub(super) fn of(descriptor: &Descriptor) -> Self {
        Self::new(&oci_media_type(&descriptor.media_type), descriptor.digest, descriptor.size)
    }

    fn json(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": text(self.digest), "size": self.size })
    }
}

/// What an image is called where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    tag: Option<String>,
    familiar: Option<String>,
    whole: Option<String>,
}

impl Names {
    /// A name that no registry could have is a tag all the same.
    pub(super) fn of(name: Option<&ImageName>) -> Self {
        let Some(name) = name else { return Self::default() };
        let reference = name.to_string().parse::<Reference>().ok();
        let whole = reference.map(|of| format!("{}/{}:{}", of.host(), of.repository(), name.tag()));
        Self { tag: Some(name.tag().to_owned()), familiar: whole.as_ref().map(|_| name.to_string()), whole }
    }
}

fn text(digest: Digest) -> String {
    format!("sha256:{digest}")
}

/// Where a blob lies in a layout.
pub(super) fn place(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

fn written(document: &impl Serialize) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(document)
        .map_err(|error| RegistryError::document("a document", format!("cannot be written ({error})")))
}

/// Whether a manifest is the OCI's and not Docker's.
pub(super) fn is_oci(manifest: &Manifest) -> bool {
    let all = manifest.layers.iter().chain([&manifest.config]);
    all.into_iter().all(|of| oci_media_type(&of.media_type) == of.media_type)
}

/// The OCI's manifest for Docker's.
pub(super) fn manifest_of(docker: &Manifest) -> Result<Vec<u8>, RegistryError> {
    manifest(&Blob::of(&docker.config), &docker.layers.iter().map(Blob::of).collect::<Vec<_>>())
}

pub(super) fn manifest(config: &Blob, layers: &[Blob]) -> Result<Vec<u8>, RegistryError> {
    let layers: Vec<Value> = layers.iter().map(Blob::json).collect();
    written(&json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.json(), "layers": layers }))
}

pub(super) fn index(manifest: &[u8], names: &Names) -> Result<Vec<u8>, RegistryError> {
    let mut entry = Blob::new(OCI_MANIFEST, Digest::of(manifest), manifest.len() as u64).json();
    let annotations = [(REF_NAME, &names.tag), (WHOLE_NAME, &names.whole)];
    let annotations: Map<String, Value> = annotations
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value.clone()?))))
        .collect();
    if let Value::Object(entry) = &mut entry {
        entry.insert("platform".to_owned(), json!({ "architecture": "amd64", "os": "linux" }));
        if !annotations.is_empty() {
            entry.insert("annotations".to_owned(), Value::Object(annotations));
        }
    }
    written(&json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }))
}

/// `manifest.json`.
pub(super) fn docker(config: Digest, layers: &[Digest], names: &Names) -> Result<Vec<u8>, RegistryError> {
    let layers: Vec<String> = layers.iter().map(|layer| place(*layer)).collect();
    let tags: Vec<&String> = names.familiar.iter().collect();
    written(&json!([{ "Config": place(config), "RepoTags": tags, "Layers": layers }]))
}

/// The configuration of an image of one layer.
pub(super) fn config(config: &ImageConfig, created: Timestamp, layer: Digest) -> Result<Vec<u8>, RegistryError> {
    let ports: Map<String, Value> = config.exposed_ports.iter().map(|port| (port.clone(), json!({}))).collect();
    let mut run = Map::new();
    let mut add = |key: &str, value: Value, is_empty: bool| {
        if !is_empty {
            run.insert(key.to_owned(), value);
        }
    };
    add("User", json!(config.user), config.user.is_none());
    add("ExposedPorts", Value::Object(ports), config.exposed_ports.is_empty());
    add("Env", json!(config.env), config.env.is_empty());
    add("Entrypoint", json!(config.entrypoint), config.entrypoint.is_empty());
    add("Cmd", json!(config.cmd), config.cmd.is_empty());
    add("WorkingDir", json!(config.workdir), config.workdir.is_none());
    add("Labels", json!(config.labels), config.labels.is_empty());
    let created = created.to_string();
    written(&json!({
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [text(layer)] },
        "history": [{ "created": created, "created_by": "motu image export" }],
    }))
}
