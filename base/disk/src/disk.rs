//! What every disk is to who uses it.

use crate::GrowError;
use std::fmt::Debug;
use std::fs::File;
use std::io;

/// Bytes of a sector: what virtio counts in (virtio 1.2, 5.2.4), and what a disk's size is a multiple of.
pub const SECTOR: u64 = 512;

/// Bytes of a disk at most: what qcow2 reaches with the clusters and the table size that QEMU makes.
pub const MAX_SIZE: u64 = 64 << 40;

/// Bytes of zeros written at once where the host cannot make them otherwise.
const ZEROS: usize = 64 << 10;

/// A disk's content. Offsets and lengths are in bytes and whole sectors; what does not lie in the disk is
/// an error, and nothing was done then. Any thread may call at any time: calls that overlap happen in some order,
/// sector by sector.
///
/// What was written is on the host's disk after the next [`Disk::flush`]; before it, a crash leaves each sector as
/// before or as after.
pub trait Disk: Debug + Send + Sync {
    /// In bytes: a multiple of [`SECTOR`], up to [`MAX_SIZE`]. It may grow meanwhile.
    fn size(&self) -> u64;

    /// Whether everything but reading is refused.
    fn is_read_only(&self) -> bool;

    /// Bytes that space is given back in: a power of two, at least [`SECTOR`].
    fn granularity(&self) -> u32;

    /// The file that the disk's bytes lie in, each at its own offset, if that is so: who has checked that a range lies in the disk
    /// may read and, unless it is read-only, write there by itself.
    fn file(&self) -> Option<&File> {
        None
    }

    /// The first bytes from `offset` on that may be other than zeros: start and end, whole sectors; `None` if there are none to the
    /// disk's end. To be found without reading them, so that they may be zeros as well.
    ///
    /// # Errors
    /// The host's, or the image is damaged there.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((offset < self.size()).then(|| (offset, self.size())))
    }

    /// # Errors
    /// The host's, or the image is damaged there.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// # Errors
    /// The host's, such as a full disk.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all writes that have returned last.
    ///
    /// # Errors
    /// The host's; they may be lost then, and all later flushes fail.
    fn flush(&self) -> io::Result<()>;

    /// The guest needs these sectors no more: they read as zeros or as before.
    ///
    /// # Errors
    /// The host's. That it cannot give space back is none.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Has these sectors read as zeros; with `unmap` they may take no space from then on.
    ///
    /// # Errors
    /// The host's.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Makes the disk one of `size` bytes. What is new reads as zeros; it is on the host's disk when this returns, and a crash
    /// before leaves the disk with the size that it had or with the new one. A size that it has already is no error.
    ///
    /// # Errors
    /// It would shrink, cannot be so large, or the host's. It has the size then that it had.
    fn grow(&self, size: u64) -> Result<(), GrowError>;
}

/// Reads of a disk that lies below one that may be larger: behind its end are zeros.
pub(crate) fn read_below(below: &dyn Disk, offset: u64, data: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(below.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
    let (there, beyond) = data.split_at_mut(there);
    beyond.fill(0);
    if there.is_empty() { Ok(()) } else { below.read(offset, there) }
}

/// Checks what every disk checks before it grows; false if it has this size already.
pub(crate) fn check_growth(disk: &impl Disk, asked: u64) -> Result<bool, GrowError> {
    let size = disk.size();
    match () {
        () if disk.is_read_only() => Err(GrowError::ReadOnly),
        () if asked > MAX_SIZE => Err(GrowError::TooLarge { most: MAX_SIZE }),
        () if !asked.is_multiple_of(SECTOR) => Err(GrowError::OddSize { asked }),
        () if asked < size => Err(GrowError::Shrink { size, asked }),
        () => Ok(asked > size),
    }
}

/// Checks what every disk checks first.
pub(crate) fn check(disk: &impl Disk, offset: u64, len: u64) -> io::Result<()> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= disk.size());
    if inside && offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) {
        return Ok(());
    }
    let size = disk.size();
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{len} bytes from {offset} on are not whole sectors of a disk of {size} bytes"),
    ))
}

/// The same for what changes the disk.
pub(crate) fn check_write(disk: &impl Disk, offset: u64, len: u64) -> io::Result<()> {
    if disk.is_read_only() {
        return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the disk is read-only"));
    }
    check(disk, offset, len)
}

/// Writes zeros as data, by `write`.
pub(crate) fn write_zeros(
    offset: u64,
    len: u64,
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let zeros = [0; ZEROS];
    let mut done = 0;
    while done < len {
        let part = usize::try_from(len - done).unwrap_or(ZEROS).min(ZEROS);
        write(offset + done, zeros.get(..part).unwrap_or_default())?;
        done += part as u64;
    }
    Ok(())
}
