//! Pages that hold decoded code, and the CPUs that write to them (docs/adr/0014).

use super::{PAGE_MASK, RamMap};
use crate::cpu::Cpu;
use crate::smp::{Set, Withdraw, Written, members};

/// So many pages cost more, looked for one by one, than what is filled again.
const MANY: usize = 16;

impl Cpu {
    /// This CPU is about to decode code of the page at `page`: its own stores there are noticed from now on.
    pub fn hold_code(&mut self, page: u64) {
        self.mmu.ram.hold(page);
        self.forgo_writes(&[page]);
    }

    /// The other CPUs that may still write to a page unseen.
    pub fn other_writers(&self, page: u64) -> Set {
        self.mmu.ram.other_writers(page) & self.processors.all()
    }

    /// Asks `writers` not to write to a page unseen. True if none of them does any more.
    pub fn ask_to_forgo_writes(&self, page: u64, writers: Set) -> bool {
        let ask = |n: usize| {
            let rests = self.processors.mailbox(n as u32).protect(page);
            if rests {
                // Before it runs it takes its post.
                self.mmu.ram.forgo_writes_of(page, n as u32);
            }
            rests
        };
        members(writers).map(ask).fold(true, |all, one| all & one)
    }

    /// Takes the right to write to these pages unseen out of the TLB.
    pub fn forgo_writes(&mut self, pages: &[u64]) {
        if pages.len() > MANY {
            self.mmu.tlb.flush_all();
        }
        for &page in pages {
            if let Some(host) = self.mmu.ram.page(page).filter(|_| pages.len() <= MANY) {
                self.mmu.tlb.protect(host);
            }
            self.mmu.ram.forgo_writes(page);
        }
    }

    /// Takes the right to write to any page unseen out of the TLB, as pages that are written are to be noted.
    #[cold]
    pub fn withdraw_writes(&mut self, how: Withdraw) {
        if how == Withdraw::Noting {
            self.mmu.tlb.writable_pages().for_each(|physical| self.mmu.ram.note_write(physical));
        }
        self.mmu.tlb.flush_all();
    }

    /// The CPU itself wrote to a page for which the TLB has no write right: whoever holds code of it is told.
    pub(super) fn wrote(&mut self, physical: u64, bytes: usize) {
        self.mmu.ram.note_write(physical);
        let holders = self.mmu.ram.holders(physical);
        if !holders.own && holders.others == 0 {
            return;
        }
        let first = (physical & PAGE_MASK) as u16;
        let written = Written { page: physical & !PAGE_MASK, first, last: first + bytes as u16 - 1 };
        self.processors.code_written(holders.others, written);
        if holders.own {
            self.code_writes.push(written);
            self.limit = 0;
        }
    }
}

/// The longest code that is compared at a time.
const MOST_COMPARED: usize = crate::decode::MAX_CODE;

impl RamMap {
    /// Whether memory has `code` at `physical`, in one page, now.
    pub fn holds(&self, physical: u64, code: &[u8]) -> bool {
        let mut bytes = [0; MOST_COMPARED];
        let start = (physical & PAGE_MASK) as usize;
        let room = bytes.get_mut(..code.len()).filter(|room| start + room.len() <= super::PAGE as usize);
        let Some((host, room)) = self.page(physical).zip(room) else { return false };
        // SAFETY: the range lies inside a page of RAM.
        unsafe { super::shared::copy_in(host.add(start), room) };
        room == code
    }

    /// Copies what the page at `physical` holds now, from its beginning on.
    pub fn copy_page(&self, physical: u64, out: &mut [u8]) -> Option<()> {
        let host = self.page(physical)?;
        let len = out.len().min(super::PAGE as usize);
        // SAFETY: a page of RAM is as long as `len` at least.
        unsafe { super::shared::copy_in(host, out.get_mut(..len)?) };
        Some(())
    }
}
