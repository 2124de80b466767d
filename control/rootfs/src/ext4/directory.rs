//! Directories (Documentation/filesystems/ext4, "Linear (Classic) Directories" and "Hash Tree Directories"): one block of entries,
//! or blocks of entries sorted by the hashes of their names, with an index.

use super::crc32c::crc32c;
use super::fields::Fields;
use super::hash::{HALF_MD4, hash};
use crate::output::BLOCK;

/// Bytes of an entry without its name.
const ENTRY: usize = 8;
/// Every block ends with what looks like an entry of 12 bytes and has the checksum.
const TAIL: usize = 12;
const ROOM: usize = BLOCK - TAIL;
/// Blocks are filled up to here where there is an index, so that a name more does not split one at once.
const FILLED: usize = ROOM * 7 / 8;
/// An index in a block: where it begins in the first one and in others, what an entry of it has, and its checksum.
const ROOT_INDEX: usize = 32;
const NODE_INDEX: usize = 8;
const INDEX_ENTRY: usize = 8;
const INDEX_TAIL: usize = 8;

/// `file_type` of an entry.
pub(crate) mod kind {
    pub(crate) const FILE: u8 = 1;
    pub(crate) const DIRECTORY: u8 = 2;
    pub(crate) const CHARACTER_DEVICE: u8 = 3;
    pub(crate) const BLOCK_DEVICE: u8 = 4;
    pub(crate) const FIFO: u8 = 5;
    pub(crate) const SYMLINK: u8 = 7;
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
    pub(crate) kind: u8,
}

/// Whose directory it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose<'a> {
    pub(crate) inode: u32,
    pub(crate) parent: u32,
    /// The inode's checksum seed.
    pub(crate) seed: u32,
    /// The file system's seed for hashes of names.
    pub(crate) hash_seed: &'a [u32; 4],
}

/// A directory's blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) data: Vec<u8>,
    pub(crate) has_index: bool,
}

