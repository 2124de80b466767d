//! `motu image export`: an image's root disk as a file.

use crate::images::{self, Interrupt};
use crate::status::Status;
use anyhow::{Result, bail};
use motu_disk::Format;
use std::path::Path;

/// # Errors
/// There is no such image, it has no disk, or the file cannot be written; there is no file then.
pub fn run(image: &str, output: &Path, format: Option<Format>) -> Result<Status> {
    let Some(format) = format.or_else(|| Format::by_name(output)) else {
        bail!("{} does not say what to write; add --format qcow2 or --format raw", output.display());
    };
    let store = images::store()?;
    let image = store.find(image)?;
    Interrupt::run(|watch| Ok(store.export_disk(&image, format, output, watch)?))
        .map(|done| done.map_or_else(|by| by, |()| Status::Success))
}
