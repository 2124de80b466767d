//! Which clusters of an image's file are in use (QEMU, docs/interop/qcow2.txt, "Host cluster management").

use super::header::Header;
use crate::file::ImageFile;
use std::collections::BTreeMap;
use std::io;

/// Entries of the table at most: what the header allows.
const MAX_TABLE: u64 = (8 << 20) / 8;
/// Blocks kept in memory beyond those that are to be written.
const KEPT: usize = 64;
/// Clusters freed in this session that are known to be free; the rest is found by looking.
const MAX_FREE: usize = 1 << 16;

/// Clusters looked at for a free one at a time, so that nobody waits long in a large image.
const LOOKS: u64 = 4096;

/// A block of refcounts.
#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    /// Where it lies, in bytes.
    offset: u64,
    dirty: bool,
}

/// The refcounts of an image that is written.
#[derive(Debug)]
pub struct Refcounts {
    cluster_bits: u32,
    order: u32,
    /// Entries are offsets of blocks, or 0.
    table: Vec<u64>,
    table_offset: u64,
    /// Of the table in the file, in clusters; more entries than fit there wait for a place.
    table_clusters: u64,
    /// Entries that are not in the file yet.
    dirty_entries: Vec<usize>,
    blocks: BTreeMap<usize, Block>,
    free: Vec<u64>,
    /// Clusters before this one have been looked at.
    looked: u64,
    /// The first cluster behind the file's end.
    end: u64,
}

/// A cluster to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub cluster: u64,
    /// It may hold what was written to it before.
    pub stale: bool,
}

/// What is to be written of a table that moved.
#[derive(Debug)]
pub struct Moved {
    pub offset: u64,
    pub clusters: u32,
    old: (u64, u64),
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the qcow2 image has no room for more clusters in its refcount table")
}

impl Refcounts {
    pub fn load(file: &ImageFile, header: &Header) -> io::Result<Self> {
        let len = u64::from(header.refcount_clusters) << header.cluster_bits;
        let bytes = file.read_vec(header.refcount_table, len)?;
        let (entries, _) = bytes.as_chunks::<8>();
        Ok(Self {
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            table: entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect(),
            table_offset: header.refcount_table,
            table_clusters: header.refcount_clusters.into(),
            dirty_entries: Vec::new(),
            blocks: BTreeMap::new(),
            free: Vec::new(),
            looked: 0,
            end: file.len()?.div_ceil(1 << header.cluster_bits).max(1),
        })
    }

