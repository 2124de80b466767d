//! The guest's RAM in KVM's memory slots, what the kernel tells of writes there, and what it remembers of the guest's page tables.

use crate::dirty::Log;
use crate::host::failed;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use motu_hv::HvError;
use motu_memory::{DirtyPages, GuestRam, RamRegion};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the kernel says whether its processors walk the guest's page tables by themselves (EPT and NPT).
const NESTED_PAGING: [&str; 2] = ["/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt"];

/// Whether the kernel keeps page tables of its own made from the guest's: without hardware, or where that has no nested paging.
pub fn has_shadow_pages(is_hardware: bool) -> bool {
    let nested = |path| std::fs::read_to_string(path).is_ok_and(|value| matches!(value.trim(), "Y" | "1"));
    !is_hardware || !NESTED_PAGING.into_iter().any(nested)
}

/// The slots of one machine.
#[derive(Debug)]
pub struct Slots {
    ram: GuestRam,
    shadow_pages: bool,
    /// A CPU has run since the kernel last forgot its shadow pages.
    used: AtomicBool,
    /// Held while slots change and while what the kernel tells is collected.
    writes: Mutex<Writes>,
}

#[derive(Debug)]
struct Writes {
    log: Log,
    /// They are told of.
    on: bool,
}

impl Slots {
    /// Gives the guest its RAM, which is mapped as long as the slots live: they must be dropped behind the machine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(fd: &VmFd, ram: GuestRam, shadow_pages: bool, log: Log) -> Result<Self, HvError> {
        let writes = Mutex::new(Writes { log, on: false });
        let slots = Self { ram, shadow_pages, used: AtomicBool::new(false), writes };
        slots.put(fd, false)?;
        Ok(slots)
    }

    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, fd: &VmFd, logs: bool) -> Result<(), HvError> {
        for (number, region) in (0..).zip(self.ram.regions()) {
            self.set(fd, number, &region, (region.len, logs))
                .map_err(failed(format!("mapping {} bytes of guest RAM at {:#x}", region.len, region.start.0)))?;
        }
        Ok(())
    }

    /// Without bytes the slot is taken away.
    fn set(
        &self,
        fd: &VmFd,
        slot: u32,
        region: &RamRegion,
        (bytes, logs): (u64, bool),
    ) -> Result<(), kvm_ioctls::Error> {
        let memory = kvm_userspace_memory_region {
            slot,
            flags: if logs { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start.0,
            memory_size: bytes,
            userspace_addr: region.host as u64,
        };
        // SAFETY: the region is mapped for as long as a clone of `ram` lives; `self` holds one and is dropped behind the machine. That
        // the guest writes to it at any time is what all of its users expect.
        unsafe { fd.set_user_memory_region(memory) }
    }

    /// A CPU is about to run the guest.
    pub fn note_use(&self) {
        if self.shadow_pages {
            self.used.store(true, Ordering::SeqCst);
        }
    }

    /// The guest's page tables may have been written by somebody other than the guest on this engine. The kernel keeps watch over
    /// the guest's own writes alone, and uses shadow pages again as long as it sees none, whatever CR3 is loaded: they go
    /// with their memory slots only. No CPU of the machine may run meanwhile.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_shadow_pages(&self, fd: &VmFd) -> Result<(), HvError> {
        if !self.used.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let mut writes = self.writes();
        // What the kernel knows goes with the slots.
        self.collect(fd, &mut writes)?;
        for (number, region) in (0..).zip(self.ram.regions()) {
            self.set(fd, number, &region, (0, false)).map_err(failed("taking guest RAM away from KVM"))?;
        }
        self.put(fd, writes.on)
    }

    /// A vCPU was made.
    ///
    /// # Errors
    /// The host lacks a resource.
    pub fn add_vcpu(&self, vcpu: &VcpuFd) -> Result<(), HvError> {
        self.writes().log.add(vcpu).map_err(host("mapping a vCPU's ring of written pages"))
    }

    /// As `motu_hv::Vm::log_writes`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn log_writes(&self, fd: &VmFd, on: bool) -> Result<(), HvError> {
        let mut writes = self.writes();
        if writes.on != on {
            self.put(fd, on)?;
            writes.on = on;
        }
        // What was left is of before.
        self.collect(fd, &mut writes)?;
        self.ram.log_writes(on);
        Ok(())
    }

    /// As `motu_hv::Vm::take_dirty`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_dirty(&self, fd: &VmFd) -> Result<DirtyPages, HvError> {
        self.make_room(fd)?;
        Ok(self.ram.take_written())
    }

    /// Empties the kernel's logs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make_room(&self, fd: &VmFd) -> Result<(), HvError> {
        self.collect(fd, &mut self.writes())
    }

    fn collect(&self, fd: &VmFd, writes: &mut Writes) -> Result<(), HvError> {
        // A slot that is not logged has no bitmap.
        if !writes.on && matches!(writes.log, Log::Bitmaps { .. }) {
            return Ok(());
        }
        let regions: Vec<_> = self.ram.regions().collect();
        writes.log.collect(fd, &regions).map_err(host("asking KVM for written pages"))
    }
}

fn host(doing: &str) -> impl FnOnce(io::Error) -> HvError {
    let doing = doing.to_owned();
    move |source| HvError::Host { doing, source }
}
