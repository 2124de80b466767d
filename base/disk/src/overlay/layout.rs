//! Where the parts of an overlay lie in its file, and what its header says of that.

use super::BaseId;
use crate::disk::{MAX_SIZE, SECTOR};

const MAGIC: [u8; 8] = *b"motuovl\x01";
/// Bytes of the header, and what the bitmap is written in.
pub const PAGE: u64 = 4096;
/// A file system's own block: Linux writes whole ones, which need nothing of the base.
const MIN_BLOCK: u64 = 4096;
const MAX_BLOCK: u64 = MAX_SIZE / MAX_BLOCKS;
/// Of a new overlay, so that its bitmap has 2 MiB at most and a disk opens as fast however large it is.
const MAX_BLOCKS: u64 = 1 << 24;
/// Of one that has grown, whose blocks stay as they are: 1 TiB of the smallest blocks, and 32 MiB of bitmap.
const MAX_GROWN_BLOCKS: u64 = 1 << 28;
/// Bytes of the header's fields.
pub const HEADER_LEN: usize = 72;

const _: () = assert!(MIN_BLOCK.is_multiple_of(SECTOR) && MIN_BLOCK.is_multiple_of(PAGE));

/// What the parts' sizes and places are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The disk's.
    pub size: u64,
    pub block: u64,
    /// Where the bitmap begins.
    pub bitmap: u64,
    /// Where the disk's first block would be.
    pub data: u64,
}

impl Layout {
    /// Of a new overlay.
    pub fn of(size: u64) -> Self {
        let block = size.div_ceil(MAX_BLOCKS).next_power_of_two().max(MIN_BLOCK);
        let mut layout = Self { size, block, bitmap: PAGE, data: 0 };
        layout.data = (PAGE + layout.bitmap_len()).next_multiple_of(block);
        layout
    }

    /// The same overlay with a larger disk: blocks stay where they are, and the bitmap lies behind them and behind the one that is
    /// in use until then. `None` if there would be too many blocks.
    pub fn grown(self, size: u64) -> Option<Self> {
        let behind = (self.data + size).max(self.bitmap + self.bitmap_len());
        let grown = Self { size, bitmap: behind.next_multiple_of(self.block), ..self };
        (grown.blocks() <= MAX_GROWN_BLOCKS).then_some(grown)
    }

    /// Bytes that the disk can grow to.
    pub fn most(self) -> u64 {
        (self.block * MAX_GROWN_BLOCKS).min(MAX_SIZE)
    }

    pub fn blocks(self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Of the bitmap, in the file: whole pages.
    pub fn bitmap_len(self) -> u64 {
        self.blocks().div_ceil(8).next_multiple_of(PAGE)
    }

    /// The file's length at least.
    pub fn end(self) -> u64 {
        (self.data + self.size).max(self.bitmap + self.bitmap_len())
    }

    /// One that has not grown says nothing of places.
    pub fn header(self, base: &BaseId) -> Vec<u8> {
        let (data, bitmap) = if self == Self::of(self.size) { (0, 0) } else { (self.data, self.bitmap) };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.block.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(base);
        bytes.extend(data.to_le_bytes());
        bytes.extend(bitmap.to_le_bytes());
        bytes
    }

    /// Reads a header of an overlay over the base `id` of `base_size` bytes.
    ///
    /// # Errors
    /// What it is instead; the sentence begins with "it".
    pub fn parse(header: &[u8; HEADER_LEN], id: &BaseId, base_size: u64) -> Result<Self, &'static str> {
        let (words, _) = header.as_chunks::<8>();
        let word = |at: usize| words.get(at).copied().map_or(0, u64::from_le_bytes);
        let (block, size, data, bitmap) = (word(1), word(2), word(7), word(8));
        if !header.starts_with(&MAGIC) {
            return Err("it does not begin as one");
        }
        let layout = Self { size, block, bitmap, data };
        let new = Self::of(base_size);
        let is_new = (data, bitmap) == (0, 0);
        if header.get(24..56) != Some(id) || size < base_size || (is_new && (new.size, new.block) != (size, block)) {
            return Err("it was made over another base");
        }
        if is_new {
            return Ok(new);
        }
        if layout.is_possible() { Ok(layout) } else { Err("its header is damaged") }
    }

