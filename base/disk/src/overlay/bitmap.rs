//! Which blocks are in an overlay's file.

use super::layout::PAGE;

/// Blocks that a word counts.
const WORD: u64 = 64;

/// A bit for each block.
#[derive(Debug)]
pub struct Bitmap {
    words: Vec<u64>,
    /// By page of the bitmap: it is not on the host's disk yet.
    dirty: Vec<bool>,
}

impl Bitmap {
    /// Of whole pages, as the file has them.
    pub fn read(bytes: &[u8]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Self { words, dirty: vec![false; bytes.len() / PAGE as usize] }
    }

    pub fn get(&self, index: u64) -> bool {
        self.word(index) >> (index % WORD) & 1 == 1
    }

    fn word(&self, index: u64) -> u64 {
        usize::try_from(index / WORD).ok().and_then(|at| self.words.get(at)).copied().unwrap_or(0)
    }

    pub fn set(&mut self, index: u64) {
        let Ok(at) = usize::try_from(index / WORD) else { return };
        let Some(word) = self.words.get_mut(at) else { return };
        let bit = 1 << (index % WORD);
        if *word & bit == 0 {
            *word |= bit;
            if let Some(dirty) = usize::try_from(index / (8 * PAGE)).ok().and_then(|page| self.dirty.get_mut(page)) {
                *dirty = true;
            }
        }
    }

    /// The first block from `from` on, before `to`, that is here, or not here.
    pub fn next(&self, from: u64, to: u64, here: bool) -> Option<u64> {
        let mut at = from;
        while at < to {
            let word = if here { self.word(at) } else { !self.word(at) };
            let found = at + u64::from((word >> (at % WORD)).trailing_zeros());
            // What was shifted in says nothing.
            let end = (at / WORD + 1) * WORD;
            if found < end {
                return (found < to).then_some(found);
            }
            at = end;
        }
        None
    }

    /// Page `page` as the file has it.
    pub fn page(&self, page: usize) -> Vec<u8> {
        let words = PAGE as usize / 8;
        self.words.iter().skip(page * words).take(words).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Pages that are not on the host's disk yet; from here on they count as if they were.
    pub fn take_dirty(&mut self) -> Vec<usize> {
        let dirty = self.dirty.iter().enumerate().filter(|(_, dirty)| **dirty).map(|(at, _)| at).collect();
        self.dirty.fill(false);
        dirty
    }

    pub fn set_dirty(&mut self, page: usize) {
        if let Some(dirty) = self.dirty.get_mut(page) {
            *dirty = true;
        }
    }

    /// Pages that have something in them.
    pub fn used(&self) -> impl Iterator<Item = usize> {
        let words = PAGE as usize / 8;
        self.words.chunks(words).enumerate().filter(|(_, page)| page.iter().any(|word| *word != 0)).map(|(at, _)| at)
    }

    /// Makes room for `bytes`, whole pages; all of it is on the host's disk.
    pub fn grow(&mut self, bytes: u64) {
        let pages = (bytes / PAGE) as usize;
        self.words.resize(pages * (PAGE as usize / 8), 0);
        self.dirty = vec![false; pages];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_found_as_one_by_one(bits in prop::collection::btree_set(0..400u64, 0..60), from in 0..450u64, to in 0..450u64) {
            let mut bitmap = Bitmap::read(&[0; PAGE as usize]);
            bits.iter().for_each(|bit| bitmap.set(*bit));
            for here in [false, true] {
                prop_assert_eq!(bitmap.next(from, to, here), (from..to).find(|at| bits.contains(at) == here));
            }
        }
    }
}
