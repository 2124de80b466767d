//! Where an initrd goes: as high as the kernel can reach it, out of the way of what it unpacks.

use crate::error::BootError;
use crate::image::Image;
use motu_memory::{GuestRam, PAGE_SIZE};

/// An initrd with its place in guest memory.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    image: &'a Image,
    pub start: u64,
    /// In bytes.
    pub len: u64,
}

/// Finds the highest page-aligned place between `lowest` and `end`.
pub(crate) fn place(image: &Image, lowest: u64, end: u64) -> Result<Placed<'_>, BootError> {
    let len = image.size();
    let lowest = lowest.next_multiple_of(PAGE_SIZE);
    let start = end.checked_sub(len).map(|start| start - start % PAGE_SIZE).filter(|start| *start >= lowest);
    match start {
        Some(start) => Ok(Placed { image, start, len }),
        None => Err(BootError::InitrdTooLarge {
            name: image.name().to_owned(),
            bytes: len,
            free: end.saturating_sub(lowest),
        }),
    }
}

impl Placed<'_> {
    pub(crate) fn write(&self, ram: &GuestRam) -> Result<(), BootError> {
        self.image.copy_to(ram, self.start, 0, self.len)
    }
}
