//! From a tree and the blocks that its files lie in to a file system.

use super::directory::{self, Name, Whose};
use super::extents::{self, ROOT};
use super::inode::{self, INDEX, Inode};
use super::layout::{GROUP_BLOCKS, INODE, Layout, table_blocks};
use super::superblock::{self, Counts, FIRST_INODE, Group, JOURNAL_INODE, Journal, ROOT_INODE, flag};
use super::{Identity, Xattrs, crc32c};
use crate::output::{BLOCK, Output};
use crate::space::{Full, Run, Space};
use crate::tree::{Attributes, Node, NodeId, NodeKind, Tree};
use motu_disk::Disk;
use std::io;

/// Symbolic links up to here lie in their inodes.
const FAST_SYMLINK: usize = ROOT - 1;

/// Links that a directory can count; one with more has 1 (the feature `dir_nlink`).
const MOST_LINKS: u32 = 65_000;

/// Why nothing was written, or not all.
#[derive(Debug)]
pub(crate) enum WriteError {
    Io(io::Error),
    Full,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Full> for WriteError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

struct Writer<'a, 'd> {
    tree: &'a Tree,
    identity: &'a Identity,
    seed: u32,
    space: &'a mut Space,
    layout: &'a Layout,
    /// For whatever lies where there is room.
    output: &'a mut Output<'d>,
    /// Nodes by inode number from [`FIRST_INODE`] on, and the root before them.
    order: Vec<NodeId>,
    /// Inode numbers by the nodes' places.
    numbers: Vec<u32>,
    inodes_per_group: u64,
    groups: Vec<Group>,
}

/// Writes all but the data of files, which lies in `space` already.
///
/// `lost_found` is the node that gets the inode of that name.
pub(crate) fn write(
    disk: &dyn Disk,
    output: &mut Output<'_>,
    (layout, space): (&Layout, &mut Space),
    (tree, lost_found): (&Tree, Option<NodeId>),
    identity: &Identity,
) -> Result<(), WriteError> {
    let (order, numbers) = number(tree, lost_found);
    let used = u64::from(FIRST_INODE) + order.len() as u64;
    let inodes_per_group = layout.inodes_per_group(used).ok_or(WriteError::Full)?;
    let mut writer = Writer {
        tree,
        identity,
        seed: identity.seed(),
        space,
        layout,
        output,
        order,
        numbers,
        inodes_per_group,
        groups: vec![Group::default(); usize::try_from(layout.groups).unwrap_or(0)],
    };
    writer.place_tables()?;
    let journal = writer.inodes(disk)?;
    let free_blocks = writer.block_bitmaps()?;
    let free_inodes = writer.inode_bitmaps()?;
    writer.copies(&Counts { inodes_per_group, free_blocks, free_inodes }, &journal)?;
    writer.output.flush()?;
    Ok(())
}

/// Gives each node its inode number: directories before what is in them, hard links once.
fn number(tree: &Tree, lost_found: Option<NodeId>) -> (Vec<NodeId>, Vec<u32>) {
    let mut numbers = vec![0; tree.places()];
    let mut order = vec![NodeId::ROOT];
    let mut next = FIRST_INODE;
    let mut give = |id: NodeId, number: u32| match numbers.get_mut(id.index()) {
        Some(place @ 0) => {
            *place = number;
            true
        }
        _ => false,
    };
    give(NodeId::ROOT, ROOT_INODE);
    if let Some(id) = lost_found
        && give(id, next)
    {
        order.push(id);
        next += 1;
    }
    let mut at = 0;
    while let Some(&id) = order.get(at) {
        at += 1;
        let Some(directory) = tree.directory(id) else { continue };
        for child in directory.children.values() {
            if give(child.node, next) {
                order.push(child.node);
                next += 1;
            }
        }
    }
    (order, numbers)
}

impl Writer<'_, '_> {
    fn number_of(&self, id: NodeId) -> u32 {
        self.numbers.get(id.index()).copied().unwrap_or(0)
    }

    /// Finds places for bitmaps and inode tables. They must be zeros already: only what is in use is written.
    fn place_tables(&mut self) -> Result<(), WriteError> {
        let table = table_blocks(self.inodes_per_group);
        for group in &mut self.groups {
            group.block_bitmap = self.space.take_whole(1)?.start;
        }
        for group in &mut self.groups {
            group.inode_bitmap = self.space.take_whole(1)?.start;
        }
        for group in &mut self.groups {
            group.inode_table = self.space.take_whole(table)?.start;
        }
        Ok(())
    }

