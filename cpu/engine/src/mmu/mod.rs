//! From linear addresses to host memory: a software TLB over the guest's page tables.
//!
//! One entry serves reads, writes and fetches of one 4 KiB page. A single comparison finds a miss,
//! a right that is lacking and an operand that crosses the page: `address - tag <= 4096 - size`.
//! A tag that does not apply names a page of another entry, which no address of this one matches.

mod access;
mod code;
mod locked;
mod ram;
pub mod shared;
mod slots;
mod tlb;
mod walk;

pub use access::is_canonical;
pub use ram::RamMap;
pub use slots::cycles;
pub use tlb::{ENTRIES, Entries, Entry, PageInfo, Tlb, index_of};
pub use walk::{Access, Control, Page, Privilege};

use std::io;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Address bits inside a page.
pub const PAGE_MASK: u64 = PAGE - 1;

/// Paging as one CPU has it set up, its TLB, and the RAM under it.
#[derive(Debug)]
pub struct Mmu {
    pub tlb: Tlb,
    pub control: Control,
    pub ram: RamMap,
    /// Counts up whenever the translations of all pages that are not global may have changed.
    pub local_epoch: u64,
    /// Counts up whenever all translations may have changed.
    pub global_epoch: u64,
    /// Pages that INVLPG was for, until the translator has taken them.
    pub flushed_pages: Vec<u64>,
    page_flushes: u64,
    page_epochs: [u64; PAGE_CLASSES],
    pub misses: u64,
    pub flushes: u64,
    /// Where pieces of large pages are in the TLB: lower and upper half of the address space.
    large: [Option<Span>; 2],
}

/// Addresses from `first` to `last`.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    last: u64,
}

/// Pages that are remembered one by one; beyond that many, all are forgotten.
const MAX_FLUSHED: usize = 32;
/// Classes of pages that share a count of INVLPGs; a power of two.
const PAGE_CLASSES: usize = 256;

fn page_class(address: u64) -> usize {
    (address / PAGE) as usize & (PAGE_CLASSES - 1)
}

/// Bytes around a piece of a large page that the page may cover: 1 GiB.
const LARGEST_PAGE: u64 = 1 << 30;

impl Mmu {
    /// # Errors
    /// The host has no memory for the TLB.
    pub fn new(ram: RamMap) -> io::Result<Self> {
        Ok(Self {
            tlb: Tlb::new()?,
            control: Control::default(),
            ram,
            local_epoch: 1,
            global_epoch: 1,
            flushed_pages: Vec::new(),
            page_flushes: 0,
            page_epochs: [0; PAGE_CLASSES],
            misses: 0,
            flushes: 0,
            large: [None; 2],
        })
    }

    /// Takes over what CR0, CR3, CR4, EFER and CPL say. Flushes what does not hold under it.
    pub fn configure(&mut self, control: &Control) {
        let old = self.control;
        self.control = *control;
        self.tlb.select(control.privilege);
        if !old.same_translations(control) {
            self.flush_all();
        }
    }

    /// The program's privilege alone has changed.
    #[inline(always)]
    pub fn set_privilege(&mut self, privilege: Privilege) {
        self.control.privilege = privilege;
        self.tlb.select(privilege);
    }

    /// CR3 was written: everything but global pages goes (SDM vol. 3, 4.10.4.1).
    pub fn set_root(&mut self, root: u64) {
        self.control.root = root;
        self.flush_local();
    }

    /// Forgets all translations but those of global pages.
    pub fn flush_local(&mut self) {
        self.flushes += 1;
        self.local_epoch += 1;
        self.tlb.flush_local();
    }

    pub fn flush_all(&mut self) {
        self.flushes += 1;
        self.local_epoch += 1;
        self.global_epoch += 1;
        self.large = [None; 2];
        self.tlb.flush_all();
    }

    /// A piece of a large page at `address` goes into the TLB.
    fn note_large(&mut self, address: u64) {
        let (first, last) = (address & !(LARGEST_PAGE - 1), address | (LARGEST_PAGE - 1));
        let span = self.large[(address >> 63) as usize].get_or_insert(Span { first, last });
        span.first = span.first.min(first);
        span.last = span.last.max(last);
    }

    /// INVLPG (SDM vol. 3, 4.10.4.1): all entries for the page, global ones too. Where the page may be a
    /// piece of a large one, everything goes, since the others are not found by address.
    pub fn flush_page(&mut self, address: u64) {
        if self.large[(address >> 63) as usize].is_some_and(|s| s.first <= address && address <= s.last) {
            self.flush_all();
            return;
        }
        self.note_flushed(address & !PAGE_MASK);
        self.tlb.flush_page(address);
    }

    /// Whoever remembers where code lies is told that one page may lie elsewhere now.
    fn note_flushed(&mut self, page: u64) {
        self.page_flushes += 1;
        self.page_epochs[page_class(page)] += 1;
        if self.flushed_pages.len() < MAX_FLUSHED {
            self.flushed_pages.push(page);
        } else {
            self.flushed_pages.clear();
            self.local_epoch += 1;
            self.global_epoch += 1;
        }
    }

    /// Counts up with every INVLPG of a page of the same class as that of `address`.
    #[inline(always)]
    pub fn page_epoch(&self, address: u64) -> u64 {
        self.page_epochs[page_class(address)]
    }

    /// How often translations were forgotten, some or all.
    pub fn changes(&self) -> (u64, u64, u64) {
        (self.local_epoch, self.global_epoch, self.page_flushes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalidating_one_address_of_a_large_page_invalidates_its_other_pieces() {
        let ram = motu_memory::GuestRam::new(4 * PAGE).unwrap();
        let mut mmu = Mmu::new(RamMap::new(ram)).unwrap();
        let host = mmu.ram.page(0).unwrap();
        let piece = 0x7f00_0020_3000;
        let fill = |mmu: &mut Mmu| {
            let addend = Entry::addend(host, piece);
            let entry = Entry { read: piece, write: piece, exec: piece, addend };
            mmu.tlb.fill(Privilege::Supervisor, piece, entry, PageInfo::default());
        };
        fill(&mut mmu);
        mmu.flush_page(piece - 2 * PAGE);
        assert_eq!(mmu.tlb.entry(piece).read, piece, "a small page elsewhere is left");
        mmu.note_large(piece);
        mmu.flush_page(piece - 2 * PAGE);
        assert_ne!(mmu.tlb.entry(piece).read, piece);
        fill(&mut mmu);
        mmu.flush_page(1 << 63);
        assert_eq!(mmu.tlb.entry(piece).read, piece, "the other half has no large page");
    }
}
