//! The jump tables: from linear addresses to translations, for jumps that are not linked.
//!
//! An entry holds as long as the translation of its address does. Tables are in the frame, where code reads them; here is
//! which entries are in use, so that forgetting costs what was used.

use super::frame::{Code, Frame, JUMPS, computed_index, jump_index};
use super::mode::{MODES, Mode};
use super::thunks;
use crate::decode::MAX_LEN;
use crate::mmu::{Mmu, PAGE};
use std::ptr::NonNull;

/// One entry: the number of its table, and its index in it.
type Entry = (usize, u32);

/// Entries for the addresses from which an instruction may run over into the next page.
const STRADDLING: u32 = MAX_LEN as u32 / 2 + 1;
/// Entries for the addresses of one page, which are neighbours.
const JUMPS_OF_PAGE: u32 = (PAGE / 2) as u32;

/// Pages, by the low bits of their numbers, that some entry may have been made for.
struct Pages(Box<[u64; PAGE_CLASSES / 64]>);

/// A power of two.
const PAGE_CLASSES: usize = 1 << 16;

impl Pages {
    fn of(address: u64) -> (usize, u64) {
        let class = (address / PAGE) as usize & (PAGE_CLASSES - 1);
        (class / 64, 1 << (class % 64))
    }

    fn insert(&mut self, address: u64) {
        let (word, bit) = Self::of(address);
        self.0[word] |= bit;
    }

    /// Whether the page was there.
    fn remove(&mut self, address: u64) -> bool {
        let (word, bit) = Self::of(address);
        let old = self.0[word];
        self.0[word] = old & !bit;
        old & bit != 0
    }
}

pub struct Jumps {
    frame: NonNull<Frame>,
    /// Tables that there is a use for: others are not even empty.
    ready: [bool; MODES],
    /// Entries in use that a CR3 write takes away.
    local: Vec<Entry>,
    /// Entries in use of global pages.
    global: Vec<Entry>,
    /// Where the code of entries lies: most pages that INVLPG is for have none.
    pages: Pages,
    /// [`Mmu::local_epoch`] and [`Mmu::global_epoch`] that they are of.
    local_epoch: u64,
    global_epoch: u64,
}

impl Jumps {
    /// Tables in the frame, which the caller keeps mapped.
    pub fn new(frame: NonNull<Frame>) -> Self {
        Self {
            frame,
            ready: [false; MODES],
            local: Vec::new(),
            global: Vec::new(),
            pages: Pages(Box::new([0; PAGE_CLASSES / 64])),
            local_epoch: 0,
            global_epoch: 0,
        }
    }

    /// Makes the table for code of a mode, before any such code runs.
    pub fn prepare(&mut self, mode: Mode) {
        let number = mode.number();
        if std::mem::replace(&mut self.ready[number], true) {
            return;
        }
        (0..JUMPS as u32).for_each(|index| self.put((number, index), nothing()));
    }

    fn at(&self, (table, index): Entry) -> Code {
        // SAFETY: the frame is mapped; only this thread uses it, and no translated code runs. The indices are masked.
        unsafe { (*self.frame.as_ptr()).jumps[table & (MODES - 1)][index as usize & (JUMPS - 1)] }
    }

    fn put(&mut self, (table, index): Entry, code: Code) {
        // SAFETY: as above.
        unsafe { (*self.frame.as_ptr()).jumps[table & (MODES - 1)][index as usize & (JUMPS - 1)] = code };
    }

    /// What the entry for `rip` leads to: perhaps code of another address, which then finds that out.
    #[inline(always)]
    pub fn get(&self, mode: Mode, rip: u64) -> Option<Code> {
        let code = self.at((mode.number(), jump_index(rip) as u32));
        (!std::ptr::eq(code, nothing()) && !code.is_null()).then_some(code)
    }

    /// Makes `code` what the entry for `rip` leads to. Code that `straddles` depends on the translation of the next page,
    /// too, which may not be global.
    pub fn set(&mut self, (mode, rip): (Mode, u64), code: Code, straddles: bool, mmu: &Mmu) {
        let entry = (mode.number(), jump_index(rip) as u32);
        if self.at(entry) == code {
            return;
        }
        let known = mmu.tlb.entry(rip);
        let global = !straddles && known.lookup(known.exec, rip, 1).is_some() && mmu.tlb.info(rip).global;
        if self.local.len() + self.global.len() >= 4 * JUMPS {
            self.forget_all();
        }
        self.put(entry, code);
        self.pages.insert(rip);
        if straddles {
            self.pages.insert(rip.wrapping_add(PAGE));
        }
        if global { &mut self.global } else { &mut self.local }.push(entry);
    }

