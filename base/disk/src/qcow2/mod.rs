//! qcow2 images (QEMU, docs/interop/qcow2.txt), versions 2 and 3, with backing files and compressed clusters (ADR 18).

pub mod chain;
mod create;
mod entry;
pub mod header;
mod refcounts;
mod tables;

pub(crate) use create::create;
#[cfg(test)]
pub(crate) use create::create_with;

use crate::disk::{self, Disk};
use crate::file::ImageFile;
use crate::{DiskError, GrowError, lock};
use entry::{COPIED, Cluster, ZERO};
use flate2::{Decompress, FlushDecompress, Status};
use header::{Header, MAX_L1, at, l1_entries};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tables::Tables;

/// A disk in a qcow2 image.
#[derive(Debug)]
pub struct Qcow2 {
    file: ImageFile,
    /// Read-locked while clusters are read and written where they lie, write-locked while tables change.
    tables: RwLock<Tables>,
    backing: Option<Box<dyn Disk>>,
    size: AtomicU64,
    cluster_bits: u32,
    version: u32,
    read_only: bool,
    /// One growth at a time. Locked before `tables`.
    growing: Mutex<()>,
    /// There is something to flush.
    written: AtomicBool,
}

/// What lies in one place: bytes of the disk, and where they are.
struct Run {
    len: usize,
    found: Cluster,
}

impl Qcow2 {
    /// Takes an open file for an image, and its lock and its backing files'.
    pub(crate) fn new(file: File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let same = file.try_clone().map_err(DiskError::io("opening", path))?;
        Self::with_backing(file, path, read_only, |header| chain::open_backing(&same, path, header))
    }

    /// The same where something else knows how to open its backing file.
    pub(crate) fn with_backing(
        file: File,
        path: &Path,
        read_only: bool,
        backing: impl FnOnce(&Header) -> Result<Option<Box<dyn Disk>>, DiskError>,
    ) -> Result<Self, DiskError> {
        lock::take(&file, path, !read_only)?;
        let header = chain::read_header(&file, path)?;
        if header.has_snapshots && !read_only {
            let problem = "has snapshots in it, so it can only be used read-only (qemu-img convert)".to_owned();
            return Err(DiskError::Qcow2 { path: path.to_owned(), problem });
        }
        let backing = backing(&header)?;
        let file = ImageFile::new(file);
        let failed = || DiskError::io("opening", path);
        if header.autoclear != 0 && !read_only {
            file.write(at::AUTOCLEAR as u64, &[0; 8]).and_then(|()| file.sync()).map_err(failed())?;
        }
        let tables = Tables::load(&file, &header, !read_only).map_err(failed())?;
        Ok(Self {
            file,
            tables: RwLock::new(tables),
            backing,
            size: header.size.into(),
            cluster_bits: header.cluster_bits,
            version: header.version,
            read_only,
            growing: Mutex::default(),
            written: AtomicBool::new(false),
        })
    }

