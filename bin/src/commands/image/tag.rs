//! `motu image tag`: one more name for an image.

use crate::images;
use crate::status::Status;
use anyhow::Result;
use motu_store::{ImageName, Watch};

/// # Errors
/// There is no such image, or the store cannot be written.
pub fn run(image: &str, name: &ImageName) -> Result<Status> {
    images::store()?.tag(image, name, Watch::silent())?;
    Ok(Status::Success)
}
