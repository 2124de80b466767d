//! Guest RAM: where it lies, typed access, which of its pages hold decoded code, and which were written.
//!
//! [`GuestRam`] wraps `vm-memory`, so that virtqueues and loaders work on it unchanged. Every write
//! through it by the board (loaders, device DMA) is seen by a [`PageTracker`], which tells the engine of
//! writes to pages that it has decoded code from.

mod dirty;
mod tracker;
pub mod transfer;

pub use dirty::DirtyPages;
pub use tracker::{CodeWrite, Listener, MAX_HOLDERS, PageTracker};

use motu_x86::Gpa;
use std::sync::Arc;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

/// The memory type that `vm-memory`'s other users (virtio-queue, linux-loader) work on.
pub type Mmap = GuestMemoryMmap<PageTracker>;

/// Where RAM stops below 4 GiB: above lie PCI, APICs and firmware. 3 GiB.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM goes on above the 32-bit devices. 4 GiB.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest RAM could not be had or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("{bytes} bytes of guest memory cannot be mapped: {reason}")]
    Map { bytes: u64, reason: String },
    #[error("guest memory has no {bytes} bytes at {address:?}")]
    Range { address: Gpa, bytes: usize },
}

/// All RAM of one machine; cheap to clone, every clone is the same memory.
#[derive(Clone)]
pub struct GuestRam {
    mmap: Arc<Mmap>,
}

/// One contiguous piece of RAM, as an engine maps it.
#[derive(Clone, Debug)]
pub struct RamRegion {
    pub start: Gpa,
    /// In bytes; a multiple of [`PAGE_SIZE`].
    pub len: u64,
    /// Where the host maps it: valid for `len` bytes while the [`GuestRam`] lives.
    pub host: *mut u8,
    pub tracker: PageTracker,
}

impl GuestRam {
    /// Maps `bytes` of zeroed RAM: up to 3 GiB at zero, the rest from 4 GiB.
    ///
    /// # Errors
    /// `bytes` is zero or no multiple of [`PAGE_SIZE`], or the host refuses the mapping.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let failed = |reason: String| MemoryError::Map { bytes, reason };
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(failed("the size is not a positive multiple of 4096".into()));
        }
        let size = |len: u64| usize::try_from(len).map_err(|_| failed("too large for this host".into()));
        let low = bytes.min(LOW_RAM_END);
        let mut ranges = vec![(GuestAddress(0), size(low)?)];
        if bytes > low {
            ranges.push((GuestAddress(HIGH_RAM_START), size(bytes - low)?));
        }
        let mmap = Mmap::from_ranges(&ranges).map_err(|e| failed(e.to_string()))?;
        Ok(Self { mmap: Arc::new(mmap) })
    }

    /// The `vm-memory` view.
    pub fn mmap(&self) -> &Arc<Mmap> {
        &self.mmap
    }

    /// The pieces of RAM, lowest first.
    pub fn regions(&self) -> impl Iterator<Item = RamRegion> {
        self.mmap.iter().map(|region: &GuestRegionMmap<PageTracker>| RamRegion {
            start: Gpa(region.start_addr().0),
            len: region.len(),
            host: region.get_host_address(MemoryRegionAddress(0)).unwrap_or(std::ptr::null_mut()),
            tracker: region.bitmap(),
        })
    }

    /// Bytes of RAM altogether.
    pub fn len(&self) -> u64 {
        self.regions().map(|r| r.len).sum()
    }

    /// Never true: RAM of no size is refused by [`GuestRam::new`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins to note which pages are written, or ends it. The board's writes through this are noted by themselves; who writes to
    /// the memory otherwise says so by [`PageTracker::note_write`].
    pub fn log_writes(&self, on: bool) {
        self.regions().for_each(|region| region.tracker.log_writes(on));
    }

    /// The pages that were noted since the log began or was last taken.
    pub fn take_written(&self) -> DirtyPages {
        DirtyPages::new(self.regions().map(|region| (region.start, region.tracker.take_written())).collect())
    }

    /// Copies `data` to `address`.
    ///
    /// # Errors
    /// Not all of the range is RAM; then nothing useful was written.
    pub fn write(&self, address: Gpa, data: &[u8]) -> Result<(), MemoryError> {
        self.mmap
            .write_slice(data, GuestAddress(address.0))
            .map_err(|_| MemoryError::Range { address, bytes: data.len() })
    }

    /// Copies from `address` into `data`.
    ///
    /// # Errors
    /// Not all of the range is RAM.
    pub fn read(&self, address: Gpa, data: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = data.len();
        self.mmap.read_slice(data, GuestAddress(address.0)).map_err(|_| MemoryError::Range { address, bytes })
    }
}

impl std::fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRam").field("bytes", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_above_three_gib_goes_on_at_four() {
        let ram = GuestRam::new(LOW_RAM_END + 2 * PAGE_SIZE).unwrap();
        let regions: Vec<_> = ram.regions().map(|r| (r.start.0, r.len)).collect();
        assert_eq!(regions, [(0, LOW_RAM_END), (HIGH_RAM_START, 2 * PAGE_SIZE)]);
        assert!(ram.write(Gpa(LOW_RAM_END), &[1]).is_err());
        ram.write(Gpa(HIGH_RAM_START), &[1]).unwrap();
    }

    #[test]
    fn odd_sizes_are_refused() {
        assert!(GuestRam::new(0).is_err());
        assert!(GuestRam::new(PAGE_SIZE + 1).is_err());
    }

    #[test]
    fn writes_to_code_pages_are_told_of() {
        let ram = GuestRam::new(16 * PAGE_SIZE).unwrap();
        let tracker = ram.regions().next().unwrap().tracker;
        let (told, heard) = std::sync::mpsc::channel();
        let listener: Listener = Arc::new(move |write| told.send(write).unwrap());
        tracker.listen(&listener);
        ram.write(Gpa(3 * PAGE_SIZE), &[1]).unwrap();
        tracker.hold(3, 1);
        ram.write(Gpa(2 * PAGE_SIZE + 4000), &[0; 200]).unwrap();
        let told: Vec<_> = heard.try_iter().collect();
        assert_eq!(told, [CodeWrite { page: 3, first: 0, last: 103, holders: 2 }]);
    }
}
