//! A bound on memory: what a guest's bytes make motu ask of the allocator.
//!
//! Without AddressSanitizer libFuzzer cannot see allocations (`-malloc_limit_mb`), so the crate brings an
//! allocator that ends the process at the first one that is too large. Guest RAM is mapped, not allocated.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of one allocation at most. The largest of motu's own is a kernel that was compressed, which may
/// become as large as guest RAM (8 MiB here) in a buffer that doubles; then come a CPU's tables, 256 KiB.
/// libFuzzer's own allocations are not made here.
const LARGEST: usize = 20 << 20;

/// The system's allocator with that bound.
struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn check(size: usize) {
    if size > LARGEST {
        // Neither a panic nor a message: both may allocate. The signal has the driver keep the input.
        std::process::abort();
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promises are the ones needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}