    /// log2 of a block's refcounts.
    fn block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.order
    }

    fn place(&self, cluster: u64) -> io::Result<(usize, u64)> {
        let index = cluster >> self.block_bits();
        let index = usize::try_from(index).ok().filter(|_| index < MAX_TABLE).ok_or_else(full)?;
        Ok((index, cluster & ((1 << self.block_bits()) - 1)))
    }

    /// Has a block in memory; false if there is none.
    fn load_block(&mut self, file: &ImageFile, index: usize) -> io::Result<bool> {
        if self.blocks.contains_key(&index) {
            return Ok(true);
        }
        let offset = self.table.get(index).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(false);
        }
        if offset % (1 << self.cluster_bits) != 0 || offset >> 56 != 0 {
            return Err(super::damaged("a block of refcounts lies where none can"));
        }
        if self.blocks.len() >= KEPT {
            self.blocks.retain(|_, block| block.dirty);
        }
        let bytes = file.read_vec(offset, 1 << self.cluster_bits)?;
        self.blocks.insert(index, Block { bytes, offset, dirty: false });
        Ok(true)
    }

    fn get(&mut self, file: &ImageFile, cluster: u64) -> io::Result<u64> {
        let (index, within) = self.place(cluster)?;
        if !self.load_block(file, index)? {
            return Ok(0);
        }
        let order = self.order;
        Ok(self.blocks.get(&index).map_or(0, |block| field(&block.bytes, order, within)))
    }

    /// The block must be in memory.
    fn set(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        let (index, within) = self.place(cluster)?;
        let order = self.order;
        if let Some(block) = self.blocks.get_mut(&index) {
            set_field(&mut block.bytes, order, within, count);
            block.dirty = true;
        }
        Ok(())
    }

    /// Takes a cluster that nobody uses.
    ///
    /// # Errors
    /// The table is full, or the host's.
    pub fn take(&mut self, file: &ImageFile) -> io::Result<Taken> {
        if let Some(cluster) = self.free.pop() {
            self.make_block(file, cluster)?;
            self.set(cluster, 1)?;
            return Ok(Taken { cluster, stale: false });
        }
        for cluster in self.looked..self.end.min(self.looked + LOOKS) {
            self.looked = cluster + 1;
            // The header's is in use whatever is said of it.
            if cluster > 0 && self.get(file, cluster)? == 0 {
                self.make_block(file, cluster)?;
                self.set(cluster, 1)?;
                return Ok(Taken { cluster, stale: true });
            }
        }
        let cluster = self.append(file, 1)?;
        Ok(Taken { cluster, stale: false })
    }

    /// Takes `count` clusters behind the end, one after the other: the first.
    ///
    /// # Errors
    /// The table is full, or the host's.
    pub fn append(&mut self, file: &ImageFile, count: u64) -> io::Result<u64> {
        let first = self.end;
        self.end = first.checked_add(count).filter(|end| *end >> (56 - self.cluster_bits) == 0).ok_or_else(full)?;
        for cluster in first..first + count {
            self.make_block(file, cluster)?;
            self.set(cluster, 1)?;
        }
        Ok(first)
    }

    /// Makes sure that `cluster` has a block of refcounts. A new one lies behind the end, and may be the one that
    /// counts itself.
    fn make_block(&mut self, file: &ImageFile, cluster: u64) -> io::Result<()> {
        let (index, _) = self.place(cluster)?;
        if self.load_block(file, index)? {
            return Ok(());
        }
        let own = self.end;
        self.end += 1;
        let size = 1usize << self.cluster_bits;
        if self.table.len() <= index {
            self.table.resize(index + 1, 0);
        }
        let offset = own << self.cluster_bits;
        if let Some(entry) = self.table.get_mut(index) {
            *entry = offset;
        }
        self.dirty_entries.push(index);
        self.blocks.insert(index, Block { bytes: vec![0; size], offset, dirty: true });
        // One step at most, as a block counts many clusters.
        self.make_block(file, own)?;
        self.set(own, 1)
    }

    /// One reference less to each of these clusters; those that nobody refers to any more.
    pub fn release(&mut self, file: &ImageFile, first: u64, count: u64) -> io::Result<Vec<u64>> {
        let mut freed = Vec::new();
        for cluster in first..first.saturating_add(count) {
            // Refcounts that are wrong already are not made worse.
            let refs = if cluster == 0 || cluster >= self.end { 0 } else { self.get(file, cluster)? };
            if refs > 0 {
                self.set(cluster, refs - 1)?;
            }
            if refs == 1 {
                freed.push(cluster);
            }
        }
        Ok(freed)
    }

    /// Lets a cluster be taken again; it reads as zeros.
    pub fn reuse(&mut self, cluster: u64) {
        if self.free.len() < MAX_FREE {
            self.free.push(cluster);
        }
    }

    /// First clusters behind the end, in bytes.
    pub fn file_len(&self) -> u64 {
        self.end << self.cluster_bits
    }

    /// Whether there is enough to be written that it should be.
    pub fn is_swollen(&self) -> bool {
        self.blocks.len() > 4 * KEPT
    }

    /// Writes blocks: before what they count is pointed to.
    pub fn write_blocks(&mut self, file: &ImageFile) -> io::Result<bool> {
        let mut wrote = false;
        for block in self.blocks.values_mut().filter(|block| block.dirty) {
            file.write(block.offset, &block.bytes)?;
            block.dirty = false;
            wrote = true;
        }
        Ok(wrote)
    }

    /// Whether the table has entries to be written, when the blocks are on the host's disk.
    pub fn has_new_blocks(&self) -> bool {
        !self.dirty_entries.is_empty()
    }

    /// Makes the table larger if it has grown; to be called before the blocks are written. It is taken into use by
    /// [`Refcounts::write_table`].
    pub fn grow(&mut self, file: &ImageFile) -> io::Result<Option<Moved>> {
        let room = |clusters: u64, bits: u32| (clusters << bits) / 8;
        if self.table.len() as u64 <= room(self.table_clusters, self.cluster_bits) {
            return Ok(None);
        }
        // Half as large again, so that it is not done for each block.
        let wanted = (self.table.len() as u64 * 3 / 2 * 8).div_ceil(1 << self.cluster_bits);
        let first = self.append(file, wanted)?;
        let clusters = u32::try_from(wanted).map_err(|_| full())?;
        let old = (self.table_offset >> self.cluster_bits, self.table_clusters);
        Ok(Some(Moved { offset: first << self.cluster_bits, clusters, old }))
    }

    /// Writes a table that moved to its new place, where nothing refers to it yet.
    pub fn write_moved(&mut self, file: &ImageFile, moved: &Moved) -> io::Result<()> {
        let mut bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let len = u64::from(moved.clusters) << self.cluster_bits;
        bytes.resize(usize::try_from(len).unwrap_or(bytes.len()), 0);
        file.write(moved.offset, &bytes)
    }

    /// The table has moved: the header says so. Its old clusters: the first, and how many.
    pub fn moved(&mut self, moved: &Moved) -> (u64, u64) {
        self.table_offset = moved.offset;
        self.table_clusters = moved.clusters.into();
        self.dirty_entries.clear();
        moved.old
    }

    /// Writes the table's new entries.
    pub fn write_table(&mut self, file: &ImageFile) -> io::Result<()> {
        for index in &self.dirty_entries {
            let entry = self.table.get(*index).copied().unwrap_or(0);
            file.write(self.table_offset + *index as u64 * 8, &entry.to_be_bytes())?;
        }
        self.dirty_entries.clear();
        Ok(())
    }
}

