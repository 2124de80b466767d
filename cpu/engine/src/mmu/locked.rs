//! Locked accesses: read, changed and written in one step for all processors (Intel SDM vol. 3, 9.1.2).

use super::access::Target;
use super::{Access, PAGE, PAGE_MASK, shared};
use crate::cpu::{Cpu, Faulting};
use crate::exec::width::Width;

impl Cpu {
    /// As [`Cpu::modify`], in one step. `change` may run more than once, each time from the same arithmetic flags.
    #[inline(always)]
    pub fn modify_locked<W: Width>(&mut self, address: u64, change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()> {
        let entry = self.mmu.tlb.entry(address);
        if let Some(host) = entry.lookup(entry.write, address, W::BYTES) {
            // SAFETY: the tag matched: `host` leads to W::BYTES writable bytes of mapped guest RAM.
            unsafe { self.exchange(host, change) };
            return Ok(());
        }
        self.modify_locked_slow(address, change)
    }

    /// # Safety
    /// `host` leads to W::BYTES writable bytes of mapped guest RAM.
    #[inline(always)]
    unsafe fn exchange<W: Width>(&mut self, host: *mut u8, mut change: impl FnMut(&mut Cpu, W) -> W) {
        let flags = self.arith;
        // SAFETY: as the caller says.
        let mut old = unsafe { shared::load::<W>(host) };
        loop {
            let new = change(self, old);
            // SAFETY: as above; `change` computes and neither flushes the TLB nor unmaps RAM.
            let found = unsafe { shared::compare_exchange(host, old, new) };
            if found == old {
                return;
            }
            (old, self.arith) = (found, flags);
        }
    }

    #[cold]
    fn modify_locked_slow<W: Width>(&mut self, address: u64, mut change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()> {
        if (address & PAGE_MASK) + W::BYTES > PAGE {
            return self.modify_alone(address, change);
        }
        self.check_write(address, W::BYTES)?;
        match self.translate(address, Access::Write, self.mmu.control.privilege)? {
            Target::Ram { host, physical } => {
                // SAFETY: the bytes lie inside the page that `host` leads into, which is writable.
                unsafe { self.exchange(host, change) };
                self.wrote(physical, W::BYTES as usize);
                Ok(())
            }
            // A device has nobody to share with: it is told one access at a time.
            Target::Device { .. } => {
                let old = self.load::<W>(address)?;
                let new = change(self, old);
                self.store(address, new)
            }
        }
    }

    /// Across pages: while the other processors stand still.
    fn modify_alone<W: Width>(&mut self, address: u64, mut change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()> {
        self.check_write(address, W::BYTES)?;
        self.processors.stop_others(self.id);
        let modified = self.load::<W>(address).and_then(|old| {
            let new = change(self, old);
            self.store(address, new)
        });
        self.processors.resume_others();
        modified
    }

    /// CMPXCHG16B: writes `new` at `address`, a multiple of 16, if `old` is there. Gives what was there.
    pub fn compare_exchange_16(&mut self, address: u64, old: [u64; 2], new: [u64; 2]) -> Faulting<[u64; 2]> {
        self.check_write(address, 16)?;
        match self.translate(address, Access::Write, self.mmu.control.privilege)? {
            Target::Ram { host, physical } => {
                // SAFETY: sixteen aligned bytes lie inside the page that `host` leads into, which is writable.
                let found = unsafe { shared::compare_exchange_16(host, old, new) };
                self.wrote(physical, 16);
                Ok(found)
            }
            Target::Device { .. } => {
                let found = [self.load(address)?, self.load(address.wrapping_add(8))?];
                let [low, high] = if found == old { new } else { found };
                self.store(address, low)?;
                self.store(address.wrapping_add(8), high)?;
                Ok(found)
            }
        }
    }
}
