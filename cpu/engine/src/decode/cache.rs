//! All decoded blocks of one CPU, and how one is found.
//!
//! A block is looked up by the linear address first, in a direct-mapped table whose entries hold only
//! while the translation does (see [`Mmu::local_epoch`]); then by guest-physical address.

use super::{Block, Reach, Translated, block};
use crate::cpu::{Cpu, Faulting};
use crate::mmu::{Mmu, PAGE, PAGE_MASK};
use crate::smp::Written;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Entries of the table by linear address; a power of two.
const JUMPS: usize = 8192;
/// Operations kept at most; beyond it everything is dropped and decoded anew. About 20 MiB.
pub const MAX_OPS: usize = 320_000;

/// Instructions that are not kept before the host's CPU is given away.
const PATIENCE: u32 = 64;

/// Multiplicative hashing of the small integer keys below; the guest gains nothing by collisions but
/// its own slowness.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

pub type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;
type AddressSet<K> = HashSet<K, BuildHasherDefault<AddressHasher>>;

/// One entry of the table by linear address: 32 bytes.
#[derive(Clone, Copy, Default)]
struct Jump {
    linear: u64,
    epoch: u64,
    /// [`Block::id`].
    id: u64,
    key: u32,
    global: bool,
    /// The block runs over into the next page.
    straddles: bool,
}

impl Jump {
    /// What [`Self::epoch`] is as long as the entry holds: a sum of counts, none of which goes down.
    #[inline(always)]
    fn epoch_now(&self, mmu: &Mmu) -> u64 {
        let all = if self.global { mmu.global_epoch } else { mmu.local_epoch };
        let next = if self.straddles { mmu.page_epoch(self.linear.wrapping_add(PAGE)) } else { 0 };
        all + mmu.page_epoch(self.linear) + next
    }
}

/// Bits of a block's identity that are its index; the rest counts the blocks ever made.
const INDEX_BITS: u32 = 24;

fn index_of(id: u64) -> u32 {
    (id & ((1 << INDEX_BITS) - 1)) as u32
}

/// The blocks whose code lies in one page.
#[derive(Default)]
struct PageBlocks {
    blocks: Vec<u32>,
    /// 64-byte pieces of the page that hold code of any of them.
    granules: u64,
    /// [`BlockCache::term`] for which they are what memory holds. Of an older one nothing is run.
    term: u32,
}

/// Where a block is, and the [`BlockCache::term`] for which it is what memory holds.
#[derive(Clone, Copy)]
struct Known {
    index: u32,
    term: u32,
}

pub struct BlockCache {
    blocks: Vec<Block>,
    free: Vec<u32>,
    by_address: AddressMap<(u64, u32), Known>,
    pages: AddressMap<u64, PageBlocks>,
    /// Pages to which other CPUs may still write unseen: their code is decoded anew each time.
    contested: AddressSet<u64>,
    /// The place of an instruction that is not kept, and how many there were.
    passing: Option<u32>,
    passed: u32,
    jumps: Box<[Jump]>,
    /// Blocks made so far, plus one: identity zero belongs to none.
    made: u64,
    ops: usize,
    /// Translations of blocks that were dropped.
    dropped: Vec<u32>,
    /// Counts up whenever memory may have been written by somebody who has not told.
    term: u32,
}

fn jump_index(linear: u64) -> usize {
    ((linear ^ (linear >> 13)) as usize) & (JUMPS - 1)
}

/// The 64-byte pieces from byte `first` to byte `last` of a page, as bits.
pub fn granules(first: u64, last: u64) -> u64 {
    let (low, high) = (first >> 6, last.min(PAGE_MASK) >> 6);
    (u64::MAX << low) & (u64::MAX >> (63 - high))
}

