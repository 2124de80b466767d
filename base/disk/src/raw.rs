//! A disk that lies in a file, or on a block device, as it is.

use crate::disk::{self, Disk, MAX_SIZE, SECTOR};
use crate::file::Syncs;
use crate::{DiskError, GrowError, lock};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What most file systems keep files in.
const GRANULARITY: u32 = 4096;

/// A raw disk. Holes of the file are zeros and take no space.
#[derive(Debug)]
pub struct Raw {
    file: File,
    syncs: Syncs,
    size: AtomicU64,
    read_only: bool,
    /// One growth at a time.
    growing: Mutex<()>,
}

impl Raw {
    /// Takes an open file for a disk, and its lock.
    ///
    /// # Errors
    /// It is in use, or its size is none that a disk has.
    pub(crate) fn new(mut file: File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        lock::take(&file, path, !read_only)?;
        // Of a block device, too.
        let size = file.seek(SeekFrom::End(0)).map_err(DiskError::io("measuring", path))?;
        match size {
            0 => Err(DiskError::Empty(path.to_owned())),
            _ if size > MAX_SIZE => Err(DiskError::TooLarge { path: path.to_owned(), size }),
            _ if !size.is_multiple_of(SECTOR) => Err(DiskError::OddSize { path: path.to_owned(), size }),
            _ => {
                let (syncs, size) = (Syncs::default(), size.into());
                Ok(Self { file, syncs, size, read_only, growing: Mutex::default() })
            }
        }
    }
}

/// Makes a hole of zeros; false if the host cannot.
pub(crate) fn punch(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
}

fn fallocate(file: &File, how: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
    if len == 0 {
        return Ok(true);
    }
    loop {
        match rustix::fs::fallocate(file, how, offset, len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Disk for Raw {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn granularity(&self) -> u32 {
        GRANULARITY
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.size();
        if offset >= size {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start / SECTOR * SECTOR,
            // Nothing but a hole up to the end (lseek(2)).
            Err(Errno::NXIO) => return Ok(None),
            // A host, or a device, that does not know.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
            Err(error) => return Err(error.into()),
        };
        let start = start.max(offset);
        let end = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))?;
        Ok((start < size).then(|| (start, end.next_multiple_of(SECTOR).clamp(start + SECTOR, size))))
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        disk::check(self, offset, data.len() as u64)?;
        self.file.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        disk::check_write(self, offset, data.len() as u64)?;
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.syncs.run(|| self.file.sync_data()) }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        punch(&self.file, offset, len).map(|_| ())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        if fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, len)? {
            return Ok(());
        }
        disk::write_zeros(offset, len, |at, zeros| self.file.write_all_at(zeros, at))
    }

    fn grow(&self, size: u64) -> Result<(), GrowError> {
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if !disk::check_growth(self, size)? {
            return Ok(());
        }
        if self.file.metadata()?.is_file() {
            self.file.set_len(size)?;
            self.syncs.run(|| self.file.sync_all())?;
        } else {
            let measured = (&self.file).seek(SeekFrom::End(0))?;
            if measured != size {
                return Err(GrowError::BlockDevice { size: measured });
            }
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}
