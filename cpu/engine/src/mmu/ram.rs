//! Guest RAM as the CPU reaches it: host pointers, and which pages hold decoded code.

use super::{PAGE, PAGE_MASK};
use motu_memory::{GuestRam, PageTracker, RamRegion};

/// Asks the host for large pages, so that guest addresses cost fewer misses of the host's TLB. A hint: without them all
/// works too.
fn prefer_large_pages(host: *mut u8, bytes: u64) {
    // SAFETY: the range is one mapping, and the advice changes nothing of what it holds.
    let _ = unsafe { libc::madvise(host.cast(), bytes as usize, libc::MADV_HUGEPAGE) };
}

#[derive(Debug)]
struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
    tracker: PageTracker,
}

/// All RAM of the machine.
#[derive(Debug)]
pub struct RamMap {
    regions: Vec<Region>,
    /// Keeps the mappings alive.
    ram: GuestRam,
}

// SAFETY: the pointers lead into `ram`, which is owned and may be used from any thread; races with
// devices are what a real machine has too, and every access is made through raw pointers.
unsafe impl Send for RamMap {}

impl RamMap {
    pub fn new(ram: GuestRam) -> Self {
        let region = |r: RamRegion| {
            prefer_large_pages(r.host, r.len);
            Region { start: r.start.0, len: r.len, host: r.host, tracker: r.tracker }
        };
        let regions = ram.regions().map(region).collect();
        Self { regions, ram }
    }

    #[inline(always)]
    fn region(&self, physical: u64) -> Option<(&Region, u64)> {
        self.regions.iter().find_map(|r| {
            let offset = physical.wrapping_sub(r.start);
            (offset < r.len).then_some((r, offset))
        })
    }

    /// Where the host has the page that holds `physical`, if it is RAM.
    #[inline]
    pub fn page(&self, physical: u64) -> Option<*mut u8> {
        let (region, offset) = self.region(physical & !PAGE_MASK)?;
        // SAFETY: a region is whole pages, and `offset` lies inside it.
        Some(unsafe { region.host.add(offset as usize) })
    }

    /// Reads a paging-structure entry or a descriptor: `N` bytes that do not cross a page.
    pub fn read<const N: usize>(&self, physical: u64) -> Option<[u8; N]> {
        let within = physical & PAGE_MASK;
        if within + N as u64 > PAGE {
            return None;
        }
        let page = self.page(physical)?;
        // SAFETY: the page is RAM and the range lies inside it.
        Some(unsafe { page.add(within as usize).cast::<[u8; N]>().read_unaligned() })
    }

    /// Reads the paging-structure entry at `physical`, a multiple of 8.
    #[inline(always)]
    pub fn quad(&self, physical: u64) -> Option<u64> {
        let (region, offset) = self.region(physical & !7)?;
        // SAFETY: a region is whole pages, and the aligned offset lies inside it.
        Some(unsafe { region.host.add(offset as usize).cast::<u64>().read() })
    }

    /// Sets bits of the naturally aligned 8-byte or 4-byte paging entry at `physical`, atomically as the
    /// processor does (SDM vol. 3, 4.8). Only the low byte carries A and D.
    pub fn set_bits(&self, physical: u64, bits: u8) {
        if let Some(page) = self.page(physical) {
            // SAFETY: the byte lies inside the page; an AtomicU8 has the layout of a byte.
            let byte = unsafe { &*page.add((physical & PAGE_MASK) as usize).cast::<std::sync::atomic::AtomicU8>() };
            byte.fetch_or(bits, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[inline]
    pub fn is_code(&self, physical: u64) -> bool {
        self.region(physical).is_some_and(|(r, offset)| r.tracker.is_code(offset / PAGE))
    }

    pub fn set_code(&self, physical: u64, code: bool) {
        if let Some((region, offset)) = self.region(physical) {
            if code {
                region.tracker.set_code(offset / PAGE);
            } else {
                region.tracker.clear_code(offset / PAGE);
            }
        }
    }

    /// Has `told` called whenever a device writes to a code page.
    pub fn on_code_write(&self, told: impl Fn() + Clone + Send + Sync + 'static) {
        for region in &self.regions {
            region.tracker.listen(Box::new(told.clone()));
        }
    }

    /// Whether devices wrote to code pages.
    #[inline]
    pub fn has_code_writes(&self) -> bool {
        self.regions.iter().any(|r| r.tracker.has_writes())
    }

    /// The code pages that devices wrote to.
    pub fn take_code_writes(&self) -> Vec<u64> {
        self.ram.take_code_writes().into_iter().map(|page| page.0).collect()
    }
}
