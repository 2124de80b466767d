//! What translated code addresses relative to its stack pointer.
//!
//! While translated code runs, the host's RSP points to the [`Frame`]. Below it lies a stack on which the code
//! calls back into Rust and the host kernel may deliver signals, below that a page that faults:
//!
//! ```text
//!   guard page | stack ......... | Frame: hot words | jump tables | TLB
//!                                ^ RSP
//! ```
//!
//! The words that most instructions need come first, where a displacement of one byte reaches them.

use super::mode::MODES;
use super::slots::{FilledSlots, SLOTS, Slot};
use super::strings::THUNKS;
use crate::mmu::Entries;
use std::io;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of stack for what translated code calls.
const STACK: usize = 256 << 10;
const GUARD: usize = 4096;

/// Address bits that choose the entry of a jump table. Bit 0 is not among them: hardly any two targets differ in
/// it alone.
pub const JUMP_BITS: u32 = 17;
/// Entries of one jump table.
pub const JUMPS: usize = 1 << JUMP_BITS;

/// The table entry that an indirect jump to linear address `target` goes through.
pub const fn computed_index(target: u64) -> usize {
    (target >> 1) as usize & (JUMPS - 1)
}

/// The entry that the code at `target` has: where an indirect jump looks, but for the first entry, which leads nowhere. Direct jumps
/// know better, and an indirect one finds the code by way of the run loop.
pub const fn jump_index(target: u64) -> usize {
    match computed_index(target) {
        0 => JUMPS / 2,
        index => index,
    }
}

/// Groups of accesses that code may have checked at once.
pub const WORDS: usize = 8;

/// Where host code that a jump may reach begins.
pub type Code = *const u8;

#[repr(C, align(64))]
pub struct Frame {
    /// Guest registers that have no host register.
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    /// The guest's RCX while JRCXZ is used for a check that leaves the flags alone.
    pub rcx: u64,
    /// A value that waits while both scratch registers are needed.
    pub waiting: u64,
    /// Bits of an address that choose its entry in the TLB, for PEXT.
    pub tlb_bits: u64,
    /// Bits of an address above those within a page.
    pub page_bits: u64,
    /// Bits of an address that choose its entry in the jump table; none where code is to leave, so that every indirect jump
    /// takes the first entry, which leads nowhere.
    pub jump_bits: AtomicU64,
    /// Zero where code is to leave at the next backward jump.
    pub calm: AtomicU32,
    /// Which exit is being taken: set before `leave`.
    pub exit: u32,
    /// Units whose registers are the host's: bits of [`mod@unit`].
    pub units: u32,
    /// The exit record of the last indirect branch, to tell where a jump to nowhere came from.
    pub branch: u32,
    /// In the stress mode: backward jumps until code leaves. Counts down.
    pub budget: u32,
    pub fs_base: u64,
    pub gs_base: u64,
    /// The way out.
    pub leave: Code,
    /// Fills the TLB.
    pub refill: Code,

    /// What the running block has to add to the addresses of each of its groups (`groups.rs`).
    pub words: [u64; WORDS],

    /// RIP, where the way out was taken by a jump that found nothing.
    pub target: u64,
    /// RSP of the Rust code that entered.
    pub host_stack: u64,
    /// The general registers of [`crate::cpu::Cpu`].
    pub registers: *mut u64,
    /// Arithmetic flags as [`crate::exec::width::arith`] has them.
    pub arith: u64,
    /// The XSAVE area of [`crate::cpu::Cpu`].
    pub vectors: *mut u8,
    /// The CPU, for Rust functions that translated code calls.
    pub cpu: *mut u8,
    /// What refills: [`super::thunks::fill`].
    pub fill: *const u8,
    /// Vector registers over a call of Rust code.
    pub saved: [[u8; 32]; 16],
    pub host_mxcsr: u32,
    pub saved_mxcsr: u32,
    /// What the last indirect call wrote its return address over.
    pub pushed_over: u64,
    /// Masks for PEXT: whether units are loaded, and whether an address is aligned.
    pub lower_unit: u64,
    pub upper_unit: u64,
    pub low_4: u64,
    pub low_5: u64,
    /// REP MOVS and REP STOS.
    pub strings: [Code; THUNKS],
    /// The arithmetic flags as bits of RFLAGS.
    pub arithmetic: u64,

    /// What 32-bit code adds to addresses in FS and GS: nothing, or what makes no address of them, if the segment may not
    /// allow the access.
    pub fs_bar: u64,
    pub gs_bar: u64,

    /// Fills a slot.
    pub fill_slot: Code,
    /// Slots that have something, of the lower half of addresses and of the upper.
    pub filled: [FilledSlots; 2],
    pub slots: [Slot; SLOTS],

    /// By [`super::mode::Mode::number`].
    pub jumps: [[Code; JUMPS]; MODES],
    pub tlb: Entries,
}

/// Bits of [`Frame::units`].
pub mod unit {
    /// XMM registers and MXCSR.
    pub const SSE: u32 = 1;
    /// The upper halves of YMM registers.
    pub const AVX: u32 = 2;
}

