//! The two levels of tables from the disk's clusters to the file's, and in which order changes of them reach the
//! host's disk.
//!
//! ```text
//!   in memory: entries change, clusters are taken, what they replace is noted
//!   commit:    1. refcounts that went up; tables that are new          nothing refers to these yet
//!                 ── sync, with all data written so far ──
//!              2. where new blocks of refcounts lie                    (only if there are any) ── sync ──
//!              3. entries of tables: now the new clusters are the disk's
//!                 ── sync ──
//!              4. what nobody refers to any more: a hole, refcounts that went down, to be taken again
//! ```
//!
//! So after a crash at any point the image is as after the commit before it or as after this one; at worst
//! clusters are counted that nobody refers to, which wastes space and no more. Between commits nothing of the
//! tables is written, and no cluster that the file's tables refer to is given to anything else.

use super::damaged;
use super::entry::{self, COPIED, Cluster};
use super::header::{Header, at};
use super::refcounts::{Moved, Refcounts};
use crate::file::ImageFile;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of second-level tables in memory.
const KEPT: u64 = 32 << 20;
/// But so many at least.
const MIN_TABLES: u64 = 8;
/// Ranges of clusters that wait to be released at most, before there is a commit.
const MAX_RELEASES: usize = 1 << 16;

/// A second-level table.
#[derive(Debug)]
struct Table {
    entries: Vec<u64>,
    /// Where it lies, in bytes.
    offset: u64,
    /// The file's first-level table does not refer to it yet.
    new: bool,
    dirty: bool,
    used: AtomicU64,
}

#[derive(Debug)]
pub struct Tables {
    cluster_bits: u32,
    version: u32,
    l1_offset: u64,
    l1: Vec<u64>,
    tables: BTreeMap<usize, Table>,
    clock: AtomicU64,
    /// `None` if the image is only read.
    refcounts: Option<Refcounts>,
    /// Clusters that tables refer to no more: the first, and how many.
    releases: Vec<(u64, u64)>,
}

impl Tables {
    pub fn load(file: &ImageFile, header: &Header, write: bool) -> io::Result<Self> {
        let bytes = file.read_vec(header.l1_offset, u64::from(header.l1_size) * 8)?;
        let (entries, _) = bytes.as_chunks::<8>();
        Ok(Self {
            cluster_bits: header.cluster_bits,
            version: header.version,
            l1_offset: header.l1_offset,
            l1: entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect(),
            tables: BTreeMap::new(),
            clock: AtomicU64::new(0),
            refcounts: if write { Some(Refcounts::load(file, header)?) } else { None },
            releases: Vec::new(),
        })
    }

    fn place(&self, cluster: u64) -> (usize, usize) {
        let bits = self.cluster_bits - 3;
        // Both are bounded by the disk's size.
        ((cluster >> bits) as usize, (cluster & ((1 << bits) - 1)) as usize)
    }

    /// The entry of the disk's cluster number `cluster`; `None` if its table is not in memory.
    pub fn entry(&self, cluster: u64) -> Option<u64> {
        let (first, second) = self.place(cluster);
        match self.tables.get(&first) {
            Some(table) => {
                table.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
                table.entries.get(second).copied()
            }
            None if self.l1.get(first).is_none_or(|entry| *entry == 0) => Some(0),
            None => None,
        }
    }

    /// Where the disk's cluster lies; `None` as [`Tables::entry`].
    pub fn find(&self, cluster: u64) -> Option<Cluster> {
        Some(entry::decode(self.entry(cluster)?, self.cluster_bits, self.version))
    }

    /// Has the table of a cluster in memory.
    pub fn load_table(&mut self, file: &ImageFile, cluster: u64) -> io::Result<()> {
        let (first, _) = self.place(cluster);
        let Some(&l1_entry) = self.l1.get(first) else { return Err(damaged("its first-level table is too short")) };
        if self.tables.contains_key(&first) || l1_entry == 0 {
            return Ok(());
        }
        let Some(offset) = entry::table_offset(l1_entry, self.cluster_bits) else {
            return Err(damaged("a second-level table lies where none can"));
        };
        self.make_room(file)?;
        let bytes = file.read_vec(offset, 1 << self.cluster_bits)?;
        let (entries, _) = bytes.as_chunks::<8>();
        let entries = entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect();
        self.tables.insert(first, Table { entries, offset, new: false, dirty: false, used: self.now() });
        Ok(())
    }

