//! Kernels that are compressed with gzip, as Xen's are shipped; GRUB uncompresses them too.

use crate::error::BootError;
use crate::image::Image;
use flate2::bufread::GzDecoder;
use std::io::{self, BufReader, Read};

/// More bytes than any kernel has.
const MAX: u64 = 256 << 20;
/// The magic number, and "deflate", the only method there is (RFC 1952, section 2.3.1).
const MAGIC: &[u8] = b"\x1f\x8b\x08";

/// The kernel inside of `kernel`, if that is compressed.
///
/// # Errors
/// It is damaged, or holds more than `room` bytes: it would not fit in memory.
pub(crate) fn uncompressed(kernel: &Image, room: u64) -> Result<Option<Image>, BootError> {
    if !is_gzip(kernel)? {
        return Ok(None);
    }
    let name = || kernel.name().to_owned();
    let max = room.min(MAX);
    let mut bytes = Vec::new();
    let mut decoder = decoder(kernel).take(max + 1);
    decoder.read_to_end(&mut bytes).map_err(|source| BootError::Gzip { name: name(), source })?;
    if bytes.len() as u64 > max {
        return Err(BootError::GzipTooLarge { name: name(), max });
    }
    kernel.with_bytes(bytes).map(Some)
}

/// The first bytes of `kernel`, uncompressed, at most `max` of them. Of a damaged file, what can be had.
///
/// # Errors
/// It cannot be read.
pub(crate) fn head(kernel: &Image, max: usize) -> Result<Vec<u8>, BootError> {
    if !is_gzip(kernel)? {
        return kernel.head(max);
    }
    let mut head = Vec::new();
    // The error comes again, as one, when all of it is uncompressed.
    let _ = decoder(kernel).take(max as u64).read_to_end(&mut head);
    Ok(head)
}

fn is_gzip(kernel: &Image) -> Result<bool, BootError> {
    Ok(kernel.head(MAGIC.len())? == MAGIC)
}

fn decoder(kernel: &Image) -> GzDecoder<BufReader<Bytes<'_>>> {
    GzDecoder::new(BufReader::new(Bytes { image: kernel, at: 0 }))
}

/// An image from its first byte to its last.
struct Bytes<'a> {
    image: &'a Image,
    at: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.image.size() - self.at).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        let part = buffer.get_mut(..count).unwrap_or_default();
        self.image.read_at(self.at, part).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}
