//! Inodes (Documentation/filesystems/ext4, "Index Nodes").

use super::crc32c::crc32c;
use super::extents::ROOT;
use super::fields::Fields;
use super::layout::INODE;
use super::xattr::IN_INODE;
use crate::tree::{Attributes, Time};

/// Bytes of all fields; extended attributes follow.
pub(crate) const FIELDS: usize = 128 + EXTRA as usize;
const EXTRA: u16 = 32;

/// `i_flags`: its blocks are found by extents; it is a directory with an index.
pub(crate) const EXTENTS: u32 = 0x8_0000;
pub(crate) const INDEX: u32 = 0x1000;

/// The kinds of `i_mode`.
pub(crate) mod kind {
    pub(crate) const FIFO: u16 = 0x1000;
    pub(crate) const CHARACTER_DEVICE: u16 = 0x2000;
    pub(crate) const DIRECTORY: u16 = 0x4000;
    pub(crate) const BLOCK_DEVICE: u16 = 0x6000;
    pub(crate) const FILE: u16 = 0x8000;
    pub(crate) const SYMLINK: u16 = 0xa000;
    pub(crate) const SOCKET: u16 = 0xc000;
}

/// What is written into an inode's table.
#[derive(Debug)]
pub(crate) struct Inode<'a> {
    pub(crate) kind: u16,
    pub(crate) attributes: &'a Attributes,
    pub(crate) links: u32,
    pub(crate) size: u64,
    /// Blocks of data, of the extent tree and of extended attributes.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    pub(crate) root: [u8; ROOT],
    pub(crate) xattrs: [u8; IN_INODE],
    /// Block of extended attributes; 0 for none.
    pub(crate) xattr_block: u64,
}

/// The seed for checksums of an inode and of what belongs to it. The generation is always 0.
pub(crate) fn seed(file_system: u32, number: u32) -> u32 {
    crc32c(crc32c(file_system, &number.to_le_bytes()), &0u32.to_le_bytes())
}

impl Inode<'_> {
    /// As it is on the disk. `seed` is its own.
    pub(crate) fn bytes(&self, seed: u32) -> [u8; INODE] {
        let mut data = [0; INODE];
        let mut fields = Fields(&mut data);
        let sectors = self.blocks * 8;
        let (seconds, extra) = time(self.attributes.mtime);
        fields.u16(0, self.kind | (self.attributes.mode & 0o7777));
        fields.split_u32((0x02, 0x78), self.attributes.uid);
        fields.split_u32((0x18, 0x7a), self.attributes.gid);
        fields.split_u64((0x04, 0x6c), self.size);
        fields.u16(0x1a, self.links as u16);
        fields.u32(0x1c, sectors as u32);
        fields.u16(0x74, (sectors >> 32) as u16);
        fields.u32(0x20, self.flags);
        fields.bytes(0x28, &self.root);
        fields.u32(0x68, self.xattr_block as u32);
        fields.u16(0x76, (self.xattr_block >> 32) as u16);
        fields.u16(0x80, EXTRA);
        // Access, change of the inode, change, creation.
        for (place, place_of_extra) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            fields.u32(place, seconds);
            fields.u32(place_of_extra, extra);
        }
        fields.bytes(FIELDS, &self.xattrs);
        let checksum = crc32c(seed, &data);
        Fields(&mut data).split_u32((0x7c, 0x82), checksum);
        data
    }
}

/// Seconds of 32 bits, and what goes beyond: nanoseconds, and how often 2^32 seconds are to be added. What cannot be said is as
/// near as can be: from 1901 to 2446.
fn time(time: Time) -> (u32, u32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = FIRST + (1 << 34) - 1;
    let seconds = time.seconds.clamp(FIRST, LAST);
    let nanos = if seconds == time.seconds { time.nanos.min(999_999_999) } else { 0 };
    let epoch = (seconds - i64::from(seconds as i32)) >> 32;
    (seconds as u32, nanos << 2 | epoch as u32)
}

/// A device's numbers in `i_block`: the old way where they fit, else the new one (fs/ext4/ext4.h, `old_encode_dev` and
/// `new_encode_dev` of include/linux/kdev_t.h).
pub(crate) fn device((major, minor): (u32, u32)) -> [u8; ROOT] {
    let mut root = [0; ROOT];
    let mut fields = Fields(&mut root);
    if major < 256 && minor < 256 {
        fields.u32(0, major << 8 | minor);
    } else {
        fields.u32(4, (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12);
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_32_bits_do_not_reach() {
        // Documentation/filesystems/ext4, "Inode Timestamps": its table of extra bits.
        for (seconds, low, extra) in [
            (-0x8000_0000, 0x8000_0000, 0),
            (-1, 0xffff_ffff, 0),
            (0x7fff_ffff, 0x7fff_ffff, 0),
            (0x8000_0000, 0x8000_0000, 1),
            (0x1_7fff_ffff, 0x7fff_ffff, 1),
            (0x3_7fff_ffff, 0x7fff_ffff, 3),
            (i64::MAX, 0x7fff_ffff, 3),
            (i64::MIN, 0x8000_0000, 0),
        ] {
            assert_eq!(time(Time { seconds, nanos: 0 }), (low, extra), "{seconds}");
        }
    }
}
