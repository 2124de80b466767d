//! Where the parts of a file system lie (Documentation/filesystems/ext4, "Layout").

use crate::RootfsError;
use crate::output::BLOCK;
use crate::space::Run;

/// What one block of bitmap describes: a group.
pub(crate) const GROUP_BLOCKS: u64 = 8 * BLOCK as u64;

/// Bytes of a group descriptor with the feature `64bit`.
pub(crate) const DESCRIPTOR: usize = 64;

/// Bytes of an inode.
pub(crate) const INODE: usize = 256;
const INODES_PER_BLOCK: u64 = (BLOCK / INODE) as u64;

/// mke2fs's choice: an inode for so many blocks of the file system (16 KiB).
const BLOCKS_PER_INODE: u64 = 4;

/// A last group that is smaller than what it has to keep and so many blocks is left out, as mke2fs does.
const LEAST_IN_GROUP: u64 = 50;

const LEAST: u64 = 16 << 20;
/// What 32 bits of block number reach: other tables have no more.
const MOST: u64 = 16 << 40;

/// Sizes and places that follow from the disk's size alone.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// All of the file system.
    pub(crate) blocks: u64,
    pub(crate) groups: u64,
    /// Of one copy of the group descriptors.
    pub(crate) descriptor_blocks: u64,
}

impl Layout {
    pub(crate) fn of(size: u64) -> Result<Self, RootfsError> {
        if !(LEAST..=MOST).contains(&size) {
            return Err(RootfsError::Size(size));
        }
        let mut blocks = size / BLOCK as u64;
        let mut groups = blocks.div_ceil(GROUP_BLOCKS);
        let descriptor_blocks = (groups * DESCRIPTOR as u64).div_ceil(BLOCK as u64);
        let last = blocks - (groups - 1) * GROUP_BLOCKS;
        if groups > 1 && last < 1 + descriptor_blocks + LEAST_IN_GROUP {
            groups -= 1;
            blocks = groups * GROUP_BLOCKS;
        }
        Ok(Self { blocks, groups, descriptor_blocks: (groups * DESCRIPTOR as u64).div_ceil(BLOCK as u64) })
    }

    pub(crate) fn group(&self, group: u64) -> Run {
        let start = group.saturating_mul(GROUP_BLOCKS);
        Run { start, blocks: GROUP_BLOCKS.min(self.blocks.saturating_sub(start)) }
    }

    /// Superblocks and group descriptors, in ascending order: the first is the one that counts.
    pub(crate) fn copies(&self) -> Vec<Run> {
        let groups = (0..self.groups).filter(|group| has_copy(*group));
        groups.map(|group| Run { start: group * GROUP_BLOCKS, blocks: 1 + self.descriptor_blocks }).collect()
    }

    /// How many inodes each group has, so that there are `used` and a few more.
    pub(crate) fn inodes_per_group(&self, used: u64) -> Option<u64> {
        let usual = self.blocks / BLOCKS_PER_INODE / self.groups;
        let needed = used.saturating_add(used / 4).div_ceil(self.groups);
        let each = usual.max(needed).next_multiple_of(INODES_PER_BLOCK).min(GROUP_BLOCKS);
        (each * self.groups >= used).then_some(each)
    }

    /// Blocks of a journal, as mke2fs chooses them: 4 MiB to 1 GiB.
    pub(crate) fn journal_blocks(&self) -> u64 {
        const SIZES: [(u64, u64); 6] = [
            (1 << 15, 1 << 10),
            (1 << 18, 1 << 12),
            (1 << 19, 1 << 13),
            (1 << 22, 1 << 14),
            (1 << 23, 1 << 15),
            (1 << 24, 1 << 16),
        ];
        SIZES.iter().find(|(below, _)| self.blocks < *below).map_or(1 << 18, |(_, blocks)| *blocks)
    }
}

/// Blocks of one group's inode table.
pub(crate) fn table_blocks(inodes_per_group: u64) -> u64 {
    inodes_per_group / INODES_PER_BLOCK
}

/// The feature `sparse_super`: groups 0 and 1, and powers of 3, 5 and 7.
pub(crate) fn has_copy(group: u64) -> bool {
    let is_power = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(is_power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_where_mke2fs_has_them() {
        let groups: Vec<u64> = (0..400).filter(|group| has_copy(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn a_small_last_group_is_left_out() {
        let whole = Layout::of(2 * GROUP_BLOCKS * BLOCK as u64).unwrap();
        let more = Layout::of((2 * GROUP_BLOCKS + 10) * BLOCK as u64).unwrap();
        assert_eq!((more.groups, more.blocks), (whole.groups, whole.blocks));
        let enough = Layout::of((2 * GROUP_BLOCKS + 100) * BLOCK as u64).unwrap();
        assert_eq!((enough.groups, enough.group(2).blocks), (3, 100));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for size in [0, 1, LEAST - 1, MOST + 1, u64::MAX] {
            assert!(matches!(Layout::of(size), Err(RootfsError::Size(it)) if it == size));
        }
        assert!(Layout::of(LEAST).is_ok() && Layout::of(MOST).is_ok());
    }

    #[test]
    fn there_are_inodes_for_all_files() {
        let layout = Layout::of(10 << 30).unwrap();
        assert_eq!(layout.inodes_per_group(1000), Some(8192), "mke2fs's choice for 10 GiB");
        assert!(layout.inodes_per_group(1_000_000).unwrap() * layout.groups >= 1_000_000);
        assert_eq!(layout.inodes_per_group(layout.groups * GROUP_BLOCKS + 1), None);
        assert_eq!(layout.journal_blocks(), 16384, "64 MiB");
    }
}