    fn shared(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// What the bytes from `offset` on are, with those after them that lie behind them, at most `len`; `None` if the
    /// table is not in memory.
    fn run(&self, tables: &Tables, offset: u64, len: usize) -> Option<Run> {
        let size = self.cluster();
        let number = offset >> self.cluster_bits;
        let found = tables.find(number)?;
        let mut covered = size - offset % size;
        let mut next = number + 1;
        while covered < len as u64 {
            let follows = match (found, tables.find(next)) {
                (Cluster::Data { offset, own }, Some(other)) => {
                    other == Cluster::Data { offset: offset + (next - number) * size, own }
                }
                (Cluster::Below | Cluster::Zeros, Some(other)) => other == found,
                _ => false,
            };
            if !follows {
                break;
            }
            covered += size;
            next += 1;
        }
        Some(Run { len: usize::try_from(covered).unwrap_or(len).min(len), found })
    }

    /// Reads what is all in one place.
    fn read_run(&self, offset: u64, data: &mut [u8], found: Cluster) -> io::Result<()> {
        let within = offset % self.cluster();
        match found {
            Cluster::Data { offset, .. } => self.file.read(offset + within, data),
            Cluster::Zeros => {
                data.fill(0);
                Ok(())
            }
            Cluster::Below => self.read_below(offset, data),
            Cluster::Compressed { offset, len } => {
                let plain = self.decompress(offset, len)?;
                let start = within as usize;
                let plain = start.checked_add(data.len()).and_then(|end| plain.get(start..end));
                data.copy_from_slice(plain.ok_or_else(|| damaged("a compressed cluster is too short"))?);
                Ok(())
            }
            Cluster::Damaged => Err(damaged("a cluster lies where none can")),
        }
    }

    /// Reads of the backing file, if there is one.
    fn read_below(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if let Some(backing) = &self.backing {
            return disk::read_below(&**backing, offset, data);
        }
        data.fill(0);
        Ok(())
    }

    fn decompress(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let size = 1usize << self.cluster_bits;
        // It takes no more than the cluster does, and a sector: the format's own bound on `len` is twice that.
        let packed = self.file.read_vec(offset, len)?;
        let mut plain = vec![0; size];
        let mut inflate = Decompress::new(false);
        let status = inflate.decompress(&packed, &mut plain, FlushDecompress::Finish);
        let whole = inflate.total_out() == size as u64;
        match status {
            // The padding behind the data is no error, nor is more of it.
            Ok(Status::StreamEnd | Status::Ok | Status::BufError) if whole => Ok(plain),
            _ => Err(damaged("a compressed cluster cannot be decompressed")),
        }
    }

    /// Writes to one cluster that has to be made first.
    fn write_new(&self, tables: &mut Tables, offset: u64, data: &[u8]) -> io::Result<()> {
        let number = offset >> self.cluster_bits;
        tables.load_table(&self.file, number)?;
        let found = tables.find(number).ok_or_else(|| damaged("a table is lost"))?;
        let size = self.cluster();
        let within = offset % size;
        if let Cluster::Data { offset, own: true } = found {
            // Somebody else has made it meanwhile.
            return self.file.write(offset + within, data);
        }
        let place = tables.take(&self.file)?;
        let is_zeros = found == Cluster::Zeros || (found == Cluster::Below && self.backing.is_none());
        if is_zeros || data.len() as u64 == size {
            self.file.write(place + within, data)?;
        } else {
            let start = offset - within;
            // What is written may lie behind the disk's end, which is about to move.
            let len = size.min(self.size().max(offset + data.len() as u64) - start);
            let mut whole = vec![0; len as usize];
            self.read_run(start, &mut whole, found)?;
            let target = whole.get_mut(within as usize..within as usize + data.len());
            target.ok_or_else(short)?.copy_from_slice(data);
            self.file.write(place, &whole)?;
        }
        tables.set(&self.file, number, place | COPIED)
    }

    /// Has whole clusters read as zeros and take no space; false if the image has no way to say so.
    fn unmap(&self, start: u64, end: u64) -> io::Result<bool> {
        let entry = match (&self.backing, self.version) {
            (None, _) => 0,
            (Some(_), 3..) => ZERO,
            (Some(_), _) => return Ok(false),
        };
        let mut tables = self.alone();
        for number in start >> self.cluster_bits..end.div_ceil(self.cluster()) {
            tables.load_table(&self.file, number)?;
            if tables.entry(number).is_some_and(|now| now != entry) {
                tables.set(&self.file, number, entry)?;
            }
        }
        Ok(true)
    }

    /// The clusters that lie in a range whole: start and end.
    fn whole_clusters(&self, offset: u64, len: u64) -> (u64, u64) {
        let cluster = self.cluster();
        // The disk's last cluster may be short.
        let end = offset + len;
        let end = if end == self.size() { end } else { end / cluster * cluster };
        (offset.next_multiple_of(cluster), end)
    }

    /// Writes zeros where there are none.
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        disk::write_zeros(offset, len, |at, zeros| self.write_clusters(at, zeros))
    }

    /// Writes to where the first-level table reaches.
    fn write_clusters(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let tables = self.shared();
            let in_place = matches!(tables.find(at >> self.cluster_bits), Some(Cluster::Data { own: true, .. }));
            let done = match in_place.then(|| self.run(&tables, at, rest.len())).flatten() {
                Some(Run { len, found: Cluster::Data { offset, .. } }) => {
                    let within = at % self.cluster();
                    self.file.write(offset + within, rest.get(..len).unwrap_or_default())?;
                    len
                }
                _ => {
                    drop(tables);
                    let left = (self.cluster() - at % self.cluster()) as usize;
                    let part = rest.get(..left).unwrap_or(rest);
                    self.write_new(&mut self.alone(), at, part)?;
                    part.len()
                }
            };
            at += done as u64;
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(())
    }

