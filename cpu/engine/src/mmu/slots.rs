//! Slots of translated code ([`Slot`]), as far as the TLB has to do with them.
//!
//! A slot has nothing that the TLB had not: one page of it, or a run of pages that the host has one behind the other, too. So all
//! are emptied whenever the TLB forgets or restricts anything.

use super::tlb::Tlb;
use super::{Access, PAGE, PAGE_MASK};
use crate::translate::{FilledSlots, PATIENCE, SLOTS, Slot};

/// What no slot begins at: no page does.
const UNASSIGNED: u64 = 1;
/// Pages of a run at most, on each side of the page that was accessed.
const REACH: u64 = 256;
/// A slot that misses no more often than every so many cycles of the time-stamp counter is good enough.
const SELDOM: u64 = 8000;
/// How often a longer run may not have helped for long.
const MAX_TRIALS: u8 = 3;
/// Misses one behind the other of which the pages are compared, and how many of them are to be a page's neighbours if the code
/// walks through memory rather than jumps about in it.
const WATCHED: u8 = 8;
const STEPS: u8 = 6;

/// What is known of the slots beside what translated code sees.
#[derive(Debug, Default)]
pub struct SlotBook {
    histories: Vec<History>,
    /// Slots whose code accesses too many places.
    scattered: Vec<u16>,
}

#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// When the slot was looked at last, on the time-stamp counter.
    at: u64,
    /// Longer runs that were tried, and did not help for long.
    trials: u8,
    /// Misses that are yet to be watched, the page of the last, and how many led to a neighbour.
    watched: u8,
    page: u64,
    steps: u8,
}

/// What becomes of a slot.
enum Verdict {
    /// It goes on for so many misses.
    Keep(i32),
    Extend,
    GiveUp,
}

impl History {
    /// Looks at a miss.
    fn look(&mut self, page: u64) -> Verdict {
        if self.watched > 0 {
            self.watched -= 1;
            self.steps += u8::from(page.abs_diff(self.page) == PAGE);
            self.page = page;
            return match self.watched {
                0 if self.steps < STEPS => Verdict::GiveUp,
                0 => Verdict::Keep(PATIENCE * 16),
                _ => Verdict::Keep(0),
            };
        }
        let now = cycles();
        let seldom = now.wrapping_sub(self.at) > PATIENCE as u64 * SELDOM;
        self.at = now;
        if seldom {
            self.trials = 0;
            return Verdict::Keep(PATIENCE);
        }
        (self.watched, self.page, self.steps) = (WATCHED, page, 0);
        if self.trials < MAX_TRIALS {
            self.trials += 1;
            return Verdict::Extend;
        }
        Verdict::Keep(0)
    }
}

/// The host's time-stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: reads a counter, which user mode may on Linux.
    unsafe { std::arch::x86_64::_rdtsc() }
}

impl Tlb {
    fn slot(&mut self, slot: usize) -> Option<&mut Slot> {
        // SAFETY: the frame lives as long as `self`; translated code, which uses the slots too, does not run meanwhile: it waits
        // for what it has called.
        let slots = unsafe { &mut (*self.frame().as_ptr()).slots };
        slots.get_mut(slot)
    }

    /// The lists of slots that have something.
    fn filled(&mut self) -> &mut [FilledSlots; 2] {
        // SAFETY: as of `slot`.
        unsafe { &mut (*self.frame().as_ptr()).filled }
    }

    /// Empties those filled slots of a half of the address space that `which` names.
    fn empty_slots_of(&mut self, half: usize, which: impl Fn(&Slot) -> bool) {
        // SAFETY: as of `slot`; they are different words of the frame.
        let (list, slots) = unsafe {
            let frame = self.frame().as_ptr();
            (&mut (&mut (*frame).filled)[half & 1], &mut (*frame).slots)
        };
        let mut left = 0;
        for n in 0..SLOTS.min(list.count as usize) {
            let number = list.slots[n];
            let Some(slot) = slots.get_mut(usize::from(number)) else { continue };
            if which(slot) {
                slot.limit = 0;
            } else {
                list.slots[left] = number;
                left += 1;
            }
        }
        list.count = left as u32;
    }

