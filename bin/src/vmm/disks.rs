//! A machine's disks, from their names.

use anyhow::Result;
use motu_disk::{Disk, DiskError, OpenOptions};
use motu_machine::DiskConfig;
use motu_spec::DiskSpec;

/// Opens all disks, after those that are not there and have a size were made.
///
/// # Errors
/// One of them cannot be used, or made.
pub fn open(disks: &[DiskSpec]) -> Result<Vec<DiskConfig>> {
    disks
        .iter()
        .enumerate()
        .map(|(n, disk)| Ok(DiskConfig { disk: open_one(disk)?, serial: serial(disk, n) }))
        .collect()
}

fn open_one(spec: &DiskSpec) -> Result<Box<dyn Disk>, DiskError> {
    let is_there = spec.path.symlink_metadata().is_ok();
    if let Some(size) = spec.size
        && !is_there
    {
        motu_disk::create(&spec.path, spec.format, size.0)?;
    }
    let disk = motu_disk::open(&spec.path, &OpenOptions { format: spec.format, read_only: spec.readonly })?;
    match spec.size {
        Some(asked) if asked.0 != disk.size() => {
            Err(DiskError::Exists { path: spec.path.clone(), size: disk.size(), asked: asked.0 })
        }
        _ => Ok(disk),
    }
}

/// The guest tells disks apart by it.
fn serial(spec: &DiskSpec, n: usize) -> String {
    spec.serial.clone().unwrap_or_else(|| format!("motu-disk{n}"))
}
