//! Guest RAM as the CPU reaches it: host pointers, and which pages hold decoded code.

use super::{PAGE, PAGE_MASK};
use crate::smp::Set;
use motu_memory::{CodeWrite, GuestRam, Listener, PageTracker, RamRegion};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// All RAM of the machine, as one CPU knows it.
#[derive(Debug)]
pub struct RamMap {
    regions: Vec<Region>,
    /// Keeps the mappings alive.
    _ram: GuestRam,
    /// The CPU.
    cpu: u32,
    /// There are other CPUs.
    shared: bool,
}

// SAFETY: the pointers lead into `ram`, which is owned and may be used from any thread; races with
// devices are what a real machine has too, and every access is made through raw pointers.
unsafe impl Send for RamMap {}

impl RamMap {
    /// For a CPU that is alone.
    pub fn new(ram: GuestRam) -> Self {
        let region = |r: RamRegion| {
            prefer_large_pages(r.host, r.len);
            Region { start: r.start.0, len: r.len, host: r.host, tracker: r.tracker }
        };
        let regions = ram.regions().map(region).collect();
        Self { regions, _ram: ram, cpu: 0, shared: false }
    }

    /// For CPU `cpu` of `count`.
    pub fn of_cpu(ram: GuestRam, cpu: u32, count: u32) -> Self {
        Self { cpu, shared: count > 1, ..Self::new(ram) }
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
        Some(self.quad_at(physical)?.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn quad_at(&self, physical: u64) -> Option<&AtomicU64> {
        let (region, offset) = self.region(physical & !7)?;
        // SAFETY: a region is whole pages, and the aligned offset lies inside it; an AtomicU64 has the layout of a u64.
        Some(unsafe { AtomicU64::from_ptr(region.host.add(offset as usize).cast()) })
    }

    /// Reads the paging-structure entry of 4 bytes at `physical`, a multiple of 4.
    pub fn long(&self, physical: u64) -> Option<u32> {
        Some(self.long_at(physical)?.load(Ordering::Acquire))
    }

    fn long_at(&self, physical: u64) -> Option<&AtomicU32> {
        let (region, offset) = self.region(physical & !3)?;
        // SAFETY: as above.
        Some(unsafe { AtomicU32::from_ptr(region.host.add(offset as usize).cast()) })
    }

    /// Makes the paging-structure entry at `physical`, of 8 bytes if it is `wide` and else of 4, `new` if it is still `old`, in one
    /// step (SDM vol. 3, 4.8 and 9.1.2.1). False if it is not.
    #[must_use]
    pub fn exchange(&self, physical: u64, wide: bool, old: u64, new: u64) -> bool {
        const ORDER: (Ordering, Ordering) = (Ordering::SeqCst, Ordering::SeqCst);
        let done = if wide {
            self.quad_at(physical).is_some_and(|at| at.compare_exchange(old, new, ORDER.0, ORDER.1).is_ok())
        } else {
            let (old, new) = (old as u32, new as u32);
            self.long_at(physical).is_some_and(|at| at.compare_exchange(old, new, ORDER.0, ORDER.1).is_ok())
        };
        self.note_write(physical);
        done
    }

    /// The page that holds `physical` has been written, or may be from now on without a look here.
    #[inline]
    pub fn note_write(&self, physical: u64) {
        if let Some((region, offset)) = self.region(physical) {
            region.tracker.note_write(offset / PAGE);
        }
    }

    /// Whether this CPU may write to a page without looking here each time, behind an access that is a write or not. If so, it may
    /// until [`RamMap::forgo_writes`], or, where it is alone, until it decodes code of the page.
    #[inline]
    pub fn may_write(&self, physical: u64, writes: bool) -> bool {
        let Some((region, offset)) = self.region(physical) else { return false };
        let page = offset / PAGE;
        if region.tracker.logs_writes() {
            if writes {
                region.tracker.note_write(page);
            } else if !region.tracker.is_noted(page) {
                return false;
            }
        }
        if self.shared { region.tracker.allow_writes(page, self.cpu) } else { region.tracker.holders(page) == 0 }
    }

    pub fn forgo_writes(&self, physical: u64) {
        self.forgo_writes_of(physical, self.cpu);
    }

    /// The same for another CPU, which rests.
    pub fn forgo_writes_of(&self, physical: u64, cpu: u32) {
        if let Some((region, offset)) = self.region(physical) {
            region.tracker.forgo_writes(offset / PAGE, cpu);
        }
    }

    /// The other CPUs that may write to a page without looking here.
    pub fn other_writers(&self, physical: u64) -> Set {
        let writers = self.region(physical).map_or(0, |(region, offset)| region.tracker.writers(offset / PAGE));
        writers & !(1 << self.cpu)
    }

    /// Behind a store to a page without such a right: who holds code of it, this CPU or others.
    #[inline]
    pub fn holders(&self, physical: u64) -> Holders {
        let Some((region, offset)) = self.region(physical) else { return Holders::default() };
        let page = offset / PAGE;
        let all = if self.shared { region.tracker.holders_behind_store(page) } else { region.tracker.holders(page) };
        let own = 1 << self.cpu;
        Holders { own: all & own != 0, others: all & !own }
    }

    /// This CPU is about to decode code of a page.
    pub fn hold(&self, physical: u64) {
        if let Some((region, offset)) = self.region(physical) {
            region.tracker.hold(offset / PAGE, self.cpu);
        }
    }

    /// This CPU has no decoded code of a page any more.
    pub fn let_go(&self, physical: u64) {
        if let Some((region, offset)) = self.region(physical) {
            region.tracker.let_go(offset / PAGE, self.cpu);
        }
    }

    /// Has `told` called whenever a device writes to a code page, with its guest-physical address, for as long as what is given
    /// lives.
    pub fn on_code_write(&self, told: impl Fn(u64, CodeWrite) + Clone + Send + Sync + 'static) -> Vec<Listener> {
        let listen = |region: &Region| {
            let (told, start) = (told.clone(), region.start);
            let listener: Listener = Arc::new(move |write| told(start + write.page * PAGE, write));
            region.tracker.listen(&listener);
            listener
        };
        self.regions.iter().map(listen).collect()
    }
}

/// Who has decoded code of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    pub own: bool,
    pub others: Set,
}
