//! A translation before it has a place, which other CPUs take instead of making it once more.

use super::block::Code;
use super::exit::Exit;
use super::mode::Mode;
use crate::decode::Block;
use crate::mmu::{PAGE_MASK, RamMap};
use crate::smp::members;
use std::sync::Arc;

/// Bytes of a piece of [`Code::looked_at`].
const PIECE: usize = 64;

/// What a translation is made for beside its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeFor {
    pub rip: u64,
    pub mode: Mode,
    /// All flags matter everywhere.
    pub exact: bool,
}

/// A block's host code with everything that it depends on.
#[derive(Debug)]
pub struct Template {
    made_for: MadeFor,
    /// The block's code, and the pieces of its page that `looked_at` has the bits of, one behind the other.
    guest: Arc<[u8]>,
    pieces: Box<[u8]>,
    bytes: Box<[u8]>,
    crossing: Box<[u32]>,
    exits: Box<[Exit]>,
    numbers: Box<[u32]>,
    /// The rest of [`Code`], whose slices are empty.
    rest: Code<'static>,
}

impl Template {
    /// What was made of `block`, of which `page` has the page. It must have no slots.
    pub fn new(code: &Code<'_>, made_for: MadeFor, block: &Block, page: &[u8]) -> Self {
        let piece = |n: usize| page.get(n * PIECE..(n + 1) * PIECE);
        let pieces: Vec<&[u8]> = members(code.looked_at).filter_map(piece).collect();
        Self {
            made_for,
            guest: Arc::clone(&block.code),
            pieces: pieces.concat().into(),
            bytes: code.bytes.into(),
            crossing: code.crossing.into(),
            exits: code.exits.into(),
            numbers: code.numbers.into(),
            rest: Code { bytes: &[], crossing: &[], exits: &[], numbers: &[], sites: &[], ..*code },
        }
    }

    pub fn made_for(&self) -> MadeFor {
        self.made_for
    }

    /// Whether it is what would be made of `block` now, by what memory has.
    pub fn suits(&self, made_for: MadeFor, block: &Block, ram: &RamMap) -> bool {
        let page = block.physical & !PAGE_MASK;
        let mut pieces = members(self.rest.looked_at).zip(self.pieces.chunks(PIECE));
        self.made_for == made_for
            && *self.guest == *block.code
            && ram.holds(block.physical, &block.code)
            && pieces.all(|(n, piece)| ram.holds(page + (n * PIECE) as u64, piece))
    }

    /// Puts what it depends on beside its block into `page`, where it was.
    pub fn show_pieces(&self, page: &mut [u8]) {
        for (n, piece) in members(self.rest.looked_at).zip(self.pieces.chunks(PIECE)) {
            if let Some(room) = page.get_mut(n * PIECE..n * PIECE + piece.len()) {
                room.copy_from_slice(piece);
            }
        }
    }

    pub fn code(&self) -> Code<'_> {
        Code { bytes: &self.bytes, crossing: &self.crossing, exits: &self.exits, numbers: &self.numbers, ..self.rest }
    }

    /// What it takes of memory, more or less.
    pub fn size(&self) -> usize {
        let lists = size_of_val(&*self.crossing) + size_of_val(&*self.exits) + size_of_val(&*self.numbers);
        size_of::<Self>() + self.bytes.len() + self.pieces.len() + lists
    }
}

#[cfg(test)]
mod tests;
