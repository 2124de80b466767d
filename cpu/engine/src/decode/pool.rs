//! What the CPUs of one machine have decoded and translated, for each other to take (docs/adr/0014).
//!
//! Nothing here is ever wrong for having been written since: who takes something compares the bytes that it was made of with what
//! memory holds, after it has seen to it that it will be told of writes to them. So nobody takes anything out of here either, but
//! what was made of other bytes at the same place, and all of a part of it that is full.

use super::cache::AddressMap;
use super::{Block, Handler, Op, Reach, Translated};
use crate::cpu::{Cpu, Faulting};
use crate::exec::system;
use crate::mmu::{PAGE, PAGE_MASK};
use crate::native::NativeCache;
use crate::translate::Template;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts with a lock each.
const SHARDS: usize = 64;
/// Bytes of operations and host code in all of them at most.
const MAX_BYTES: usize = 32 << 20;
/// Translations of one block: one for each linear address that it is run at.
const MOST_TEMPLATES: usize = 4;

/// What names a block in its page: where it begins, whether it goes on behind conditional jumps, and [`Cpu::decode_key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name(u64);

impl Name {
    fn new(physical: u64, extended: bool, key: u32) -> Self {
        Self(physical & PAGE_MASK | u64::from(extended) << 12 | u64::from(key) << 32)
    }

    fn of(block: &Block) -> Self {
        Self::new(block.physical, block.reach == Reach::Extended, block.key)
    }
}

/// A block that some CPU has decoded.
#[derive(Debug)]
struct Entry {
    /// Some of the operations use stubs of the CPU's that decoded them.
    has_stubs: bool,
    /// Some CPU has translated it, or what it became when it was decoded further.
    hot: bool,
    ops: Arc<[Op]>,
    code: Arc<[u8]>,
    templates: Vec<Arc<Template>>,
}

impl Entry {
    fn new(block: &Block) -> Self {
        let has_stubs = block.ops.iter().any(uses_stub);
        let (ops, code) = (Arc::clone(&block.ops), Arc::clone(&block.code));
        Self { has_stubs, hot: false, ops, code, templates: Vec::new() }
    }

    fn bytes(&self) -> usize {
        let templates: usize = self.templates.iter().map(|template| template.size()).sum();
        size_of::<Self>() + size_of_val(&*self.ops) + self.code.len() + templates
    }
}

/// What the pool has of a block.
struct Found {
    ops: Arc<[Op]>,
    code: Arc<[u8]>,
    has_stubs: bool,
    hot: bool,
}

/// The blocks of a page, and their names.
#[derive(Debug, Default)]
struct PageEntries {
    names: Vec<Name>,
    entries: Vec<Entry>,
}

impl PageEntries {
    fn get(&mut self, name: Name) -> Option<&mut Entry> {
        let at = self.names.iter().position(|&other| other == name)?;
        self.entries.get_mut(at)
    }
}

/// Some of the pages.
#[derive(Debug, Default)]
struct Shard {
    pages: AddressMap<u64, PageEntries>,
    bytes: usize,
}

impl Shard {
    fn get(&mut self, page: u64, name: Name) -> Option<&mut Entry> {
        self.pages.get_mut(&page)?.get(name)
    }

    /// Keeps it within its bounds.
    fn limit(&mut self) {
        if self.bytes > MAX_BYTES / SHARDS {
            self.pages.clear();
            self.bytes = 0;
        }
    }
}

/// All of it.
#[derive(Debug)]
pub struct Pool {
    shards: Box<[Mutex<Shard>; SHARDS]>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { shards: Box::new(std::array::from_fn(|_| Mutex::default())) }
    }
}

impl Pool {
    fn shard(&self, page: u64) -> MutexGuard<'_, Shard> {
        let at = (page / PAGE) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, page: u64, name: Name) -> Option<Found> {
        let mut shard = self.shard(page);
        let entry = shard.get(page, name)?;
        let (ops, code) = (Arc::clone(&entry.ops), Arc::clone(&entry.code));
        Some(Found { ops, code, has_stubs: entry.has_stubs, hot: entry.hot })
    }

    /// Offers what `block` was decoded to.
    fn add(&self, block: &Block) {
        let (page, name) = (block.physical & !PAGE_MASK, Name::of(block));
        let entry = Entry::new(block);
        let more = entry.bytes();
        let mut shard = self.shard(page);
        let of_page = shard.pages.entry(page).or_default();
        let less = match of_page.get(name) {
            Some(old) => std::mem::replace(old, entry).bytes(),
            None => {
                of_page.names.push(name);
                of_page.entries.push(entry);
                0
            }
        };
        shard.bytes = shard.bytes - less + more;
        shard.limit();
    }

    /// A translation of `block` that `suits`.
    pub fn template(&self, block: &Block, suits: impl Fn(&Template) -> bool) -> Option<Arc<Template>> {
        let page = block.physical & !PAGE_MASK;
        let mut shard = self.shard(page);
        shard.get(page, Name::of(block))?.templates.iter().find(|template| suits(template)).map(Arc::clone)
    }

    /// Offers a translation of `block`.
    pub fn add_template(&self, block: &Block, template: Template) {
        let (page, name) = (block.physical & !PAGE_MASK, Name::of(block));
        let mut shard = self.shard(page);
        let Some(entry) = shard.get(page, name).filter(|entry| *entry.code == *block.code) else { return };
        let old = entry.templates.iter().position(|old| old.made_for() == template.made_for());
        if old.is_none() && entry.templates.len() >= MOST_TEMPLATES {
            return;
        }
        let less = old.map_or(0, |old| entry.templates.swap_remove(old).size());
        let more = template.size();
        entry.templates.push(Arc::new(template));
        entry.hot = true;
        if let Some(entry) = shard.get(page, Name::new(block.physical, false, block.key)) {
            entry.hot = true;
        }
        shard.bytes = shard.bytes - less + more;
        shard.limit();
    }
}

