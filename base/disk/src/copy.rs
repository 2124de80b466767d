//! From one disk to another, without what is zeros.

use crate::{Disk, Overlay, disk};
use std::io;

/// Bytes that are looked at, and copied or left out, together: a cluster of the images that we make.
const PIECE: u64 = 64 << 10;

/// Copies all of a disk to one of at least its size that reads as zeros; what is zeros takes no space there. `each` is told of bytes of
/// the disk as they are done, and ends the copy by an error.
///
/// # Errors
/// Either disk's, or the one of `each`.
pub fn copy(from: &dyn Disk, to: &dyn Disk, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while let Some((start, end)) = from.next_data(at)? {
        each(start - at)?;
        at = start;
        while at < end {
            // Up to the end of a piece of the target's.
            let len = (PIECE - at % PIECE).min(end - at);
            let piece = buffer.get_mut(..len as usize).unwrap_or_default();
            from.read(at, piece)?;
            if !is_zeros(piece) {
                to.write(at, piece)?;
            }
            at += len;
            each(len)?;
        }
    }
    each(from.size() - at)
}

/// Copies what an overlay has of its own, as far as it differs from its base, to a new layer over that base.
///
/// # Errors
/// A disk's, or the one of `each`, which is told of bytes of the disk.
pub fn copy_changes(from: &Overlay, to: &dyn Disk, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE as usize];
    let mut below = vec![0; PIECE as usize];
    let mut at = 0;
    while let Some((start, end)) = from.next_changed(at) {
        let first = (start / PIECE * PIECE).max(at);
        each(first - at)?;
        at = first;
        // Whole pieces, as a layer has them.
        while at < end {
            let len = PIECE.min(from.size() - at);
            let piece = buffer.get_mut(..len as usize).unwrap_or_default();
            let before = below.get_mut(..len as usize).unwrap_or_default();
            from.read(at, piece)?;
            disk::read_below(from.base(), at, before)?;
            if piece != before {
                if is_zeros(piece) { to.write_zeroes(at, len, true)? } else { to.write(at, piece)? }
            }
            at += len;
            each(len)?;
        }
    }
    each(from.size() - at)
}

fn is_zeros(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
