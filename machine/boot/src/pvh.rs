//! ELF kernels by the PVH boot protocol (Xen docs/misc/pvh.pandoc): entered in 32-bit protected
//! mode without paging, EBX pointing to `hvm_start_info`.

use crate::elf::Elf;
use crate::error::BootError;
use crate::fields::Fields;
use crate::loading::Loading;
use crate::memory_map::{memory_map, room_for};
use crate::placed::Placed;
use crate::processor::{self, Mode};
use crate::{acpi, command_line, layout, put};
use linux_loader::start_info::{XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use motu_memory::GuestRam;
use motu_x86::CpuState;
use vm_memory::ByteValued;

/// `COMMAND_LINE_SIZE` of Linux on x86, less the NUL: what is beyond, it silently drops.
const COMMAND_LINE_MAX: usize = 2047;
/// The first version with a memory map.
const START_INFO_VERSION: u32 = 1;
const RBX: usize = 3;
/// Name size, descriptor size and type, 32 bits each, of 32-bit and 64-bit notes alike.
const NOTE_HEADER: usize = 12;
/// Xen public/elfnote.h: the descriptor is the physical address of the 32-bit entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";

/// Loads the kernel and answers the boot processor's state at its entry.
pub(crate) fn load(loading: &Loading<'_>) -> Result<CpuState, BootError> {
    let Loading { ram, kernel, .. } = *loading;
    let damaged = |what: String| BootError::Damaged { name: kernel.name().to_owned(), what };
    let elf = Elf::parse(kernel, &loading.head)?;
    // An ordinary program has odd segments too: that it has no entry says more of it.
    let entry = elf.find_in_notes(pvh_entry)?.ok_or_else(|| BootError::NotAKernel {
        name: kernel.name().to_owned(),
        looks_like: "an x86 ELF without a PVH entry or a multiboot header, such as a program or a kernel built \
                     without CONFIG_PVH"
            .into(),
    })?;
    let segments = elf.segments()?;
    if let Some(low) = segments.iter().find(|segment| segment.address < layout::HIGH_MEMORY) {
        return Err(damaged(format!("a segment wants to be at {:#x}; PVH kernels begin at 1 MiB", low.address)));
    }
    if !segments.iter().any(|segment| segment.range().contains(&u64::from(entry))) {
        return Err(damaged(format!("its PVH entry {entry:#x} lies in none of its segments")));
    }
    let end = segments.last().map_or(0, |segment| segment.end());
    let low_end = room_for(kernel, end, ram)?;
    let command_line = command_line::terminated(loading.cmdline, COMMAND_LINE_MAX)?;
    let initrd = loading.initrd()?.map(|image| Placed::high(image, end, low_end)).transpose()?;

    segments.iter().try_for_each(|segment| segment.write(ram, kernel))?;
    if let Some(initrd) = &initrd {
        initrd.write(ram)?;
    }
    put(ram, layout::COMMAND_LINE, &command_line, "kernel command line")?;
    write_start_info(ram, initrd.as_ref())?;

    let mut state = processor::boot_processor(ram, loading.board, Mode::Protected, u64::from(entry))?;
    state.gpr[RBX] = layout::BOOT_INFO;
    tracing::debug!(kernel = kernel.name(), entry, "PVH kernel in place");
    Ok(state)
}

/// Finds the PVH entry among `notes`, whose parts are aligned to `align` bytes.
fn pvh_entry(notes: &[u8], align: usize) -> Option<u32> {
    let mut rest = notes;
    loop {
        let header = Fields(rest);
        let name_end = NOTE_HEADER.checked_add(usize::try_from(header.u32_at(0)?).ok()?)?;
        let value_at = name_end.checked_next_multiple_of(align)?;
        let value_end = value_at.checked_add(usize::try_from(header.u32_at(4)?).ok()?)?;
        if header.u32_at(8)? == XEN_ELFNOTE_PHYS32_ENTRY && rest.get(NOTE_HEADER..name_end) == Some(XEN) {
            // 4 or 8 bytes: Linux writes a pointer of its own width.
            return Fields(rest.get(value_at..value_end)?).u32_at(0);
        }
        rest = rest.get(value_end.checked_next_multiple_of(align)?..)?;
    }
}

fn write_start_info(ram: &GuestRam, initrd: Option<&Placed<'_>>) -> Result<(), BootError> {
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
        rsdp_paddr: acpi::RSDP,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    put(ram, layout::BOOT_INFO, info.as_slice(), "PVH start info")
}
