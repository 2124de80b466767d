//! SMBIOS 3.0 tables (DMTF DSP0134 3.0.0): who made the machine and what is in it.

use crate::board::BoardTables;
use crate::error::BootError;
use crate::{layout, put};
use motu_memory::{GuestRam, HIGH_RAM_START, LOW_RAM_END};

const MANUFACTURER: &str = "motu";
const PRODUCT: &str = "motu virtual machine";
const VERSION: &str = "1.0";
/// Linux trusts the PCI host bridge's windows of firmware from 2023 on.
const RELEASE_DATE: &str = "01/01/2026";

/// Bytes kept for the entry point (section 5.2.2); structures follow.
const ENTRY_ROOM: u64 = 32;
const ENTRY_LENGTH: u8 = 0x18;
const ENTRY_CHECKSUM: usize = 5;

/// What fields hold that say "unknown", "other" or "not provided".
const OTHER: u8 = 1;
const UNKNOWN: u8 = 2;
const NO_HANDLE: u16 = 0xfffe;
const NO_STRING: u8 = 0;

/// Handles that structures refer to each other by.
mod handle {
    pub const FIRMWARE: u16 = 0x0000;
    pub const SYSTEM: u16 = 0x0100;
    pub const CHASSIS: u16 = 0x0300;
    pub const PROCESSOR: u16 = 0x0400;
    pub const MEMORY_ARRAY: u16 = 0x1000;
    pub const MEMORY_DEVICE: u16 = 0x1100;
    /// One for each range of RAM.
    pub const MEMORY_RANGE: u16 = 0x1300;
    pub const BOOT: u16 = 0x2000;
    pub const END: u16 = 0x7f00;
}