impl BlockCache {
    pub fn new() -> Self {
        Self {
            blocks: Vec::new(),
            free: Vec::new(),
            by_address: AddressMap::default(),
            pages: AddressMap::default(),
            contested: AddressSet::default(),
            passing: None,
            passed: 0,
            jumps: vec![Jump::default(); JUMPS].into_boxed_slice(),
            made: 1,
            ops: 0,
            dropped: Vec::new(),
            term: 0,
        }
    }

    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> &mut Block {
        &mut self.blocks[index as usize]
    }

    /// Translations whose blocks were dropped since the last call.
    #[inline(always)]
    pub fn take_dropped(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dropped)
    }

    #[inline(always)]
    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    #[inline(always)]
    pub fn get(&self, index: u32) -> &Block {
        &self.blocks[index as usize]
    }

    /// The block at the CPU's RIP.
    ///
    /// # Errors
    /// The instruction cannot be fetched; the fault is in the CPU.
    #[inline(always)]
    pub fn find(&mut self, cpu: &mut Cpu) -> Faulting<u32> {
        let linear = cpu.code_linear(cpu.rip);
        let jump = &self.jumps[jump_index(linear)];
        if jump.linear == linear
            && jump.key == cpu.decode_key()
            && jump.epoch == jump.epoch_now(&cpu.mmu)
            && self.blocks.get(index_of(jump.id) as usize).is_some_and(|b| b.id == jump.id)
        {
            return Ok(index_of(jump.id));
        }
        self.find_by_address(cpu)
    }

    #[inline(never)]
    fn find_by_address(&mut self, cpu: &mut Cpu) -> Faulting<u32> {
        let linear = cpu.code_linear(cpu.rip);
        let (physical, host, global) = cpu.fetch_page(linear)?;
        let key = cpu.decode_key();
        let known = match self.by_address.get(&(physical, key)) {
            Some(&known) if known.term == self.term => Some(known.index),
            Some(_) => self.make_sure(physical, key, cpu),
            None => None,
        };
        let index = match known {
            Some(index) if self.second_page_holds(index, cpu)? => index,
            _ => {
                if let Some(&Known { index: stale, .. }) = self.by_address.get(&(physical, key)) {
                    self.drop_block(stale, cpu);
                }
                match self.decode(physical, host, cpu)? {
                    Some(block) => self.insert(block, cpu),
                    None => return self.decode_passing(physical, host, cpu),
                }
            }
        };
        let block = self.get(index);
        let straddles = block.second_page.is_some();
        // The second page may not be global.
        let jump = Jump { linear, epoch: 0, id: block.id, key, global: global && !straddles, straddles };
        self.jumps[jump_index(linear)] = Jump { epoch: jump.epoch_now(&cpu.mmu), ..jump };
        Ok(index)
    }

    /// Decodes the block at the CPU's RIP, if nobody can write to it unseen.
    fn decode(&mut self, physical: u64, host: *const u8, cpu: &mut Cpu) -> Faulting<Option<Block>> {
        if self.ops + block::MAX_OPS > MAX_OPS {
            self.clear(cpu);
        }
        if !self.hold(physical & !PAGE_MASK, cpu) {
            return Ok(None);
        }
        let block = cpu.find_or_decode(physical, host, Reach::Block)?;
        match block.second_page {
            Some(page) if !self.is_sure(page) => {
                // What does not hold there may have been the last that was kept of the first page.
                if !self.hold(page, cpu) || !self.hold(physical & !PAGE_MASK, cpu) {
                    return Ok(None);
                }
                // What was read of that page may have been written since.
                cpu.decode_block(physical, host, Reach::Block).map(Some)
            }
            _ => Ok(Some(block)),
        }
    }

    /// Makes a page one whose code this CPU may keep decoded, so that whoever writes to it tells. False as long as another CPU may
    /// write to it unseen, which it was asked to forgo.
    fn hold(&mut self, page: u64, cpu: &mut Cpu) -> bool {
        if self.is_sure(page) {
            return true;
        }
        let asked = self.contested.contains(&page);
        if !asked {
            cpu.hold_code(page);
        }
        let writers = cpu.other_writers(page);
        if writers == 0 || (!asked && cpu.ask_to_forgo_writes(page, writers)) {
            // So that it is not let go with the last block that does not hold: code of it is about to be kept.
            self.contested.insert(page);
            self.compare(page, cpu);
            self.contested.remove(&page);
            return true;
        }
        self.contested.insert(page);
        false
    }

    /// Whether what was decoded of a page is what memory holds; something was.
    fn is_sure(&self, page: u64) -> bool {
        self.pages.get(&page).is_some_and(|entry| entry.term == self.term)
    }

    /// Memory may have been written by somebody who has not told: another engine, or who gave the CPU its state. What was decoded
    /// counts again where memory holds the same; a page is looked at when it is next run.
    pub fn doubt(&mut self, cpu: &mut Cpu) {
        for page in std::mem::take(&mut self.contested) {
            cpu.mmu.ram.let_go(page);
        }
        match self.term.checked_add(1) {
            Some(term) => self.term = term,
            None => {
                self.clear(cpu);
                self.term = 0;
            }
        }
    }

    /// The block of an older term at `physical`, if it is still what memory holds and nobody can write to it unseen.
    #[cold]
    fn make_sure(&mut self, physical: u64, key: u32, cpu: &mut Cpu) -> Option<u32> {
        let held = self.hold(physical & !PAGE_MASK, cpu);
        let index = self.by_address.get(&(physical, key)).filter(|_| held)?.index;
        if let Some(second) = self.get(index).second_page
            && !self.hold(second, cpu)
        {
            return None;
        }
        // The second page may have been another.
        let known = self.by_address.get_mut(&(physical, key))?;
        known.term = self.term;
        Some(known.index)
    }

    /// Drops the blocks of a page that this CPU holds, if they are not what memory holds.
    fn compare(&mut self, page: u64, cpu: &mut Cpu) {
        let Some(entry) = self.pages.get_mut(&page) else { return };
        entry.term = self.term;
        let mut now = [0; PAGE as usize];
        let is_ram = cpu.mmu.ram.copy_page(page, &mut now).is_some();
        let blocks = entry.blocks.clone();
        for index in blocks {
            if !is_ram || !self.get(index).is_in(page, &now) {
                cpu.stats.blocks_invalidated += 1;
                self.drop_block(index, cpu);
            }
        }
    }

    /// Decodes the one instruction at the CPU's RIP, for this time only.
    #[cold]
    fn decode_passing(&mut self, physical: u64, host: *const u8, cpu: &mut Cpu) -> Faulting<u32> {
        self.passed = self.passed.wrapping_add(1);
        if self.passed.is_multiple_of(PATIENCE) {
            // Who is waited for may have no CPU of the host's.
            std::thread::yield_now();
        }
        let mut block = cpu.decode_block(physical, host, Reach::Instruction)?;
        cpu.stats.blocks_decoded += 1;
        block.translated.runs = Translated::NEVER;
        self.ops += block.ops.len();
        let index = match self.passing {
            Some(index) => index,
            None => self.free.pop().unwrap_or(self.blocks.len() as u32),
        };
        self.passing = Some(index);
        block.id = self.new_id(index);
        match self.blocks.get_mut(index as usize) {
            Some(slot) => self.ops -= std::mem::replace(slot, block).ops.len(),
            None => self.blocks.push(block),
        }
        Ok(index)
    }

    fn new_id(&mut self, index: u32) -> u64 {
        let id = self.made << INDEX_BITS | u64::from(index);
        self.made += 1;
        id
    }

    /// Whether a block's second page, if it has one, is still where it was decoded from.
    fn second_page_holds(&self, index: u32, cpu: &mut Cpu) -> Faulting<bool> {
        let Some(second) = self.get(index).second_page else { return Ok(true) };
        let next = (cpu.code_linear(cpu.rip) | PAGE_MASK).wrapping_add(1) & cpu.linear_mask;
        let (physical, ..) = cpu.fetch_page(next)?;
        Ok(physical & !PAGE_MASK == second)
    }

    /// Blocks and free places for them, operations, and translations that blocks know.
    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 3] {
        let known = |block: &Block| block.translated.at.len() + block.translated.singles.len();
        [self.blocks.len() + self.free.len(), self.ops, self.blocks.iter().map(known).sum()]
    }

    fn insert(&mut self, mut block: Block, cpu: &mut Cpu) -> u32 {
        cpu.stats.blocks_decoded += 1;
        self.ops += block.ops.len();
        let address = (block.physical, block.key);
        let (first, len) = (block.physical & PAGE_MASK, u64::from(block.len));
        let pages = [Some(block.physical & !PAGE_MASK), block.second_page];
        let index = self.free.pop().unwrap_or(self.blocks.len() as u32);
        block.id = self.new_id(index);
        match self.blocks.get_mut(index as usize) {
            Some(slot) => *slot = block,
            None => self.blocks.push(block),
        }
        self.by_address.insert(address, Known { index, term: self.term });
        for (n, page) in pages.into_iter().flatten().enumerate() {
            let entry = self.pages.entry(page).or_default();
            entry.term = self.term;
            entry.blocks.push(index);
            let end = first + len - 1;
            entry.granules |= if n == 0 { granules(first, end) } else { granules(0, end & PAGE_MASK) };
        }
        index
    }

    /// Decodes the block at the CPU's RIP once more, so that it goes further: it begins as before. It must have no translation but of parts.
    pub fn extend(&mut self, index: u32, reach: Reach, cpu: &mut Cpu) {
        let old = self.get(index);
        if old.reach >= reach || old.second_page.is_some() {
            return;
        }
        let Some(host) = cpu.mmu.ram.page(old.physical) else { return };
        let new = match reach {
            Reach::Path => cpu.decode_path(old.physical, host),
            // A block whose first instruction fits into the page needs no other page, so that there is no fault.
            _ => cpu.find_or_decode(old.physical, host, reach).ok(),
        };
        let fits = |new: &Block| new.second_page.is_none() && self.ops - old.ops.len() + new.ops.len() <= MAX_OPS;
        let Some(new) = new.filter(fits) else { return };
        let first = new.physical & PAGE_MASK;
        let granules = granules(first, first + u64::from(new.len) - 1) | new.followed;
        if let Some(entry) = self.pages.get_mut(&(new.physical & !PAGE_MASK)) {
            entry.granules |= granules;
        }
        self.ops += new.ops.len();
        let block = self.get_mut(index);
        let old = std::mem::replace(block, new);
        (block.id, block.translated) = (old.id, old.translated);
        self.ops -= old.ops.len();
    }

    /// Takes away what was decoded from code that the CPU itself has written to since the last call.
    #[cold]
    pub fn forget_own_writes(&mut self, cpu: &mut Cpu) {
        let written = std::mem::take(&mut cpu.code_writes);
        self.forget_written(&written, cpu);
    }

    /// Takes away what was decoded from code that others, CPUs or devices, have written.
    pub fn forget_written(&mut self, written: &[Written], cpu: &mut Cpu) {
        written.iter().for_each(|w| self.invalidate(w.page, w.first, w.last, cpu));
    }

    /// The translation of a block depends on more of its page, given as 64-byte pieces; `now` is what it holds.
    pub fn depend_on(&mut self, index: u32, looked_at: u64, now: &[u8]) {
        let block = self.get_mut(index);
        block.translated.look_at(looked_at, now);
        let page = block.physical & !PAGE_MASK;
        if let Some(entry) = self.pages.get_mut(&page) {
            entry.granules |= looked_at;
        }
    }

    /// Takes away what was decoded from bytes `first` to `last` of a page, because they were written.
    fn invalidate(&mut self, page: u64, first: u16, last: u16, cpu: &mut Cpu) {
        let Some(entry) = self.pages.get(&page) else {
            // None was decoded in the end.
            self.contested.remove(&page);
            cpu.mmu.ram.let_go(page);
            return;
        };
        if entry.granules & granules(first.into(), last.into()) == 0 {
            return;
        }
        let (first, last) = (u64::from(first), u64::from(last));
        let overlapping = |block: &Block| {
            let start = block.physical & PAGE_MASK;
            let end = start + u64::from(block.len) - 1;
            if block.physical & !PAGE_MASK != page {
                return end & PAGE_MASK >= first;
            }
            let further = block.followed | block.translated.looked_at;
            (start <= last && end >= first) || further & granules(first, last) != 0
        };
        let hit: Vec<u32> = entry.blocks.iter().copied().filter(|&i| overlapping(self.get(i))).collect();
        for index in hit {
            cpu.stats.blocks_invalidated += 1;
            self.drop_block(index, cpu);
        }
    }

    /// Takes away the blocks with code at one of these offsets in its page.
    pub fn forget_offsets(&mut self, offsets: &[u64], cpu: &mut Cpu) {
        let covers = |block: &Block| {
            let (start, len) = (block.physical & PAGE_MASK, u64::from(block.len));
            let has = |&offset: &u64| {
                offset.wrapping_sub(start) & PAGE_MASK < len || block.followed & granules(offset, offset) != 0
            };
            offsets.iter().any(has)
        };
        let hit: Vec<u32> =
            self.by_address.values().map(|known| known.index).filter(|&index| covers(self.get(index))).collect();
        hit.into_iter().for_each(|index| self.drop_block(index, cpu));
    }

    fn drop_block(&mut self, index: u32, cpu: &mut Cpu) {
        let translated = Translated::default();
        let empty = Block {
            ops: [].into(),
            code: [].into(),
            len: 0,
            followed: 0,
            physical: 0,
            key: 0,
            second_page: None,
            reach: Reach::Block,
            id: 0,
            translated,
        };
        let Some(slot) = self.blocks.get_mut(index as usize) else { return };
        let block = std::mem::replace(slot, empty);
        self.ops -= block.ops.len();
        self.dropped.extend(block.translated.numbers());
        self.by_address.remove(&(block.physical, block.key));
        for page in [Some(block.physical & !PAGE_MASK), block.second_page].into_iter().flatten() {
            let Some(entry) = self.pages.get_mut(&page) else { continue };
            entry.blocks.retain(|&i| i != index);
            if entry.blocks.is_empty() {
                self.pages.remove(&page);
                // Of one whose writers were asked, it is not known yet whether code is kept.
                if !self.contested.contains(&page) {
                    cpu.mmu.ram.let_go(page);
                }
            }
        }
        self.free.push(index);
    }

    /// Drops every block.
    pub fn clear(&mut self, cpu: &mut Cpu) {
        for &page in self.pages.keys().chain(&self.contested) {
            cpu.mmu.ram.let_go(page);
        }
        self.pages.clear();
        self.contested.clear();
        self.passing = None;
        self.by_address.clear();
        for block in &self.blocks {
            self.dropped.extend(block.translated.numbers());
        }
        self.blocks.clear();
        self.free.clear();
        self.ops = 0;
    }
}

impl Default for BlockCache {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache")
            .field("blocks", &self.by_address.len())
            .field("bytes", &(self.ops as u64 * PAGE))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_cover_the_bytes_between() {
        assert_eq!(granules(0, 0), 1);
        assert_eq!(granules(63, 64), 0b11);
        assert_eq!(granules(0, PAGE_MASK), u64::MAX);
        assert_eq!(granules(4032, 5000), 1 << 63);
    }
}
