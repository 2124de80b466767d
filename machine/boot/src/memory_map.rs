//! The memory map that a PC's firmware answers to INT 15h AX=E820h (ACPI 6.5, section 15.1).

use crate::error::BootError;
use crate::image::Image;
use crate::layout;
use motu_memory::{GuestRam, HIGH_RAM_START, LOW_RAM_END};

/// What a piece of physical memory is (ACPI 6.5, table 15.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    Ram = 1,
    Reserved = 2,
}

/// One piece of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    pub start: u64,
    /// In bytes; never zero.
    pub len: u64,
    pub kind: MemoryKind,
}

impl MapEntry {
    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// The map of a machine with `ram_bytes` of RAM laid out as [`motu_memory::GuestRam`] does: lowest
/// first, without overlaps or empty pieces.
pub fn memory_map(ram_bytes: u64) -> Vec<MapEntry> {
    let low_end = low_ram_end(ram_bytes);
    let high_end = HIGH_RAM_START.saturating_add(ram_bytes.saturating_sub(LOW_RAM_END));
    [
        (0, layout::EBDA.min(low_end), MemoryKind::Ram),
        (layout::EBDA, layout::HIGH_MEMORY, MemoryKind::Reserved),
        (layout::HIGH_MEMORY, low_end, MemoryKind::Ram),
        (HIGH_RAM_START, high_end, MemoryKind::Ram),
    ]
    .into_iter()
    .filter(|(start, end, _)| start < end)
    .map(|(start, end, kind)| MapEntry { start, len: end - start, kind })
    .collect()
}

/// Where RAM below 4 GiB ends.
pub(crate) fn low_ram_end(ram_bytes: u64) -> u64 {
    ram_bytes.min(LOW_RAM_END)
}

/// Where RAM below 4 GiB ends, once it is sure that `kernel` loaded up to `end` fits below.
///
/// # Errors
/// It does not.
pub(crate) fn room_for(kernel: &Image, end: u64, ram: &GuestRam) -> Result<u64, BootError> {
    let low_end = low_ram_end(ram.len());
    if end > low_end {
        return Err(BootError::KernelTooLarge { name: kernel.name().to_owned(), needs: end, has: low_end });
    }
    Ok(low_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    #[test]
    fn a_small_and_a_large_machine() {
        let ranges = |bytes| memory_map(bytes).iter().map(|e| (e.start, e.end(), e.kind)).collect::<Vec<_>>();
        use MemoryKind::{Ram, Reserved};
        assert_eq!(
            ranges(512 << 20),
            [(0, 0x9fc00, Ram), (0x9fc00, 0x10_0000, Reserved), (0x10_0000, 0x2000_0000, Ram)]
        );
        assert_eq!(
            ranges(4 << 30),
            [
                (0, 0x9fc00, Ram),
                (0x9fc00, 0x10_0000, Reserved),
                (0x10_0000, 0xc000_0000, Ram),
                (0x1_0000_0000, 0x1_4000_0000, Ram)
            ]
        );
    }

    proptest! {
        #[test]
        fn sorted_apart_and_all_of_the_ram(pages in 512u64..(1 << 30)) {
            let bytes = pages * PAGE;
            let map = memory_map(bytes);
            for pair in map.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].start);
            }
            prop_assert!(map.iter().all(|e| e.len > 0));
            let usable: u64 = map.iter().filter(|e| e.kind == MemoryKind::Ram).map(|e| e.len).sum();
            prop_assert_eq!(usable, bytes - (layout::HIGH_MEMORY - layout::EBDA));
            prop_assert!(map.iter().all(|e| e.end() <= LOW_RAM_END || e.start >= HIGH_RAM_START));
        }

        #[test]
        fn any_number_of_bytes_has_a_map(bytes: u64) {
            for entry in memory_map(bytes) {
                prop_assert!(entry.len > 0);
            }
        }
    }
}
