//! What `docker save` writes (Docker Image Specification 1.2, "Combined Image JSON + Filesystem Changeset Format").

use super::files::{Files, Located};
use super::{digest, started, suggest};
use crate::config::ImageConfig;
use crate::manifest::{MAX_LAYERS, json_problem, printable};
use crate::pull::read_config;
use crate::source::Place;
use crate::{Layer, OciImage, Reference, RegistryError};
use motu_store::{Digest, Watch};
use serde::Deserialize;
use std::path::Path;

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// An image of an archive that `docker save`, `podman save` or `skopeo copy` has written.
pub(crate) fn docker_archive(place: &Place, watch: Watch<'_>) -> Result<OciImage, RegistryError> {
    let (path, name) = place.split();
    let files = Files::archive(&path)?;
    let wrong = |problem: String| RegistryError::Layout { path: path.clone(), problem };
    let Some(manifest) = files.read("manifest.json")? else {
        let oci = if files.find("oci-layout")?.is_some() { "; it looks like oci-archive:" } else { "" };
        return Err(wrong(format!("is no archive of docker save: it has no file manifest.json{oci}")));
    };
    let entries: Vec<Entry> = serde_json::from_slice(&manifest).map_err(|error| {
        wrong(format!("is no archive of docker save: its manifest.json is none ({})", json_problem(&error)))
    })?;
    let entry = pick(&entries, name).map_err(wrong)?;
    let image = entry.tags().first().map_or_else(|| path.display().to_string(), |tag| printable(tag, 200));
    let (id, config) = configuration(&files, entry, &image)?;
    let layers = layers(&files, entry, &config, watch)?;
    let name = name.or(entry.tags().first().map(String::as_str));
    Ok(OciImage { name: name.map(str::to_owned), digest: id, config, layers })
}

/// Whether a file is what `docker save` wrote, and no layout in an archive as well, as newer versions write it.
pub fn is_docker_archive(path: &Path) -> bool {
    let has = |files: &Files, name: &str| files.find(name).is_ok_and(|found| found.is_some());
    Files::archive(path).is_ok_and(|files| has(&files, "manifest.json") && !has(&files, "oci-layout"))
}

/// The image that is meant. The error goes on from the archive's path.
fn pick<'a>(entries: &'a [Entry], name: Option<&str>) -> Result<&'a Entry, String> {
    let names: Vec<String> = entries.iter().flat_map(Entry::tags).cloned().collect();
    match (name, entries) {
        (_, []) => Err("has no image".to_owned()),
        (None, [only]) => Ok(only),
        (None, _) => Err(format!("has several images: say which one after a colon; {}", suggest("", &names, "images"))),
        (Some(name), _) => entries
            .iter()
            .find(|entry| entry.tags().iter().any(|tag| is_same(tag, name)))
            .ok_or_else(|| format!("has no image {name:?}; {}", suggest(name, &names, "images"))),
    }
}

/// Whether two names mean one image: Docker leaves out what it completes, Podman writes it.
fn is_same(one: &str, other: &str) -> bool {
    let whole = |text: &str| text.parse::<Reference>().ok();
    one == other || whole(one).is_some_and(|one| whole(other) == Some(one))
}

/// The configuration, and its digest: what Docker calls the image's ID.
fn configuration(files: &Files, entry: &Entry, image: &str) -> Result<(Digest, ImageConfig), RegistryError> {
    let name = printable(&entry.config, 100);
    let wrong = |problem: String| RegistryError::Layout { path: files.path().to_owned(), problem };
    let bytes =
        files.read(&entry.config)?.ok_or_else(|| wrong(format!("has no {name}, which its manifest.json names")))?;
    let found = Digest::of(&bytes);
    // It is named by its digest.
    let last = entry.config.rsplit('/').next().unwrap_or_default();
    let named: Option<Digest> = last.strip_suffix(".json").unwrap_or(last).parse().ok();
    if named.is_some_and(|named| named != found) {
        return Err(wrong(format!("is damaged: its {name} has the digest sha256:{found}")));
    }
    Ok((found, read_config(image, &bytes)?))
}

fn layers(files: &Files, entry: &Entry, config: &ImageConfig, watch: Watch<'_>) -> Result<Vec<Layer>, RegistryError> {
    let wrong = |problem: String| RegistryError::Layout { path: files.path().to_owned(), problem };
    let names = entry.layers.as_deref().unwrap_or_default();
    if names.len() != config.diff_ids.len() {
        let (layers, diff_ids) = (names.len(), config.diff_ids.len());
        return Err(wrong(format!("has {layers} layers, and the image's configuration tells of {diff_ids}")));
    }
    if names.len() > MAX_LAYERS {
        return Err(wrong(format!("has {} layers; {MAX_LAYERS} are allowed", names.len())));
    }
    let mut located: Vec<Located> = Vec::new();
    for name in names {
        let shown = printable(name, 100);
        let found = files.find(name)?;
        located.push(found.ok_or_else(|| wrong(format!("has no {shown}, which its manifest.json names")))?);
    }
    let total = located.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    let mut layers = Vec::new();
    started(watch, located.len(), total, || {
        for (layer, diff_id) in located.into_iter().zip(&config.diff_ids) {
            let digest = digest(&layer, watch)?;
            let plain = is_plain(&layer)?;
            // Layers are plain here as a rule. A packed one is judged when it is unpacked.
            if plain && digest != *diff_id {
                let what = format!("the layer sha256:{diff_id} in {}", files.path().display());
                return Err(RegistryError::Tampered { what, problem: format!("its digest is sha256:{digest}") });
            }
            let Located { path, offset, size } = layer;
            layers.push(Layer { digest, diff_id: *diff_id, media_type: String::new(), path, offset, size });
        }
        Ok(())
    })?;
    Ok(layers)
}

/// Whether a layer is a tar archive as it is.
fn is_plain(layer: &Located) -> Result<bool, RegistryError> {
    use std::io::Read;
    let mut first = Vec::new();
    let read = layer.open().and_then(|file| file.take(4).read_to_end(&mut first));
    read.map_err(RegistryError::io("read", &layer.path))?;
    Ok(!first.starts_with(&[0x1f, 0x8b]) && !first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
}
