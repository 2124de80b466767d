//! The software TLB: a direct-mapped array for each privilege.
//!
//! The arrays lie in the frame of translated code, which looks addresses up by itself.

use super::slots::SlotBook;
use super::{PAGE, PAGE_MASK, Privilege};
use crate::translate::{Frame, Workspace};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Entries of one array; a power of two.
pub const ENTRIES: usize = 4096;
/// Entries of all arrays: one for each privilege, and a power of two.
const ALL: usize = 4 * ENTRIES;

/// One page's translation. A tag is the page's linear address where the right exists.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    pub read: u64,
    /// Matches only where the page is writable, dirty, and holds no decoded code.
    pub write: u64,
    pub exec: u64,
    /// Where the host has the page, less the page's linear address (wrapping): what a linear address plus this leads
    /// to is dereferenced only under a matching tag.
    pub addend: *mut u8,
}

/// What is asked of a page only now and then: kept apart so that entries stay 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageInfo {
    /// Guest-physical address of the page.
    pub physical: u64,
    pub global: bool,
}

/// The arrays of all privileges, one behind the other.
pub type Entries = [Entry; ALL];

/// The arrays, and which of them is in use.
pub struct Tlb {
    workspace: Arc<Workspace>,
    info: Box<[PageInfo; ALL]>,
    /// Where the array in use begins.
    selected: usize,
    /// Entries filled since the last flush that a CR3 write must take away.
    local: Vec<u16>,
    /// Entries of global pages filled since the last full flush.
    global: Vec<u16>,
    /// Whether one of the `local` ones is of the upper half of addresses.
    local_upper: bool,
    pub(super) slots: SlotBook,
}

// SAFETY: the pointers lead into guest RAM, which the owning `Mmu` keeps mapped; they are used by
// the thread that runs the CPU.
unsafe impl Send for Tlb {}

/// Which entry serves a linear address: as simple as translated code needs it.
#[inline(always)]
pub const fn index_of(address: u64) -> usize {
    (address >> 12) as usize & (ENTRIES - 1)
}

/// A tag that no address of entry `index` matches: a page that belongs to another entry, and to none beside it, since a
/// look-up that leaves the flags alone takes an operand that ends in the tag's page for one inside it.
const fn no_tag(index: usize) -> u64 {
    (((index & (ENTRIES - 1)) ^ (ENTRIES / 2)) as u64) << 12
}

const fn empty(index: usize) -> Entry {
    let tag = no_tag(index);
    Entry { read: tag, write: tag, exec: tag, addend: std::ptr::null_mut() }
}

impl Tlb {
    /// # Errors
    /// The host has no memory for it.
    pub fn new() -> io::Result<Self> {
        let info = vec![PageInfo::default(); ALL];
        let info = info.into_boxed_slice().try_into().expect("made exactly that many");
        let workspace = Arc::new(Workspace::new()?);
        let mut tlb = Self {
            workspace,
            info,
            selected: 0,
            local: Vec::new(),
            global: Vec::new(),
            local_upper: false,
            slots: SlotBook::default(),
        };
        for (index, entry) in tlb.entries_mut().iter_mut().enumerate() {
            *entry = empty(index);
        }
        Ok(tlb)
    }

    /// What the arrays lie in.
    pub fn workspace(&self) -> &Arc<Workspace> {
        &self.workspace
    }

    /// The frame that the arrays lie in.
    pub fn frame(&self) -> NonNull<Frame> {
        self.workspace.frame()
    }

    #[inline(always)]
    fn entries(&self) -> &Entries {
        // SAFETY: the frame lives as long as `self`, and nobody else writes the arrays while `self` is borrowed: translated
        // code only reads them.
        unsafe { &(*self.workspace.frame().as_ptr()).tlb }
    }

    #[inline(always)]
    fn entries_mut(&mut self) -> &mut Entries {
        // SAFETY: as above.
        unsafe { &mut (*self.workspace.frame().as_ptr()).tlb }
    }

    /// Chooses the array.
    #[inline(always)]
    pub fn select(&mut self, privilege: Privilege) {
        self.selected = privilege as usize * ENTRIES;
    }

    /// The entry that would hold `address`.
    #[inline(always)]
    pub fn entry(&self, address: u64) -> &Entry {
        &self.entries()[(index_of(address) | self.selected) & (ALL - 1)]
    }

    /// The same in the array of `privilege`, which need not be the program's.
    #[inline(always)]
    pub fn entry_of(&self, privilege: Privilege, address: u64) -> &Entry {
        &self.entries()[(index_of(address) | (privilege as usize * ENTRIES)) & (ALL - 1)]
    }

    /// What is known of the page in the entry that would hold `address`.
    pub fn info(&self, address: u64) -> PageInfo {
        self.info[(index_of(address) | self.selected) & (ALL - 1)]
    }

    /// The same in the array of `privilege`.
    pub fn info_of(&self, privilege: Privilege, address: u64) -> PageInfo {
        self.info[(index_of(address) | (privilege as usize * ENTRIES)) & (ALL - 1)]
    }

    /// Puts the translation of the page at `address` into the array of `privilege`. Tags that are not that page are
    /// made to match nothing.
    pub fn fill(&mut self, privilege: Privilege, address: u64, new: Entry, info: PageInfo) {
        let index = index_of(address) | (privilege as usize * ENTRIES);
        let page = address & !PAGE_MASK;
        let mut entry = new;
        for tag in [&mut entry.read, &mut entry.write, &mut entry.exec] {
            if *tag != page {
                *tag = no_tag(index);
            }
        }
        if self.local.len() + self.global.len() >= 8 * ENTRIES {
            self.flush_all();
        }
        let relisted = self.entries()[index].addend.is_null() || self.info[index].global != info.global;
        self.entries_mut()[index] = entry;
        self.info[index] = info;
        self.local_upper |= !info.global && page >> 63 != 0;
        if relisted {
            let list = if info.global { &mut self.global } else { &mut self.local };
            list.push(index as u16);
        }
    }

