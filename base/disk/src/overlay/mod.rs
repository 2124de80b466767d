//! A machine's own writes over a base that is never written (ADR 18).
//!
//! ```text
//!   header   4 KiB: magic, block size, disk size, what the base is, where the parts lie
//!   bitmap   a bit for each block: the block is here, else it is the base's
//!   data     the blocks, where they lie on the disk; those that are not here are holes
//! ```
//!
//! Bits are only ever set: a block that is given back is here and a hole. A bit is set on the host's disk after
//! the block's data is ([`Overlay::flush`]), so after a crash each block is the base's or whole, and what was
//! flushed is there. Two steps of one flush need no journal, as a bitmap that is half old and half new is right.
//!
//! A disk that grows keeps its blocks where they are. Its bitmap gets a copy behind them, with room for the new ones, and then the
//! header, which is less than a sector, says so. What lies in the file where a block is not here is never read, such as an earlier
//! bitmap; behind the base's end are zeros.

mod bitmap;
mod layout;

use crate::disk::{self, Disk};
use crate::file::ImageFile;
use crate::{DiskError, GrowError, lock};
use bitmap::Bitmap;
use layout::{HEADER_LEN, Layout, PAGE};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What identifies a base: whatever its owner likes, such as a digest. An overlay is of use with no other.
pub type BaseId = [u8; 32];

/// A disk of a base and what was written since.
#[derive(Debug)]
pub struct Overlay {
    base: Box<dyn Disk>,
    id: BaseId,
    file: ImageFile,
    /// As in `blocks`, for those who only ask.
    size: AtomicU64,
    blocks: RwLock<Blocks>,
    /// One flush, or growth, at a time. Locked before `blocks`.
    flushing: Mutex<()>,
}

#[derive(Debug)]
struct Blocks {
    layout: Layout,
    bitmap: Bitmap,
}

