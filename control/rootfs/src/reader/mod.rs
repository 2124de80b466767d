//! An ext4 file system as it lies on a disk: found, checked and read, without mounting it (Documentation/filesystems/ext4).
//!
//! ext2 and ext3 are read as well. The disk's bytes are a stranger's: each number is compared with what it may be before it is
//! used, and what cannot be is an error that says so. Checksums are not compared: an image's disk is known by its digest.

mod blocks;
mod directory;
mod inode;
mod xattr;

pub(crate) use inode::Inode;

use crate::RootfsError;
use crate::ext4::{View, has_copy};
use motu_disk::{Disk, SECTOR};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Where the superblock lies, and its bytes ("Super Block").
const OFFSET: u64 = 1024;
const LEN: usize = 1024;
/// `s_magic`.
const MAGIC: u16 = 0xef53;

/// `s_feature_incompat`: what a reader must know.
mod incompatible {
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const META_BG: u32 = 0x10;
    pub(super) const SIXTY_FOUR_BIT: u32 = 0x80;
    pub(super) const LARGEDIR: u32 = 0x4000;
    /// filetype, recover, meta_bg, extent, 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed, largedir, encrypt, casefold: what of these
    /// changes how something is read is found where it is.
    pub(super) const KNOWN: u32 = 0x2
        | RECOVER
        | META_BG
        | 0x40
        | SIXTY_FOUR_BIT
        | 0x100
        | 0x200
        | 0x400
        | 0x2000
        | LARGEDIR
        | 0x1_0000
        | 0x2_0000;
    /// The others, by the names that mke2fs(8) has for them.
    pub(super) const NAMES: [(u32, &str); 4] =
        [(0x1, "compression"), (0x8, "journal_dev"), (0x1000, "dirdata"), (0x8000, "inline_data")];
}

/// `s_feature_ro_compat`: only some groups have copies of the superblock.
const SPARSE_SUPER: u32 = 0x1;
/// `s_feature_compat`: two groups do.
const SPARSE_SUPER2: u32 = 0x200;

/// Blocks of tables that are kept in memory.
const KEPT: usize = 256;

/// A file system that is read.
pub struct FileSystem<'d> {
    disk: &'d dyn Disk,
    /// Bytes of a block.
    block: u64,
    superblock: Vec<u8>,
    blocks: u64,
    groups: u64,
    kept: RefCell<HashMap<u64, Rc<[u8]>>>,
}

impl std::fmt::Debug for FileSystem<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { block, blocks, groups, .. } = self;
        f.debug_struct("FileSystem").field("block", block).field("blocks", blocks).field("groups", groups).finish()
    }
}

/// What a file system says of itself cannot be.
pub(crate) fn damaged(problem: impl Into<String>) -> RootfsError {
    RootfsError::Unreadable(format!("it is damaged: {}", problem.into()))
}

impl<'d> FileSystem<'d> {
    /// Finds the file system that a whole disk is.
    ///
    /// # Errors
    /// [`RootfsError::Unreadable`] if there is none, it has features that are not known here, or it was not unmounted;
    /// [`RootfsError::Disk`].
    pub fn open(disk: &'d dyn Disk) -> Result<Self, RootfsError> {
        let mut superblock = vec![0; LEN];
        if disk.size() < OFFSET + LEN as u64 {
            return Err(RootfsError::Unreadable("the disk is too small to have one".to_owned()));
        }
        disk.read(OFFSET, &mut superblock).map_err(RootfsError::Disk)?;
        let said = View(&superblock);
        if said.u16(0x38) != MAGIC {
            return Err(RootfsError::Unreadable("it is no ext4 file system, and motu reads no other".to_owned()));
        }
        let features = said.u32(0x60);
        if features & !incompatible::KNOWN != 0 {
            let known = incompatible::NAMES.iter().find(|(bit, _)| features & bit != 0);
            let name = known.map_or_else(|| format!("{features:#x}"), |(_, name)| (*name).to_owned());
            return Err(RootfsError::Unreadable(format!("it has the feature {name}, which motu does not read")));
        }
        if features & incompatible::RECOVER != 0 {
            let problem = "it was not unmounted, so that a part of it is in its journal only: mount and unmount it, or run \
                           e2fsck on it, and make the image anew";
            return Err(RootfsError::Unreadable(problem.to_owned()));
        }
        let log = said.u32(0x18);
        if log > 6 {
            return Err(damaged(format!("it has blocks of 2^{} bytes", u64::from(log) + 10)));
        }
        let block = 1024 << log;
        let is_wide = features & incompatible::SIXTY_FOUR_BIT != 0;
        let blocks = if is_wide { said.split_u64((0x04, 0x150)) } else { u64::from(said.u32(0x04)) };
        let (first, each) = (u64::from(said.u32(0x14)), u64::from(said.u32(0x20)));
        if blocks.checked_mul(block).is_none_or(|bytes| bytes > disk.size()) {
            return Err(damaged(format!("it has {blocks} blocks of {block} bytes, and the disk {}", disk.size())));
        }
        if each == 0 || first >= blocks || u64::from(said.u32(0x28)) == 0 {
            return Err(damaged("its groups have no blocks or no inodes"));
        }
        let groups = (blocks - first).div_ceil(each);
        let found = Self { disk, block, superblock, blocks, groups, kept: RefCell::default() };
        let inode = found.inode_size();
        if !inode.is_power_of_two() || !(128..=block).contains(&inode) {
            return Err(damaged(format!("it has inodes of {inode} bytes")));
        }
        let descriptor = found.descriptor_size();
        if !descriptor.is_power_of_two() || !(32..=block).contains(&descriptor) {
            return Err(damaged(format!("it has group descriptors of {descriptor} bytes")));
        }
        Ok(found)
    }