/// The frame and the stack under it: one mapping.
#[derive(Debug)]
pub struct Workspace {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone; the pointers in it are used by the thread that runs the CPU.
unsafe impl Send for Workspace {}
// SAFETY: what this value itself does by a shared reference is to change two atomic words of the frame. All else is done through
// [`Workspace::frame`]'s pointer, by the thread that runs the CPU.
unsafe impl Sync for Workspace {}

/// Address bits that choose the entry of a jump table.
const JUMP_MASK: u64 = (JUMPS as u64 - 1) << 1;

const FRAME_AT: usize = GUARD + STACK;
const LENGTH: usize = (FRAME_AT + size_of::<Frame>()).next_multiple_of(4096);

impl Workspace {
    /// # Errors
    /// The host has no memory for it.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(address.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let workspace = Self { base };
        // SAFETY: the first page of the mapping just made; nothing uses it.
        if unsafe { libc::mprotect(address, GUARD, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        workspace.settle();
        Ok(workspace)
    }

    /// The frame: zeros at first, which hardly a part of it may stay.
    pub fn frame(&self) -> NonNull<Frame> {
        // SAFETY: FRAME_AT lies inside the mapping.
        unsafe { self.base.add(FRAME_AT) }.cast()
    }

    fn words(&self) -> (&AtomicU64, &AtomicU32) {
        let frame = self.frame().as_ptr();
        // SAFETY: the words lie in the mapping, which lives as long as `self`; they are atomic to everyone.
        unsafe { (&(*frame).jump_bits, &(*frame).calm) }
    }

    /// Makes translated code leave at its next indirect or backward jump. Any thread may.
    pub fn disturb(&self) {
        let (jump_bits, calm) = self.words();
        jump_bits.store(0, Ordering::Release);
        calm.store(0, Ordering::Release);
    }

    /// Lets translated code run on. What another thread wrote before a [`Workspace::disturb`] that this undoes can be read behind it.
    pub fn settle(&self) {
        let (jump_bits, calm) = self.words();
        jump_bits.swap(JUMP_MASK, Ordering::SeqCst);
        calm.swap(1, Ordering::SeqCst);
    }

    /// Whether code is to leave.
    pub fn is_disturbed(&self) -> bool {
        self.words().1.load(Ordering::Acquire) == 0
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length; the owner is going away.
        unsafe { libc::munmap(self.base.as_ptr().cast(), LENGTH) };
    }
}

/// Displacements of the frame's fields from RSP.
pub mod at {
    use super::{Frame, Slot, offset_of};

    pub const R9: i32 = offset_of!(Frame, r9) as i32;
    pub const R10: i32 = offset_of!(Frame, r10) as i32;
    pub const R11: i32 = offset_of!(Frame, r11) as i32;
    pub const RCX: i32 = offset_of!(Frame, rcx) as i32;
    pub const WAITING: i32 = offset_of!(Frame, waiting) as i32;
    pub const TLB_BITS: i32 = offset_of!(Frame, tlb_bits) as i32;
    pub const PAGE_BITS: i32 = offset_of!(Frame, page_bits) as i32;
    pub const JUMP_BITS: i32 = offset_of!(Frame, jump_bits) as i32;
    pub const CALM: i32 = offset_of!(Frame, calm) as i32;
    pub const BUDGET: i32 = offset_of!(Frame, budget) as i32;
    pub const EXIT: i32 = offset_of!(Frame, exit) as i32;
    pub const UNITS: i32 = offset_of!(Frame, units) as i32;
    pub const BRANCH: i32 = offset_of!(Frame, branch) as i32;
    pub const FS_BASE: i32 = offset_of!(Frame, fs_base) as i32;
    pub const GS_BASE: i32 = offset_of!(Frame, gs_base) as i32;
    pub const LEAVE: i32 = offset_of!(Frame, leave) as i32;
    pub const REFILL: i32 = offset_of!(Frame, refill) as i32;
    pub const FS_BAR: i32 = offset_of!(Frame, fs_bar) as i32;
    pub const GS_BAR: i32 = offset_of!(Frame, gs_bar) as i32;
    pub const PUSHED_OVER: i32 = offset_of!(Frame, pushed_over) as i32;
    pub const LOWER_UNIT: i32 = offset_of!(Frame, lower_unit) as i32;
    pub const UPPER_UNIT: i32 = offset_of!(Frame, upper_unit) as i32;
    pub const LOW_4: i32 = offset_of!(Frame, low_4) as i32;
    pub const LOW_5: i32 = offset_of!(Frame, low_5) as i32;
    pub const ARITHMETIC: i32 = offset_of!(Frame, arithmetic) as i32;
    pub const STRINGS: i32 = offset_of!(Frame, strings) as i32;
    pub const CPU: i32 = offset_of!(Frame, cpu) as i32;
    /// One of [`Frame::words`].
    pub const fn word(n: u8) -> i32 {
        offset_of!(Frame, words) as i32 + 8 * n as i32
    }

    pub const FILL_SLOT: i32 = offset_of!(Frame, fill_slot) as i32;
    /// One of [`Frame::slots`].
    pub const fn slot(n: u16) -> i32 {
        offset_of!(Frame, slots) as i32 + n as i32 * size_of::<Slot>() as i32
    }
    pub const JUMPS: i32 = offset_of!(Frame, jumps) as i32;
    pub const TLB: i32 = offset_of!(Frame, tlb) as i32;
}

// One byte of displacement reaches what most instructions need.
const _: () = assert!(at::REFILL <= 127 && at::GS_BASE <= 127);
