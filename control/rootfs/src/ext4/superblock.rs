//! The superblock, group descriptors and the journal's superblock (Documentation/filesystems/ext4, "Super Block", "Block Group
//! Descriptors" and "Journal (jbd2)").

use super::Identity;
use super::crc32c::crc32c;
use super::extents::ROOT;
use super::fields::Fields;
use super::hash::HALF_MD4;
use super::layout::{DESCRIPTOR, GROUP_BLOCKS, INODE, Layout};
use crate::output::BLOCK;

/// Bytes of the superblock, and where it lies in the first block.
const LEN: usize = 1024;
const OFFSET: usize = 1024;

pub(crate) const ROOT_INODE: u32 = 2;
pub(crate) const JOURNAL_INODE: u32 = 8;
/// The first that is not reserved, and lost+found's by tradition.
pub(crate) const FIRST_INODE: u32 = 11;

/// Features that may be unknown to who writes: `has_journal`, `ext_attr`, `dir_index`.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
/// Features that must be known: `filetype`, `extent`, `64bit`, `flex_bg`.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// Features that must be known to who writes: `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// Groups whose tables count as one for the allocator: 2^4, mke2fs's choice.
const LOG_GROUPS_PER_FLEX: u8 = 4;

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) inodes_per_group: u64,
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
}

/// The journal's inode, which the superblock has a copy of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Journal {
    pub(crate) root: [u8; ROOT],
    pub(crate) size: u64,
}

/// The superblock as it is in this group: in the first one behind 1024 bytes of zeros.
pub(crate) fn superblock(
    layout: &Layout,
    identity: &Identity,
    counts: &Counts,
    journal: &Journal,
    group: u64,
) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let offset = if group == 0 { OFFSET } else { 0 };
    let Some(data) = block.get_mut(offset..offset + LEN) else { return block };
    let mut fields = Fields(data);
    // Seconds of 40 bits, nowhere before 1970.
    let now = u64::try_from(identity.time).unwrap_or(0).min((1 << 40) - 1);
    fields.u32(0x00, (counts.inodes_per_group * layout.groups) as u32);
    fields.split_u64((0x04, 0x150), layout.blocks);
    fields.split_u64((0x0c, 0x158), counts.free_blocks);
    fields.u32(0x10, counts.free_inodes as u32);
    // Blocks of 2^(10 + 2) bytes; clusters are the same.
    fields.u32(0x18, 2);
    fields.u32(0x1c, 2);
    fields.u32(0x20, GROUP_BLOCKS as u32);
    fields.u32(0x24, GROUP_BLOCKS as u32);
    fields.u32(0x28, counts.inodes_per_group as u32);
    fields.u32(0x30, now as u32);
    fields.u8(0x274, (now >> 32) as u8);
    // It is never checked for the number of its mounts.
    fields.u16(0x36, u16::MAX);
    fields.u16(0x38, 0xef53);
    // Clean; errors are to be gone on from.
    fields.u16(0x3a, 1);
    fields.u16(0x3c, 1);
    fields.u32(0x40, now as u32);
    fields.u8(0x277, (now >> 32) as u8);
    fields.u32(0x4c, 1);
    fields.u32(0x54, FIRST_INODE);
    fields.u16(0x58, INODE as u16);
    fields.u16(0x5a, group as u16);
    fields.u32(0x5c, COMPATIBLE);
    fields.u32(0x60, INCOMPATIBLE);
    fields.u32(0x64, READ_ONLY_COMPATIBLE);
    fields.bytes(0x68, &identity.uuid);
    fields.bytes(0x78, &identity.label);
    fields.u32(0xe0, JOURNAL_INODE);
    for (word, at) in identity.hash_seed.iter().zip((0xec..).step_by(4)) {
        fields.u32(at, *word);
    }
    fields.u8(0xfc, HALF_MD4);
    // There is a copy of the journal inode's blocks and size.
    fields.u8(0xfd, 1);
    fields.u16(0xfe, DESCRIPTOR as u16);
    // Mounted with `user_xattr` and `acl`.
    fields.u32(0x100, 0x4 | 0x8);
    fields.u32(0x108, now as u32);
    fields.u8(0x276, (now >> 32) as u8);
    fields.bytes(0x10c, &journal.root);
    fields.u32(0x10c + ROOT, (journal.size >> 32) as u32);
    fields.u32(0x10c + ROOT + 4, journal.size as u32);
    // Inodes have, and are to have, 32 bytes of fields more than 128.
    fields.u16(0x15c, 32);
    fields.u16(0x15e, 32);
    // Bytes of names are unsigned for their hashes.
    fields.u32(0x160, 2);
    fields.u8(0x174, LOG_GROUPS_PER_FLEX);
    // CRC-32C.
    fields.u8(0x175, 1);
    let checksum = crc32c(!0, data.get(..0x3fc).unwrap_or_default());
    Fields(data).u32(0x3fc, checksum);
    block
}

/// `bg_flags`: the inodes, the bitmap of blocks were never used; the inode table is zeros.
pub(crate) mod flag {
    pub(crate) const INODE_UNINIT: u16 = 1;
    pub(crate) const BLOCK_UNINIT: u16 = 2;
    pub(crate) const INODE_ZEROED: u16 = 4;
}

/// A group of blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) directories: u32,
    /// Inodes at the end of the table that were never used.
    pub(crate) unused_inodes: u32,
    pub(crate) flags: u16,
    pub(crate) block_checksum: u32,
    pub(crate) inode_checksum: u32,
}

impl Group {
    /// Its descriptor. `seed` is the file system's.
    pub(crate) fn bytes(&self, number: u32, seed: u32) -> [u8; DESCRIPTOR] {
        let mut data = [0; DESCRIPTOR];
        let mut fields = Fields(&mut data);
        fields.split_u64((0x00, 0x20), self.block_bitmap);
        fields.split_u64((0x04, 0x24), self.inode_bitmap);
        fields.split_u64((0x08, 0x28), self.inode_table);
        fields.split_u32((0x0c, 0x2c), self.free_blocks);
        fields.split_u32((0x0e, 0x2e), self.free_inodes);
        fields.split_u32((0x10, 0x30), self.directories);
        fields.u16(0x12, self.flags);
        fields.split_u32((0x18, 0x38), self.block_checksum);
        fields.split_u32((0x1a, 0x3a), self.inode_checksum);
        fields.split_u32((0x1c, 0x32), self.unused_inodes);
        let checksum = crc32c(crc32c(seed, &number.to_le_bytes()), &data);
        Fields(&mut data).u16(0x1e, checksum as u16);
        data
    }
}

/// The first block of a journal with nothing in it: version 2, big-endian, no features.
pub(crate) fn journal(blocks: u64) -> Vec<u8> {
    let mut data = vec![0; BLOCK];
    let mut fields = Fields(&mut data);
    let values =
        [(0x00, 0xc03b_3998), (0x04, 4), (0x0c, BLOCK as u32), (0x10, blocks as u32), (0x14, 1), (0x18, 1), (0x40, 1)];
    for (at, value) in values {
        fields.bytes(at, &value.to_be_bytes());
    }
    data
}