    fn is_possible(self) -> bool {
        let Self { size, block, bitmap, data } = self;
        let sizes = size <= MAX_SIZE && size.is_multiple_of(SECTOR);
        let blocks = block.is_power_of_two() && (MIN_BLOCK..=MAX_BLOCK).contains(&block);
        let places = [bitmap, data].iter().all(|at| (PAGE..=3 * MAX_SIZE).contains(at) && at.is_multiple_of(PAGE));
        sizes && blocks && places && self.blocks() <= MAX_GROWN_BLOCKS && bitmap >= data + size
    }

    /// Where the part of block `index` that lies in the disk is.
    pub fn range(self, index: u64) -> (u64, u64) {
        let start = index * self.block;
        (start, self.block.min(self.size - start))
    }

    /// Blocks that `len` bytes from `offset` on lie in, at least in part.
    pub fn touched(self, offset: u64, len: u64) -> std::ops::Range<u64> {
        offset / self.block..(offset + len).div_ceil(self.block)
    }

    /// Blocks that lie in them whole; the last one of the disk may be short.
    pub fn covered(self, offset: u64, len: u64) -> std::ops::Range<u64> {
        let end = offset + len;
        let last = if end == self.size { self.blocks() } else { end / self.block };
        let first = offset.div_ceil(self.block);
        first..last.max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: BaseId = [9; 32];

    fn parse(bytes: &[u8], base_size: u64) -> Result<Layout, &'static str> {
        Layout::parse(bytes.try_into().unwrap(), &ID, base_size)
    }

    #[test]
    fn a_disk_of_any_size_has_a_small_bitmap() {
        for size in [SECTOR, 1 << 30, 64 << 30, (64 << 30) + SECTOR, MAX_SIZE] {
            let layout = Layout::of(size);
            assert!(layout.bitmap_len() <= 2 << 20, "{size}");
            assert!(layout.blocks() * layout.block >= size);
            assert!(layout.data >= PAGE + layout.bitmap_len());
            assert_eq!(parse(&layout.header(&ID), size), Ok(layout));
        }
        assert_eq!(Layout::of(64 << 30).block, 4096);
    }

    #[test]
    fn what_grows_keeps_its_blocks_and_has_its_bitmap_where_nothing_was() {
        let mut layout = Layout::of((1 << 20) + SECTOR);
        for size in [(1 << 20) + 2 * SECTOR, 1 << 21, (1 << 21) + SECTOR, 1 << 30, 1 << 40] {
            let grown = layout.grown(size).unwrap();
            assert_eq!((grown.data, grown.block), (layout.data, layout.block));
            assert!(grown.bitmap >= layout.bitmap + layout.bitmap_len());
            assert!(grown.bitmap >= grown.data + size.next_multiple_of(grown.block));
            assert_eq!(parse(&grown.header(&ID), SECTOR), Ok(grown));
            layout = grown;
        }
        assert_eq!(layout.most(), 1 << 40);
        assert_eq!(layout.grown((1 << 40) + SECTOR), None);
    }

    #[test]
    fn another_base_and_damage_are_told_apart() {
        let header = Layout::of(1 << 20).grown(1 << 21).unwrap().header(&ID);
        let with = |at: usize, value: u64| {
            let mut header = header.clone();
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
            parse(&header, 1 << 20)
        };
        assert_eq!(parse(&header, 1 << 22), Err("it was made over another base"));
        assert_eq!(with(24, 0), Err("it was made over another base"));
        assert_eq!(with(0, 0), Err("it does not begin as one"));
        for (at, value) in
            [(8, 0), (8, 5000), (8, 1 << 40), (16, u64::MAX), (56, 1), (56, 0), (64, 4096), (64, u64::MAX)]
        {
            assert_eq!(with(at, value), Err("its header is damaged"), "{at} {value}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(fields in prop::collection::vec(prop_oneof![any::<u64>(), (0..50u32).prop_map(|bit| 1 << bit)], 4)) {
            let mut header = Layout::of(SECTOR).header(&ID);
            for (at, value) in [8, 16, 56, 64].iter().zip(fields) {
                header[*at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            if let Ok(layout) = parse(&header, SECTOR) {
                prop_assert!(layout.end() >= layout.size && layout.bitmap_len() <= 32 << 20);
            }
        }
    }
}
