//! ext4, written once from a whole tree (the kernel's Documentation/filesystems/ext4).
//!
//! ```text
//!   superblock, descriptors │ data of files │ bitmaps │ inode tables │ journal │ directories │ free …
//!                           └ written as layers come ┘└── by `write`, when all names are known ──┘
//! ```
//!
//! Copies of the superblock lie in between, in groups 1, 3, 5, 7, 9, 25 and so on. By `flex_bg` the tables of all groups may lie
//! anywhere, so that they come behind the data whose size decides about them. What of them is not in use is zeros that nobody has
//! to write; groups that nothing is in say so (`BLOCK_UNINIT`, `INODE_UNINIT`), and the kernel makes their bitmaps when it needs them. There are
//! no blocks kept for more descriptors: a larger file system gets them by `meta_bg`, as Linux's online resizing does.

mod crc32c;
mod directory;
mod extents;
mod fields;
mod hash;
mod inode;
mod layout;
mod superblock;
mod write;
mod xattr;

pub(crate) use crc32c::crc32c;
pub(crate) use extents::{MAGIC as EXTENT_MAGIC, ROOT};
pub(crate) use fields::View;
#[cfg(test)]
pub(crate) use inode::device;
pub(crate) use inode::{EXTENTS, kind};
pub(crate) use layout::{Layout, has_copy};
pub(crate) use superblock::ROOT_INODE;
pub(crate) use write::{WriteError, write};
pub(crate) use xattr::{Attributes as Xattrs, MAGIC as XATTR_MAGIC, is_known, linux_acl, linux_name};

/// What one file system has of its own.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u32; 4],
    pub(crate) label: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub(crate) time: i64,
}

impl Identity {
    /// The seed for checksums.
    fn seed(&self) -> u32 {
        crc32c(!0, &self.uuid)
    }
}
