//! Where things lie in guest memory below 1 MiB at the start.
//!
//! ```text
//! 0x00000  interrupt vectors
//! 0x00400  BIOS data area            0x20000  kernel command line, multiboot lists
//! 0x00500  GDT                       0x9fc00  extended BIOS data area, reserved from here on
//! 0x06000  PVH or multiboot info     0xe0000  RSDP and the other ACPI tables
//! 0x07000  Linux zero page           0xf0000  SMBIOS entry point and structures, BIOS stubs
//! 0x09000  page tables (6 pages)    0x100000  RAM again
//! ```

use std::ops::Range;

/// BIOS data area: the segment of the EBDA, 16 bits.
pub const BDA_EBDA_SEGMENT: u64 = 0x40e;
/// BIOS data area: KiB of conventional memory, 16 bits.
pub const BDA_MEMORY_KIB: u64 = 0x413;
/// It begins where the BIOS data area ends.
pub const GDT: u64 = 0x500;
/// End of the room that the GDT has.
pub const GDT_END: u64 = 0x600;
/// PVH's start info or the multiboot information.
pub const BOOT_INFO: u64 = 0x6000;
pub const PVH_MODULES: u64 = 0x6040;
pub const PVH_MEMORY_MAP: u64 = 0x6100;
pub const ZERO_PAGE: u64 = 0x7000;
/// A flat binary's stack grows down from here: a boot sector at 0x7c00 stays clear of it.
pub const FLAT_STACK_TOP: u64 = 0x7000;
/// A stack for the kernel's first instructions grows down from here, above the zero page.
pub const STACK_TOP: u64 = 0x8ff0;
pub const PAGE_TABLES: u64 = 0x9000;
pub const PAGE_TABLES_END: u64 = 0xf000;
pub const COMMAND_LINE: u64 = 0x20000;
/// Bytes there are for the command line with its NUL, or for all that multiboot's information points to.
pub const COMMAND_LINE_ROOM: usize = 0x1_0000;
/// End of conventional memory: the EBDA begins.
pub const EBDA: u64 = 0x9_fc00;
pub const ACPI_TABLES: u64 = 0xe_0000;
pub const SMBIOS_TABLES: u64 = 0xf_0000;
/// The segment that the BIOS' code lies in.
pub const BIOS_CODE: u64 = 0xf_0000;
/// Where the BIOS' handlers begin, and the room of the SMBIOS structures ends.
pub const BIOS_HANDLERS: u64 = BIOS_CODE + 0xff50;
/// End of the area of firmware and adapters; RAM that the guest may use goes on.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Less than this much RAM boots nothing.
pub const MIN_RAM: u64 = 2 << 20;

/// What lies below 1 MiB for a multiboot kernel, and has to stay there.
pub const USED_BY_MULTIBOOT: [(Range<u64>, &str); 4] = [
    (0..GDT_END, "interrupt vectors, BIOS data area and the GDT"),
    (BOOT_INFO..BOOT_INFO + 0x1000, "multiboot information"),
    (COMMAND_LINE..COMMAND_LINE + COMMAND_LINE_ROOM as u64, "command line and the lists of modules and memory"),
    (EBDA..HIGH_MEMORY, "firmware's tables"),
];

pub fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
