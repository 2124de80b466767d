//! ACPI tables (ACPI 6.5): where the system finds its processors, interrupt controllers, power
//! registers and the devices that cannot be probed for.

mod dsdt;
mod fadt;
mod madt;

use crate::board::BoardTables;
use crate::error::BootError;
use crate::layout;
use crate::put;
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use motu_memory::GuestRam;

const OEM: [u8; 6] = *b"MOTU  ";
const OEM_TABLE: [u8; 8] = *b"MOTUVM  ";
const OEM_REVISION: u32 = 1;

/// Where the root pointer lies: the first place that is searched above the EBDA (ACPI 6.5, 5.2.5.1).
pub(crate) const RSDP: u64 = layout::ACPI_TABLES;
/// Bytes kept for the root pointer.
const RSDP_ROOM: u64 = 64;

/// The tables as bytes, and where each goes.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Address and content, lowest first, apart from each other.
    pub placed: Vec<(u64, Vec<u8>)>,
    next: u64,
}

impl Tables {
    /// Builds all tables for `board`.
    pub fn new(board: &BoardTables) -> Self {
        let mut tables = Self { placed: Vec::new(), next: RSDP + RSDP_ROOM };
        let facs = tables.place(&FACS::new(), 64);
        let dsdt = tables.place(&dsdt::Dsdt(board), 16);
        let fadt = tables.place(&fadt::fadt(board, facs, dsdt), 16);
        let madt = tables.place(&madt::madt(board), 16);
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = tables.place(&xsdt, 16);
        tables.placed.insert(0, (RSDP, bytes(&Rsdp::new(OEM, xsdt))));
        tables
    }

    fn place(&mut self, table: &dyn Aml, align: u64) -> u64 {
        let at = self.next.next_multiple_of(align);
        let content = bytes(table);
        self.next = at + content.len() as u64;
        self.placed.push((at, content));
        at
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Writes all tables for `board` to guest memory; the root pointer is at [`RSDP`].
pub(crate) fn write(ram: &GuestRam, board: &BoardTables) -> Result<(), BootError> {
    let tables = Tables::new(board);
    if tables.next > layout::SMBIOS_TABLES {
        return Err(BootError::Board(format!("{} bytes of ACPI tables are too many", tables.next - RSDP)));
    }
    tables.placed.iter().try_for_each(|(at, content)| put(ram, *at, content, "ACPI tables"))
}

#[cfg(test)]
mod tests;
