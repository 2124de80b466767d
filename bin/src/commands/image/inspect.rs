//! `motu image inspect`: all that is known of images.

use crate::images;
use crate::status::Status;
use anyhow::Result;
use motu_store::{Image, Store};
use serde_json::Value;

/// # Errors
/// There is no such image, or it is damaged.
pub fn run(names: &[String]) -> Result<Status> {
    let store = images::store()?;
    let found = names.iter().map(|name| describe(&store, &store.find(name)?)).collect::<Result<Vec<_>>>()?;
    images::print_json(&found)?;
    Ok(Status::Success)
}

/// An image for whoever reads JSON.
///
/// # Errors
/// The store cannot be read.
pub fn describe(store: &Store, image: &Image) -> Result<Value> {
    let names = store.names()?.into_iter().filter(|(_, digest)| *digest == image.digest).map(|(name, _)| name);
    Ok(serde_json::json!({
        "id": image.digest.to_string(),
        "names": names.collect::<Vec<_>>(),
        "bytes": store.bytes_of(&image.record),
        "record": image.record,
    }))
}