/// Writes a directory. `None` if it has more names than an index reaches: some 15 million.
pub(crate) fn write(names: &[Name<'_>], whose: &Whose<'_>) -> Option<Blocks> {
    let dots = [
        Name { name: b".", inode: whose.inode, kind: kind::DIRECTORY },
        Name { name: b"..", inode: whose.parent, kind: kind::DIRECTORY },
    ];
    let all = || dots.iter().chain(names);
    if all().map(|name| len(name.name)).sum::<usize>() <= ROOM {
        let mut data = vec![0; BLOCK];
        leaf(&mut data, all(), whose.seed);
        return Some(Blocks { data, has_index: false });
    }
    let mut hashed: Vec<(u32, &Name<'_>)> = names.iter().map(|name| (hash(name.name, whose.hash_seed), name)).collect();
    hashed.sort_by(|(a, a_name), (b, b_name)| (a, a_name.name).cmp(&(b, b_name.name)));
    let leaves = split(&hashed);
    let root_room = (BLOCK - ROOT_INDEX - INDEX_TAIL) / INDEX_ENTRY;
    let node_room = (BLOCK - NODE_INDEX - INDEX_TAIL) / INDEX_ENTRY;
    let nodes = if leaves.len() <= root_room { 0 } else { leaves.len().div_ceil(node_room) };
    if nodes > root_room {
        return None;
    }
    let mut data = vec![0; (1 + nodes + leaves.len()) * BLOCK];
    let (first, rest) = data.split_at_mut(BLOCK);
    let (index, rest) = rest.split_at_mut(nodes * BLOCK);
    let mut starts = Vec::with_capacity(leaves.len());
    let mut last = None;
    for ((entries, block), number) in leaves.iter().zip(rest.chunks_mut(BLOCK)).zip(1 + nodes..) {
        leaf(block, entries.iter().map(|(_, name)| *name), whose.seed);
        let lowest = entries.first().map_or(0, |(hash, _)| *hash);
        // Names of this hash are in the block before, too.
        starts.push((lowest | u32::from(last == Some(lowest)), number as u32));
        last = entries.last().map(|(hash, _)| *hash);
    }
    for (entries, block) in starts.chunks(node_room).zip(index.chunks_mut(BLOCK)) {
        // One empty entry hides the index from who does not know of it.
        Fields(block).u16(4, BLOCK as u16);
        put_index(block, NODE_INDEX, entries, whose.seed);
    }
    let above: Vec<(u32, u32)> = starts.iter().step_by(node_room).map(|(hash, _)| *hash).zip(1..).collect();
    root(first, &dots, nodes > 0, if nodes > 0 { &above } else { &starts }, whose.seed);
    Some(Blocks { data, has_index: true })
}

/// What an entry takes.
fn len(name: &[u8]) -> usize {
    (ENTRY + name.len()).next_multiple_of(4)
}

/// What fits into a block each.
fn split<'s, 'a>(hashed: &'s [(u32, &'a Name<'a>)]) -> Vec<&'s [(u32, &'a Name<'a>)]> {
    let mut leaves = Vec::new();
    let mut rest = hashed;
    while !rest.is_empty() {
        let mut filled = 0;
        let fits = rest.iter().take_while(|(_, name)| {
            filled += len(name.name);
            filled <= FILLED
        });
        let (leaf, more) = rest.split_at(fits.count().clamp(1, rest.len()));
        leaves.push(leaf);
        rest = more;
    }
    leaves
}

/// Writes entries and the checksum into a block.
fn leaf<'a>(block: &mut [u8], names: impl Iterator<Item = &'a Name<'a>>, seed: u32) {
    let mut at = 0;
    let mut last = 0;
    for name in names {
        last = at;
        at += entry(block, at, name);
    }
    let mut fields = Fields(block);
    // The last entry reaches to the end; without any, an empty one does.
    fields.u16(last + 4, (ROOM - last) as u16);
    fields.u16(ROOM + 4, TAIL as u16);
    fields.u8(ROOM + 7, 0xde);
    let checksum = crc32c(seed, block.get(..ROOM).unwrap_or_default());
    Fields(block).u32(ROOM + 8, checksum);
}

fn entry(block: &mut [u8], at: usize, name: &Name<'_>) -> usize {
    let len = len(name.name);
    let mut fields = Fields(block);
    fields.u32(at, name.inode);
    fields.u16(at + 4, len as u16);
    fields.u8(at + 6, name.name.len() as u8);
    fields.u8(at + 7, name.kind);
    fields.bytes(at + ENTRY, name.name);
    len
}

/// The first block: the entries of both dots, of which the second reaches to the end and so hides the index.
fn root(block: &mut [u8], dots: &[Name<'_>; 2], has_nodes: bool, entries: &[(u32, u32)], seed: u32) {
    let [dot, dot_dot] = dots;
    let at = entry(block, 0, dot);
    entry(block, at, dot_dot);
    let mut fields = Fields(block);
    fields.u16(at + 4, (BLOCK - at) as u16);
    let info = ROOT_INDEX - 8;
    fields.u8(info + 4, HALF_MD4);
    fields.u8(info + 5, 8);
    fields.u8(info + 6, has_nodes.into());
    put_index(block, ROOT_INDEX, entries, seed);
}

/// An index of (lowest hash, block): in place of the first one's hash are the numbers of entries that can be and that are.
fn put_index(block: &mut [u8], at: usize, entries: &[(u32, u32)], seed: u32) {
    let most = (BLOCK - at - INDEX_TAIL) / INDEX_ENTRY;
    let mut fields = Fields(block);
    for ((hash, number), at) in entries.iter().zip((at..).step_by(INDEX_ENTRY)) {
        fields.u32(at, *hash);
        fields.u32(at + 4, *number);
    }
    fields.u16(at, most as u16);
    fields.u16(at + 2, entries.len() as u16);
    // Of what is in use and of the tail, in which the checksum counts as zeros (fs/ext4/namei.c, `ext4_dx_csum`).
    let used = block.get(..at + entries.len() * INDEX_ENTRY).unwrap_or_default();
    let checksum = crc32c(crc32c(seed, used), &[0; INDEX_TAIL]);
    Fields(block).u32(at + most * INDEX_ENTRY + 4, checksum);
}