/// One structure under construction: a formatted area, then its strings (section 6.1).
struct Structure {
    formatted: Vec<u8>,
    strings: Vec<u8>,
    string_count: u8,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self { formatted: vec![kind, 0, low, high], strings: Vec::new(), string_count: 0 }
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend_from_slice(bytes);
        self
    }

    fn word(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn dword(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn qword(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A field that refers to `text`, which goes behind the formatted area.
    fn string(mut self, text: &str) -> Self {
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        self.string_count += 1;
        self.formatted.push(self.string_count);
        self
    }

    fn finish(mut self, table: &mut Vec<u8>) {
        let length = self.formatted.len() as u8;
        if let Some(field) = self.formatted.get_mut(1) {
            *field = length;
        }
        table.append(&mut self.formatted);
        table.append(&mut self.strings);
        // An empty string ends the strings; where there are none, it takes two NULs.
        table.extend_from_slice(if self.string_count == 0 { &[0, 0] } else { &[0] });
    }
}

/// All structures one behind the other, as the structure table is.
fn structures(board: &BoardTables, ram_bytes: u64) -> Vec<u8> {
    let mut table = Vec::new();
    firmware(&mut table);
    system(board, &mut table);
    chassis(&mut table);
    processor(board, &mut table);
    memory(ram_bytes, &mut table);
    // Section 7.33: six reserved bytes, then the boot status: no errors.
    Structure::new(32, handle::BOOT).bytes(&[0; 6]).bytes(&[0]).finish(&mut table);
    Structure::new(127, handle::END).finish(&mut table);
    table
}

/// Type 0, BIOS information (section 7.1).
fn firmware(table: &mut Vec<u8>) {
    const CHARACTERISTICS_NOT_SUPPORTED: u64 = 1 << 3;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    Structure::new(0, handle::FIRMWARE)
        .string(MANUFACTURER)
        .string(VERSION)
        .word(0xe000)
        .string(RELEASE_DATE)
        .bytes(&[0])
        .qword(CHARACTERISTICS_NOT_SUPPORTED)
        .bytes(&[0, VIRTUAL_MACHINE])
        // System firmware release 1.0; no embedded controller.
        .bytes(&[1, 0, 0xff, 0xff])
        .finish(table);
}

/// Type 1, system information (section 7.2).
fn system(board: &BoardTables, table: &mut Vec<u8>) {
    const POWER_SWITCH: u8 = 6;
    Structure::new(1, handle::SYSTEM)
        .string(MANUFACTURER)
        .string(PRODUCT)
        .string(VERSION)
        .bytes(&[NO_STRING])
        .bytes(&wire_uuid(board.uuid))
        .bytes(&[POWER_SWITCH, NO_STRING, NO_STRING])
        .finish(table);
}

/// The first three fields of a UUID are little-endian in SMBIOS (section 7.2.1).
fn wire_uuid(uuid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// Type 3, system enclosure (section 7.4).
fn chassis(table: &mut Vec<u8>) {
    const SAFE: u8 = 3;
    Structure::new(3, handle::CHASSIS)
        .string(MANUFACTURER)
        .bytes(&[OTHER])
        .string(VERSION)
        .bytes(&[NO_STRING, NO_STRING])
        // Boot-up state, power supply and temperature; security status.
        .bytes(&[SAFE, SAFE, SAFE, UNKNOWN])
        .dword(0)
        // Height, power cords, contained elements and their length, SKU.
        .bytes(&[0, 0, 0, 0, NO_STRING])
        .finish(table);
}

/// Type 4, processor information (section 7.5): one socket with all the CPUs.
fn processor(board: &BoardTables, table: &mut Vec<u8>) {
    const CENTRAL_PROCESSOR: u8 = 3;
    const POPULATED_ENABLED: u8 = 0x41;
    const CAPABLE_OF_64_BITS: u16 = 1 << 2;
    // 0xff says: see the 16-bit counts (section 7.5.6 and following).
    let count = u8::try_from(board.cpus).unwrap_or(0xff);
    let wide_count = u16::try_from(board.cpus).unwrap_or(u16::MAX);
    Structure::new(4, handle::PROCESSOR)
        .string("CPU 0")
        .bytes(&[CENTRAL_PROCESSOR, OTHER])
        .string(MANUFACTURER)
        // Processor ID: CPUID tells it better.
        .qword(0)
        .string(VERSION)
        // Voltage, external clock, maximal and current speed: unknown.
        .bytes(&[0])
        .word(0)
        .word(0)
        .word(0)
        .bytes(&[POPULATED_ENABLED, OTHER])
        // No cache structures.
        .word(0xffff)
        .word(0xffff)
        .word(0xffff)
        .bytes(&[NO_STRING, NO_STRING, NO_STRING])
        .bytes(&[count, count, count])
        .word(CAPABLE_OF_64_BITS)
        .word(u16::from(OTHER))
        .word(wide_count)
        .word(wide_count)
        .word(wide_count)
        .finish(table);
}

/// Types 16, 17 and 19: the memory array, its one device and where it is mapped
/// (sections 7.17, 7.18 and 7.20).
fn memory(ram_bytes: u64, table: &mut Vec<u8>) {
    const SYSTEM_BOARD: u8 = 3;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_ERROR_CORRECTION: u8 = 3;
    const SEE_EXTENDED_CAPACITY: u32 = 0x8000_0000;
    let kib = ram_bytes >> 10;
    Structure::new(16, handle::MEMORY_ARRAY)
        .bytes(&[SYSTEM_BOARD, SYSTEM_MEMORY, NO_ERROR_CORRECTION])
        .dword(u32::try_from(kib).ok().filter(|kib| *kib < SEE_EXTENDED_CAPACITY).unwrap_or(SEE_EXTENDED_CAPACITY))
        .word(NO_HANDLE)
        .word(1)
        .qword(ram_bytes)
        .finish(table);

    const SEE_EXTENDED_SIZE: u16 = 0x7fff;
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const TYPE_DETAIL_OTHER: u16 = 1 << 1;
    let mib = u32::try_from(ram_bytes >> 20).unwrap_or(0x7fff_ffff);
    let size = u16::try_from(mib).ok().filter(|mib| *mib < SEE_EXTENDED_SIZE).unwrap_or(SEE_EXTENDED_SIZE);
    Structure::new(17, handle::MEMORY_DEVICE)
        .word(handle::MEMORY_ARRAY)
        .word(NO_HANDLE)
        // Total and data width: unknown.
        .word(0xffff)
        .word(0xffff)
        .word(size)
        .bytes(&[DIMM, 0])
        .string("DIMM 0")
        .bytes(&[NO_STRING, RAM])
        .word(TYPE_DETAIL_OTHER)
        .word(0)
        .string(MANUFACTURER)
        .bytes(&[NO_STRING, NO_STRING, NO_STRING, 0])
        .dword(if size == SEE_EXTENDED_SIZE { mib } else { 0 })
        // Configured speed and the three voltages: unknown.
        .word(0)
        .word(0)
        .word(0)
        .word(0)
        .finish(table);

    let low = ram_bytes.min(LOW_RAM_END);
    let ranges = [(0, low), (HIGH_RAM_START, HIGH_RAM_START.saturating_add(ram_bytes - low))];
    for (number, (start, end)) in (0..).zip(ranges).filter(|(_, (start, end))| start < end) {
        memory_range(handle::MEMORY_RANGE + number, start, end, table);
    }
}

/// Type 19, memory array mapped address (section 7.20), of RAM from `start` to `end`.
fn memory_range(handle: u16, start: u64, end: u64, table: &mut Vec<u8>) {
    const SEE_EXTENDED: u32 = u32::MAX;
    let last = end - 1;
    let in_kib = |address: u64| u32::try_from(address >> 10).ok().filter(|kib| *kib != SEE_EXTENDED);
    let structure = Structure::new(19, handle);
    match (in_kib(start), in_kib(last)) {
        (Some(first), Some(last)) => {
            structure.dword(first).dword(last).word(handle::MEMORY_ARRAY).bytes(&[1]).qword(0).qword(0)
        }
        _ => structure
            .dword(SEE_EXTENDED)
            .dword(SEE_EXTENDED)
            .word(handle::MEMORY_ARRAY)
            .bytes(&[1])
            .qword(start)
            .qword(last),
    }
    .finish(table);
}

/// The 64-bit entry point (section 5.2.2) of a structure table of `len` bytes at `address`.
fn entry_point(address: u64, len: u32) -> Vec<u8> {
    let mut entry = b"_SM3_".to_vec();
    // Checksum, length; version 3.0, document revision 0; entry point revision 1; reserved.
    entry.extend_from_slice(&[0, ENTRY_LENGTH, 3, 0, 0, 1, 0]);
    entry.extend_from_slice(&len.to_le_bytes());
    entry.extend_from_slice(&address.to_le_bytes());
    let sum = entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = entry.get_mut(ENTRY_CHECKSUM) {
        *checksum = sum.wrapping_neg();
    }
    entry
}

/// Writes entry point and structures to the area that is searched for them (section 5.2).
pub(crate) fn write(ram: &GuestRam, board: &BoardTables) -> Result<(), BootError> {
    let table = structures(board, ram.len());
    let address = layout::SMBIOS_TABLES + ENTRY_ROOM;
    let len = u32::try_from(table.len())
        .ok()
        .filter(|len| address + u64::from(*len) <= layout::BIOS_HANDLERS)
        .ok_or_else(|| BootError::Board(format!("{} bytes of SMBIOS tables are too many", table.len())))?;
    put(ram, layout::SMBIOS_TABLES, &entry_point(address, len), "SMBIOS entry point")?;
    put(ram, address, &table, "SMBIOS tables")
}

#[cfg(test)]
mod tests;
