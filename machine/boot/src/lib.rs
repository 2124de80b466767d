//! Loaders and the tables firmware would have made.
//!
//! [`load`] does what a PC's firmware and boot loader do together: it places a kernel (bzImage, PVH ELF
//! or multiboot, told by its content, or a flat binary), the files that come with it, a command line,
//! the ACPI and SMBIOS tables and the memory map in guest RAM, and answers the boot processor's state at
//! the kernel's entry. Every engine can start from that state.
#![forbid(unsafe_code)]

mod acpi;
mod bios;
mod board;
mod bzimage;
mod command_line;
mod elf;
mod error;
mod fields;
mod flat;
mod format;
mod gzip;
mod image;
mod layout;
mod loading;
mod memory_map;
mod module;
mod multiboot;
mod placed;
mod processor;
mod pvh;
mod segment;
mod smbios;

#[cfg(test)]
mod tests;

pub use board::{BoardTables, IsaDevice, PowerPorts};
pub use error::{BootError, Role, Size};
pub use flat::{Flat, FlatMode};
pub use image::Image;
pub use memory_map::{MapEntry, MemoryKind, memory_map};
pub use module::Module;
pub use processor::application_processor;

use format::Format;
use loading::Loading;
use motu_memory::GuestRam;
use motu_x86::{CpuState, Gpa};
use std::ops::Range;

/// What a person gave to boot; files are open.
#[derive(Debug)]
pub struct BootSource {
    /// It may be compressed with gzip.
    pub kernel: Image,
    /// A multiboot kernel takes any number; all others take one, their initrd.
    pub modules: Vec<Module>,
    /// The kernel's parameters, without a NUL.
    pub cmdline: String,
    /// Loads `kernel` as a flat binary instead of telling its format by its content. It takes neither
    /// modules nor parameters.
    pub flat: Option<Flat>,
}

/// Makes `ram` what the kernel expects to find, and answers the boot processor's state at its entry.
///
/// The other processors start from [`application_processor`].
///
/// # Errors
/// The files are not what they should be, do not fit, or `board` has a number out of its range.
/// Guest RAM is of no use then.
pub fn load(ram: &GuestRam, source: &BootSource, board: &BoardTables) -> Result<CpuState, BootError> {
    board.check()?;
    if ram.len() < layout::MIN_RAM {
        return Err(BootError::TooLittleMemory { has: ram.len(), needs: layout::MIN_RAM });
    }
    let BootSource { kernel, modules, cmdline, flat } = source;
    let uncompressed = if flat.is_none() { gzip::uncompressed(kernel, ram.len())? } else { None };
    let kernel = uncompressed.as_ref().unwrap_or(kernel);
    let loading = Loading { ram, board, kernel, head: kernel.head(format::HEAD)?, modules, cmdline };
    if let Some(flat) = flat {
        let state = flat::load(&loading, *flat)?;
        let end = flat.address.saturating_add(kernel.size());
        write_firmware(&loading, &(flat.address..end))?;
        return Ok(state);
    }
    let state = match Format::of(&loading.head) {
        Format::BzImage => bzimage::load(&loading)?,
        Format::Multiboot(header) => multiboot::load(&loading, &header)?,
        Format::Elf => pvh::load(&loading)?,
        Format::Other(looks_like) => {
            return Err(BootError::NotAKernel { name: kernel.name().to_owned(), looks_like });
        }
    };
    write_firmware(&loading, &(0..0))?;
    Ok(state)
}

/// Writes the tables that firmware leaves, but for those that would lie in `taken`.
fn write_firmware(loading: &Loading<'_>, taken: &Range<u64>) -> Result<(), BootError> {
    let Loading { ram, board, .. } = *loading;
    let free = |start: u64, end: u64| !layout::overlap(&(start..end), taken);
    let (low, high) = (free(0, layout::GDT), free(layout::SMBIOS_TABLES, layout::HIGH_MEMORY));
    if low {
        write_bios_data_area(ram)?;
    }
    // Vectors without their handlers would be worse than none.
    if low && high {
        bios::write(ram)?;
    }
    if free(layout::ACPI_TABLES, layout::SMBIOS_TABLES) {
        acpi::write(ram, board)?;
    }
    if high {
        smbios::write(ram, board)?;
    }
    Ok(())
}

/// What an operating system reads of the BIOS data area: where conventional memory ends.
fn write_bios_data_area(ram: &GuestRam) -> Result<(), BootError> {
    let segment = ((layout::EBDA >> 4) as u16).to_le_bytes();
    let kib = ((layout::EBDA >> 10) as u16).to_le_bytes();
    put(ram, layout::BDA_EBDA_SEGMENT, &segment, "BIOS data area")?;
    put(ram, layout::BDA_MEMORY_KIB, &kib, "BIOS data area")
}

/// Writes to guest memory, naming `what` in the error.
fn put(ram: &GuestRam, at: u64, bytes: &[u8], what: &'static str) -> Result<(), BootError> {
    ram.write(Gpa(at), bytes).map_err(|source| BootError::Memory { what, source })
}
