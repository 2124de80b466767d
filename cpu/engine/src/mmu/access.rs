//! Loads and stores of guest-linear memory: the fast path, and what happens when it does not match.

use super::{Access, Entry, PAGE, PAGE_MASK, Page, PageInfo, Privilege, shared};
use crate::cpu::{Cpu, Fault, Faulting};
use crate::exec::width::Width;
use motu_x86::{Exception, Gpa};

/// What an access to a non-canonical address raises.
const NON_CANONICAL: Exception = Exception::with_code(Exception::GP, 0);

/// Where an access ends up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// RAM; the pointer is good up to the page's end.
    Ram { host: *mut u8, physical: u64 },
    /// Anything else the board answers for.
    Device { physical: u64 },
}

/// Whether bits 63 to 47 of an address are equal.
#[inline(always)]
pub const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

impl Cpu {
    /// Reads `W` at linear `address` with the current privilege.
    #[inline(always)]
    pub fn load<W: Width>(&mut self, address: u64) -> Faulting<W> {
        let entry = self.mmu.tlb.entry(address);
        if let Some(host) = entry.lookup(entry.read, address, W::BYTES) {
            // SAFETY: the tag matched: `host` leads to W::BYTES bytes of mapped guest RAM.
            return Ok(unsafe { shared::load(host) });
        }
        self.load_slow(address)
    }

    /// Writes `value` at linear `address` with the current privilege.
    #[inline(always)]
    pub fn store<W: Width>(&mut self, address: u64, value: W) -> Faulting<()> {
        let entry = self.mmu.tlb.entry(address);
        if let Some(host) = entry.lookup(entry.write, address, W::BYTES) {
            // SAFETY: the tag matched: `host` leads to W::BYTES writable bytes of mapped guest RAM.
            unsafe { shared::store(host, value) };
            return Ok(());
        }
        self.store_slow(address, value)
    }

    /// Whether the TLB knows that `bytes` bytes (at most a page) at `address` may be written: then a
    /// store of them does not fault.
    #[inline(always)]
    pub fn store_cannot_fault(&self, address: u64, bytes: u64) -> bool {
        let entry = self.mmu.tlb.entry(address);
        entry.lookup(entry.write, address, bytes).is_some()
    }

    /// Reads, computes, writes: the write right is checked before anything is read.
    #[inline(always)]
    pub fn modify<W: Width>(&mut self, address: u64, change: impl FnOnce(&mut Cpu, W) -> W) -> Faulting<()> {
        let entry = self.mmu.tlb.entry(address);
        if let Some(host) = entry.lookup(entry.write, address, W::BYTES) {
            // SAFETY: the tag matched: `host` leads to W::BYTES writable bytes of mapped guest RAM.
            let old = unsafe { shared::load(host) };
            let new = change(self, old);
            // SAFETY: as above; `change` computes and neither flushes the TLB nor unmaps RAM.
            unsafe { shared::store(host, new) };
            return Ok(());
        }
        self.modify_slow(address, change)
    }

    #[cold]
    fn modify_slow<W: Width>(&mut self, address: u64, change: impl FnOnce(&mut Cpu, W) -> W) -> Faulting<()> {
        self.check_write(address, W::BYTES)?;
        let old = self.load::<W>(address)?;
        let new = change(self, old);
        self.store(address, new)
    }

