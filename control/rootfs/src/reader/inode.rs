//! Inodes ("Index Nodes").

use super::{FileSystem, damaged};
use crate::RootfsError;
use crate::ext4::{EXTENTS, ROOT, View, kind};
use crate::tree::Time;

/// Bytes of an inode of revision 0; what follows has a length of its own.
const OLD: usize = 128;
/// What `i_mode` has of the kind.
const KIND: u16 = 0xf000;
/// `i_flags`: it is encrypted; its data lies in the inode.
const ENCRYPTED: u32 = 0x800;
const INLINE: u32 = 0x1000_0000;
/// The longest target that lies in the inode, and the longest there is.
const LONGEST_FAST: u64 = ROOT as u64 - 1;
const LONGEST: u64 = 4095;

/// What a file, folder or link has.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    /// One of [`kind`]'s.
    pub(crate) kind: u16,
    /// Permissions: at most 0o7777.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) links: u16,
    /// Bytes of data.
    pub(crate) size: u64,
    pub(super) flags: u32,
    /// `i_block`: where its blocks are, a link's target or a device's numbers.
    pub(super) root: [u8; ROOT],
    /// A block of extended attributes; 0 for none.
    pub(super) xattr_block: u64,
    /// What lies behind its fields: extended attributes.
    pub(super) rest: Vec<u8>,
}

impl Inode {
    /// `is_large` says whether directories have sizes of 64 bits.
    pub(super) fn parse(number: u32, bytes: &[u8], is_large: bool) -> Result<Self, RootfsError> {
        let said = View(bytes);
        let mode = said.u16(0x00);
        let kind = mode & KIND;
        let links = said.u16(0x1a);
        let flags = said.u32(0x20);
        if links == 0 || kind == 0 {
            return Err(damaged(format!("the inode {number} is named and was deleted")));
        }
        if flags & ENCRYPTED != 0 || flags & INLINE != 0 {
            let what = if flags & ENCRYPTED != 0 { "is encrypted" } else { "has its data in itself" };
            return Err(RootfsError::Unreadable(format!("its inode {number} {what}, which motu does not read")));
        }
        // `i_extra_isize`: fields beyond the old ones.
        let extra = if bytes.len() > OLD { usize::from(said.u16(0x80)) } else { 0 };
        let end = OLD + extra;
        if end > bytes.len() || !extra.is_multiple_of(4) {
            return Err(damaged(format!("the inode {number} has {extra} bytes of fields beyond its end")));
        }
        let has = |field: usize| field + 4 <= end;
        let wide = kind == kind::FILE || is_large && kind == kind::DIRECTORY;
        let high = if wide { u64::from(said.u32(0x6c)) << 32 } else { 0 };
        let mut root = [0; ROOT];
        root.iter_mut().zip(bytes.iter().skip(0x28)).for_each(|(to, from)| *to = *from);
        Ok(Self {
            number,
            kind,
            mode: mode & !KIND,
            uid: said.split_u32((0x02, 0x78)),
            gid: said.split_u32((0x18, 0x7a)),
            mtime: time(said.u32(0x10), if has(0x88) { said.u32(0x88) } else { 0 }),
            links,
            size: u64::from(said.u32(0x04)) | high,
            flags,
            root,
            xattr_block: u64::from(said.u32(0x68)) | u64::from(said.u16(0x76)) << 32,
            rest: bytes.get(end..).unwrap_or_default().to_vec(),
        })
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    /// Major and minor number of a device: the old way or the new one, as [`crate::ext4`] writes them.
    pub(crate) fn device(&self) -> (u32, u32) {
        let (old, new) = (View(&self.root).u32(0), View(&self.root).u32(4));
        if old != 0 { (old >> 8 & 0xff, old & 0xff) } else { (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00) }
    }
}

impl FileSystem<'_> {
    /// Where a symbolic link leads.
    pub(crate) fn target(&self, inode: &Inode) -> Result<Vec<u8>, RootfsError> {
        if !(1..=LONGEST).contains(&inode.size) {
            return Err(damaged(format!("the inode {} is a link to {} bytes", inode.number, inode.size)));
        }
        if inode.size <= LONGEST_FAST {
            return Ok(inode.root.iter().copied().take(inode.size as usize).collect());
        }
        self.content(inode).all(LONGEST)
    }
}

/// From what is written for [`Time`]: seconds of 32 bits; nanoseconds and how often 2^32 seconds are to be added.
fn time(seconds: u32, extra: u32) -> Time {
    let epoch = i64::from(extra & 3) << 32;
    Time { seconds: i64::from(seconds.cast_signed()) + epoch, nanos: (extra >> 2).min(999_999_999) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(fields: &[(usize, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        let usual = [(0x00, 0o100_644), (0x1a, 1), (0x80, 32)];
        for (at, value) in usual.iter().chain(fields) {
            bytes[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn times_are_those_that_were_written() {
        // Documentation/filesystems/ext4, "Inode Timestamps".
        for (low, extra, seconds) in [
            (0x8000_0000, 0, -0x8000_0000),
            (!0, 0, -1),
            (0x8000_0000, 1, 0x8000_0000),
            (0x7fff_ffff, 3, 0x3_7fff_ffff),
        ] {
            let inode = Inode::parse(12, &bytes(&[(0x10, low), (0x88, 5 << 2 | extra)]), false).unwrap();
            assert_eq!(inode.mtime, Time { seconds, nanos: 5 });
        }
        // Of 1999 or so: there are no fields beyond the old ones.
        let inode = Inode::parse(12, &bytes(&[(0x10, 7)])[..128], false).unwrap();
        assert_eq!(inode.mtime, Time { seconds: 7, nanos: 0 });
    }

    #[test]
    fn devices_have_two_ways() {
        let device = |fields: &[(usize, u32)]| Inode::parse(12, &bytes(fields), false).unwrap().device();
        assert_eq!(device(&[(0x28, 0x0801)]), (8, 1));
        for numbers in [(259, 7), (8, 300), (4095, 0xf_ffff)] {
            let root = crate::ext4::device(numbers);
            let word = u32::from_le_bytes(root[4..8].try_into().unwrap());
            assert_eq!(device(&[(0x2c, word)]), numbers);
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (fields, words) in [
            (&[(0x1a, 0)][..], "was deleted"),
            (&[(0x00, 0o644)], "was deleted"),
            (&[(0x20, 0x800)], "is encrypted"),
            (&[(0x20, 0x1000_0000)], "data in itself"),
            (&[(0x80, 132)], "132 bytes of fields"),
        ] {
            let error = Inode::parse(12, &bytes(fields), false).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
