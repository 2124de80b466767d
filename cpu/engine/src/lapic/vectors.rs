//! A set of interrupt vectors: the shape of IRR, ISR and TMR.

/// 256 vectors, with a summary that makes the highest one cheap to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors {
    words: [u32; 8],
    /// Bit `i` is set where `words[i]` is not zero.
    summary: u8,
}

impl Vectors {
    pub(super) fn from_words(words: [u32; 8]) -> Self {
        let summary = words.iter().enumerate().fold(0, |bits, (i, word)| bits | u8::from(*word != 0) << i);
        Self { words, summary }
    }

    pub(super) fn insert(&mut self, vector: u8) {
        let word = usize::from(vector >> 5);
        self.words[word] |= 1 << (vector & 31);
        self.summary |= 1 << word;
    }

    pub(super) fn remove(&mut self, vector: u8) {
        let word = usize::from(vector >> 5);
        self.words[word] &= !(1 << (vector & 31));
        if self.words[word] == 0 {
            self.summary &= !(1 << word);
        }
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] >> (vector & 31) & 1 == 1
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let word = 7u8.checked_sub(self.summary.leading_zeros() as u8)?;
        let bit = 31 - self.words[usize::from(word & 7)].leading_zeros() as u8;
        Some(word << 5 | bit)
    }

    /// The 32 vectors that the register number `index`, 0 to 7, shows.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.words[(index & 7) as usize]
    }

    pub(super) fn words(&self) -> [u32; 8] {
        self.words
    }
}
