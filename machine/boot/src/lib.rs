//! Loaders and the tables firmware would have made.
//!
//! [`load`] does what a PC's firmware and boot loader do together: it places a kernel (bzImage or
//! PVH ELF, told by its content), an initrd, a command line, the ACPI and SMBIOS tables and the
//! memory map in guest RAM, and answers the boot processor's state at the kernel's entry. Every
//! engine can start from that state.
#![forbid(unsafe_code)]

mod acpi;
mod board;
mod bzimage;
mod command_line;
mod error;
mod format;
mod image;
mod initrd;
mod layout;
mod memory_map;
mod processor;
mod pvh;
mod smbios;

#[cfg(test)]
mod tests;

pub use board::{BoardTables, IsaDevice, PowerPorts};
pub use error::{BootError, Role, Size};
pub use image::Image;
pub use memory_map::{MapEntry, MemoryKind, memory_map};
pub use processor::application_processor;

use format::Format;
use motu_memory::GuestRam;
use motu_x86::{CpuState, Gpa};

/// What a person gave to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootSource<'a> {
    pub kernel: &'a Image,
    pub initrd: Option<&'a Image>,
    /// The kernel's parameters, without a NUL.
    pub cmdline: &'a str,
}

/// Makes `ram` what the kernel expects to find, and answers the boot processor's state at its entry.
///
/// The other processors start from [`application_processor`].
///
/// # Errors
/// The files are not what they should be, do not fit, or `board` has a number out of its range.
/// Guest RAM is of no use then.
pub fn load(ram: &GuestRam, source: &BootSource<'_>, board: &BoardTables) -> Result<CpuState, BootError> {
    board.check()?;
    if ram.len() < layout::MIN_RAM {
        return Err(BootError::TooLittleMemory { has: ram.len(), needs: layout::MIN_RAM });
    }
    let head = source.kernel.head(format::HEAD)?;
    let rsdp = acpi::RSDP;
    let state = match Format::of(&head) {
        Format::BzImage => bzimage::load(ram, source, &head, board, rsdp)?,
        Format::Elf => pvh::load(ram, source, &head, board, rsdp)?,
        Format::Other(looks_like) => {
            return Err(BootError::NotAKernel { name: source.kernel.name().to_owned(), looks_like });
        }
    };
    write_bios_data_area(ram)?;
    acpi::write(ram, board)?;
    smbios::write(ram, board)?;
    Ok(state)
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
