//! Slots: what one place in hot code was last found to access.
//!
//! A look-up in the TLB makes whatever waits for the operand wait for the TLB's entry too, since where that is depends on the
//! address. Where a slot is does not: the code compares the address with what the slot has, and the host's processor goes on with
//! the operand meanwhile. A slot has one page of the TLB's, or a run of pages that the host has one behind the other as well, and
//! is emptied whenever the TLB forgets or restricts anything (`mmu/slots.rs`).
//!
//! Code jumps to itself or is found running by whoever disturbs it before its accesses have slots. One that finds something else
//! each time is slower with a slot than without: then the block is made anew, and that access looks the TLB up.

use super::{Translation, Translator};
use crate::cpu::Cpu;
use crate::decode::BlockCache;
use crate::mmu::cycles;
use crate::options::Translate;
use std::collections::BTreeSet;

/// Slots of one CPU.
pub const SLOTS: usize = 1024;
/// Slots of one block at most.
pub const MOST: usize = 32;
/// How often a slot may miss between two looks at it.
pub const PATIENCE: i32 = 64;
/// How many pieces of code are noted one behind the other.
const WATCHED: u32 = 16;
/// Cycles of the time-stamp counter between two times that slots are taken from those who do not use them.
const REST: u64 = 1 << 28;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// Where the run begins.
    pub low: u64,
    /// How many bytes behind that an operand may begin at, the first included: none if the slot is empty.
    pub limit: u64,
    /// As of [`crate::mmu::Entry`].
    pub addend: *mut u8,
    /// How often it may miss before somebody has a look at it.
    pub patience: i32,
}

impl Slot {
    pub const EMPTY: Self = Self { low: 0, limit: 0, addend: std::ptr::null_mut(), patience: PATIENCE };
}

/// A list of slots that have something, each of them once.
#[derive(Debug)]
#[repr(C)]
pub struct FilledSlots {
    pub count: u32,
    pub slots: [u16; SLOTS],
}

/// An access that has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub slot: u16,
    /// Its instruction, or the one that its group's check comes before, as an operation of the block.
    pub op: u16,
    /// Bytes that it has the right to access, and whether that is to write.
    pub bytes: u32,
    pub write: bool,
}

/// The bit of an operation among those that may have no slot.
pub fn scattered_bit(op: u16) -> u64 {
    1 << op.min(63)
}

/// Who has which slot.
#[derive(Debug)]
pub struct Slots {
    free: Vec<u16>,
    /// By slot: the translation, and its access.
    owners: Vec<Option<(u32, Site)>>,
    reclaimed: u64,
}

impl Slots {
    pub fn new() -> Self {
        let mut slots = Self { free: Vec::new(), owners: Vec::new(), reclaimed: 0 };
        slots.clear();
        slots
    }

    /// Nobody has one any more.
    pub fn clear(&mut self) {
        self.free = (0..SLOTS as u16).rev().collect();
        self.owners = vec![None; SLOTS];
    }

    /// The accesses that have slots.
    #[cfg(test)]
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.owners.iter().flatten().map(|(_, site)| site)
    }

    /// Those that a block may have.
    pub fn free(&self) -> &[u16] {
        self.free.get(self.free.len().saturating_sub(MOST)..).unwrap_or_default()
    }

    /// A translation has taken the `sites`.
    pub fn assign(&mut self, translation: u32, sites: &[Site], cpu: &mut Cpu) {
        self.free.retain(|free| sites.iter().all(|site| site.slot != *free));
        for site in sites {
            cpu.mmu.tlb.assign_slot(site.slot);
            if let Some(owner) = self.owners.get_mut(usize::from(site.slot)) {
                *owner = Some((translation, *site));
            }
        }
    }

    /// A translation is no more.
    pub fn release(&mut self, translation: u32) {
        for (slot, owner) in (0..).zip(&mut self.owners) {
            if owner.is_some_and(|(of, _)| of == translation) {
                *owner = None;
                self.free.push(slot);
            }
        }
    }
}

impl Translator {
    /// Makes blocks anew of which an access is better off without its slot.
    #[cold]
    pub(super) fn give_up_slots(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) {
        for slot in cpu.mmu.tlb.take_scattered_slots() {
            let owner = self.slots.owners.get(usize::from(slot)).copied().flatten();
            let Some((number, site)) = owner else { continue };
            if let Some(&Translation { block, .. }) = self.kept(number) {
                cache.get_mut(block).translated.scattered |= scattered_bit(site.op);
                self.make_anew(number, cache);
            }
        }
    }

    /// A translation that is not dropped.
    fn kept(&self, number: u32) -> Option<&Translation> {
        self.translations.get(number as usize).filter(|translation| !translation.dropped)
    }

    /// Has code leave again and again, to find out what is running. In lock-step all of it has slots anyway.
    pub fn watch(&mut self) {
        if self.options.translate != Translate::Lockstep {
            self.watched = WATCHED;
        }
    }

    /// Whether code is to leave again at once.
    pub fn watches(&self) -> bool {
        self.watched > 0
    }

    /// Code has left because it was disturbed: `from` this translation, if that is known, to the one at RIP.
    pub(super) fn note_disturbed(&mut self, from: Option<u32>, cache: &mut BlockCache) {
        if self.watched > 0 {
            self.watched -= 1;
            self.runs_next = true;
            from.into_iter().for_each(|number| self.found_running(number, cache));
        }
    }

    #[cold]
    pub(super) fn found_running(&mut self, number: u32, cache: &mut BlockCache) {
        let Some(translation) = self.kept(number) else { return };
        // A kernel's objects lie anywhere: of its code only loops are worth it.
        let stressed = self.options.stress.is_some();
        let (user, block) = (translation.mode.user, &mut cache.get_mut(translation.block).translated);
        if !(user || stressed) || block.hot {
            return;
        }
        // Once may be chance: of a short program, most blocks that are found are not run for long.
        if std::mem::replace(&mut block.found, true) || stressed {
            block.hot = true;
            self.make_anew(number, cache);
        }
    }

    /// Drops a translation, but not its block. Translations of a block's rest stay, as the block's lead to them.
    fn make_anew(&mut self, number: u32, cache: &mut BlockCache) {
        let Some(&Translation { block, .. }) = self.kept(number) else { return };
        let at = &mut cache.get_mut(block).translated.at;
        if let Some(place) = at.iter().position(|&(_, at)| at == number) {
            at.swap_remove(place);
            self.drop_translation(number);
        }
    }

    /// Where hardly any slot is free: takes those that have been empty since the TLB last forgot something.
    pub(super) fn reclaim_slots(&mut self, cpu: &Cpu, cache: &mut BlockCache) {
        if self.slots.free.len() >= MOST {
            return;
        }
        let now = cycles();
        if now.wrapping_sub(self.slots.reclaimed) < REST {
            return;
        }
        self.slots.reclaimed = now;
        let used = |(slot, owner): (u16, &Option<(u32, Site)>)| {
            owner.map(|(number, _)| number).filter(|_| cpu.mmu.tlb.slot_is_filled(slot))
        };
        let used: BTreeSet<u32> = (0..).zip(&self.slots.owners).filter_map(used).collect();
        let owners: Vec<u32> = self.slots.owners.iter().flatten().map(|&(number, _)| number).collect();
        for number in owners.into_iter().filter(|number| !used.contains(number)) {
            if let Some(&Translation { block, .. }) = self.kept(number) {
                let known = &mut cache.get_mut(block).translated;
                (known.found, known.hot) = (false, false);
                self.make_anew(number, cache);
            }
        }
    }
}
