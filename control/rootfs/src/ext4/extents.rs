//! Where a file's blocks lie, as its inode says it (Documentation/filesystems/ext4, "Extent Tree").

use super::crc32c::crc32c;
use super::fields::Fields;
use crate::output::BLOCK;
use crate::space::Run;

/// Bytes of `i_block`.
pub(crate) const ROOT: usize = 60;
const ENTRY: usize = 12;
pub(crate) const MAGIC: u16 = 0xf30a;
const IN_ROOT: usize = ROOT / ENTRY - 1;
/// A block ends with a checksum.
const IN_BLOCK: usize = (BLOCK - ENTRY - 4) / ENTRY;
/// Blocks of an extent that is written, at most.
const LONGEST: u64 = 1 << 15;

/// A part of a file, or a block that describes parts: both are found by the first block of the file in them.
#[derive(Clone, Copy, Debug)]
struct Entry {
    logical: u64,
    place: u64,
    /// 0 for a block that describes parts.
    blocks: u64,
}

/// A block of the tree that is to be written.
#[derive(Debug)]
pub(crate) struct NodeBlock {
    pub(crate) block: u64,
    pub(crate) data: Vec<u8>,
}

/// How many blocks the tree of these runs needs beside the inode.
pub(crate) fn tree_blocks(runs: &[Run]) -> u64 {
    let mut entries = leaves(runs).len();
    let mut blocks = 0;
    while entries > IN_ROOT {
        entries = entries.div_ceil(IN_BLOCK);
        blocks += entries as u64;
    }
    blocks
}

/// The inode's part of the tree, and its blocks, which are to lie in `places`: [`tree_blocks`] of them.
/// `seed` is the inode's checksum seed.
pub(crate) fn tree(runs: &[Run], places: &[u64], seed: u32) -> ([u8; ROOT], Vec<NodeBlock>) {
    let mut places = places.iter().copied();
    let mut entries = leaves(runs);
    let mut depth = 0;
    let mut blocks = Vec::new();
    while entries.len() > IN_ROOT {
        let nodes = entries.chunks(IN_BLOCK).zip(places.by_ref()).map(|(chunk, block)| {
            let mut data = vec![0; BLOCK];
            node(&mut data, chunk, IN_BLOCK, depth);
            let tail = ENTRY + IN_BLOCK * ENTRY;
            let checksum = crc32c(seed, data.get(..tail).unwrap_or_default());
            Fields(&mut data).u32(tail, checksum);
            blocks.push(NodeBlock { block, data });
            Entry { logical: chunk.first().map_or(0, |entry| entry.logical), place: block, blocks: 0 }
        });
        entries = nodes.collect();
        depth += 1;
    }
    let mut root = [0; ROOT];
    node(&mut root, &entries, IN_ROOT, depth);
    (root, blocks)
}

fn leaves(runs: &[Run]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut logical = 0;
    for run in runs {
        let mut done = 0;
        while done < run.blocks {
            let place = run.start + done;
            // Runs may follow each other.
            let room =
                entries.last().filter(|last| last.place + last.blocks == place).map_or(0, |last| LONGEST - last.blocks);
            let blocks = if room > 0 { room } else { LONGEST }.min(run.blocks - done);
            match entries.last_mut().filter(|_| room > 0) {
                Some(last) => last.blocks += blocks,
                None => entries.push(Entry { logical, place, blocks }),
            }
            logical += blocks;
            done += blocks;
        }
    }
    entries
}

fn node(data: &mut [u8], entries: &[Entry], most: usize, depth: u16) {
    let mut fields = Fields(data);
    fields.u16(0, MAGIC);
    fields.u16(2, entries.len() as u16);
    fields.u16(4, most as u16);
    fields.u16(6, depth);
    for (entry, at) in entries.iter().zip((ENTRY..).step_by(ENTRY)) {
        fields.u32(at, entry.logical as u32);
        if depth == 0 {
            fields.u16(at + 4, entry.blocks as u16);
            fields.u16(at + 6, (entry.place >> 32) as u16);
            fields.u32(at + 8, entry.place as u32);
        } else {
            fields.u32(at + 4, entry.place as u32);
            fields.u16(at + 8, (entry.place >> 32) as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_cut_and_neighbours_joined() {
        let entries =
            leaves(&[Run { start: 10, blocks: 5 }, Run { start: 15, blocks: 1 << 16 }, Run { start: 9, blocks: 1 }]);
        let all: Vec<_> = entries.iter().map(|entry| (entry.logical, entry.place, entry.blocks)).collect();
        let long = 1 << 15;
        assert_eq!(all, [(0, 10, long), (long, 10 + long, long), (2 * long, 10 + 2 * long, 5), (2 * long + 5, 9, 1)]);
    }

    #[test]
    fn a_tree_has_as_many_blocks_as_were_asked_for() {
        for (count, blocks) in [(0, 0), (4, 0), (5, 1), (340, 1), (341, 2), (1360, 4), (1361, 6)] {
            let runs: Vec<Run> = (0..count).map(|at| Run { start: 10 + 2 * at, blocks: 1 }).collect();
            assert_eq!(tree_blocks(&runs), blocks, "{count} runs");
            let places: Vec<u64> = (0..blocks).map(|at| 100_000 + at).collect();
            let (root, nodes) = tree(&runs, &places, 0);
            assert_eq!(nodes.len() as u64, blocks);
            assert_eq!(root[..2], MAGIC.to_le_bytes());
        }
    }
}
