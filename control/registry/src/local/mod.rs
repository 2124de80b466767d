//! Images in folders and files: OCI image layouts, and what `docker save` writes.

mod docker;
mod files;

pub(crate) use docker::docker_archive;
pub use docker::is_docker_archive;
use files::{Files, Located};

use crate::digest::{feed, finish};
use crate::manifest::{Descriptor, MAX_DOCUMENT, choose, json_problem, platforms, printable};
use crate::pull::{Origin, PLATFORM, layer_at, resolve};
use crate::source::Place;
use crate::{Layer, OciImage, RegistryError};
use motu_store::{Digest, Watch};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::Path;

/// Names that an error lists.
const MOST: usize = 8;

/// `oci-layout` (OCI image layout specification, "oci-layout file").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    image_layout_version: String,
}

/// An image of a folder by the OCI image layout specification.
pub(crate) fn layout(place: &Place, watch: Watch<'_>) -> Result<OciImage, RegistryError> {
    let (path, name) = place.split();
    from_layout(&Files::folder(&path)?, name, watch)
}

/// An image of such a folder in a tar archive.
pub(crate) fn oci_archive(place: &Place, watch: Watch<'_>) -> Result<OciImage, RegistryError> {
    let (path, name) = place.split();
    from_layout(&Files::archive(&path)?, name, watch)
}

fn from_layout(files: &Files, name: Option<&str>, watch: Watch<'_>) -> Result<OciImage, RegistryError> {
    let wrong = |problem: String| RegistryError::Layout { path: files.path().to_owned(), problem };
    let Some(version) = files.read("oci-layout")? else {
        let docker = if files.find("manifest.json")?.is_some() { "; it looks like docker-archive:" } else { "" };
        return Err(wrong(format!("is no OCI image layout: it has no file oci-layout{docker}")));
    };
    let version: Version = serde_json::from_slice(&version)
        .map_err(|error| wrong(format!("has an oci-layout that is none ({})", json_problem(&error))))?;
    if !version.image_layout_version.starts_with("1.") {
        let version = printable(&version.image_layout_version, 40);
        return Err(wrong(format!("is an image layout of version {version:?}; motu reads 1.0.0")));
    }
    let index = files.read("index.json")?.ok_or_else(|| wrong("has no index.json".to_owned()))?;
    let what = format!("the index.json of {}", files.path().display());
    let index = match crate::manifest::parse(&index, None) {
        Ok(crate::manifest::Document::Index(index)) => index,
        Ok(_) => return Err(RegistryError::document(&what, "is a manifest and no index")),
        Err(problem) => return Err(RegistryError::document(&what, problem)),
    };
    let entry = pick(&index, name).map_err(wrong)?;
    let origin = Layout(files);
    let bytes = crate::pull::checked(origin.document(entry)?, entry, "the manifest")?;
    let image = entry.name.as_deref().map_or_else(|| files.path().display().to_string(), |name| printable(name, 200));
    let found = resolve(&origin, &image, bytes, Some(&entry.media_type))?;
    let sizes = found.manifest.layers.iter().map(|layer| layer.size);
    let total = sizes.fold(0u64, u64::saturating_add);
    let mut layers = Vec::new();
    let result = started(watch, found.manifest.layers.len(), total, || {
        for (layer, diff_id) in found.manifest.layers.into_iter().zip(&found.config.diff_ids) {
            layers.push(origin.layer(layer, *diff_id, watch)?);
        }
        Ok(())
    });
    result?;
    Ok(OciImage { name: entry.name.clone(), digest: found.digest, config: found.config, layers })
}

/// Tells that layers are checked, while they are.
fn started(
    watch: Watch<'_>,
    layers: usize,
    bytes: u64,
    work: impl FnOnce() -> Result<(), RegistryError>,
) -> Result<(), RegistryError> {
    let what = if layers == 1 { "checking the layer".to_owned() } else { format!("checking {layers} layers") };
    watch.progress.start(&what, Some(bytes));
    let result = work();
    watch.progress.finish();
    result
}