    /// Writes all inodes and what belongs to them; returns the journal's.
    fn inodes(&mut self, disk: &dyn Disk) -> Result<Journal, WriteError> {
        let mut tables = Tables { output: Output::new(disk), block: 0, data: vec![0; BLOCK] };
        let (journal, bytes) = self.journal()?;
        // Before what has higher numbers.
        let order = std::mem::take(&mut self.order);
        let (root, rest) =
            order.split_first().map_or((&[][..], &[][..]), |(root, rest)| (std::slice::from_ref(root), rest));
        for id in root {
            self.inode(*id, &mut tables)?;
        }
        tables.put(self.place_of(JOURNAL_INODE), &bytes)?;
        for id in rest {
            self.inode(*id, &mut tables)?;
        }
        self.order = order;
        tables.flush()?;
        Ok(journal)
    }

    /// Where an inode lies: block, and offset in it.
    fn place_of(&self, number: u32) -> (u64, usize) {
        let index = u64::from(number.saturating_sub(1));
        let table = self.group_of(number).map_or(0, |group| group.inode_table);
        let offset = index % self.inodes_per_group * INODE as u64;
        (table + offset / BLOCK as u64, (offset % BLOCK as u64) as usize)
    }

    fn group_of(&self, number: u32) -> Option<&Group> {
        self.groups.get(usize::try_from(u64::from(number.saturating_sub(1)) / self.inodes_per_group).ok()?)
    }

    fn journal(&mut self) -> Result<(Journal, [u8; INODE]), WriteError> {
        let blocks = self.layout.journal_blocks();
        let runs = self.space.take_fresh(blocks)?;
        if let Some(first) = runs.first() {
            self.output.seek(first.start)?;
            self.output.write(&superblock::journal(blocks))?;
        }
        let seed = inode::seed(self.seed, JOURNAL_INODE);
        let (root, more) = self.extents(&runs, seed)?;
        let size = blocks * BLOCK as u64;
        let attributes = Attributes { mode: 0o600, ..Attributes::default() };
        let inode = Inode {
            kind: inode::kind::FILE,
            attributes: &attributes,
            links: 1,
            size,
            blocks: blocks + more,
            flags: inode::EXTENTS,
            root,
            xattrs: [0; _],
            xattr_block: 0,
        };
        Ok((Journal { root, size }, inode.bytes(seed)))
    }

    fn inode(&mut self, id: NodeId, tables: &mut Tables<'_>) -> Result<(), WriteError> {
        let tree = self.tree;
        let Some(node) = tree.get(id) else { return Ok(()) };
        let number = self.number_of(id);
        let seed = inode::seed(self.seed, number);
        let mut inode = self.content(id, node, seed)?;
        // What does not fit was refused when it came.
        let xattrs = Xattrs::new(&node.attributes.xattrs).unwrap_or_default();
        match xattrs.in_inode() {
            Some(bytes) => inode.xattrs = bytes,
            None => {
                let block = self.space.take(1)?.first().ok_or(WriteError::Full)?.start;
                self.output.seek(block)?;
                self.output.write(&xattrs.in_block(block, self.seed))?;
                inode.xattr_block = block;
                inode.blocks += 1;
            }
        }
        tables.put(self.place_of(number), &inode.bytes(seed))?;
        Ok(())
    }

