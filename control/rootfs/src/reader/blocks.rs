//! Where a file's blocks lie ("Extent Tree", "Direct/Indirect Block Addressing"), and its bytes.

use super::{FileSystem, Inode, damaged};
use crate::RootfsError;
use crate::ext4::{EXTENT_MAGIC, View};
use std::io::{self, Read};

/// Bytes of an entry of a tree of extents, and of what is before the first.
const ENTRY: usize = 12;
/// Deepest tree (fs/ext4/ext4_extents.h, EXT4_MAX_EXTENT_DEPTH).
const DEEPEST: u16 = 5;
/// Blocks of an extent that is written; with more, it is only reserved, and reads as zeros.
const LONGEST: u64 = 1 << 15;
/// Blocks that an inode names itself, and how deep trees of blocks go.
const DIRECT: u64 = 12;
const INDIRECT: u32 = 3;
/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;

/// Blocks of a file one after the other: where they lie, if they are not zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    place: Option<u64>,
    /// One at least.
    blocks: u64,
}

/// A file's bytes from the beginning on.
pub(crate) struct Content<'f, 'd> {
    file_system: &'f FileSystem<'d>,
    inode: &'f Inode,
    /// Bytes that were given.
    at: u64,
    /// What was read, and how much of it was given.
    piece: Vec<u8>,
    given: usize,
    /// Why reading failed, for who cannot make anything of an [`io::Error`].
    pub(crate) error: Option<RootfsError>,
}

impl<'d> FileSystem<'d> {
    /// The bytes of a file, a folder or a long link.
    pub(crate) fn content<'f>(&'f self, inode: &'f Inode) -> Content<'f, 'd> {
        Content { file_system: self, inode, at: 0, piece: Vec::new(), given: 0, error: None }
    }

    /// What lies at a block of a file.
    fn part(&self, inode: &Inode, logical: u64) -> Result<Part, RootfsError> {
        if inode.has_extents() { self.extent(inode, logical) } else { self.indirect(inode, logical) }
    }

    fn extent(&self, inode: &Inode, logical: u64) -> Result<Part, RootfsError> {
        let wrong = || damaged(format!("the inode {} has a tree of extents that is none", inode.number));
        let mut node: Vec<u8> = inode.root.to_vec();
        let mut above: Option<u16> = None;
        // Where the next thing begins, as far as that is known: a hole ends there.
        let mut until = u64::MAX;
        loop {
            let said = View(&node);
            let (count, depth) = (usize::from(said.u16(2)), said.u16(6));
            let is_next = above.map_or(depth <= DEEPEST, |above| above.checked_sub(1) == Some(depth));
            if said.u16(0) != EXTENT_MAGIC || !is_next || (count + 1) * ENTRY > node.len() {
                return Err(wrong());
            }
            let first_of = |entry: usize| u64::from(said.u32((entry + 1) * ENTRY));
            let after = (0..count).find(|entry| first_of(*entry) > logical).unwrap_or(count);
            if after < count {
                until = until.min(first_of(after));
            }
            let hole = Part { place: None, blocks: until - logical };
            let Some(entry) = after.checked_sub(1) else { return Ok(hole) };
            let at = (entry + 1) * ENTRY;
            if depth > 0 {
                let child = u64::from(said.u32(at + 4)) | u64::from(said.u16(at + 8)) << 32;
                node = self.table_block(child)?.to_vec();
                above = Some(depth);
                continue;
            }
            let start = u64::from(said.u32(at + 8)) | u64::from(said.u16(at + 6)) << 32;
            let said_long = u64::from(said.u16(at + 4));
            let is_written = said_long <= LONGEST;
            let long = if is_written { said_long } else { said_long - LONGEST };
            let inside = logical - first_of(entry);
            return match long.checked_sub(inside).filter(|left| *left > 0) {
                Some(blocks) => Ok(Part { place: is_written.then_some(start + inside), blocks }),
                None => Ok(hole),
            };
        }
    }

    /// Trees of blocks' numbers, as ext2 and ext3 have them.
    fn indirect(&self, inode: &Inode, logical: u64) -> Result<Part, RootfsError> {
        let number = |data: &[u8], at: u64| u64::from(View(data).u32(usize::try_from(at * 4).unwrap_or(usize::MAX)));
        let part = |place: u64, blocks: u64| Part { place: (place != 0).then_some(place), blocks };
        if logical < DIRECT {
            return Ok(part(number(&inode.root, logical), 1));
        }
        let each = self.block / 4;
        let mut rest = logical - DIRECT;
        for levels in 1..=INDIRECT {
            let mut span = each.pow(levels);
            if rest >= span {
                rest -= span;
                continue;
            }
            let mut place = number(&inode.root, DIRECT + u64::from(levels) - 1);
            while place != 0 && span > 1 {
                let data = self.table_block(place)?;
                span /= each;
                place = number(&data, rest / span);
                rest %= span;
            }
            return Ok(part(place, span - rest));
        }
        Err(damaged(format!("the inode {} has more blocks than it can name", inode.number)))
    }
}

impl Content<'_, '_> {
    /// All of it, if it is not more than so many bytes.
    pub(crate) fn all(mut self, most: u64) -> Result<Vec<u8>, RootfsError> {
        let size = self.inode.size;
        if size > most {
            return Err(damaged(format!("the inode {} has {size} bytes; {most} can be", self.inode.number)));
        }
        let mut data = Vec::new();
        while let Some(piece) = self.next_piece()? {
            data.extend_from_slice(piece);
        }
        Ok(data)
    }

    /// Reads on: whole blocks, as far as there are; `None` at the end.
    pub(super) fn next_piece(&mut self) -> Result<Option<&[u8]>, RootfsError> {
        let FileSystem { block, .. } = *self.file_system;
        let left = self.inode.size - self.at;
        self.given = 0;
        if left == 0 {
            self.piece.clear();
            return Ok(None);
        }
        let part = self.file_system.part(self.inode, self.at / block)?;
        let whole = part.blocks.min(PIECE / block).min(left.div_ceil(block)) * block;
        self.piece.clear();
        self.piece.resize(usize::try_from(whole).unwrap_or(0), 0);
        if let Some(place) = part.place {
            self.file_system.read_blocks(place, &mut self.piece)?;
        }
        let useful = whole.min(left);
        self.piece.truncate(usize::try_from(useful).unwrap_or(0));
        self.at += useful;
        Ok(Some(&self.piece))
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() {
            match self.next_piece() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(0),
                Err(error) => {
                    self.error = Some(error);
                    return Err(io::Error::other("a file cannot be read"));
                }
            }
        }
        let count = self.piece.get(self.given..).unwrap_or_default().read(buffer)?;
        self.given += count;
        Ok(count)
    }
}
