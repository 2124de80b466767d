//! bzImage by the Linux x86 boot protocol (Documentation/arch/x86/boot.rst): entered in 64-bit mode
//! where the kernel can be, else in 32-bit protected mode without paging.

use crate::error::BootError;
use crate::image::Image;
use crate::layout;
use crate::loading::Loading;
use crate::memory_map::{memory_map, room_for};
use crate::placed::Placed;
use crate::processor::{self, Mode};
use crate::{acpi, command_line, put};
use linux_loader::bootparam::{XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use motu_x86::CpuState;
use vm_memory::ByteValued;

/// Where `setup_header` lies, in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// The byte that says how far the header goes beyond 0x202: the target of a short jump.
const HEADER_LENGTH: usize = 0x201;
const HEADER_LENGTH_FROM: usize = 0x202;
/// What the protocol's versions brought.
mod version {
    /// `cmd_line_ptr`: before, the command line had to lie beside a boot sector in low memory.
    pub const OLDEST: u16 = 0x0202;
    pub const INITRD_ADDR_MAX: u16 = 0x0203;
    /// `syssize` has four bytes.
    pub const WIDE_SYSSIZE: u16 = 0x0204;
    pub const CMDLINE_SIZE: u16 = 0x0206;
    /// With `init_size`.
    pub const PREF_ADDRESS: u16 = 0x020a;
    pub const XLOADFLAGS: u16 = 0x020c;
}
/// What was true for all kernels before the header had a field for it.
const OLD_INITRD_ADDR_MAX: u32 = 0x37ff_ffff;
const OLD_CMDLINE_SIZE: u32 = 255;
const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;
/// The unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// `type_of_loader` for a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// The 64-bit entry point's distance from the load address, where the 32-bit one is.
const ENTRY_64: u64 = 0x200;
const RSI: usize = 6;

/// What the header of a bzImage asks for, checked.
#[derive(Debug)]
struct Plan {
    header: setup_header,
    /// Where the protected-mode part lies in the file, and its bytes.
    offset: u64,
    len: u64,
    /// Where it goes, and where the memory that it needs from the start ends.
    load: u64,
    end: u64,
    mode: Mode,
    /// The last byte that an initrd may lie at.
    initrd_max: u32,
    /// Bytes of the command line without its NUL.
    command_line_max: u32,
}

impl Plan {
    fn new(kernel: &Image, head: &[u8]) -> Result<Self, BootError> {
        let name = || kernel.name().to_owned();
        let damaged = |what: String| BootError::Damaged { name: name(), what };
        let header = read_header(head).ok_or_else(|| BootError::Truncated {
            name: name(),
            needs: SECTOR * 2,
            has: kernel.size(),
        })?;

        let version = header.version;
        if version < version::OLDEST {
            return Err(BootError::OldProtocol { name: name(), version });
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(damaged("its header says that it is to be loaded below 1 MiB".into()));
        }
        let has_64_bit_entry = version >= version::XLOADFLAGS && header.xloadflags & XLF_KERNEL_64 != 0;
        let mode = if has_64_bit_entry { Mode::Long } else { Mode::Protected };

        let (offset, len) = code(kernel, &header)?;
        let entry = if mode == Mode::Long { ENTRY_64 } else { 0 };
        if len <= entry {
            return Err(damaged(format!("its header says that it has {len} bytes of code")));
        }
        let (load, need) = match version >= version::PREF_ADDRESS {
            true => (header.pref_address, len.max(u64::from(header.init_size))),
            // Where every bzImage was linked to before it could say so.
            false => (layout::HIGH_MEMORY, len),
        };
        let end = load.checked_add(need).filter(|_| load >= layout::HIGH_MEMORY);
        let end = end.ok_or_else(|| damaged(format!("its header wants it loaded at {load:#x}")))?;
        let since = |first: u16, value: u32, before: u32| if version >= first { value } else { before };
        let initrd_max = since(version::INITRD_ADDR_MAX, header.initrd_addr_max, OLD_INITRD_ADDR_MAX);
        let command_line_max = since(version::CMDLINE_SIZE, header.cmdline_size, OLD_CMDLINE_SIZE);
        Ok(Self { header, offset, len, load, end, mode, initrd_max, command_line_max })
    }

    fn entry(&self) -> u64 {
        match self.mode {
            Mode::Long => self.load.saturating_add(ENTRY_64),
            Mode::Protected => self.load,
        }
    }
}

/// Where the protected-mode part lies in the file, and its bytes.
fn code(kernel: &Image, header: &setup_header) -> Result<(u64, u64), BootError> {
    // Zero setup sectors mean four, for the oldest kernels' sake; the boot sector comes on top.
    let setup_sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
    let offset = (u64::from(setup_sectors) + 1) * SECTOR;
    let in_file = kernel.size().saturating_sub(offset);
    if header.version < version::WIDE_SYSSIZE {
        return Ok((offset, in_file));
    }
    let len = u64::from(header.syssize) * PARAGRAPH;
    // The last paragraph may be a part of one: not every kernel is padded.
    if in_file.next_multiple_of(PARAGRAPH) < len {
        return Err(BootError::Truncated { name: kernel.name().to_owned(), needs: offset + len, has: kernel.size() });
    }
    Ok((offset, len.min(in_file)))
}

/// The header as far as the file's own header goes; fields that it lacks are zero.
fn read_header(head: &[u8]) -> Option<setup_header> {
    let end = HEADER_LENGTH_FROM + usize::from(*head.get(HEADER_LENGTH)?);
    let mut header = setup_header::default();
    let room = header.as_mut_slice();
    let len = end.saturating_sub(HEADER).min(room.len());
    room.get_mut(..len)?.copy_from_slice(head.get(HEADER..HEADER + len)?);
    Some(header)
}

/// Loads the kernel and answers the boot processor's state at its entry.
pub(crate) fn load(loading: &Loading<'_>) -> Result<CpuState, BootError> {
    let Loading { ram, kernel, .. } = *loading;
    let plan = Plan::new(kernel, &loading.head)?;
    let low_end = room_for(kernel, plan.end, ram)?;
    let command_line_max = usize::try_from(plan.command_line_max).unwrap_or(usize::MAX);
    let command_line = command_line::terminated(loading.cmdline, command_line_max)?;
    let initrd_end = low_end.min(u64::from(plan.initrd_max) + 1);
    let initrd = loading.initrd()?.map(|image| Placed::high(image, plan.end, initrd_end)).transpose()?;

    kernel.copy_to(ram, plan.load, plan.offset, plan.len)?;
    if let Some(initrd) = &initrd {
        initrd.write(ram)?;
    }
    put(ram, layout::COMMAND_LINE, &command_line, "kernel command line")?;
    let mut params = boot_params { acpi_rsdp_addr: acpi::RSDP, hdr: plan.header, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.code32_start = fits_u32(plan.load);
    params.hdr.cmd_line_ptr = fits_u32(layout::COMMAND_LINE);
    if let Some(initrd) = &initrd {
        params.hdr.ramdisk_image = fits_u32(initrd.start);
        params.hdr.ramdisk_size = fits_u32(initrd.len);
    }
    fill_memory_map(&mut params, ram.len());
    put(ram, layout::ZERO_PAGE, params.as_slice(), "zero page")?;

    let mut state = processor::boot_processor(ram, loading.board, plan.mode, plan.entry())?;
    state.gpr[RSI] = layout::ZERO_PAGE;
    tracing::debug!(kernel = kernel.name(), load = plan.load, mode = ?plan.mode, "bzImage in place");
    Ok(state)
}

fn fill_memory_map(params: &mut boot_params, ram_bytes: u64) {
    // The map is packed: a copy is filled, as its fields cannot be borrowed.
    let mut table = params.e820_table;
    let map = memory_map(ram_bytes);
    for (slot, entry) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.len, r#type: entry.kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len().min(table.len()) as u8;
}

/// Everything placed here lies below 4 GiB: [`Plan`] and [`Placed::high`] keep to low RAM.
fn fits_u32(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}