    /// Has what lies behind the disk's end, up to `end`, read as zeros: what its last cluster has there, and what a backing file has
    /// that is larger than the disk was.
    fn clear_behind(&self, end: u64) -> io::Result<()> {
        let size = self.size();
        let below = self.backing.as_ref().map_or(0, |backing| backing.size()).min(end);
        let boundary = size.next_multiple_of(self.cluster()).min(end);
        let number = size >> self.cluster_bits;
        if size < boundary {
            self.alone().load_table(&self.file, number)?;
            let found = self.shared().find(number);
            if found != Some(Cluster::Zeros) && (found != Some(Cluster::Below) || below > size) {
                self.write_zeros(size, boundary - size)?;
            }
        }
        if boundary < below && !self.unmap(boundary, below)? {
            self.write_zeros(boundary, below - boundary)?;
        }
        Ok(())
    }
}

fn short() -> io::Error {
    damaged("the disk ends in a cluster")
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the qcow2 image is damaged ({what}); see qemu-img check"))
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the disk is read-only")
}

impl Disk for Qcow2 {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn granularity(&self) -> u32 {
        1 << self.cluster_bits
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let (size, mut at) = (self.size(), offset);
        while at < size {
            let tables = self.shared();
            let Some(run) = self.run(&tables, at, usize::try_from(size - at).unwrap_or(usize::MAX)) else {
                drop(tables);
                self.alone().load_table(&self.file, at >> self.cluster_bits)?;
                continue;
            };
            let end = at + run.len as u64;
            match (run.found, &self.backing) {
                (Cluster::Zeros, _) | (Cluster::Below, None) => at = end,
                (Cluster::Below, Some(backing)) => match backing.next_data(at)? {
                    Some((start, until)) if start < end => return Ok(Some((start, until.min(end)))),
                    _ => at = end,
                },
                _ => return Ok(Some((at, end))),
            }
        }
        Ok(None)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        disk::check(self, offset, data.len() as u64)?;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let tables = self.shared();
            let Some(run) = self.run(&tables, at, rest.len()) else {
                drop(tables);
                self.alone().load_table(&self.file, at >> self.cluster_bits)?;
                continue;
            };
            let (part, after) = rest.split_at_mut(run.len);
            self.read_run(at, part, run.found)?;
            at += run.len as u64;
            rest = after;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        disk::check_write(self, offset, data.len() as u64)?;
        self.written.store(true, Ordering::Relaxed);
        self.write_clusters(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        if !self.written.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.alone().commit(&self.file).inspect_err(|_| self.written.store(true, Ordering::Relaxed))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        self.written.store(true, Ordering::Relaxed);
        let (start, end) = self.whole_clusters(offset, len);
        if start < end { self.unmap(start, end).map(|_| ()) } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        disk::check_write(self, offset, len)?;
        self.written.store(true, Ordering::Relaxed);
        let (start, end) = self.whole_clusters(offset, len);
        if !unmap || start >= end || !self.unmap(start, end)? {
            return self.write_zeros(offset, len);
        }
        self.write_zeros(offset, start - offset)?;
        self.write_zeros(end, offset + len - end)
    }

    fn grow(&self, size: u64) -> Result<(), GrowError> {
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if !disk::check_growth(self, size)? {
            return Ok(());
        }
        let entries = l1_entries(size, self.cluster_bits);
        if entries > MAX_L1.into() {
            return Err(GrowError::TooLarge { most: u64::from(MAX_L1) << (2 * self.cluster_bits - 3) });
        }
        self.written.store(true, Ordering::Relaxed);
        self.alone().grow_l1(&self.file, entries)?;
        self.clear_behind(size)?;
        let mut tables = self.alone();
        tables.commit(&self.file)?;
        self.file.write(at::SIZE as u64, &size.to_be_bytes())?;
        self.file.sync()?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        let told = self.file.has_failed();
        match self.alone().close(&self.file) {
            Ok(()) => {}
            Err(error) if told => tracing::debug!("a qcow2 image is not whole, as was told: {error}"),
            Err(error) => tracing::error!("what was written to a qcow2 image last may be lost: {error}"),
        }
    }
}
