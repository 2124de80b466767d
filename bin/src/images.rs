//! Images by name, made when they are first used.

pub mod boot;
mod build;
mod distribution;
mod interrupt;
mod oci;
mod progress;
mod pull;
mod words;

pub use build::{BuildOptions, build};
pub use interrupt::Interrupt;
pub use oci::{export, layer_cache};
pub use pull::{PullOptions, pull, source_of};
pub use words::{ago, human, print_json};

use crate::agent;
use anyhow::{Context, Result};
use motu_spec::DEFAULT_IMAGE;
use motu_store::{Boot, BootFiles, Digest, Image, Source, Store, StoreError, Watch};
pub use progress::{Bars, bytes_spinner};

/// An image that is to be booted, and what it is booted with.
#[derive(Debug)]
pub struct Prepared {
    pub image: Image,
    pub boot: BootFiles,
}

/// The image that a person means, with what it is booted with.
///
/// # Errors
/// As [`find_or_make`]; it cannot be booted.
pub fn prepare(store: &Store, name: &str, watch: Watch<'_>) -> Result<Prepared> {
    with_kernel(store, find_or_make(store, name, watch)?, watch)
}

/// The image that a person means, got first if it is `tiny`, or a source such as `oci:alpine`, and not there. What `watch` has
/// cancelled is not made.
///
/// # Errors
/// There is no such image, or it cannot be made; a [`motu_store::StoreError`] is in the chain then.
pub fn find_or_make(store: &Store, name: &str, watch: Watch<'_>) -> Result<Image> {
    match name.parse::<Source>() {
        _ if name == DEFAULT_IMAGE => Ok(store.tiny(agent::BINARY, watch.progress, watch.cancel)?),
        Ok(source) => match newest_of(store, &absolute(source)?)? {
            Some(image) => Ok(image),
            None => pull(store, &name.parse()?, &PullOptions::default(), watch),
        },
        Err(_) => match store.find(name) {
            Err(error @ StoreError::NoImage { .. }) => match distribution::named(name) {
                Some((name, spec)) => distribution::make(store, &spec, Some(&[name]), watch),
                None => Err(error.into()),
            },
            found => Ok(found?),
        },
    }
}

/// An image with what it is booted with: its own kernel, or motu's.
///
/// # Errors
/// It is damaged, or only its own boot loader could boot it.
pub fn with_kernel(store: &Store, image: Image, watch: Watch<'_>) -> Result<Prepared> {
    let boot = match store.boot_files(&image, watch)? {
        Some(own) => own,
        None => {
            let tiny = find_or_make(store, DEFAULT_IMAGE, watch)?;
            let boot = store.boot_files(&tiny, watch)?;
            boot.context("the image tiny has no kernel of its own, which is every image's")?
        }
    };
    Ok(Prepared { image, boot })
}

/// The image of a machine that stands on it, with what it is booted with now. `tiny` has no disk, and is booted as this motu
/// makes it.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_again(store: &Store, image: Digest, watch: Watch<'_>) -> Result<Prepared> {
    let found = store.find(&image.to_string())?;
    if found.record.source == DEFAULT_IMAGE {
        return prepare(store, DEFAULT_IMAGE, watch);
    }
    prepare(store, &image.to_string(), watch)
}

/// Whether motu's agent runs in an image, which takes commands.
pub fn has_agent(boot: &Boot) -> bool {
    match boot {
        Boot::Kernel(kernel) => kernel.agent.is_some(),
        Boot::Default => true,
        Boot::Firmware => false,
    }
}

/// A source as it is written down with its image.
fn absolute(source: Source) -> Result<Source> {
    let shown = source.to_string();
    source.absolute().with_context(|| format!("finding the folder of {shown}"))
}

/// The newest image that was got from there.
fn newest_of(store: &Store, source: &Source) -> Result<Option<Image>> {
    let source = source.to_string();
    let images = store.images()?.into_iter().filter_map(|listed| {
        let record = listed.record.ok().filter(|record| record.source == source)?;
        Some(Image { name: source.clone(), digest: listed.digest, record })
    });
    Ok(images.max_by_key(|image| image.record.created))
}

/// The person's store.
///
/// # Errors
/// There is no place for it, or it cannot be written.
pub fn store() -> Result<Store> {
    Ok(Store::open(motu_store::default_path(|name| std::env::var_os(name))?)?)
}
