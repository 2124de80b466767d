//! Names in a folder ("Linear Directories"). An index ("Hash Tree Directories") is passed over: to who does not know of it, it
//! looks like names of nothing.

use super::{FileSystem, Inode, damaged};
use crate::RootfsError;
use crate::ext4::View;

/// Bytes of an entry before its name.
const FIELDS: usize = 8;

impl FileSystem<'_> {
    /// The names in a folder and their inodes, by name, without `.` and `..`; so many at most.
    pub(crate) fn names(&self, folder: &Inode, most: u64) -> Result<Vec<(Vec<u8>, u32)>, RootfsError> {
        let wrong = |what: &str| damaged(format!("the folder that is inode {} has {what}", folder.number));
        let block = usize::try_from(self.block).unwrap_or(usize::MAX);
        let mut content = self.content(folder);
        let mut names = Vec::new();
        while let Some(piece) = content.next_piece()? {
            for block in piece.chunks(block) {
                take(block, &mut names).map_err(wrong)?;
            }
            if names.len() as u64 > most {
                return Err(RootfsError::Unreadable(format!("a folder has more than {most} names")));
            }
        }
        names.sort();
        match names.windows(2).any(|two| matches!(two, [(one, _), (other, _)] if one == other)) {
            true => Err(wrong("the same name twice")),
            false => Ok(names),
        }
    }
}

/// The names in a block. Fails with what the block has.
fn take(block: &[u8], names: &mut Vec<(Vec<u8>, u32)>) -> Result<(), &'static str> {
    let mut rest = block;
    while !rest.is_empty() {
        let said = View(rest);
        // In blocks of 64 KiB the whole of it is no number of 16 bits.
        let length = match said.u16(4) {
            0 | u16::MAX if block.len() > usize::from(u16::MAX) => block.len(),
            length => usize::from(length),
        };
        let name_length = usize::from(said.u8(6));
        let fits = length >= FIELDS + name_length && length.is_multiple_of(4);
        let (entry, after) = rest.split_at_checked(length).filter(|_| fits).ok_or("an entry that is none")?;
        let name = entry.get(FIELDS..FIELDS + name_length).unwrap_or_default();
        rest = after;
        if said.u32(0) == 0 || matches!(name, b"." | b"..") {
            continue;
        }
        if name.is_empty() || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err("a name that cannot be");
        }
        names.push((name.to_vec(), said.u32(0)));
    }
    Ok(())
}
