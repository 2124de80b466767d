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

#[cfg(test)]
mod tests {
    use super::super::{Entry, PageInfo, Privilege};
    use super::*;

    /// A page of the lower half, and one of the upper, which other entries serve.
    const LOWER: u64 = 0x7000_0000_0000;
    const UPPER: u64 = 0xffff_8880_0010_0000;

    /// A TLB with `pages` pages from each of those on that lie in one run, and slots 0 and 1 filled for the first of them.
    fn filled(memory: &mut [u8], pages: u64) -> Tlb {
        let mut tlb = Tlb::new().unwrap();
        tlb.select(Privilege::Supervisor);
        for (slot, first) in [(0, LOWER), (1, UPPER)] {
            let addend = Entry::addend(memory.as_mut_ptr(), first);
            for page in (0..pages).map(|n| first + n * PAGE) {
                let entry = Entry { read: page, write: page, exec: 0, addend };
                tlb.fill(Privilege::Supervisor, page, entry, PageInfo { physical: 0, global: first == UPPER });
            }
            tlb.assign_slot(slot);
            tlb.look_at_slot(slot.into(), first + 16, 8, Access::Read);
        }
        tlb
    }

    fn has(tlb: &Tlb) -> [bool; 2] {
        [0, 1].map(|slot| tlb.slot_is_filled(slot))
    }

    #[test]
    fn what_the_tlb_forgets_no_slot_has() {
        let mut memory = vec![0; PAGE as usize];
        let host = memory.as_mut_ptr();
        let tlb = || filled(&mut vec![0; PAGE as usize], 1);
        assert_eq!(has(&tlb()), [true, true]);
        let after = |change: &dyn Fn(&mut Tlb)| {
            let mut tlb = tlb();
            change(&mut tlb);
            has(&tlb)
        };
        assert_eq!(after(&|tlb| tlb.flush_all()), [false, false]);
        assert_eq!(after(&|tlb| tlb.flush_local()), [false, true], "a global page stays");
        assert_eq!(after(&|tlb| tlb.flush_page(LOWER + 8)), [false, true]);
        assert_eq!(after(&|tlb| tlb.flush_page(UPPER)), [true, false]);
        assert_eq!(after(&|tlb| tlb.flush_page(UPPER + 2 * PAGE)), [true, true]);
        assert_eq!(after(&|tlb| tlb.forget(LOWER)), [false, true]);
        assert_eq!(after(&|tlb| tlb.protect(host)), [false, false], "one of them may have it");
        assert_eq!(after(&|tlb| tlb.assign_slot(1)), [true, false]);
        let local = |tlb: &mut Tlb| {
            let page = UPPER + 8 * PAGE;
            let entry = Entry { read: page, write: 0, exec: 0, addend: Entry::addend(host, page) };
            tlb.fill(Privilege::Supervisor, page, entry, PageInfo::default());
            tlb.flush_local();
        };
        assert_eq!(after(&local), [false, false], "the upper half had a page that is not global");
    }

    #[test]
    fn a_slot_has_the_run_of_pages_around_an_access() {
        let mut memory = vec![0; 5 * PAGE as usize];
        let mut tlb = filled(&mut memory, 5);
        let slot = *tlb.slot(0).unwrap();
        assert_eq!((slot.low, slot.limit), (LOWER, 5 * PAGE - 7), "an operand of eight bytes fits in up to its end");
        assert_eq!(slot.addend.wrapping_add(LOWER as usize), memory.as_mut_ptr());
        // Any page of the run takes it away.
        tlb.flush_page(LOWER + 4 * PAGE);
        assert_eq!(has(&tlb), [false, true]);
    }

    #[test]
    fn a_run_ends_where_the_host_has_another_page() {
        let mut memory = vec![0; 5 * PAGE as usize];
        let mut tlb = filled(&mut memory, 5);
        let page = LOWER + 2 * PAGE;
        let elsewhere = Entry { read: page, write: page, exec: 0, addend: Entry::addend(memory.as_mut_ptr(), page) };
        tlb.fill(Privilege::Supervisor, page, elsewhere, PageInfo::default());
        assert_eq!(tlb.run(LOWER, Access::Read), (LOWER, 2 * PAGE));
        assert_eq!(tlb.run(page, Access::Read), (page, PAGE));
        assert_eq!(tlb.run(LOWER + 4 * PAGE, Access::Read), (LOWER + 3 * PAGE, 2 * PAGE));
        // One that may only be read is in no run to write.
        let page = LOWER + PAGE;
        let entry = Entry { write: 0, ..*tlb.entry(page) };
        tlb.fill(Privilege::Supervisor, page, entry, PageInfo::default());
        assert_eq!(tlb.run(LOWER, Access::Write), (LOWER, PAGE));
    }

    #[test]
    fn an_access_that_jumps_about_loses_its_slot_and_one_that_walks_does_not() {
        let look_at = |pages: &dyn Fn(u64) -> u64| {
            let mut history = History { at: cycles(), trials: MAX_TRIALS, ..History::default() };
            (0..=u64::from(WATCHED)).map(|n| history.look(pages(n) * PAGE)).last()
        };
        assert!(matches!(look_at(&|n| n), Some(Verdict::Keep(patience)) if patience > PATIENCE));
        assert!(matches!(look_at(&|n| 100 - n), Some(Verdict::Keep(patience)) if patience > PATIENCE));
        assert!(matches!(look_at(&|n| n * 7 % 11), Some(Verdict::GiveUp)));
    }
}
