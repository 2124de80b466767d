//! `motu image export`: an image for other programs, as a disk or as layers.

use crate::cli::ExportFormat;
use crate::images::{self, Interrupt};
use crate::status::Status;
use anyhow::{Result, bail};
use std::path::Path;

/// # Errors
/// There is no such image, it has no disk, or the file cannot be written; there is no file then.
pub fn run(image: &str, output: &Path, format: Option<ExportFormat>) -> Result<Status> {
    let Some(format) = format.or_else(|| ExportFormat::by_name(output)) else {
        bail!("{} does not say what to write; add --format {}", output.display(), ExportFormat::all());
    };
    let store = images::store()?;
    let image = store.find(image)?;
    let done = Interrupt::run(|watch| match format {
        ExportFormat::Disk(format) => Ok(store.export_disk(&image, format, output, watch)?),
        ExportFormat::Layers(format) => images::export(&store, &image, format, output, watch),
    });
    done.map(|done| done.map_or_else(|by| by, |()| Status::Success))
}