/// The manifest or index that is meant. The error goes on from the layout's path.
fn pick<'a>(index: &'a [Descriptor], name: Option<&str>) -> Result<&'a Descriptor, String> {
    let mut names: Vec<String> = index.iter().filter_map(|entry| entry.name.clone()).collect();
    names.dedup();
    if let Some(name) = name {
        let named = index.iter().filter(|entry| entry.name.as_deref() == Some(name));
        let all: Vec<Descriptor> = named.cloned().collect();
        let wanted = choose(&all).or(all.first());
        let wanted = wanted.and_then(|wanted| index.iter().find(|entry| *entry == wanted));
        return wanted.ok_or_else(|| format!("has no image {name:?}; {}", suggest(name, &names, "images")));
    }
    match index {
        [] => Err("has no image".to_owned()),
        [only] => Ok(only),
        _ if names.len() > 1 => {
            Err(format!("has several images: say which one after a colon; {}", suggest("", &names, "images")))
        }
        several => choose(several).ok_or_else(|| format!("has no image for {PLATFORM}: it has {}", platforms(several))),
    }
}

/// Names that there are, those first that begin most like what was asked for.
pub(crate) fn suggest(asked: &str, names: &[String], kind: &str) -> String {
    let alike = |name: &String| asked.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_by_key(|name| (std::cmp::Reverse(alike(name)), name.len(), name.as_str()));
    let shown: Vec<String> = sorted.iter().take(MOST).map(|name| printable(name, 128)).collect();
    match names.len().saturating_sub(MOST) {
        0 if shown.is_empty() => "its images have no names".to_owned(),
        0 => format!("there are the {kind} {}", shown.join(", ")),
        more => format!("there are the {kind} {} and {more} more", shown.join(", ")),
    }
}

/// A layout's files as blobs.
struct Layout<'a>(&'a Files);

impl Layout<'_> {
    /// A blob's place ("Blobs"), if it has the size that it should have.
    fn blob(&self, descriptor: &Descriptor) -> Result<Located, RegistryError> {
        let name = format!("blobs/sha256/{}", descriptor.digest);
        let wrong = |problem: String| RegistryError::Layout { path: self.0.path().to_owned(), problem };
        let located = self.0.find(&name)?.ok_or_else(|| wrong(format!("has no {name}, which its image needs")))?;
        if located.size != descriptor.size {
            let (size, announced) = (located.size, descriptor.size);
            return Err(wrong(format!("is damaged: its {name} has {size} bytes, and {announced} were announced")));
        }
        Ok(located)
    }

    fn small(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let located = self.blob(descriptor)?;
        if located.size > MAX_DOCUMENT {
            let problem = format!("has {} bytes; {MAX_DOCUMENT} are allowed", located.size);
            return Err(RegistryError::document(&format!("the document sha256:{}", descriptor.digest), problem));
        }
        located.read()
    }

    fn layer(&self, layer: Descriptor, diff_id: Digest, watch: Watch<'_>) -> Result<Layer, RegistryError> {
        let located = self.blob(&layer)?;
        let found = digest(&located, watch)?;
        if found != layer.digest {
            let what = format!("the layer sha256:{} in {}", layer.digest, self.0.path().display());
            return Err(RegistryError::Tampered { what, problem: format!("its digest is sha256:{found}") });
        }
        Ok(layer_at(layer, diff_id, located.path, located.offset))
    }
}

impl Origin for Layout<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.small(descriptor)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.small(descriptor)
    }
}

/// The digest of a blob's bytes.
fn digest(located: &Located, watch: Watch<'_>) -> Result<Digest, RegistryError> {
    let mut hasher = Sha256::new();
    let go_on = |bytes| {
        watch.progress.advance(bytes);
        crate::retry::check(watch.cancel).map_err(io::Error::other)
    };
    let hashed = located.open().and_then(|blob| feed(&mut hasher, blob, go_on));
    crate::retry::check(watch.cancel)?;
    match hashed.map_err(RegistryError::io("read", &located.path))? {
        size if size == located.size => Ok(finish(hasher)),
        _ => Err(cut_short(&located.path)),
    }
}

fn cut_short(path: &Path) -> RegistryError {
    RegistryError::Layout { path: path.to_owned(), problem: "is damaged: it ends too early".to_owned() }
}

#[cfg(test)]
mod tests;