impl Overlay {
    /// Makes an overlay over `base` with nothing in it, whole or not at all; it takes no time that grows with the disk.
    ///
    /// # Errors
    /// There is such a file, or the host's.
    pub fn create(path: &Path, base: Box<dyn Disk>, id: &BaseId) -> Result<Self, DiskError> {
        let layout = Layout::of(base.size());
        crate::open::make(path, |file| {
            file.set_len(layout.end())?;
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
            file.set_len(layout.end())?;
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
        let mut header = [0; HEADER_LEN];
        let layout = match file.read_exact_at(&mut header, 0) {
            Ok(()) => Layout::parse(&header, id, base.size()).map_err(other)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(other("it is cut off")),
            Err(error) => return Err(DiskError::io("reading", path)(error)),
        };
        // It is longer if something ended it while it grew.
        let len = file.metadata().map_err(DiskError::io("measuring", path))?.len();
        if len < layout.end() {
            return Err(other("it is shorter than its header says"));
        }
        let mut bytes = vec![0; usize::try_from(layout.bitmap_len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, layout.bitmap).map_err(DiskError::io("reading", path))?;
        let (file, size) = (ImageFile::new(file), layout.size.into());
        let blocks = RwLock::new(Blocks { layout, bitmap: Bitmap::read(&bytes) });
        Ok(Self { base, id: *id, file, size, blocks, flushing: Mutex::default() })
    }

    /// The first bytes from `offset` on that are the overlay's own and not the base's: start and end; `None` if there are none.
    pub fn next_changed(&self, offset: u64) -> Option<(u64, u64)> {
        let blocks = self.shared();
        let (size, block, last) = (blocks.layout.size, blocks.layout.block, blocks.layout.blocks());
        let first = blocks.bitmap.next(offset / block, last, true)?;
        let end = blocks.bitmap.next(first + 1, last, false).unwrap_or(last);
        (offset < size).then(|| ((first * block).max(offset), (end * block).min(size)))
    }

    /// The disk that it lies over.
    pub fn base(&self) -> &dyn Disk {
        self.base.as_ref()
    }

    fn shared(&self) -> RwLockReadGuard<'_, Blocks> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Blocks> {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a block from the base, so that a part of it can be written.
    fn copy_up(&self, layout: Layout, index: u64) -> io::Result<()> {
        let (start, len) = layout.range(index);
        let mut data = vec![0; len as usize];
        disk::read_below(self.base(), start, &mut data)?;
        self.file.write(layout.data + start, &data)
    }

    /// Has `write` change these bytes, after their blocks are here as far as it leaves some of them. It is told where the disk's
    /// first byte would be.
    fn change(&self, offset: u64, len: u64, write: impl Fn(u64) -> io::Result<()>) -> io::Result<()> {
        {
            let blocks = self.shared();
            let touched = blocks.layout.touched(offset, len);
            if blocks.bitmap.next(touched.start, touched.end, false).is_none() {
                return write(blocks.layout.data);
            }
        }
        let mut blocks = self.alone();
        let layout = blocks.layout;
        let (touched, covered) = (layout.touched(offset, len), layout.covered(offset, len));
        // Of a range, only the first block and the last can be there in part.
        for index in [touched.start, touched.end.saturating_sub(1)] {
            if !covered.contains(&index) && !blocks.bitmap.get(index) {
                self.copy_up(layout, index)?;
            }
        }
        write(layout.data)?;
        touched.for_each(|index| blocks.bitmap.set(index));
        Ok(())
    }

    /// Writes pages of the bitmap to where it lies.
    fn write_pages(&self, bitmap: u64, pages: impl IntoIterator<Item = (usize, Vec<u8>)>) -> io::Result<()> {
        pages.into_iter().try_for_each(|(page, bytes)| self.file.write(bitmap + page as u64 * PAGE, &bytes))
    }
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn granularity(&self) -> u32 {
        u32::try_from(self.shared().layout.block).unwrap_or(u32::MAX)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.size();
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
        let blocks = self.shared();
        let Layout { block, data: first, .. } = blocks.layout;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let index = at / block;
            let here = blocks.bitmap.get(index);
            let end = at + rest.len() as u64;
            let end = blocks.bitmap.next(index + 1, end.div_ceil(block), !here).map_or(end, |next| next * block);
            let (part, after) = rest.split_at_mut((end - at) as usize);
            if here {
                self.file.read(first + at, part)?;
            } else {
                disk::read_below(self.base(), at, part)?;
            }
            (at, rest) = (end, after);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = data.len() as u64;
        disk::check_write(self, offset, len)?;
        self.change(offset, len, |first| self.file.write(first + offset, data))
    }

    fn flush(&self) -> io::Result<()> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        // Bits that are set by now have their data written; it is to last before they do.
        let (place, pages): (u64, Vec<(usize, Vec<u8>)>) = {
            let mut blocks = self.alone();
            let dirty = blocks.bitmap.take_dirty();
            (blocks.layout.bitmap, dirty.into_iter().map(|page| (page, blocks.bitmap.page(page))).collect())
        };
        let written = self.file.sync().and_then(|()| {
            if pages.is_empty() {
                return Ok(());
            }
            self.write_pages(place, pages.iter().cloned())?;
            self.file.sync()
        });
        if written.is_err() {
            let mut blocks = self.alone();
            pages.iter().for_each(|(page, _)| blocks.bitmap.set_dirty(*page));
        }
        written
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        let layout = self.shared().layout;
        let covered = layout.covered(offset, len);
        if covered.is_empty() {
            return Ok(());
        }
        let start = covered.start * layout.block;
        let end = (covered.end * layout.block).min(layout.size);
        self.write_zeroes(start, end - start, true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.change(offset, len, |first| self.file.clear(first + offset, len))
    }

    fn grow(&self, size: u64) -> Result<(), GrowError> {
        // Most of what waits to be written is, before others have to wait.
        self.flush()?;
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if !disk::check_growth(self, size)? {
            return Ok(());
        }
        let mut blocks = self.alone();
        let old = blocks.layout;
        let new = old.grown(size).ok_or(GrowError::TooLarge { most: old.most() })?;
        // As in a flush: data, bits, and here what says where the bits are.
        self.file.sync()?;
        self.file.set_len(new.end())?;
        // An attempt that something ended may have left bits there.
        self.file.clear(new.bitmap, new.bitmap_len())?;
        self.write_pages(new.bitmap, blocks.bitmap.used().map(|page| (page, blocks.bitmap.page(page))))?;
        self.file.sync()?;
        self.file.write(0, &new.header(&self.id))?;
        self.file.sync()?;
        blocks.layout = new;
        blocks.bitmap.grow(new.bitmap_len());
        self.size.store(size, Ordering::Release);
        if let Err(error) = self.file.clear(old.bitmap, old.bitmap_len()) {
            tracing::debug!("an overlay's earlier bitmap goes on taking space: {error}");
        }
        Ok(())
    }
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
