//! Executable memory that is never writable where it is executable.
//!
//! One memfd is mapped twice: read-write at an address that only this module knows, and
//! read-execute at the address that is called.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

/// Stubs begin at multiples of this, so that none shares its first fetch block with another's end.
const STUB_ALIGNMENT: usize = 16;
/// Bytes of memory that the host is asked for at a time; whole pages.
const PORTION: usize = 64 << 10;

/// A fixed-size arena of machine code that only grows, until it is cleared as a whole.
#[derive(Debug)]
pub struct Arena {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    capacity: usize,
    used: usize,
    /// Where what was pushed at the end begins.
    end: usize,
    /// Where the memory that the host has given from the beginning on ends, and where that up to the end begins.
    given: (usize, usize),
    /// Code was once executed at addresses that are about to be written again.
    reused: bool,
}

// SAFETY: the two mappings belong to this value alone, and nothing in it depends on the thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps `capacity` bytes, a multiple of the page size. Pages cost host memory only once written.
    pub fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string; the call has no other precondition.
        let fd = unsafe { libc::memfd_create(c"motu-native".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: memfd_create returned this descriptor just now and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let length = libc::off_t::try_from(capacity).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let writable = map(&fd, capacity, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = match map(&fd, capacity, libc::PROT_READ | libc::PROT_EXEC) {
            Ok(mapping) => mapping,
            Err(error) => {
                unmap(writable, capacity);
                return Err(error);
            }
        };
        Ok(Self { writable, executable, capacity, used: 0, end: capacity, given: (0, capacity), reused: false })
    }

    /// Appends `code` and returns its offset, or `None` when it does not fit.
    pub fn push(&mut self, code: &[u8]) -> Option<u32> {
        let (start, _) = self.reserve(code.len(), 0)?;
        self.write(start, code);
        Some(start)
    }

    /// Makes room for code that is expected to run, and for as much as is not, which lies at the arena's other end so that
    /// it shares no cache lines and pages with the former. Gives both offsets, or `None` when it does not fit.
    pub fn reserve(&mut self, hot: usize, cold: usize) -> Option<(u32, u32)> {
        let start = self.used.checked_next_multiple_of(STUB_ALIGNMENT)?;
        let used = start.checked_add(hot)?;
        let end = self.end.checked_sub(cold)?;
        if used > end {
            return None;
        }
        let offsets = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
        (self.used, self.end) = (used, end);
        self.ask_for_memory();
        Some(offsets)
    }

    /// Has the host give memory for what is used, and for some more: a page at a time costs it a fault each.
    fn ask_for_memory(&mut self) {
        let (low, high) = self.given;
        if self.used > low {
            self.given.0 = self.used.next_multiple_of(PORTION).min(self.capacity);
            self.populate(low, self.given.0);
        }
        if self.end < high {
            self.given.1 = self.end / PORTION * PORTION;
            self.populate(self.given.1, high);
        }
    }

    fn populate(&self, first: usize, end: usize) {
        let length = end.saturating_sub(first);
        // SAFETY: the range lies inside the mapping, whose contents this leaves as they are. A host without this call gives the pages
        // when they are written.
        unsafe { libc::madvise(self.writable.as_ptr().add(first).cast(), length, libc::MADV_POPULATE_WRITE) };
    }

    /// Writes code where there was made room for it.
    pub fn write(&mut self, offset: u32, code: &[u8]) {
        self.copy(offset, code);
        if self.reused {
            // Code modified through another linear address needs a serialising instruction before it
            // is executed (SDM vol. 3, 9.1.3).
            serialise();
        }
    }

    fn copy(&mut self, offset: u32, code: &[u8]) {
        let start = offset as usize;
        let inside =
            |low: usize, high: usize| start >= low && start.checked_add(code.len()).is_some_and(|end| end <= high);
        if !inside(0, self.used) && !inside(self.end, self.capacity) {
            return;
        }
        // SAFETY: the range lies inside the writable mapping, which `code` cannot overlap.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(start), code.len()) };
    }

    /// Overwrites code at `offset` that was pushed before. Whatever runs it next runs the new one.
    pub fn patch(&mut self, offset: u32, code: &[u8]) {
        self.copy(offset, code);
        serialise();
    }

    /// Four bytes of code, as far as there are any.
    pub fn word(&self, offset: u32) -> [u8; 4] {
        let mut word = [0; 4];
        if offset as usize + word.len() <= self.capacity {
            // SAFETY: inside the mapping, which nobody else writes.
            unsafe { self.executable(offset).copy_to_nonoverlapping(word.as_mut_ptr(), word.len()) };
        }
        word
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used + (self.capacity - self.end)
    }

    /// Forgets all code. Whatever was compiled may not be executed any more.
    pub fn clear(&mut self) {
        self.reused |= self.used != 0;
        (self.used, self.end) = (0, self.capacity);
    }

    /// The address at which the code at `offset` is executed.
    pub fn executable(&self, offset: u32) -> *const u8 {
        self.executable.as_ptr().cast_const().wrapping_add(offset as usize)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        unmap(self.writable, self.capacity);
        unmap(self.executable, self.capacity);
    }
}

/// IRETQ to where we are: CPUID, the usual choice, leaves for the hypervisor where the host is a guest itself.
fn serialise() {
    // SAFETY: the frame that IRETQ pops is the state we are in, and it goes to the next instruction.
    unsafe {
        core::arch::asm!(
            "mov {rsp}, rsp",
            "mov {selector:e}, ss",
            "push {selector}",
            "push {rsp}",
            "pushfq",
            "mov {selector:e}, cs",
            "push {selector}",
            "lea {rsp}, [rip + 2f]",
            "push {rsp}",
            "iretq",
            "2:",
            rsp = out(reg) _,
            selector = out(reg) _,
        );
    }
}

fn map(fd: &OwnedFd, length: usize, protection: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn unmap(mapping: NonNull<u8>, length: usize) {
    // SAFETY: the mapping was made by `map` with this length and its owner is going away.
    unsafe { libc::munmap(mapping.as_ptr().cast(), length) };
}
