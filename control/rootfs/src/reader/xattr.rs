//! Extended attributes, in an inode and in a block ("Extended Attributes").

use super::{FileSystem, Inode, damaged};
use crate::RootfsError;
use crate::ext4::{View, XATTR_MAGIC, linux_acl, linux_name};

const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl FileSystem<'_> {
    /// All that an inode has, by name, as Linux shows them to programs; those that it does not show are left out.
    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<Xattrs, RootfsError> {
        let mut all = Vec::new();
        let wrong = || damaged(format!("the inode {} has extended attributes that are none", inode.number));
        if View(&inode.rest).u32(0) == XATTR_MAGIC {
            let values = inode.rest.get(INODE_HEADER..).unwrap_or_default();
            take(values, 0, &mut all).ok_or_else(wrong)?;
        }
        if inode.xattr_block != 0 {
            let block = self.table_block(inode.xattr_block)?;
            let is_one = View(&block).u32(0) == XATTR_MAGIC && View(&block).u32(8) == 1;
            Some(()).filter(|()| is_one).and_then(|()| take(&block, BLOCK_HEADER, &mut all)).ok_or_else(wrong)?;
        }
        all.sort();
        Ok(all)
    }
}

/// Entries from `at` on, whose values' places count from the beginning of `data`. A value in an inode of its own (`ea_inode`) is
/// not known.
fn take(data: &[u8], mut at: usize, all: &mut Xattrs) -> Option<()> {
    while View(data.get(at..)?).u32(0) != 0 {
        let said = View(data.get(at..)?);
        let (length, index) = (usize::from(said.u8(0)), said.u8(1));
        let (place, inode, size) = (usize::from(said.u16(2)), said.u32(4), usize::try_from(said.u32(8)).ok()?);
        let name = data.get(at + ENTRY..)?.get(..length)?;
        let value = data.get(place..)?.get(..size).filter(|_| inode == 0)?;
        if let Some(name) = linux_name(index, name) {
            all.push((name, linux_acl(index, value)?));
        }
        at += ENTRY + length.next_multiple_of(4);
    }
    Some(())
}
