//! Which pages were written: a bit for each.

use crate::PAGE_SIZE;
use motu_x86::Gpa;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Pages of RAM that were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyPages {
    /// Where each region begins, and a bit for each of its pages.
    regions: Vec<(Gpa, Vec<u64>)>,
}

impl DirtyPages {
    pub(crate) fn new(regions: Vec<(Gpa, Vec<u64>)>) -> Self {
        Self { regions }
    }

    /// Their addresses, lowest first.
    pub fn addresses(&self) -> impl Iterator<Item = Gpa> {
        self.regions.iter().flat_map(|(start, words)| {
            let numbers = (0u64..).zip(words).flat_map(|(n, &word)| members(word).map(move |bit| n * 64 + bit));
            numbers.map(|number| Gpa(start.0 + number * PAGE_SIZE))
        })
    }

    pub fn count(&self) -> u64 {
        self.regions.iter().flat_map(|(_, words)| words).map(|word| u64::from(word.count_ones())).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Adds those of another log of the same RAM.
    pub fn add(&mut self, other: &Self) {
        if self.regions.is_empty() {
            self.regions.clone_from(&other.regions);
        }
        for ((_, words), (_, more)) in self.regions.iter_mut().zip(&other.regions) {
            words.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
        }
    }
}

fn members(word: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| word >> bit & 1 != 0)
}

/// The log of one region. It has memory only once it is on.
#[derive(Debug, Default)]
pub(crate) struct Log {
    on: AtomicBool,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Log {
    /// Begins with no page, or ends.
    pub fn set(&self, on: bool, pages: usize) {
        if on {
            let words = self.words.get_or_init(|| (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
            words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
        self.on.store(on, Ordering::SeqCst);
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    fn words(&self) -> &[AtomicU64] {
        self.words.get().map_or(&[], |words| words)
    }

    /// Page number `page` is written, if the log is on.
    #[inline]
    pub fn note(&self, page: u64) {
        if self.is_on() {
            self.note_all(page / 64, 1 << (page % 64));
        }
    }

    /// The same for 64 pages, as bits.
    pub fn note_all(&self, word: u64, pages: u64) {
        if let Some(word) = usize::try_from(word).ok().and_then(|word| self.words().get(word)) {
            word.fetch_or(pages, Ordering::SeqCst);
        }
    }

    pub fn has(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.words().get(word));
        word.is_some_and(|word| word.load(Ordering::SeqCst) >> (page % 64) & 1 != 0)
    }

    /// What was noted since it was last taken.
    pub fn take(&self) -> Vec<u64> {
        let take = |word: &AtomicU64| if word.load(Ordering::SeqCst) == 0 { 0 } else { word.swap(0, Ordering::SeqCst) };
        self.words().iter().map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestRam, HIGH_RAM_START, LOW_RAM_END};
    use std::collections::BTreeSet;

    fn addresses(dirty: &DirtyPages) -> Vec<u64> {
        dirty.addresses().map(|page| page.0).collect()
    }

    #[test]
    fn what_the_board_writes_is_told_of_once_and_only_while_the_log_is_on() {
        let ram = GuestRam::new(LOW_RAM_END + 4 * PAGE_SIZE).unwrap();
        ram.write(Gpa(0), &[1]).unwrap();
        assert!(ram.take_written().is_empty(), "it is off");
        ram.log_writes(true);
        assert!(ram.take_written().is_empty());
        ram.write(Gpa(64 * PAGE_SIZE - 1), &[1, 2]).unwrap();
        ram.write(Gpa(HIGH_RAM_START + PAGE_SIZE), &[1]).unwrap();
        let taken = ram.take_written();
        assert_eq!(addresses(&taken), [63 * PAGE_SIZE, 64 * PAGE_SIZE, HIGH_RAM_START + PAGE_SIZE]);
        assert_eq!(taken.count(), 3);
        assert!(ram.take_written().is_empty());
        ram.log_writes(false);
        ram.write(Gpa(0), &[1]).unwrap();
        ram.log_writes(true);
        assert!(ram.take_written().is_empty());
    }

    #[test]
    fn two_logs_become_one() {
        let ram = GuestRam::new(130 * PAGE_SIZE).unwrap();
        ram.log_writes(true);
        let mut both = DirtyPages::default();
        for page in [129, 0, 64, 129] {
            ram.write(Gpa(page * PAGE_SIZE), &[0]).unwrap();
            both.add(&ram.take_written());
        }
        assert_eq!(addresses(&both), [0, 64 * PAGE_SIZE, 129 * PAGE_SIZE]);
        both.add(&DirtyPages::default());
        assert_eq!(both.count(), 3);
    }

    #[test]
    fn no_write_is_lost_while_others_take() {
        let ram = GuestRam::new(256 * PAGE_SIZE).unwrap();
        ram.log_writes(true);
        let found = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2u64)
                .map(|writer| {
                    let ram = &ram;
                    scope.spawn(move || {
                        (0..128).for_each(|n| ram.write(Gpa((2 * n + writer) * PAGE_SIZE), &[1]).unwrap());
                    })
                })
                .collect();
            let mut found = BTreeSet::new();
            while !writers.iter().all(|writer| writer.is_finished()) {
                found.extend(addresses(&ram.take_written()));
            }
            found
        });
        let rest: BTreeSet<_> = addresses(&ram.take_written()).into_iter().collect();
        assert_eq!(found.union(&rest).count(), 256);
        assert_eq!(found.intersection(&rest).count(), 0, "each was written once");
    }
}
