//! `motu image rm`: forgets images.

use crate::images;
use crate::status::Status;
use anyhow::{Result, bail};
use std::sync::atomic::AtomicBool;

/// # Errors
/// There is no such image, or the store cannot be written. Those named before are gone then.
pub fn run(names: &[String]) -> Result<Status> {
    let store = images::store()?;
    for name in names {
        if !store.remove(name, &AtomicBool::new(false))? {
            bail!("there is no image {name:?}; `motu image ls` shows those there are");
        }
    }
    Ok(Status::Success)
}