    /// Forgets everything but global pages.
    pub fn flush_local(&mut self) {
        let upper = std::mem::take(&mut self.local_upper);
        self.empty_local_slots(upper);
        let mut list = std::mem::take(&mut self.local);
        for index in list.drain(..) {
            let index = index as usize;
            if !self.info[index].global {
                self.entries_mut()[index] = empty(index);
            }
        }
        self.local = list;
    }

    pub fn flush_all(&mut self) {
        self.empty_slots();
        self.local.append(&mut self.global);
        let mut list = std::mem::take(&mut self.local);
        for index in list.drain(..) {
            if let Some(entry) = self.entries_mut().get_mut(index as usize) {
                *entry = empty(index as usize);
            }
        }
        self.local = list;
    }

    /// Forgets the page at `address` in every array.
    pub fn flush_page(&mut self, address: u64) {
        self.empty_slots_at(address);
        let page = address & !PAGE_MASK;
        for array in [Privilege::Supervisor, Privilege::User, Privilege::SupervisorWithUser] {
            let index = index_of(address) + array as usize * ENTRIES;
            let entry = &mut self.entries_mut()[index];
            if entry.read == page || entry.write == page || entry.exec == page {
                *entry = empty(index);
            }
        }
    }

    /// Forgets what the entry that would hold `address` has, which no guest can tell.
    pub fn forget(&mut self, address: u64) {
        self.empty_slots_at(address);
        let index = (index_of(address) | self.selected) & (ALL - 1);
        // With its addend it stays known as one that a flush must look at.
        let addend = self.entries()[index].addend;
        self.entries_mut()[index] = Entry { addend, ..empty(index) };
    }

    /// Guest-physical addresses of the pages that entries have a write right for.
    pub fn writable_pages(&self) -> impl Iterator<Item = u64> {
        let indices = self.local.iter().chain(&self.global).map(|&index| usize::from(index) & (ALL - 1));
        let writable = |&index: &usize| self.entries()[index].write != no_tag(index);
        indices.filter(writable).map(|index| self.info[index].physical)
    }

    /// Takes the write right of every entry for the host page at `host`: it holds code now.
    pub fn protect(&mut self, host: *mut u8) {
        self.empty_slots();
        for n in 0..self.local.len() + self.global.len() {
            let index =
                self.local.get(n).or_else(|| self.global.get(n - self.local.len())).copied().unwrap_or_default();
            if let Some(entry) = self.entries_mut().get_mut(index as usize)
                && entry.host(entry.write) == host
            {
                entry.write = no_tag(index as usize);
            }
        }
    }
}

impl Entry {
    /// Where the host has `bytes` bytes at `address`, if `tag` (one of this entry's) allows it and
    /// they do not cross the page.
    #[inline(always)]
    pub fn lookup(&self, tag: u64, address: u64, bytes: u64) -> Option<*mut u8> {
        let offset = address.wrapping_sub(tag);
        (offset <= PAGE - bytes).then(|| self.host(address))
    }

    /// Where the host has `address`, if it is in the page of this entry.
    #[inline(always)]
    pub fn host(&self, address: u64) -> *mut u8 {
        self.addend.wrapping_add(address as usize)
    }

    /// What [`Entry::addend`] is for the page at linear address `page` that the host has at `host`.
    #[inline(always)]
    pub fn addend(host: *mut u8, page: u64) -> *mut u8 {
        host.wrapping_sub(page as usize)
    }
}

impl std::fmt::Debug for Tlb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tlb").field("filled", &(self.local.len() + self.global.len())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_entry_matches_no_address_of_its_own() {
        let tlb = Tlb::new().unwrap();
        for address in (0..64 * PAGE).step_by(512).chain([u64::MAX, 1 << 63, (1 << 47) - 1]) {
            let entry = tlb.entry(address);
            for tag in [entry.read, entry.write, entry.exec] {
                assert!(entry.lookup(tag, address, 1).is_none(), "{address:#x}");
            }
        }
    }

    #[test]
    fn a_tag_that_matches_nothing_is_far_from_what_its_entry_serves() {
        for index in 0..4 * ENTRIES {
            let tag = no_tag(index) >> 12;
            for served in [index & (ENTRIES - 1), (index & (ENTRIES - 1)) + ENTRIES] {
                assert!(tag.abs_diff(served as u64) > 1, "entry {index:#x}");
            }
        }
    }

    #[test]
    fn a_filled_page_matches_up_to_its_end_and_goes_with_a_flush() {
        let mut tlb = Tlb::new().unwrap();
        let mut page = vec![0u8; PAGE as usize];
        let address = 0xffff_8000_1234_5000;
        let host = page.as_mut_ptr();
        let filled = Entry { read: address, write: 0, exec: 0, addend: Entry::addend(host, address) };
        tlb.fill(Privilege::Supervisor, address, filled, PageInfo { physical: 0x5000, global: true });
        let entry = *tlb.entry(address + 8);
        assert_eq!(entry.lookup(entry.read, address + 4088, 8), Some(host.wrapping_add(4088)));
        assert_eq!(entry.lookup(entry.read, address + 4089, 8), None);
        assert_eq!(entry.lookup(entry.write, address, 1), None);
        tlb.flush_local();
        assert_eq!(tlb.entry(address).read, address, "global pages stay");
        tlb.flush_page(address);
        assert_ne!(tlb.entry(address).read, address);
    }
}
