//! ELF kernels by the PVH boot protocol (Xen docs/misc/pvh.pandoc): entered in 32-bit protected
//! mode without paging, EBX pointing to `hvm_start_info`.

mod elf;

use crate::board::BoardTables;
use crate::error::BootError;
use crate::image::Image;
use crate::initrd::{self, Placed};
use crate::memory_map::{memory_map, room_for};
use crate::processor::{self, Mode};
use crate::{BootSource, command_line, layout, put};
use elf::Elf;
use linux_loader::start_info::{XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use motu_memory::GuestRam;
use motu_x86::CpuState;
use vm_memory::ByteValued;

/// `COMMAND_LINE_SIZE` of Linux on x86, less the NUL: what is beyond, it silently drops.
const COMMAND_LINE_MAX: usize = 2047;
/// The first version with a memory map.
const START_INFO_VERSION: u32 = 1;
const RBX: usize = 3;

/// Loads the kernel and answers the boot processor's state at its entry.
pub(crate) fn load(
    ram: &GuestRam,
    source: &BootSource<'_>,
    head: &[u8],
    board: &BoardTables,
    rsdp: u64,
) -> Result<CpuState, BootError> {
    let kernel = source.kernel;
    let elf = Elf::parse(kernel, head)?;
    let low_end = room_for(kernel, elf.end(), ram)?;
    let command_line = command_line::terminated(source.cmdline, COMMAND_LINE_MAX)?;
    let initrd = source.initrd.map(|image| initrd::place(image, elf.end(), low_end)).transpose()?;

    write_segments(ram, kernel, &elf)?;
    if let Some(initrd) = &initrd {
        initrd.write(ram)?;
    }
    put(ram, layout::COMMAND_LINE, &command_line, "kernel command line")?;
    write_start_info(ram, initrd.as_ref(), rsdp)?;

    let mut state = processor::boot_processor(ram, board, Mode::Protected, u64::from(elf.entry))?;
    state.gpr[RBX] = layout::PVH_START_INFO;
    tracing::debug!(kernel = kernel.name(), entry = elf.entry, "PVH kernel in place");
    Ok(state)
}

fn write_segments(ram: &GuestRam, kernel: &Image, elf: &Elf) -> Result<(), BootError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    for segment in &elf.segments {
        kernel.copy_to(ram, segment.address, segment.offset, segment.file_len)?;
        // RAM may have been used before: after a reset it still holds what the last kernel left.
        let mut at = segment.address + segment.file_len;
        while at < segment.end() {
            let len = (segment.end() - at).min(ZEROS.len() as u64);
            put(ram, at, &ZEROS[..len as usize], "kernel's zeroed data")?;
            at += len;
        }
    }
    Ok(())
}

fn write_start_info(ram: &GuestRam, initrd: Option<&Placed<'_>>, rsdp: u64) -> Result<(), BootError> {
    let map: Vec<_> = memory_map(ram.len())
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.len,
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    for (at, entry) in (layout::PVH_MEMORY_MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(&map) {
        put(ram, at, entry.as_slice(), "PVH memory map")?;
    }
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() };
        put(ram, layout::PVH_MODULES, module.as_slice(), "PVH module list")?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: initrd.map_or(0, |_| layout::PVH_MODULES),
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    put(ram, layout::PVH_START_INFO, info.as_slice(), "PVH start info")
}