    /// Bytes that are in use for something else than tables and the journal, about.
    pub fn used(&self) -> u64 {
        let said = self.said();
        let free = said.split_u64((0x0c, 0x158));
        let table = u64::from(said.u32(0x28)).saturating_mul(self.inode_size()).div_ceil(self.block);
        let tables = self.groups.saturating_mul(table.saturating_add(2));
        // The size of the journal's inode, of which the superblock has a copy (`s_jnl_blocks`).
        let journal = said.split_u64((0x10c + 64, 0x10c + 60)) / self.block;
        self.blocks.saturating_sub(free).saturating_sub(tables).saturating_sub(journal).saturating_mul(self.block)
    }

    fn said(&self) -> View<'_> {
        View(&self.superblock)
    }

    fn has_feature(&self, incompatible: u32) -> bool {
        self.said().u32(0x60) & incompatible != 0
    }

    /// Of revision 0 all are of 128 bytes.
    fn inode_size(&self) -> u64 {
        if self.said().u32(0x4c) == 0 { 128 } else { u64::from(self.said().u16(0x58)) }
    }

    fn descriptor_size(&self) -> u64 {
        if self.has_feature(incompatible::SIXTY_FOUR_BIT) { u64::from(self.said().u16(0xfe)) } else { 32 }
    }

    /// An inode by its number.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode, RootfsError> {
        let said = self.said();
        let per_group = said.u32(0x28);
        let index = number.checked_sub(1).filter(|_| number <= said.u32(0x00));
        let index = index.ok_or_else(|| damaged(format!("there is no inode {number}")))?;
        let table = self.inode_table(u64::from(index / per_group))?;
        let offset = u64::from(index % per_group) * self.inode_size();
        let block = table.checked_add(offset / self.block).ok_or_else(|| damaged("an inode table lies nowhere"))?;
        let data = self.table_block(block)?;
        let at = usize::try_from(offset % self.block).unwrap_or(usize::MAX);
        let size = usize::try_from(self.inode_size()).unwrap_or(0);
        let bytes = data.get(at..).and_then(|rest| rest.get(..size)).unwrap_or_default();
        Inode::parse(number, bytes, self.has_feature(incompatible::LARGEDIR))
    }

    /// The block that a group's inode table begins at ("Block Group Descriptors", "Meta Block Groups").
    fn inode_table(&self, group: u64) -> Result<u64, RootfsError> {
        if group >= self.groups {
            return Err(damaged(format!("there is no group {group}")));
        }
        let said = self.said();
        let first = u64::from(said.u32(0x14));
        let per_block = self.block / self.descriptor_size();
        let meta = group / per_block;
        let block = if self.has_feature(incompatible::META_BG) && meta >= u64::from(said.u32(0x104)) {
            let holder = meta * per_block;
            first + holder * u64::from(said.u32(0x20)) + u64::from(self.has_superblock(holder))
        } else {
            first + 1 + meta
        };
        let data = self.table_block(block)?;
        let at = usize::try_from((group % per_block) * self.descriptor_size()).unwrap_or(usize::MAX);
        let descriptor = View(data.get(at..).unwrap_or_default());
        let is_wide = self.descriptor_size() >= 64;
        Ok(if is_wide { descriptor.split_u64((0x08, 0x28)) } else { u64::from(descriptor.u32(0x08)) })
    }

    fn has_superblock(&self, group: u64) -> bool {
        let said = self.said();
        if said.u32(0x5c) & SPARSE_SUPER2 != 0 {
            return group == 0 || [said.u32(0x24c), said.u32(0x250)].map(u64::from).contains(&group);
        }
        said.u32(0x64) & SPARSE_SUPER == 0 || has_copy(group)
    }

    /// A block of a table, or of a tree of extents: such are read several times.
    fn table_block(&self, number: u64) -> Result<Rc<[u8]>, RootfsError> {
        if let Some(data) = self.kept.borrow().get(&number) {
            return Ok(Rc::clone(data));
        }
        let mut data = vec![0; usize::try_from(self.block).unwrap_or(0)];
        self.read_blocks(number, &mut data)?;
        let data: Rc<[u8]> = data.into();
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(number, Rc::clone(&data));
        Ok(data)
    }

    /// Blocks one after the other.
    fn read_blocks(&self, first: u64, data: &mut [u8]) -> Result<(), RootfsError> {
        let count = (data.len() as u64).div_ceil(self.block);
        if first == 0 || first.checked_add(count).is_none_or(|end| end > self.blocks) {
            return Err(damaged(format!("the block {first} is asked for, of {}", self.blocks)));
        }
        debug_assert!((data.len() as u64).is_multiple_of(SECTOR));
        self.disk.read(first * self.block, data).map_err(RootfsError::Disk)
    }
}
