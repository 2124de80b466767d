//! OCI images: from their source by `motu-registry`, layer by layer into a file system by `motu-rootfs`, into the store; and back.

mod export;
mod unpack;

pub use export::export;

use super::PullOptions;
use anyhow::{Context, Result, bail};
use motu_registry::{Credentials, LayerCache, OciImage, Options, Reference};
use motu_store::{
    Boot, Digest, Image, ImageConfig, ImageName, ImageRecord, RECORD_VERSION, Source, Store, Timestamp, Watch,
    name_of_path,
};

/// Where layers are kept for the next image that has them, and parts of layers for the next try.
///
/// # Errors
/// The store's folder cannot be written.
pub fn layer_cache(store: &Store) -> Result<LayerCache> {
    Ok(LayerCache::open(store.root().join("layers"))?)
}

/// Gets an image and puts it into the store. One that is there already, from the same source, only gets its names.
///
/// # Errors
/// What is wrong with the source, or the host's trouble; the store is as it was then.
pub fn pull(store: &Store, written: &Source, options: &PullOptions, watch: Watch<'_>) -> Result<Image> {
    let Some(source) = motu_registry::Source::new(written)? else { bail!("{written} is no OCI image") };
    let cache = layer_cache(store)?;
    let credentials = Credentials::docker(|name| std::env::var_os(name));
    let oci = motu_registry::pull(&source, &cache, &Options { credentials, ..Options::default() }, watch)?;
    let names = match options.names.as_slice() {
        [] => vec![name_for(written, &source, &oci)?],
        given => given.to_vec(),
    };
    if let Some(image) = there_already(store, written, oci.digest)? {
        let digest = image.digest.to_string();
        for name in &names {
            store.tag(&digest, name, watch)?;
        }
        return Ok(named(image.digest, image.record, &names));
    }
    let work = store.work(watch)?;
    let created = created(&oci);
    let making = || format!("cannot make a root file system of {written}");
    let disk = unpack::root_disk(&work, &oci, created, &cache, watch).with_context(making)?;
    let record = ImageRecord {
        version: RECORD_VERSION,
        source: written.to_string(),
        manifest: Some(oci.digest),
        created,
        boot: Boot::Default,
        disk: Some(disk),
        config: config(oci.config),
        packages: Vec::new(),
    };
    let digest = work.commit(&record, &names, watch)?;
    Ok(named(digest, record, &names))
}

fn named(digest: Digest, record: ImageRecord, names: &[ImageName]) -> Image {
    let name = names.first().map_or_else(|| digest.short(), ToString::to_string);
    Image { name, digest, record }
}

/// The image that was made of the same manifest before.
fn there_already(store: &Store, written: &Source, manifest: Digest) -> Result<Option<Image>> {
    let source = written.to_string();
    let same = |record: &ImageRecord| record.source == source && record.manifest == Some(manifest);
    let found = store.images()?.into_iter().find_map(|listed| {
        let record = listed.record.ok().filter(same)?;
        Some(Image { name: source.clone(), digest: listed.digest, record })
    });
    Ok(found)
}

/// The name that an image gets if the person gives it none: the reference's; in layouts and archives the one that it has there, or that of
/// the file, which what it has there is a tag of.
fn name_for(written: &Source, source: &motu_registry::Source, oci: &OciImage) -> Result<ImageName> {
    let inside = oci.name.as_deref().unwrap_or_default();
    let is_tag = !inside.contains(['/', ':']);
    let by_path = || {
        let path = source.path()?;
        // The last part of `layout/.` is none.
        let name = name_of_path(&path.canonicalize().unwrap_or(path))?;
        let tagged = format!("{}:{inside}", name.repository()).parse();
        Some(if inside.is_empty() { name } else { tagged.unwrap_or(name) })
    };
    let by_reference = || {
        let reference: Reference = inside.parse().ok()?;
        format!("{}:{}", reference.familiar_name(), reference.tag().unwrap_or("latest")).parse().ok()
    };
    let of_registry = source.path().is_none();
    let name = if is_tag && !of_registry { by_path() } else { by_reference().or_else(by_path) };
    name.with_context(|| format!("{written} gives no name for an image; say one with --tag NAME"))
}

/// When the image was made, as it says itself: so the same image from the same source has the same digest here.
fn created(oci: &OciImage) -> Timestamp {
    oci.config.created.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn config(config: motu_registry::ImageConfig) -> ImageConfig {
    let some = |text: String| (!text.is_empty()).then_some(text);
    ImageConfig {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        user: some(config.user),
        // As with Docker, and not the user's home, where commands of other images start.
        workdir: some(config.workdir).or_else(|| Some("/".into())),
        exposed_ports: config.exposed_ports,
        labels: config.labels,
    }
}
