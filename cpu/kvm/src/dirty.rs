//! Which pages the guest has written, as the kernel tells: by rings, one for each vCPU (API, 8.29), or else by a bitmap for each
//! memory slot (API, 4.8 and 4.117).

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_DIRTY_LOG_PAGE_OFFSET, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use motu_memory::{PAGE_SIZE, RamRegion};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// `_IO(0xae, 0xc7)` and `_IOWR(0xae, 0xc0, struct kvm_clear_dirty_log)`.
const RESET_DIRTY_RINGS: libc::c_ulong = 0xaec7;
const CLEAR_DIRTY_LOG: libc::c_ulong = 0xc018_aec0;

/// Bytes of a ring: a guest that writes to many pages leaves for every 4096 of them, and the ring costs as much memory as that all the time.
const RING_BYTES: usize = 64 << 10;
/// [`kvm_dirty_gfn::flags`].
const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// How the kernel tells.
#[derive(Debug)]
pub enum Log {
    Rings(Vec<Ring>),
    /// Whether bits are cleared by a call of their own, or else by the one that reads them.
    Bitmaps {
        apart: bool,
    },
}

impl Log {
    /// Rings if `rings` allows and the kernel has them. Before any vCPU is made.
    pub fn new(vm: &VmFd, rings: bool) -> Self {
        let enable = |cap, argument| {
            let mut cap = kvm_enable_cap { cap, ..Default::default() };
            cap.args[0] = argument;
            vm.enable_cap(&cap).is_ok()
        };
        let has_rings = || {
            [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING]
                .into_iter()
                .any(|cap| enable(cap, RING_BYTES as u64))
        };
        if rings && has_rings() {
            return Self::Rings(Vec::new());
        }
        let apart = enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE));
        Self::Bitmaps { apart }
    }

    /// A vCPU was made.
    ///
    /// # Errors
    /// Its ring cannot be mapped.
    pub fn add(&mut self, vcpu: &VcpuFd) -> io::Result<()> {
        if let Self::Rings(rings) = self {
            rings.push(Ring::new(vcpu)?);
        }
        Ok(())
    }

    /// Has all that the kernel knows noted in the logs of `regions`, which are those of its slots.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn collect(&mut self, vm: &VmFd, regions: &[RamRegion]) -> io::Result<()> {
        match self {
            Self::Rings(rings) => {
                let region = |slot: u32| usize::try_from(slot).ok().and_then(|slot| regions.get(slot));
                let note = |slot, page| region(slot).into_iter().for_each(|region| region.tracker.note_write(page));
                if rings.iter_mut().map(|ring| ring.harvest(note)).sum::<u64>() != 0 {
                    // SAFETY: it takes no argument. The kernel changes entries that were harvested.
                    check(unsafe { libc::ioctl(vm.as_raw_fd(), RESET_DIRTY_RINGS) })?;
                }
            }
            Self::Bitmaps { apart } => {
                for (slot, region) in (0..).zip(regions) {
                    let bytes = usize::try_from(region.len).map_err(io::Error::other)?;
                    let mut words = vm.get_dirty_log(slot, bytes).map_err(io::Error::from)?;
                    if *apart && words.iter().any(|&word| word != 0) {
                        clear(vm, slot, region, &mut words)?;
                    }
                    for (number, word) in (0..).zip(words) {
                        region.tracker.note_writes(number, word);
                    }
                }
            }
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel tell of those pages anew.
fn clear(vm: &VmFd, slot: u32, region: &RamRegion, words: &mut [u64]) -> io::Result<()> {
    let num_pages = u32::try_from(region.len / PAGE_SIZE).map_err(io::Error::other)?;
    let bitmap = kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: words.as_mut_ptr().cast() };
    let log = kvm_clear_dirty_log { slot, num_pages, first_page: 0, __bindgen_anon_1: bitmap };
    // SAFETY: the kernel reads a bit for each page of the slot, which `words` has, as they came from it.
    check(unsafe { libc::ioctl(vm.as_raw_fd(), CLEAR_DIRTY_LOG, &log) })
}

/// The ring of one vCPU: the kernel adds entries behind the last one, and takes away those that were harvested.
#[derive(Debug)]
pub struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    /// The entry that is harvested next.
    next: usize,
}

// SAFETY: the mapping belongs to the ring alone, and stays where it is.
unsafe impl Send for Ring {}

impl Ring {
    const ENTRIES: usize = RING_BYTES / size_of::<kvm_dirty_gfn>();

    fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        let (access, offset) = (libc::PROT_READ | libc::PROT_WRITE, i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * 4096);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), RING_BYTES, access, libc::MAP_SHARED, vcpu.as_raw_fd(), offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { entries, next: 0 })
    }

    /// Tells the slot and page of each entry; how many there were.
    fn harvest(&mut self, note: impl Fn(u32, u64)) -> u64 {
        let mut count = 0;
        loop {
            // SAFETY: the mapping has as many entries and lives as long as `self`.
            let entry = unsafe { self.entries.as_ptr().add(self.next % Self::ENTRIES) };
            // SAFETY: the entry is mapped and aligned; its flags are how both sides hand it over.
            let flags = unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) };
            if flags.load(Ordering::Acquire) & (DIRTY | RESET) != DIRTY {
                return count;
            }
            // SAFETY: it is this side's until it is marked.
            let (slot, page) = unsafe { ((*entry).slot, (*entry).offset) };
            // The upper half of the number is that of the address space, of which there is one.
            note(slot & 0xffff, page);
            flags.store(DIRTY | RESET, Ordering::Release);
            self.next = (self.next + 1) % Self::ENTRIES;
            count += 1;
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nobody else knows it.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), RING_BYTES) };
    }
}
