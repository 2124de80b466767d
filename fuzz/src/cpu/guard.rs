//! Pages around guest RAM that nobody may touch: an access beside RAM ends the process.

use motu_memory::GuestRam;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::null_mut;

/// Bytes of each.
const LEN: usize = 64 << 10;

/// Reserved address space, on both sides of RAM where the host had it free.
#[derive(Debug)]
pub struct Guard(Vec<*mut c_void>);

impl Guard {
    /// To be made before RAM: new mappings lie below older ones, so RAM will lie below this.
    pub fn before() -> Self {
        let mut guard = Self(Vec::new());
        guard.reserve(null_mut(), MapFlags::empty());
        guard
    }

    /// Fills the free space on both sides of `ram`.
    pub fn after(mut self, ram: &GuestRam) -> Self {
        for region in ram.regions() {
            let host = region.host.cast::<c_void>();
            for side in [host.wrapping_byte_sub(LEN), host.wrapping_byte_add(region.len as usize)] {
                self.reserve(side, MapFlags::FIXED_NOREPLACE);
            }
        }
        self
    }

    fn reserve(&mut self, at: *mut c_void, how: MapFlags) {
        // SAFETY: a mapping is replaced in no case: the host chooses, or is told not to.
        let mapped =
            unsafe { mmap_anonymous(at, LEN, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE | how) };
        self.0.extend(mapped);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for &at in &self.0 {
            // SAFETY: mapped above with this length, and nobody else knows of it.
            _ = unsafe { munmap(at, LEN) };
        }
    }
}
