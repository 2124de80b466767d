//! The linear addresses that a case sees, the same on every CPU that is compared.
//!
//! Two areas show the same pages, one below 2 GiB (within reach of `disp32` and of 32-bit
//! addresses) and one above 4 GiB (where an address cut to 32 bits is found out):
//!
//! ```text
//! area + 0              nothing mapped
//! area + WINDOW_OFFSET  the window: page 0 writable, page 1 read-only, pages 2 and 3 writable
//!                       nothing mapped
//! area + CODE_OFFSET    code: two pages, read and execute
//!                       nothing mapped, to area + AREA_SIZE
//! ```
//!
//! The page at [`SCAFFOLD_OFFSET`] is the native side's own; no case may address it.

/// What an area does not take of the first 4 GiB: 32-bit code may address it, so nothing may be there.
pub const LOW_GAPS: [(u64, u64); 2] = [(0x1_0000, 0x0fff_0000), (0x5000_0000, 0xb000_0000)];
/// Where the two areas start.
pub const AREAS: [u64; 2] = [0x1000_0000, 0x10_1000_0000];
/// Bytes from the start of an area to its end.
pub const AREA_SIZE: u64 = 0x4000_0000;
pub const WINDOW_OFFSET: u64 = 0x1000_0000;
pub const SCAFFOLD_OFFSET: u64 = 0x1fff_0000;
pub const CODE_OFFSET: u64 = 0x2000_0000;
pub const PAGE: u64 = 4096;
pub const WINDOW_PAGES: u64 = 4;
/// Bytes of the data window.
pub const WINDOW_SIZE: u64 = WINDOW_PAGES * PAGE;
/// The page of the window that cannot be written.
pub const READ_ONLY_PAGE: u64 = 1;
pub const CODE_PAGES: u64 = 2;
/// Bytes of the code pages.
pub const CODE_SIZE: u64 = CODE_PAGES * PAGE;

/// Where an area's window starts.
pub const fn window(area: usize) -> u64 {
    AREAS[area] + WINDOW_OFFSET
}

/// Where an area's code starts.
pub const fn code(area: usize) -> u64 {
    AREAS[area] + CODE_OFFSET
}

/// Offset of `linear` in the code pages, in either area.
pub fn code_offset(linear: u64) -> Option<u64> {
    offset_in(linear, CODE_OFFSET, CODE_SIZE)
}

/// Offset of `linear` in the window, in either area.
pub fn window_offset(linear: u64) -> Option<u64> {
    offset_in(linear, WINDOW_OFFSET, WINDOW_SIZE)
}

fn offset_in(linear: u64, start: u64, size: u64) -> Option<u64> {
    AREAS.iter().map(|area| linear.wrapping_sub(area + start)).find(|offset| *offset < size)
}
