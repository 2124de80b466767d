//! A machine's own writes over a base that is never written (ADR 18).
//!
//! ```text
//!   header   4 KiB: magic, block size, disk size, what the base is
//!   bitmap   a bit for each block: the block is here, else it is the base's
//!   data     the blocks, where they lie on the disk; those that are not here are holes
//! ```
//!
//! Bits are only ever set: a block that is given back is here and a hole. A bit is set on the host's disk after
//! the block's data is ([`Overlay::flush`]), so after a crash each block is the base's or whole, and what was
//! flushed is there. Two steps of one flush need no journal, as a bitmap that is half old and half new is right.

use crate::disk::{self, Disk, MAX_SIZE, SECTOR};
use crate::file::ImageFile;
use crate::{DiskError, lock};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const MAGIC: [u8; 8] = *b"motuovl\x01";
/// Bytes of the header, and what the bitmap is written in.
const PAGE: u64 = 4096;
/// A file system's own block: Linux writes whole ones, which need nothing of the base.
const MIN_BLOCK: u64 = 4096;
/// So the bitmap has 2 MiB at most, and a disk opens as fast however large it is.
const MAX_BLOCKS: u64 = 1 << 24;

/// What identifies a base: whatever its owner likes, such as a digest. An overlay is of use with no other.
pub type BaseId = [u8; 32];

/// A disk of a base and what was written since.
#[derive(Debug)]
pub struct Overlay {
    base: Box<dyn Disk>,
    file: ImageFile,
    layout: Layout,
    blocks: RwLock<Bitmap>,
    /// One flush at a time.
    flushing: Mutex<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    size: u64,
    block: u64,
}

impl Layout {
    fn of(size: u64) -> Self {
        Self { size, block: size.div_ceil(MAX_BLOCKS).next_power_of_two().max(MIN_BLOCK) }
    }

    fn blocks(self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Of the bitmap, in the file: whole pages.
    fn bitmap_len(self) -> u64 {
        self.blocks().div_ceil(8).next_multiple_of(PAGE)
    }

    fn data(self) -> u64 {
        (PAGE + self.bitmap_len()).next_multiple_of(self.block)
    }

    fn header(self, base: &BaseId) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.block.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(base);
        bytes
    }

    /// Where the part of block `index` that lies in the disk is.
    fn range(self, index: u64) -> (u64, u64) {
        let start = index * self.block;
        (start, self.block.min(self.size - start))
    }
}

/// Which blocks are in the overlay's file.
#[derive(Debug)]
struct Bitmap {
    words: Vec<u64>,
    /// By page of the bitmap: it is not on the host's disk yet.
    dirty: Vec<bool>,
}

impl Bitmap {
    fn get(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn set(&mut self, index: u64) {
        let Ok(at) = usize::try_from(index / 64) else { return };
        let Some(word) = self.words.get_mut(at) else { return };
        let bit = 1 << (index % 64);
        if *word & bit == 0 {
            *word |= bit;
            if let Some(dirty) = usize::try_from(index / (8 * PAGE)).ok().and_then(|page| self.dirty.get_mut(page)) {
                *dirty = true;
            }
        }
    }

    /// Page `page` as the file has it.
    fn page(&self, page: usize) -> Vec<u8> {
        let words = PAGE as usize / 8;
        self.words.iter().skip(page * words).take(words).flat_map(|word| word.to_le_bytes()).collect()
    }
}

impl Overlay {
    /// Makes an overlay over `base` with nothing in it, whole or not at all; it takes no time that grows with the disk.
    ///
    /// # Errors
    /// There is such a file, or the host's.
    pub fn create(path: &Path, base: Box<dyn Disk>, id: &BaseId) -> Result<Self, DiskError> {
        let layout = Layout::of(base.size());
        crate::open::make(path, |file| {
            file.set_len(layout.data() + layout.size)?;
            file.write_all_at(&layout.header(id), 0)
        })?;
        Self::open(path, base, id)
    }