    #[cold]
    #[inline(never)]
    fn load_slow<W: Width>(&mut self, address: u64) -> Faulting<W> {
        let mut bytes = [0; 8];
        self.read_bytes(address, &mut bytes[..W::BYTES as usize])?;
        Ok(W::from_le(&bytes))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<W: Width>(&mut self, address: u64, value: W) -> Faulting<()> {
        self.write_bytes(address, &value.to_u64().to_le_bytes()[..W::BYTES as usize])
    }

    /// Reads `out.len()` (at most a page) bytes with the current privilege.
    pub fn read_bytes(&mut self, address: u64, out: &mut [u8]) -> Faulting<()> {
        self.read_bytes_as(address, out, self.mmu.control.privilege)
    }

    /// Writes with the current privilege; nothing is written if any byte may not be.
    pub fn write_bytes(&mut self, address: u64, data: &[u8]) -> Faulting<()> {
        self.write_bytes_as(address, data, self.mmu.control.privilege)
    }

    /// Reads as the processor itself does for descriptor tables and the TSS: with supervisor rights
    /// (SDM vol. 3, 4.6.1, implicit supervisor-mode accesses).
    pub fn read_system<const N: usize>(&mut self, address: u64) -> Faulting<[u8; N]> {
        let mut out = [0; N];
        self.read_system_bytes(address, &mut out)?;
        Ok(out)
    }

    /// The same for more than fits on the stack well.
    pub fn read_system_bytes(&mut self, address: u64, out: &mut [u8]) -> Faulting<()> {
        self.read_bytes_as(address, out, Privilege::Supervisor)
    }

    pub fn write_system(&mut self, address: u64, data: &[u8]) -> Faulting<()> {
        self.write_bytes_as(address, data, Privilege::Supervisor)
    }

    /// Raises what [`Cpu::write_system`] of `bytes` bytes would.
    pub fn check_write_system(&mut self, address: u64, bytes: u64) -> Faulting<()> {
        self.check_write_as(address, bytes, Privilege::Supervisor)
    }

    /// Where the TLB has `bytes` bytes at `address`, if they lie in one page and `access` to them is known to be allowed
    /// with the rights of `privilege`. A place to write to holds no decoded code.
    #[inline(always)]
    fn known(&self, address: u64, bytes: u64, access: Access, privilege: Privilege) -> Option<*mut u8> {
        let entry = self.mmu.tlb.entry_of(self.mmu.control.effective(privilege), address);
        let tag = match access {
            Access::Read => entry.read,
            Access::Write => entry.write,
            Access::Execute => entry.exec,
        };
        if bytes.wrapping_sub(1) < PAGE { entry.lookup(tag, address, bytes) } else { None }
    }

    #[inline(always)]
    fn read_bytes_as(&mut self, address: u64, out: &mut [u8], privilege: Privilege) -> Faulting<()> {
        match self.known(address, out.len() as u64, Access::Read, privilege) {
            Some(host) => {
                // SAFETY: the TLB has that many bytes of mapped guest RAM there.
                unsafe { shared::copy_in(host, out) };
                Ok(())
            }
            None => self.read_pages(address, out, privilege),
        }
    }

    #[inline(never)]
    fn read_pages(&mut self, address: u64, out: &mut [u8], privilege: Privilege) -> Faulting<()> {
        self.check_canonical(address, out.len() as u64)?;
        let mut done = 0;
        while done < out.len() {
            let at = self.linear(address, done);
            let piece = (PAGE - (at & PAGE_MASK)).min((out.len() - done) as u64) as usize;
            let Some(part) = out.get_mut(done..done + piece) else { break };
            match self.translate(at, Access::Read, privilege)? {
                // SAFETY: `piece` bytes from `at` lie inside the page that `host` leads into.
                Target::Ram { host, .. } => unsafe { shared::copy_in(host, part) },
                Target::Device { physical } => self.device_read(physical, part),
            }
            done += piece;
        }
        Ok(())
    }

    #[inline(always)]
    pub fn write_bytes_as(&mut self, address: u64, data: &[u8], privilege: Privilege) -> Faulting<()> {
        match self.known(address, data.len() as u64, Access::Write, privilege) {
            Some(host) => {
                // SAFETY: the TLB has that many writable bytes of mapped guest RAM there.
                unsafe { shared::copy_out(data, host) };
                Ok(())
            }
            None => self.write_pages(address, data, privilege),
        }
    }

    #[inline(never)]
    fn write_pages(&mut self, address: u64, data: &[u8], privilege: Privilege) -> Faulting<()> {
        self.check_canonical(address, data.len() as u64)?;
        if (address & PAGE_MASK) + data.len() as u64 > PAGE {
            self.translate_both(address, Access::Write, privilege)?;
        }
        let mut done = 0;
        while done < data.len() {
            let at = self.linear(address, done);
            let piece = (PAGE - (at & PAGE_MASK)).min((data.len() - done) as u64) as usize;
            let Some(part) = data.get(done..done + piece) else { break };
            match self.translate(at, Access::Write, privilege)? {
                Target::Ram { host, physical } => {
                    // SAFETY: as for reading; the page is writable.
                    unsafe { shared::copy_out(part, host) };
                    self.wrote(physical, piece);
                }
                Target::Device { physical } => self.device_write(physical, part),
            }
            done += piece;
        }
        Ok(())
    }

    /// Raises what a write of `bytes` at `address` would, without writing.
    pub fn check_write(&mut self, address: u64, bytes: u64) -> Faulting<()> {
        self.check_write_as(address, bytes, self.mmu.control.privilege)
    }

    /// Raises what a read of `bytes` at `address` would, without reading.
    pub fn check_read(&mut self, address: u64, bytes: u64) -> Faulting<()> {
        self.check_pages(address, bytes, Access::Read, self.mmu.control.privilege)
    }

    pub fn check_write_as(&mut self, address: u64, bytes: u64, privilege: Privilege) -> Faulting<()> {
        self.check_pages(address, bytes, Access::Write, privilege)
    }

    fn check_pages(&mut self, address: u64, bytes: u64, access: Access, privilege: Privilege) -> Faulting<()> {
        if self.known(address, bytes, access, privilege).is_some() {
            return Ok(());
        }
        self.check_canonical(address, bytes)?;
        if (address & PAGE_MASK) + bytes > PAGE {
            self.translate_both(address, access, privilege)
        } else {
            self.translate(address, access, privilege).map(drop)
        }
    }

    /// For an operand that crosses into the next page: the fault of either, with the address where that
    /// page's part begins.
    fn translate_both(&mut self, address: u64, access: Access, privilege: Privilege) -> Faulting<()> {
        self.translate(address, access, privilege)?;
        let second = self.linear(address | PAGE_MASK, 1);
        self.translate(second, access, privilege).map(drop)
    }

    /// The host pointer and number of bytes (at most `bytes`, never across the page) for a run of
    /// plain RAM at `address`, or `None` if a device or decoded code is there.
    #[inline(always)]
    pub fn span(&mut self, address: u64, bytes: u64, access: Access) -> Faulting<Option<(*mut u8, u64)>> {
        let room = (PAGE - (address & PAGE_MASK)).min(bytes);
        match self.known(address, room, access, self.mmu.control.privilege) {
            Some(host) => Ok(Some((host, room))),
            None => self.span_of_page(address, room, access),
        }
    }

    #[inline(never)]
    fn span_of_page(&mut self, address: u64, room: u64, access: Access) -> Faulting<Option<(*mut u8, u64)>> {
        self.check_canonical(address, 1)?;
        let privilege = self.mmu.control.privilege;
        Ok(match self.translate(address, access, privilege)? {
            // What is written there without the TLB's right would have to be told of.
            Target::Ram { .. } => self.known(address, room, access, privilege).map(|host| (host, room)),
            Target::Device { .. } => None,
        })
    }

    /// The linear address `offset` bytes on. In long mode it has 64 bits whatever the code's size: the
    /// processor itself reads tables and pushes frames anywhere while compatibility mode runs.
    fn linear(&self, address: u64, offset: usize) -> u64 {
        let next = address.wrapping_add(offset as u64);
        if self.long_mode() { next } else { next & 0xffff_ffff }
    }

    fn check_canonical(&mut self, address: u64, bytes: u64) -> Faulting<()> {
        let last = address.wrapping_add(bytes.saturating_sub(1));
        if self.long_mode() && !(is_canonical(address) && is_canonical(last)) {
            return self.non_canonical();
        }
        Ok(())
    }

    /// #GP(0) for a non-canonical address; see [`Cpu::stack_fault`].
    #[cold]
    fn non_canonical<T>(&mut self) -> Faulting<T> {
        self.raise(NON_CANONICAL)
    }

    /// What a failed access through SS raises: #SS(0) where another segment's would be #GP(0)
    /// (SDM vol. 3, 6.15, interrupt 12).
    #[cold]
    pub fn stack_fault(&mut self) -> Fault {
        if self.fault == NON_CANONICAL {
            self.fault = Exception::with_code(Exception::SS, 0);
        }
        Fault
    }

    /// Finds the page, by the TLB or by a walk that fills it.
    pub(super) fn translate(&mut self, address: u64, access: Access, privilege: Privilege) -> Faulting<Target> {
        let privilege = self.mmu.control.effective(privilege);
        if let Some(host) = self.known(address, 1, access, privilege) {
            let physical = self.mmu.tlb.info_of(privilege, address).physical | (address & PAGE_MASK);
            return Ok(Target::Ram { host, physical });
        }
        self.walk_and_fill(address, access, privilege)
    }

    /// What [`Cpu::translate`] does where the TLB does not help.
    fn walk_and_fill(&mut self, address: u64, access: Access, privilege: Privilege) -> Faulting<Target> {
        self.mmu.misses += 1;
        match self.mmu.walk(address, access, privilege) {
            Ok(page) => Ok(self.fill(address, page, access, privilege)),
            Err(code) => {
                self.fault = Exception::page_fault(code, address);
                Err(Fault)
            }
        }
    }

    /// Brings the translation for an access of `bytes` bytes inside one page into the TLB, if it is allowed, to RAM,
    /// and (for a store) not to decoded code: says whether the TLB now has it. Raises nothing.
    pub fn fill_for(&mut self, address: u64, bytes: u64, access: Access) -> bool {
        if self.translate(address, access, self.mmu.control.privilege).is_err() {
            return false;
        }
        let entry = self.mmu.tlb.entry(address);
        let tag = if access == Access::Write { entry.write } else { entry.read };
        entry.lookup(tag, address, bytes).is_some()
    }

    fn fill(&mut self, address: u64, page: Page, access: Access, privilege: Privilege) -> Target {
        let physical = page.physical | (address & PAGE_MASK);
        let Some(host) = self.mmu.ram.page(page.physical) else {
            return Target::Device { physical };
        };
        let linear = address & !PAGE_MASK;
        let writes = access == Access::Write;
        let writable = page.writable && page.dirty && self.mmu.ram.may_write(page.physical, writes);
        let none = !linear;
        let entry = Entry {
            read: if page.readable { linear } else { none },
            write: if writable { linear } else { none },
            exec: if page.executable { linear } else { none },
            addend: Entry::addend(host, linear),
        };
        let info = PageInfo { physical: page.physical, global: page.global };
        if page.large {
            self.mmu.note_large(address);
        }
        self.mmu.tlb.fill(privilege, address, entry, info);
        // SAFETY: a page of RAM is 4096 bytes.
        let host = unsafe { host.add((address & PAGE_MASK) as usize) };
        Target::Ram { host, physical }
    }

    /// Translates for an instruction fetch: guest-physical address, host page, and whether it is global.
    ///
    /// # Errors
    /// The page fault or general-protection fault of the fetch. Where no RAM is, a processor would find bytes of all
    /// ones there, which are no instruction: #UD. Code is not run from devices.
    pub fn fetch_page(&mut self, address: u64) -> Faulting<(u64, *mut u8, bool)> {
        self.check_canonical(address, 1)?;
        match self.translate(address, Access::Execute, self.mmu.control.privilege)? {
            Target::Ram { physical, .. } => {
                let tlb = &self.mmu.tlb;
                Ok((physical, tlb.entry(address).host(address & !PAGE_MASK), tlb.info(address).global))
            }
            Target::Device { .. } => self.undefined(),
        }
    }

    fn device_read(&mut self, physical: u64, out: &mut [u8]) {
        self.stats.mmio_accesses += 1;
        if let Some(offset) = self.lapic.mmio_offset(physical) {
            let value = self.lapic_read(offset);
            copy_shifted(value, physical, out);
        } else {
            for (address, range) in bus_pieces(physical, out.len()) {
                if let Some(part) = out.get_mut(range) {
                    self.bus().mmio_read(Gpa(address), part);
                }
            }
        }
    }

    fn device_write(&mut self, physical: u64, data: &[u8]) {
        self.stats.mmio_accesses += 1;
        if let Some(offset) = self.lapic.mmio_offset(physical) {
            let mut value = [0; 4];
            let len = data.len().min(4);
            value[..len].copy_from_slice(&data[..len]);
            self.lapic_write(offset, u32::from_le_bytes(value));
        } else {
            for (address, range) in bus_pieces(physical, data.len()) {
                if let Some(part) = data.get(range) {
                    self.bus().mmio_write(Gpa(address), part);
                }
            }
        }
    }
}

/// A local APIC register is 32 bits at a 16-byte boundary; narrower reads take their bytes of it.
fn copy_shifted(value: u32, physical: u64, out: &mut [u8]) {
    let bytes = value.to_le_bytes();
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = bytes.get((physical & 3) as usize + i).copied().unwrap_or(0);
    }
}

/// Cuts an access into the naturally sized pieces that a bus carries: 8, 4, 2 or 1 bytes.
fn bus_pieces(start: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len - done;
        let size = *[8, 4, 2, 1].iter().find(|&&s| s <= left)?;
        let piece = (start + done as u64, done..done + size);
        done += size;
        Some(piece)
    })
}