/// The refcount at `index` of a block, of 2^`order` bits: big-endian, those of less than a byte from its low bits on.
fn field(bytes: &[u8], order: u32, index: u64) -> u64 {
    let (at, len) = bytes_of(order, index);
    if order < 3 {
        let byte = bytes.get(at).copied().unwrap_or(0);
        return u64::from(byte) >> shift_of(order, index) & ((1 << (1 << order)) - 1);
    }
    bytes.get(at..at + len).unwrap_or_default().iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn set_field(bytes: &mut [u8], order: u32, index: u64, value: u64) {
    let (at, len) = bytes_of(order, index);
    if order < 3 {
        let mask = ((1u32 << (1 << order)) - 1) as u8;
        let shift = shift_of(order, index);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
        }
        return;
    }
    if let Some(place) = bytes.get_mut(at..at + len) {
        place.copy_from_slice(value.to_be_bytes().get(8 - len..).unwrap_or_default());
    }
}

fn bytes_of(order: u32, index: u64) -> (usize, usize) {
    let at = usize::try_from((index << order) / 8).unwrap_or(usize::MAX / 2);
    (at, if order < 3 { 1 } else { 1 << (order - 3) })
}

fn shift_of(order: u32, index: u64) -> u32 {
    ((index << order) % 8) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn refcounts_of_any_width_do_not_touch_each_other(order in 0..7u32, sets in prop::collection::vec((0..64u64, any::<u64>()), 1..50)) {
            let mut bytes = vec![0; 512];
            let mut model = vec![0; 64];
            let mask = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
            for (index, value) in sets {
                set_field(&mut bytes, order, index, value & mask);
                model[index as usize] = value & mask;
                let now: Vec<u64> = (0..64).map(|index| field(&bytes, order, index)).collect();
                prop_assert_eq!(&now, &model);
            }
        }
    }

    #[test]
    fn widths_are_as_qemu_has_them() {
        assert_eq!(field(&[0, 5, 1, 2], 4, 1), 0x102);
        assert_eq!(field(&[0b0000_0110], 0, 1), 1);
        assert_eq!(field(&[0b0000_1100], 1, 1), 3);
    }
}
