//! Pieces of memory that a kernel starts with.

use crate::error::BootError;
use crate::image::Image;
use crate::put;
use motu_memory::GuestRam;
use std::ops::Range;

/// A piece of memory that a kernel starts with; its end is an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub address: u64,
    /// Where its content lies in the file, and how many bytes; the rest is zeros.
    offset: u64,
    file_len: u64,
    len: u64,
}

impl Segment {
    /// `None` if there is no address behind it, or `file_len` is larger than `len`.
    pub fn new(address: u64, offset: u64, file_len: u64, len: u64) -> Option<Self> {
        address.checked_add(len).filter(|_| file_len <= len)?;
        Some(Self { address, offset, file_len, len })
    }

    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.len)
    }

    pub fn range(&self) -> Range<u64> {
        self.address..self.end()
    }

    #[cfg(test)]
    pub fn in_file(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.file_len)
    }

    /// Copies it from the file of `kernel`.
    pub fn write(&self, ram: &GuestRam, kernel: &Image) -> Result<(), BootError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        kernel.copy_to(ram, self.address, self.offset, self.file_len)?;
        // RAM may have been used before: after a reset it still holds what the last kernel left.
        let mut at = self.address.saturating_add(self.file_len);
        while at < self.end() {
            let len = (self.end() - at).min(ZEROS.len() as u64);
            put(ram, at, &ZEROS[..len as usize], "kernel's zeroed data")?;
            at += len;
        }
        Ok(())
    }
}