    /// Forgets `code`, if the entry for `rip` leads there.
    pub fn forget(&mut self, mode: Mode, rip: u64, code: Code) {
        let entry = (mode.number(), jump_index(rip) as u32);
        if self.at(entry) == code {
            self.put(entry, nothing());
        }
    }

    /// Forgets the entries whose translation of addresses may not hold any more.
    #[inline(always)]
    pub fn keep_up(&mut self, mmu: &mut Mmu) {
        while let Some(page) = mmu.flushed_pages.pop() {
            self.forget_page(page);
        }
        if self.global_epoch != mmu.global_epoch {
            (self.global_epoch, self.local_epoch) = (mmu.global_epoch, mmu.local_epoch);
            self.forget_all();
        } else if self.local_epoch != mmu.local_epoch {
            self.local_epoch = mmu.local_epoch;
            self.forget_local();
        }
    }

    #[cold]
    fn forget_page(&mut self, page: u64) {
        if !self.pages.remove(page) {
            return;
        }
        let first = computed_index(page) as u32;
        // Instructions that begin before the page may run over into it.
        let before = (1..=STRADDLING).map(|n| first.wrapping_sub(n));
        for index in (first..first + JUMPS_OF_PAGE).chain(before).chain([jump_index(page) as u32]) {
            for (table, _) in self.ready.into_iter().enumerate().filter(|&(_, ready)| ready) {
                self.put((table, index), nothing());
            }
        }
    }

    fn forget_local(&mut self) {
        while let Some(entry) = self.local.pop() {
            self.put(entry, nothing());
        }
    }

    /// Entries in use, some of them listed more than once.
    #[cfg(test)]
    pub fn listed(&self) -> usize {
        self.local.len() + self.global.len()
    }

    pub fn forget_all(&mut self) {
        self.forget_local();
        while let Some(entry) = self.global.pop() {
            self.put(entry, nothing());
        }
    }
}

/// What an entry that is not in use leads to.
fn nothing() -> Code {
    thunks::lookup as Code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
    use crate::options::Options;
    use motu_hv::{Exit, Vcpu};

    /// A page whose first instruction an indirect jump looks up in the entry that leads nowhere.
    const FUNCTION: u64 = 0x44_0000;
    const PROGRAM: u64 = 0x40_1000;
    const STACK: u64 = 0x50_0000;

    #[test]
    fn the_first_entry_leads_nowhere_and_all_code_has_another() {
        assert_eq!(computed_index(FUNCTION), 0);
        assert!((0..4 * JUMPS as u64).step_by(2).all(|address| jump_index(address) != 0));
    }

    #[test]
    fn code_that_would_have_the_first_entry_runs_called_either_way() {
        let pages = [
            UserPage { linear: PROGRAM, frame: 0, writable: false },
            UserPage { linear: FUNCTION, frame: 1, writable: false },
            UserPage { linear: STACK, frame: 2, writable: true },
        ];
        let mut harness = UserHarness::with_options("v2-2026", &pages, &Options::default()).unwrap();
        // CALL FUNCTION; CALL RBX; DEC ECX; JNE to the first; MOV [RBP], ECX; JMP to itself.
        let distance = (FUNCTION - PROGRAM - 5) as u32;
        let mut code = vec![0xe8];
        code.extend(distance.to_le_bytes());
        code.extend([0xff, 0xd3, 0xff, 0xc9, 0x75, 0xf5, 0x89, 0x4d, 0x00, 0xeb, 0xfe]);
        harness.write(0, &code);
        // INC RAX; RET.
        harness.write(4096, &[0x48, 0xff, 0xc0, 0xc3]);
        let bus = KickingBus(harness.vcpu().kicker());
        let cpu = harness.cpu();
        cpu.rip = PROGRAM;
        [(0, 0), (1, 1000), (3, FUNCTION), (4, STACK + 0x800), (5, BUS)]
            .into_iter()
            .for_each(|(register, value)| cpu.set_gpr(register, value));
        assert_eq!(harness.vcpu().run(&bus), Exit::Kicked);
        assert_eq!(harness.cpu().gpr(0), 2000);
    }
}
