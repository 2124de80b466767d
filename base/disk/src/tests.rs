//! Every kind of disk against one model, crashes included; and QEMU's opinion of the images.

mod bad;
mod copy;
mod model;
mod power;
mod qemu;

use crate::qcow2::create_with;
use crate::{Disk, Format, OpenOptions, Overlay, SECTOR, create, open};
pub use power::{Op, Record};
use std::fs::File;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Of the disks that are tested, in bytes: some clusters of 64 KiB, and a part of one.
pub const SIZE: u64 = (1 << 20) + 5 * SECTOR;
const BASE_ID: [u8; 32] = [7; 32];

/// The kinds of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Raw,
    Qcow2,
    /// With clusters of 4 KiB, so that there are many, over a raw file.
    Backed,
    Overlay,
}

pub const KINDS: [Kind; 4] = [Kind::Raw, Kind::Qcow2, Kind::Backed, Kind::Overlay];

/// A folder with a disk in it.
#[derive(Debug)]
pub struct Place {
    pub folder: TempDir,
    pub kind: Kind,
}

impl Place {
    /// A new disk; those with something below have every second block of `base` there.
    pub fn new(kind: Kind, base: &[u8]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), kind };
        std::fs::write(place.path("base"), base).unwrap();
        match kind {
            Kind::Raw => create(&place.disk(), Some(Format::Raw), SIZE).unwrap(),
            Kind::Qcow2 => create(&place.disk(), Some(Format::Qcow2), SIZE).unwrap(),
            Kind::Backed => backed(&place.disk(), 4096, "base", "raw"),
            Kind::Overlay => drop(Overlay::create(&place.disk(), place.base(), &BASE_ID).unwrap()),
        }
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    fn base(&self) -> Box<dyn Disk> {
        open(&self.path("base"), &OpenOptions { format: Some(Format::Raw), read_only: true }).unwrap()
    }

    pub fn open(&self) -> Box<dyn Disk> {
        let format = match self.kind {
            Kind::Overlay => return Box::new(Overlay::open(&self.disk(), self.base(), &BASE_ID).unwrap()),
            Kind::Raw => Format::Raw,
            Kind::Qcow2 | Kind::Backed => Format::Qcow2,
        };
        open(&self.disk(), &OpenOptions { format: Some(format), read_only: false }).unwrap()
    }
}

/// Makes an image with a backing file.
pub fn backed(path: &Path, cluster: u32, backing: &str, format: &str) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    create_with(&file, SIZE, cluster.trailing_zeros(), Some((backing, format))).unwrap();
}
