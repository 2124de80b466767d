//! Which blocks of the file system are in use.
//!
//! Blocks are taken in ascending order, around those that have copies of the superblock. What is given back is
//! taken again by what fits into it. What lies behind the last block that was ever taken was never written.

use std::collections::{BTreeMap, BTreeSet};

/// Blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) blocks: u64,
}

impl Run {
    pub(crate) fn end(self) -> u64 {
        self.start.saturating_add(self.blocks)
    }
}

/// There are no more blocks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Space {
    blocks: u64,
    /// All blocks from here on were never taken, but for `reserved`.
    next: u64,
    /// In ascending order, with space between them.
    reserved: Vec<Run>,
    /// Given back: blocks by their start.
    free: BTreeMap<u64, u64>,
    /// The same by length and start.
    by_length: BTreeSet<(u64, u64)>,
}

impl Space {
    /// `reserved` are in ascending order, and in use from the beginning.
    pub(crate) fn new(blocks: u64, reserved: Vec<Run>) -> Self {
        Self { blocks, next: 0, reserved, free: BTreeMap::new(), by_length: BTreeSet::new() }
    }

    /// Takes so many blocks, in one run if it can be.
    pub(crate) fn take(&mut self, blocks: u64) -> Result<Vec<Run>, Full> {
        let Some(&(length, start)) = self.by_length.range((blocks, 0)..).next().filter(|_| blocks > 0) else {
            return self.take_fresh(blocks);
        };
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
        if length > blocks {
            self.insert(Run { start: start + blocks, blocks: length - blocks });
        }
        Ok(vec![Run { start, blocks }])
    }

    /// Takes so many blocks that were never written.
    pub(crate) fn take_fresh(&mut self, mut blocks: u64) -> Result<Vec<Run>, Full> {
        let before = self.next;
        let mut runs = Vec::new();
        while blocks > 0 {
            let at = self.reserved.partition_point(|run| run.end() <= self.next);
            let reserved = self.reserved.get(at).copied();
            if let Some(reserved) = reserved.filter(|run| run.start <= self.next) {
                self.next = reserved.end();
                continue;
            }
            let end = reserved.map_or(self.blocks, |run| run.start).min(self.blocks);
            let taken = end.saturating_sub(self.next).min(blocks);
            if taken == 0 {
                // Nothing was taken.
                self.next = before;
                return Err(Full);
            }
            runs.push(Run { start: self.next, blocks: taken });
            self.next += taken;
            blocks -= taken;
        }
        Ok(runs)
    }

    /// Takes so many blocks in one run that were never written.
    pub(crate) fn take_whole(&mut self, blocks: u64) -> Result<Run, Full> {
        loop {
            let runs = self.take_fresh(blocks)?;
            if let [run] = runs.as_slice() {
                return Ok(*run);
            }
            // Copies of the superblock are in between. Behind them it fits, or behind the next ones.
            let (last, before) = runs.split_last().ok_or(Full)?;
            self.give_back(before.iter().copied());
            self.next = last.start;
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&mut self, runs: impl IntoIterator<Item = Run>) {
        for run in runs {
            if run.blocks > 0 {
                self.insert(run);
            }
        }
    }

    /// Adds a run that is free, joined with its neighbours.
    fn insert(&mut self, mut run: Run) {
        if let Some((&start, &blocks)) = self.free.range(..run.start).next_back()
            && start + blocks == run.start
        {
            self.free.remove(&start);
            self.by_length.remove(&(blocks, start));
            run = Run { start, blocks: blocks + run.blocks };
        }
        if let Some(blocks) = self.free.remove(&run.end()) {
            self.by_length.remove(&(blocks, run.end()));
            run.blocks += blocks;
        }
        self.free.insert(run.start, run.blocks);
        self.by_length.insert((run.blocks, run.start));
    }

    /// The runs in use that touch `range`, cut to it, in ascending order and apart.
    pub(crate) fn used_in(&self, range: Run) -> Vec<Run> {
        let mut used = Vec::new();
        let mut add = |start: u64, end: u64| {
            let (start, end) = (start.max(range.start), end.min(range.end()));
            if start < end {
                used.push(Run { start, blocks: end - start });
            }
        };
        let taken_end = self.next.min(range.end());
        let mut at = range.start;
        let before = self.free.range(..range.start).next_back();
        for (&start, &blocks) in before.into_iter().chain(self.free.range(range.start..taken_end.max(range.start))) {
            add(at, start);
            at = at.max(start + blocks);
        }
        add(at, taken_end);
        let behind = self.reserved.partition_point(|run| run.end() <= taken_end.max(range.start));
        for run in self.reserved.iter().skip(behind).take_while(|run| run.start < range.end()) {
            add(run.start.max(taken_end), run.end());
        }
        used
    }
}
