//! The guest's RAM in KVM's memory slots, and what KVM remembers of the guest's page tables.

use crate::host::failed;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use motu_hv::HvError;
use motu_memory::{GuestRam, RamRegion};
use std::sync::atomic::{AtomicBool, Ordering};

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
}

impl Slots {
    /// Gives the guest its RAM, which is mapped as long as the slots live: they must be dropped behind the machine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(fd: &VmFd, ram: GuestRam, shadow_pages: bool) -> Result<Self, HvError> {
        let slots = Self { ram, shadow_pages, used: AtomicBool::new(false) };
        slots.put(fd)?;
        Ok(slots)
    }

    fn put(&self, fd: &VmFd) -> Result<(), HvError> {
        for (number, region) in (0..).zip(self.ram.regions()) {
            self.set(fd, number, &region, region.len)
                .map_err(failed(format!("mapping {} bytes of guest RAM at {:#x}", region.len, region.start.0)))?;
        }
        Ok(())
    }

    /// Without bytes the slot is taken away.
    fn set(&self, fd: &VmFd, slot: u32, region: &RamRegion, bytes: u64) -> Result<(), kvm_ioctls::Error> {
        let memory = kvm_userspace_memory_region {
            slot,
            flags: 0,
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
        for (number, region) in (0..).zip(self.ram.regions()) {
            self.set(fd, number, &region, 0).map_err(failed("taking guest RAM away from KVM"))?;
        }
        self.put(fd)
    }
}