    fn now(&self) -> AtomicU64 {
        AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    /// Forgets the table that was used longest ago if there are many.
    fn make_room(&mut self, file: &ImageFile) -> io::Result<()> {
        let most = (KEPT >> self.cluster_bits).max(MIN_TABLES);
        if (self.tables.len() as u64) < most {
            return Ok(());
        }
        if self.tables.values().all(|table| table.dirty) {
            self.commit(file)?;
        }
        let clean = self.tables.iter().filter(|(_, table)| !table.dirty);
        if let Some((&oldest, _)) = clean.min_by_key(|(_, table)| table.used.load(Ordering::Relaxed)) {
            self.tables.remove(&oldest);
        }
        Ok(())
    }

    /// Takes a cluster that reads as zeros: its offset.
    pub fn take(&mut self, file: &ImageFile) -> io::Result<u64> {
        let refcounts = self.refcounts.as_mut().ok_or_else(super::read_only)?;
        let taken = refcounts.take(file)?;
        let offset = taken.cluster << self.cluster_bits;
        if taken.stale {
            file.clear(offset, 1 << self.cluster_bits)?;
        }
        Ok(offset)
    }

    /// Lets the disk's cluster be what `entry` says. Its table must be in memory, if it has one.
    pub fn set(&mut self, file: &ImageFile, cluster: u64, entry: u64) -> io::Result<()> {
        let (first, second) = self.place(cluster);
        self.own_table(file, first)?;
        let (bits, version) = (self.cluster_bits, self.version);
        let Some(table) = self.tables.get_mut(&first) else { return Err(damaged("a table is lost")) };
        let Some(place) = table.entries.get_mut(second) else { return Err(damaged("a table is too short")) };
        let old = std::mem::replace(place, entry);
        table.dirty = true;
        let (start, count) = entry::refers_to(old, bits, version);
        if count > 0 {
            self.release(start, count);
        }
        let swollen = self.refcounts.as_ref().is_some_and(Refcounts::is_swollen);
        if swollen || self.releases.len() > MAX_RELEASES { self.commit(file) } else { Ok(()) }
    }

    fn release(&mut self, first: u64, count: u64) {
        match self.releases.last_mut() {
            Some((start, len)) if *start + *len == first => *len += count,
            _ => self.releases.push((first, count)),
        }
    }

    /// Makes sure that there is a table that may be written.
    fn own_table(&mut self, file: &ImageFile, first: usize) -> io::Result<()> {
        let Some(&l1_entry) = self.l1.get(first) else { return Err(damaged("its first-level table is too short")) };
        match (self.tables.contains_key(&first), l1_entry) {
            (true, _) if l1_entry & COPIED != 0 => return Ok(()),
            (true, _) => {}
            (false, 0) => self.make_room(file)?,
            (false, _) => return Err(damaged("a table is lost")),
        }
        let offset = self.take(file)?;
        let mut old = None;
        match self.tables.get_mut(&first) {
            Some(table) => {
                old = Some(std::mem::replace(&mut table.offset, offset));
                table.new = true;
                table.dirty = true;
            }
            None => {
                let entries = vec![0; 1 << (self.cluster_bits - 3)];
                let used = self.now();
                self.tables.insert(first, Table { entries, offset, new: true, dirty: true, used });
            }
        }
        if let Some(entry) = self.l1.get_mut(first) {
            *entry = offset | COPIED;
        }
        if let Some(old) = old {
            self.release(old >> self.cluster_bits, 1);
        }
        Ok(())
    }

    /// Makes all changes last, with all data written before.
    pub fn commit(&mut self, file: &ImageFile) -> io::Result<()> {
        let Some(refcounts) = self.refcounts.as_mut() else { return Ok(()) };
        let moved = refcounts.grow(file)?;
        if refcounts.file_len() > file.len()? {
            // QEMU takes a cluster for damaged that the file ends in.
            file.set_len(refcounts.file_len())?;
        }
        refcounts.write_blocks(file)?;
        if let Some(moved) = &moved {
            refcounts.write_moved(file, moved)?;
        }
        for table in self.tables.values().filter(|table| table.new && table.dirty) {
            write_entries(file, table)?;
        }
        file.sync()?;
        if let Some(moved) = moved {
            self.move_refcounts(file, &moved)?;
        } else if refcounts.has_new_blocks() {
            refcounts.write_table(file)?;
            file.sync()?;
        }
        if self.tables.values().any(|table| table.dirty) {
            self.write_tables(file)?;
            file.sync()?;
        }
        self.settle(file)
    }

    /// Makes the first-level table one of `entries`: a longer one behind the end, which the header names when it is on the host's disk
    /// and counted.
    pub fn grow_l1(&mut self, file: &ImageFile, entries: u64) -> io::Result<()> {
        let Ok(wanted) = usize::try_from(entries) else { return Err(damaged("its disk is too large")) };
        if wanted <= self.l1.len() {
            return Ok(());
        }
        // The table in the file is the one in memory then.
        self.commit(file)?;
        let clusters = |entries: usize| (entries as u64 * 8).div_ceil(1 << self.cluster_bits);
        let (old, new) = (clusters(self.l1.len()), clusters(wanted));
        let refcounts = self.refcounts.as_mut().ok_or_else(super::read_only)?;
        let place = refcounts.append(file, new)? << self.cluster_bits;
        let mut bytes: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        bytes.resize((new << self.cluster_bits) as usize, 0);
        file.write(place, &bytes)?;
        self.commit(file)?;
        // Next to each other in one sector, so both or none.
        let mut fields = u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        fields.extend(place.to_be_bytes());
        file.write(at::L1_SIZE as u64, &fields)?;
        file.sync()?;
        self.release(self.l1_offset >> self.cluster_bits, old);
        self.l1.resize(wanted, 0);
        self.l1_offset = place;
        self.settle(file)
    }

    fn move_refcounts(&mut self, file: &ImageFile, moved: &Moved) -> io::Result<()> {
        // Next to each other in one sector, so both or none.
        let mut fields = moved.offset.to_be_bytes().to_vec();
        fields.extend(moved.clusters.to_be_bytes());
        file.write(at::REFCOUNT_OFFSET as u64, &fields)?;
        file.sync()?;
        if let Some((first, count)) = self.refcounts.as_mut().map(|refcounts| refcounts.moved(moved)) {
            self.release(first, count);
        }
        Ok(())
    }

    fn write_tables(&mut self, file: &ImageFile) -> io::Result<()> {
        for (&first, table) in self.tables.iter_mut().filter(|(_, table)| table.dirty) {
            if table.new {
                let entry = self.l1.get(first).copied().unwrap_or(0);
                file.write(self.l1_offset + first as u64 * 8, &entry.to_be_bytes())?;
            } else {
                write_entries(file, table)?;
            }
        }
        for table in self.tables.values_mut() {
            (table.new, table.dirty) = (false, false);
        }
        Ok(())
    }

    /// What nobody refers to goes back to the host. Refcounts that went down are written some time.
    fn settle(&mut self, file: &ImageFile) -> io::Result<()> {
        let Some(refcounts) = self.refcounts.as_mut() else { return Ok(()) };
        for (first, count) in std::mem::take(&mut self.releases) {
            let freed = refcounts.release(file, first, count)?;
            for run in freed.chunk_by(|one, next| one + 1 == *next) {
                let start = run.first().copied().unwrap_or(0);
                file.clear(start << self.cluster_bits, (run.len() as u64) << self.cluster_bits)?;
                // The last one is taken first: so what is written one after the other lies so.
                run.iter().rev().for_each(|cluster| refcounts.reuse(*cluster));
            }
        }
        Ok(())
    }

    /// Before the image is closed: refcounts that went down since.
    pub fn close(&mut self, file: &ImageFile) -> io::Result<()> {
        self.commit(file)?;
        let Some(refcounts) = self.refcounts.as_mut() else { return Ok(()) };
        if refcounts.write_blocks(file)? { file.sync() } else { Ok(()) }
    }
}

fn write_entries(file: &ImageFile, table: &Table) -> io::Result<()> {
    let bytes: Vec<u8> = table.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write(table.offset, &bytes)
}
