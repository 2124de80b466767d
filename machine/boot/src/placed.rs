//! Where the files that come with a kernel go.

use crate::error::BootError;
use crate::image::Image;
use motu_memory::{GuestRam, PAGE_SIZE};

/// A file with its place in guest memory.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    image: &'a Image,
    pub start: u64,
    /// In bytes.
    pub len: u64,
}

impl<'a> Placed<'a> {
    /// At the highest page between `lowest` and `end`: an initrd lies as high as the kernel can reach
    /// it, out of the way of what it unpacks.
    pub fn high(image: &'a Image, lowest: u64, end: u64) -> Result<Self, BootError> {
        let len = image.size();
        let lowest = lowest.next_multiple_of(PAGE_SIZE);
        let start = end.checked_sub(len).map(|start| start - start % PAGE_SIZE).filter(|start| *start >= lowest);
        let start = start.ok_or_else(|| too_large(image, lowest, end))?;
        Ok(Self { image, start, len })
    }

    /// At the lowest page between `lowest` and `end`: multiboot kernels take the memory behind their
    /// modules as free.
    pub fn low(image: &'a Image, lowest: u64, end: u64) -> Result<Self, BootError> {
        let len = image.size();
        let start = lowest.next_multiple_of(PAGE_SIZE);
        match start.checked_add(len) {
            Some(after) if after <= end => Ok(Self { image, start, len }),
            _ => Err(too_large(image, start, end)),
        }
    }

    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    pub fn write(&self, ram: &GuestRam) -> Result<(), BootError> {
        self.image.copy_to(ram, self.start, 0, self.len)
    }
}

fn too_large(image: &Image, lowest: u64, end: u64) -> BootError {
    BootError::InitrdTooLarge {
        role: image.role(),
        name: image.name().to_owned(),
        bytes: image.size(),
        free: end.saturating_sub(lowest),
    }
}