    /// Makes a slot ready for another place in the code.
    pub fn assign_slot(&mut self, slot: u16) {
        let number = usize::from(slot);
        let Some(taken) = self.slot(number) else { return };
        // That takes it from its list.
        (taken.low, taken.limit) = (UNASSIGNED, 1);
        [0, 1].into_iter().for_each(|half| self.empty_slots_of(half, |slot| slot.low == UNASSIGNED));
        if let Some(slot) = self.slot(number) {
            *slot = Slot::EMPTY;
        }
        self.slots.histories.resize(SLOTS, History::default());
        if let Some(history) = self.slots.histories.get_mut(number) {
            *history = History { at: cycles(), ..History::default() };
        }
    }

    /// Whether a slot has something.
    pub fn slot_is_filled(&self, slot: u16) -> bool {
        // SAFETY: as of `slot`.
        let slots = unsafe { &(*self.frame().as_ptr()).slots };
        slots.get(usize::from(slot)).is_some_and(|slot| slot.limit != 0)
    }

    /// Empties all slots.
    pub fn empty_slots(&mut self) {
        [0, 1].into_iter().for_each(|half| self.empty_slots_of(half, |_| true));
    }

    /// Empties those that may have other pages than global ones: `upper` says whether such pages of the upper half are among them.
    pub fn empty_local_slots(&mut self, upper: bool) {
        self.empty_slots_of(0, |_| true);
        if upper {
            self.empty_slots_of(1, |_| true);
        }
    }

    /// Empties those that have the page at `address`.
    pub fn empty_slots_at(&mut self, address: u64) {
        let page = address & !PAGE_MASK;
        // The limit is short of the run's end by less than a page.
        self.empty_slots_of((page >> 63) as usize, |slot| page.wrapping_sub(slot.low) < slot.limit + PAGE);
    }

    /// A slot has missed the page of an access, which the TLB has, and is out of patience.
    #[cold]
    pub fn look_at_slot(&mut self, slot: usize, address: u64, bytes: u64, access: Access) {
        let page = address & !PAGE_MASK;
        let has = self.slot(slot).map_or(0, |slot| slot.limit);
        let Some(verdict) = self.slots.histories.get_mut(slot).map(|history| history.look(page)) else { return };
        let (low, len, patience) = match verdict {
            Verdict::Keep(patience) => (page, PAGE, patience),
            Verdict::Extend => {
                let (low, len) = self.run(page, access);
                let extends = len + 1 - bytes > has.max(PAGE);
                if let Some(history) = self.slots.histories.get_mut(slot).filter(|_| extends) {
                    history.watched = 0;
                }
                (low, len, if extends { PATIENCE } else { 0 })
            }
            Verdict::GiveUp => {
                self.slots.scattered.push(slot as u16);
                self.workspace().disturb();
                (page, PAGE, PATIENCE)
            }
        };
        let addend = self.entry(address).addend;
        if has == 0
            && let Some(list) = self.filled().get_mut((page >> 63) as usize)
            && let Some(last) = list.slots.get_mut(list.count as usize)
        {
            *last = slot as u16;
            list.count += 1;
        }
        if let Some(slot) = self.slot(slot) {
            (slot.low, slot.limit) = (low, len + 1 - bytes);
            (slot.addend, slot.patience) = (addend, patience);
        }
    }

    /// The pages around one that the TLB has as one run in the host, for the same right: the first one's address and their bytes.
    fn run(&self, page: u64, access: Access) -> (u64, u64) {
        let addend = self.entry(page).addend;
        let has = |page: u64| {
            let entry = self.entry(page);
            let tag = if access == Access::Write { entry.write } else { entry.read };
            tag == page && entry.addend == addend
        };
        // No run goes around from the highest address to the lowest.
        let below = (1..REACH).map_while(|n| page.checked_sub(n * PAGE)).take_while(|&page| has(page)).count() as u64;
        let above = (1..REACH).map_while(|n| page.checked_add(n * PAGE)).take_while(|&page| has(page)).count() as u64;
        (page - below * PAGE, (below + above + 1) * PAGE)
    }

    /// Slots that are to be given up.
    pub fn take_scattered_slots(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.slots.scattered)
    }

    pub fn has_scattered_slots(&self) -> bool {
        !self.slots.scattered.is_empty()
    }
}