    /// An inode without its extended attributes, whose content is written.
    fn content<'n>(&mut self, id: NodeId, node: &'n Node, seed: u32) -> Result<Inode<'n>, WriteError> {
        let mut inode = Inode {
            kind: inode::kind::FILE,
            attributes: &node.attributes,
            links: node.links,
            size: 0,
            blocks: 0,
            flags: 0,
            root: [0; ROOT],
            xattrs: [0; _],
            xattr_block: 0,
        };
        match &node.kind {
            NodeKind::File { size, runs } => {
                inode.size = *size;
                self.put_runs(&mut inode, runs, seed)?;
            }
            NodeKind::Directory(directory) => {
                let number = self.number_of(id);
                let mut directories = 0;
                let names = directory.children.iter().map(|(name, child)| {
                    let kind = self.tree.get(child.node).map_or(0, |node| entry_kind(&node.kind));
                    directories += u32::from(kind == directory::kind::DIRECTORY);
                    Name { name, inode: self.number_of(child.node), kind }
                });
                let names: Vec<Name<'_>> = names.collect();
                let whose = Whose {
                    inode: number,
                    parent: self.number_of(directory.parent),
                    seed,
                    hash_seed: &self.identity.hash_seed,
                };
                let blocks = directory::write(&names, &whose).ok_or(WriteError::Full)?;
                let runs = self.put_data(&blocks.data)?;
                inode.kind = inode::kind::DIRECTORY;
                inode.size = blocks.data.len() as u64;
                inode.flags = if blocks.has_index { INDEX } else { 0 };
                let links = 2 + directories;
                inode.links = if links > MOST_LINKS { 1 } else { links };
                self.put_runs(&mut inode, &runs, seed)?;
                let index = u64::from(number.saturating_sub(1)) / self.inodes_per_group;
                if let Some(group) = usize::try_from(index).ok().and_then(|index| self.groups.get_mut(index)) {
                    group.directories += 1;
                }
            }
            NodeKind::Symlink(target) => {
                inode.kind = inode::kind::SYMLINK;
                inode.size = target.len() as u64;
                if target.len() <= FAST_SYMLINK {
                    super::fields::Fields(&mut inode.root).bytes(0, target);
                } else {
                    let runs = self.put_data(target)?;
                    self.put_runs(&mut inode, &runs, seed)?;
                }
            }
            NodeKind::CharacterDevice(major, minor) => {
                inode.kind = inode::kind::CHARACTER_DEVICE;
                inode.root = inode::device((*major, *minor));
            }
            NodeKind::BlockDevice(major, minor) => {
                inode.kind = inode::kind::BLOCK_DEVICE;
                inode.root = inode::device((*major, *minor));
            }
            NodeKind::Fifo => inode.kind = inode::kind::FIFO,
        }
        Ok(inode)
    }

    /// Writes bytes and zeros to the end of their last block where there is room.
    fn put_data(&mut self, data: &[u8]) -> Result<Vec<Run>, WriteError> {
        let runs = self.space.take((data.len() as u64).div_ceil(BLOCK as u64))?;
        let mut rest = data;
        for run in &runs {
            let bytes = usize::try_from(run.blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK).min(rest.len());
            let (now, later) = rest.split_at(bytes);
            self.output.seek(run.start)?;
            self.output.write(now)?;
            self.output.pad()?;
            rest = later;
        }
        Ok(runs)
    }

    /// Makes runs an inode's content.
    fn put_runs(&mut self, inode: &mut Inode<'_>, runs: &[Run], seed: u32) -> Result<(), WriteError> {
        let (root, more) = self.extents(runs, seed)?;
        inode.root = root;
        inode.flags |= inode::EXTENTS;
        inode.blocks = runs.iter().map(|run| run.blocks).sum::<u64>() + more;
        Ok(())
    }

    /// The inode's part of an extent tree, and how many blocks were written beside it.
    fn extents(&mut self, runs: &[Run], seed: u32) -> Result<([u8; ROOT], u64), WriteError> {
        let needed = extents::tree_blocks(runs);
        let places = self.space.take(needed)?;
        let places: Vec<u64> = places.iter().flat_map(|run| run.start..run.end()).collect();
        let (root, blocks) = extents::tree(runs, &places, seed);
        for node in blocks {
            self.output.seek(node.block)?;
            self.output.write(&node.data)?;
        }
        Ok((root, needed))
    }

    /// Writes the bitmaps of blocks; returns how many blocks are free. Nothing is taken from here on.
    fn block_bitmaps(&mut self) -> Result<u64, WriteError> {
        let mut all_free = 0;
        let copies = self.layout.copies();
        let last = self.groups.len().saturating_sub(1);
        for (number, group) in self.groups.iter_mut().enumerate() {
            let range = self.layout.group(number as u64);
            let used = self.space.used_in(range);
            let count: u64 = used.iter().map(|run| run.blocks).sum();
            let free = range.blocks.saturating_sub(count);
            group.free_blocks = free as u32;
            all_free += free;
            // The kernel knows by itself of superblocks and descriptors. The last group's bitmap marks what is behind the end.
            let own = copies.iter().find(|run| run.start == range.start).map_or(0, |run| run.blocks);
            if count == own && number != last {
                group.flags |= flag::BLOCK_UNINIT;
                continue;
            }
            let mut bitmap = vec![0; BLOCK];
            for run in used {
                set_bits(&mut bitmap, run.start - range.start, run.end() - range.start);
            }
            set_bits(&mut bitmap, range.blocks, GROUP_BLOCKS);
            group.block_checksum = crc32c(self.seed, &bitmap);
            self.output.seek(group.block_bitmap)?;
            self.output.write(&bitmap)?;
        }
        Ok(all_free)
    }

    /// Writes the bitmaps of inodes; returns how many inodes are free.
    fn inode_bitmaps(&mut self) -> Result<u64, WriteError> {
        // Without the root, which is one of the reserved ones.
        let highest = u64::from(FIRST_INODE) - 1 + (self.order.len() as u64).saturating_sub(1);
        let each = self.inodes_per_group;
        let mut all_free = 0;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let used = highest.saturating_sub(number as u64 * each).min(each);
            group.flags |= flag::INODE_ZEROED;
            group.free_inodes = (each - used) as u32;
            group.unused_inodes = group.free_inodes;
            all_free += each - used;
            if used == 0 {
                group.flags |= flag::INODE_UNINIT;
                continue;
            }
            let mut bitmap = vec![0; BLOCK];
            set_bits(&mut bitmap, 0, used);
            set_bits(&mut bitmap, each, GROUP_BLOCKS);
            let bytes = usize::try_from(each / 8).unwrap_or(BLOCK);
            group.inode_checksum = crc32c(self.seed, bitmap.get(..bytes).unwrap_or_default());
            self.output.seek(group.inode_bitmap)?;
            self.output.write(&bitmap)?;
        }
        Ok(all_free)
    }

    /// Writes all copies of superblock and descriptors, the first one last.
    fn copies(&mut self, counts: &Counts, journal: &Journal) -> Result<(), WriteError> {
        let mut descriptors = Vec::new();
        for (group, number) in self.groups.iter().zip(0..) {
            descriptors.extend(group.bytes(number, self.seed));
        }
        descriptors.resize(descriptors.len().next_multiple_of(BLOCK), 0);
        for copy in self.layout.copies().into_iter().rev() {
            let group = copy.start / GROUP_BLOCKS;
            self.output.seek(copy.start)?;
            self.output.write(&superblock::superblock(self.layout, self.identity, counts, journal, group))?;
            self.output.write(&descriptors)?;
        }
        Ok(())
    }
}