impl Cpu {
    /// Whether what is decoded is what any CPU would decode: breakpoints are one CPU's.
    pub fn may_share(&self) -> bool {
        self.debugger.has_no_breakpoints()
    }

    /// The block at the current instruction, as of [`Cpu::decode_block`], from the pool if it has that. The CPU must hold the code of
    /// the page.
    ///
    /// # Errors
    /// As of [`Cpu::decode_block`].
    pub fn find_or_decode(&mut self, physical: u64, host_page: *const u8, reach: Reach) -> Faulting<Block> {
        let processors = Arc::clone(&self.processors);
        let Some(pool) = processors.pool().filter(|_| self.may_share()) else {
            return self.decode_block(physical, host_page, reach);
        };
        let (key, extended) = (self.decode_key(), reach == Reach::Extended);
        let name = Name::new(physical, extended, key);
        if let Some(Found { ops, code, has_stubs, hot }) = pool.find(physical & !PAGE_MASK, name)
            && self.mmu.ram.holds(physical, &code)
        {
            self.stats.blocks_shared += 1;
            let ops = if has_stubs { with_own_stubs(&ops, &mut self.native) } else { ops };
            let translated = if hot { Translated::due() } else { Translated::default() };
            return Ok(Block {
                len: code.len() as u32,
                followed: 0,
                ops,
                code,
                physical,
                key,
                second_page: None,
                reach,
                id: 0,
                translated,
            });
        }
        let block = self.decode_block(physical, host_page, reach)?;
        if block.second_page.is_none() && !ends_in_doubt(&block) {
            pool.add(&block);
        }
        Ok(block)
    }
}

/// Whether the last instruction is none: what follows its bytes may decide which exception that is.
fn ends_in_doubt(block: &Block) -> bool {
    let is_none =
        |op: &Op| [system::undefined as Handler, system::too_long].iter().any(|&f| std::ptr::fn_addr_eq(op.run, f));
    block.ops.last().is_none_or(is_none)
}

fn uses_stub(op: &Op) -> bool {
    op.extra.as_ref().is_some_and(|extra| extra.thunk.is_some())
}

/// The same operations, of which those that use stubs have this CPU's.
fn with_own_stubs(ops: &[Op], native: &mut NativeCache) -> Arc<[Op]> {
    let own = |op: &Op| {
        let mut op = op.clone();
        if let Some(extra) = &mut op.extra
            && extra.thunk.is_some()
        {
            extra.thunk = native.compile(&extra.instruction).ok();
        }
        op
    };
    ops.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{MAX_CODE, Translated};
    use proptest::prelude::*;

    fn block(physical: u64, len: usize) -> Block {
        Block {
            ops: [].into(),
            code: vec![0x90; len].into(),
            len: len as u32,
            physical,
            key: 64,
            second_page: None,
            followed: 0,
            reach: Reach::Block,
            id: 0,
            translated: Translated::default(),
        }
    }

    proptest! {
        #[test]
        fn it_counts_what_it_has_and_stays_within_its_bounds(
            blocks in prop::collection::vec((0u64..1 << 13, 1usize..MAX_CODE), 1..5000),
        ) {
            let pool = Pool::default();
            for &(physical, len) in &blocks {
                pool.add(&block(physical, len));
            }
            for shard in pool.shards.iter() {
                let shard = shard.lock().unwrap();
                let entries = shard.pages.values().flat_map(|page| &page.entries);
                prop_assert_eq!(entries.clone().map(Entry::bytes).sum::<usize>(), shard.bytes);
                prop_assert!(shard.bytes <= MAX_BYTES / SHARDS);
            }
        }
    }

    #[test]
    fn what_was_offered_last_is_found_or_all_of_its_part_is_gone() {
        let pool = Pool::default();
        let mut cleared = 0;
        for n in 0..3 * 4096 {
            let (physical, len) = (0x3000 | (n % 4096), 1 + n as usize % MAX_CODE);
            pool.add(&block(physical, len));
            match pool.find(0x3000, Name::new(physical, false, 64)) {
                Some(found) => assert_eq!((found.code.len(), found.hot, found.has_stubs), (len, false, false)),
                None => {
                    assert_eq!(pool.shard(0x3000).bytes, 0);
                    cleared += 1;
                }
            }
        }
        assert!(cleared > 0);
    }
}