    /// The same for an overlay that is of no use after its process has ended: nothing is waited for until it is on the host's disk.
    ///
    /// # Errors
    /// There is such a file, or the host's.
    pub fn create_ephemeral(path: &Path, base: Box<dyn Disk>, id: &BaseId) -> Result<Self, DiskError> {
        let layout = Layout::of(base.size());
        let make = || {
            let file = File::options().write(true).create_new(true).open(path)?;
            file.set_len(layout.data() + layout.size)?;
            file.write_all_at(&layout.header(id), 0)
        };
        make().map_err(DiskError::io("making", path))?;
        Self::open(path, base, id)
    }

    /// Opens the overlay at `path`, which was made over this `base`.
    ///
    /// # Errors
    /// It is none, or over another base; it is in use; or the host's.
    pub fn open(path: &Path, base: Box<dyn Disk>, id: &BaseId) -> Result<Self, DiskError> {
        let file = crate::open::open_file(path, false)?;
        lock::take(&file, path, true)?;
        let other = |problem: &str| DiskError::Overlay { path: path.to_owned(), problem: problem.to_owned() };
        let layout = Layout::of(base.size());
        let expected = layout.header(id);
        let mut header = vec![0; expected.len()];
        match file.read_exact_at(&mut header, 0) {
            Ok(()) if header == expected => {}
            Ok(()) if header.starts_with(&MAGIC) => return Err(other("it was made over another base")),
            Ok(()) => return Err(other("it does not begin as one")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(other("it is cut off")),
            Err(error) => return Err(DiskError::io("reading", path)(error)),
        }
        let len = file.metadata().map_err(DiskError::io("measuring", path))?.len();
        if layout.size > MAX_SIZE || len != layout.data() + layout.size {
            return Err(other("its length is not what it was made with"));
        }
        let mut bytes = vec![0; usize::try_from(layout.bitmap_len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, PAGE).map_err(DiskError::io("reading", path))?;
        let (words, _) = bytes.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let dirty = vec![false; bytes.len() / PAGE as usize];
        let file = ImageFile::new(file);
        Ok(Self { base, file, layout, blocks: RwLock::new(Bitmap { words, dirty }), flushing: Mutex::default() })
    }

    /// The first bytes from `offset` on that are the overlay's own and not the base's: start and end; `None` if there are none.
    pub fn next_changed(&self, offset: u64) -> Option<(u64, u64)> {
        let (block, blocks) = (self.layout.block, self.layout.blocks());
        if offset >= self.layout.size {
            return None;
        }
        let bitmap = self.shared();
        let first = (offset / block..blocks).find(|index| bitmap.get(*index))?;
        let end = (first + 1..blocks).find(|index| !bitmap.get(*index)).unwrap_or(blocks);
        Some(((first * block).max(offset), (end * block).min(self.layout.size)))
    }

    /// The disk that it lies over.
    pub fn base(&self) -> &dyn Disk {
        self.base.as_ref()
    }

    fn shared(&self) -> RwLockReadGuard<'_, Bitmap> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Bitmap> {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks that `len` bytes from `offset` on lie in, at least in part.
    fn touched(&self, offset: u64, len: u64) -> std::ops::Range<u64> {
        offset / self.layout.block..(offset + len).div_ceil(self.layout.block)
    }

    /// Blocks that lie in them whole; the last one of the disk may be short.
    fn covered(&self, offset: u64, len: u64) -> std::ops::Range<u64> {
        let block = self.layout.block;
        let end = offset + len;
        let last = if end == self.layout.size { self.layout.blocks() } else { end / block };
        let first = offset.div_ceil(block);
        first..last.max(first)
    }

    /// Copies a block from the base, so that a part of it can be written.
    fn copy_up(&self, index: u64) -> io::Result<()> {
        let (start, len) = self.layout.range(index);
        let mut data = vec![0; len as usize];
        self.base.read(start, &mut data)?;
        self.file.write(self.layout.data() + start, &data)
    }

    /// Has `write` change these bytes, after their blocks are here as far as it leaves some of them.
    fn change(&self, offset: u64, len: u64, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let touched = self.touched(offset, len);
        {
            let bitmap = self.shared();
            if touched.clone().all(|index| bitmap.get(index)) {
                return write();
            }
        }
        let mut bitmap = self.alone();
        let covered = self.covered(offset, len);
        // Of a range, only the first block and the last can be there in part.
        for index in [touched.start, touched.end.saturating_sub(1)] {
            if !covered.contains(&index) && !bitmap.get(index) {
                self.copy_up(index)?;
            }
        }
        write()?;
        touched.for_each(|index| bitmap.set(index));
        Ok(())
    }
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.layout.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn granularity(&self) -> u32 {
        u32::try_from(self.layout.block).unwrap_or(u32::MAX)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.layout.size;
        let mut at = offset;
        while at < size {
            match (self.next_changed(at), self.base.next_data(at)?) {
                // What is written here, holes among it, has to be read.
                (Some((start, end)), _) if start <= at => return Ok(Some((at, end))),
                (changed, Some((start, end))) => {
                    let limit = changed.map_or(size, |(start, _)| start);
                    if start < limit {
                        return Ok(Some((start, end.min(limit))));
                    }
                    at = limit;
                }
                (Some((start, _)), None) => at = start,
                (None, None) => break,
            }
        }
        Ok(None)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        disk::check(self, offset, data.len() as u64)?;
        let bitmap = self.shared();
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let index = at / self.layout.block;
            let here = bitmap.get(index);
            let end = offset_after_run(&bitmap, index, here, at + rest.len() as u64, self.layout.block);
            let (part, after) = rest.split_at_mut((end - at) as usize);
            if here {
                self.file.read(self.layout.data() + at, part)?;
            } else {
                self.base.read(at, part)?;
            }
            (at, rest) = (end, after);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = data.len() as u64;
        disk::check_write(self, offset, len)?;
        self.change(offset, len, || self.file.write(self.layout.data() + offset, data))
    }

    fn flush(&self) -> io::Result<()> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        // Bits that are set by now have their data written; it is to last before they do.
        let pages: Vec<(usize, Vec<u8>)> = {
            let mut bitmap = self.alone();
            let dirty: Vec<usize> = bitmap.dirty.iter().enumerate().filter(|(_, d)| **d).map(|(at, _)| at).collect();
            bitmap.dirty.fill(false);
            dirty.into_iter().map(|page| (page, bitmap.page(page))).collect()
        };
        let written = self.file.sync().and_then(|()| {
            if pages.is_empty() {
                return Ok(());
            }
            for (page, bytes) in &pages {
                self.file.write(PAGE + *page as u64 * PAGE, bytes)?;
            }
            self.file.sync()
        });
        if written.is_err() {
            let mut bitmap = self.alone();
            for (page, _) in pages {
                if let Some(dirty) = bitmap.dirty.get_mut(page) {
                    *dirty = true;
                }
            }
        }
        written
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        let covered = self.covered(offset, len);
        if covered.is_empty() {
            return Ok(());
        }
        let start = covered.start * self.layout.block;
        let end = (covered.end * self.layout.block).min(self.layout.size);
        self.write_zeroes(start, end - start, true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.change(offset, len, || self.file.clear(self.layout.data() + offset, len))
    }
}

/// Where blocks from `index` on stop being here, or not here; at most `end`.
fn offset_after_run(bitmap: &Bitmap, index: u64, here: bool, end: u64, block: u64) -> u64 {
    let mut next = index + 1;
    while next * block < end && bitmap.get(next) == here {
        next += 1;
    }
    (next * block).min(end)
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let told = self.file.has_failed();
        match self.flush() {
            Ok(()) => {}
            Err(error) if told => tracing::debug!("an overlay is not whole, as was told: {error}"),
            Err(error) => tracing::error!("what was written to an overlay last may be lost: {error}"),
        }
    }
}

const _: () = assert!(MIN_BLOCK.is_multiple_of(SECTOR) && MIN_BLOCK.is_multiple_of(PAGE));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_any_size_has_a_small_bitmap() {
        for size in [SECTOR, 1 << 30, 64 << 30, (64 << 30) + SECTOR, MAX_SIZE] {
            let layout = Layout::of(size);
            assert!(layout.bitmap_len() <= 2 << 20, "{size}");
            assert!(layout.blocks() * layout.block >= size);
            assert!(layout.data() >= PAGE + layout.bitmap_len());
        }
        assert_eq!(Layout::of(64 << 30).block, 4096);
    }
}