/// Inode tables, written a block at a time: inodes come in ascending order.
struct Tables<'d> {
    output: Output<'d>,
    /// The block that `data` is of; 0 for none.
    block: u64,
    data: Vec<u8>,
}

impl Tables<'_> {
    fn put(&mut self, (block, offset): (u64, usize), inode: &[u8; INODE]) -> io::Result<()> {
        if block != self.block {
            self.flush_block()?;
            self.block = block;
        }
        super::fields::Fields(&mut self.data).bytes(offset, inode);
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        if self.block > 0 {
            self.output.seek(self.block)?;
            self.output.write(&self.data)?;
            self.data.fill(0);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_block()?;
        self.output.flush()
    }
}

fn entry_kind(kind: &NodeKind) -> u8 {
    match kind {
        NodeKind::Directory(_) => directory::kind::DIRECTORY,
        NodeKind::File { .. } => directory::kind::FILE,
        NodeKind::Symlink(_) => directory::kind::SYMLINK,
        NodeKind::CharacterDevice(..) => directory::kind::CHARACTER_DEVICE,
        NodeKind::BlockDevice(..) => directory::kind::BLOCK_DEVICE,
        NodeKind::Fifo => directory::kind::FIFO,
    }
}

fn set_bits(bitmap: &mut [u8], from: u64, to: u64) {
    let mut bit = from;
    while bit < to {
        let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| bitmap.get_mut(at)) else { return };
        if bit.is_multiple_of(8) && to - bit >= 8 {
            *byte = 0xff;
            bit += 8;
        } else {
            *byte |= 1 << (bit % 8);
            bit += 1;
        }
    }
}
