//! Images by name, made when they are first used.

mod progress;

use crate::agent;
use anyhow::{Result, bail};
use motu_spec::DEFAULT_IMAGE;
use motu_store::{Image, Store};
use progress::Bars;
use std::sync::atomic::AtomicBool;

/// The image `name`, made first if it is not there. `cancel` stops that.
///
/// # Errors
/// There is no such image, or it cannot be made; a [`motu_store::StoreError`] is in the chain then.
pub fn prepare(name: &str, cancel: &AtomicBool) -> Result<Image> {
    if name != DEFAULT_IMAGE {
        bail!("there is no image {name:?}; the only one of this version is {DEFAULT_IMAGE}");
    }
    Ok(store()?.tiny(agent::BINARY, &Bars::default(), cancel)?)
}

/// The person's store.
///
/// # Errors
/// There is no place for it, or it cannot be written.
pub fn store() -> Result<Store> {
    Ok(Store::open(motu_store::default_path(|name| std::env::var_os(name))?)?)
}
