//! Images as other programs read them. One that came from a registry leaves as it came, as far as its layers are kept; of any other, the
//! root file system becomes one layer.

use super::layer_cache;
use anyhow::{Error, Result};
use motu_registry::{ImageWriter, KeptImage, RegistryError, SaveFormat};
use motu_rootfs::{FileSystem, Limits, RootfsError};
use motu_store::{Image, ImageName, RootDisk, Store, StoreError, Watch};
use std::path::{Path, PathBuf};

/// Writes an image to a new file or folder, whole or not at all.
///
/// # Errors
/// Something is there already; the image has no root file system; something is damaged; the host's trouble.
pub fn export(store: &Store, image: &Image, format: SaveFormat, to: &Path, watch: Watch<'_>) -> Result<()> {
    let Some(disk) = &image.record.disk else {
        return Err(StoreError::NoDisk { image: image.name.clone() }.into());
    };
    let name = name_of(store, image)?;
    let delivery = store.deliver(to)?;
    let writer = ImageWriter::create(format, delivery.folder())?;
    let step = format!("writing {}", to.display());
    let written = match kept(store, image)? {
        Some(kept) => {
            watch.progress.start(&step, Some(kept.bytes()));
            as_it_came(store, writer, kept, name.as_ref(), watch)
        }
        None => as_one_layer(store, (image, disk), writer, name.as_ref(), (&step, watch)),
    };
    watch.progress.finish();
    // What was stopped ends in whatever error.
    watch.check()?;
    Ok(delivery.finish(&written?)?)
}

/// The name that the image was asked for by; none if that was its digest.
fn name_of(store: &Store, image: &Image) -> Result<Option<ImageName>> {
    let Ok(name) = image.name.parse::<ImageName>() else { return Ok(None) };
    Ok((store.names()?.get(&name) == Some(&image.digest)).then_some(name))
}

/// The image as it came, if all of that is still there.
fn kept(store: &Store, image: &Image) -> Result<Option<KeptImage>> {
    let Some(manifest) = image.record.manifest else { return Ok(None) };
    let kept = layer_cache(store)?.image(manifest)?;
    if kept.is_none() {
        tell!("motu: the layers that {} came with are not kept; its root file system becomes one", image.name);
    }
    Ok(kept)
}

fn as_it_came(
    store: &Store,
    writer: ImageWriter,
    kept: KeptImage,
    name: Option<&ImageName>,
    watch: Watch<'_>,
) -> Result<PathBuf> {
    let layers = kept.layers();
    writer.write_kept(kept, name, watch).map_err(|error| {
        let is_damaged = matches!(error, RegistryError::Tampered { .. });
        let cache = layer_cache(store);
        let forget = |layer| cache.as_ref().is_ok_and(|cache| cache.forget_if_damaged(layer).unwrap_or(false));
        match is_damaged && layers.into_iter().filter(|layer| forget(*layer)).count() > 0 {
            true => Error::from(error).context(
                "a layer that was kept has been damaged since and is deleted: `motu image pull` fetches it anew, and \
                 another export makes one layer of the root file system",
            ),
            false => error.into(),
        }
    })
}

/// Begins to tell of the step, too: how much there is to do is known here.
fn as_one_layer(
    store: &Store,
    (image, disk): (&Image, &RootDisk),
    writer: ImageWriter,
    name: Option<&ImageName>,
    (step, watch): (&str, Watch<'_>),
) -> Result<PathBuf> {
    let disk = store.open_disk(&image.name, disk, watch)?;
    let layer = writer.layer()?;
    let unreadable = |error: RootfsError| {
        let hint = match error {
            RootfsError::Unreadable(_) => " (--format qcow2 or --format raw writes its disk as it is)",
            _ => "",
        };
        Error::from(error).context(format!("no layer can be made of the image {}{hint}", image.name))
    };
    let files = FileSystem::open(disk.as_ref()).map_err(unreadable)?;
    watch.progress.start(step, Some(files.used()));
    let (archived, layer) = files.archive(layer, &Limits::default(), &watch).map_err(unreadable)?;
    if archived.sockets > 0 {
        tracing::info!("{} sockets of {} are left out: archives have none", archived.sockets, image.name);
    }
    Ok(writer.write_made(layer, (&image.record.config, image.record.created), name)?)
}
