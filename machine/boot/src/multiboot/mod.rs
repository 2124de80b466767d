//! Kernels by the Multiboot Specification, version 1 (0.6.96): entered in 32-bit protected mode
//! without paging, EAX with a magic number and EBX pointing to the information structure. Xen, most
//! hobby and teaching kernels and kvm-unit-tests are such kernels.

mod header;
mod info;

use crate::command_line::without_nul;
use crate::elf::Elf;
use crate::error::BootError;
use crate::layout;
use crate::loading::Loading;
use crate::memory_map::room_for;
use crate::module::Module;
use crate::placed::Placed;
use crate::processor::{self, Mode};
use crate::segment::Segment;
pub(crate) use header::Header;
use info::Info;
use motu_x86::CpuState;

/// What EAX has at the entry (section 3.2).
const LOADED_BY_MULTIBOOT: u64 = 0x2bad_b002;
const RAX: usize = 0;
const RBX: usize = 3;

/// Loads the kernel and its modules and answers the boot processor's state at its entry.
pub(crate) fn load(loading: &Loading<'_>, header: &Header) -> Result<CpuState, BootError> {
    let Loading { ram, kernel, .. } = *loading;
    let name = || kernel.name().to_owned();
    let needs = header.unknown_needs();
    if needs != 0 {
        return Err(BootError::MultibootNeeds { name: name(), needs });
    }
    if header.needs_video() {
        tracing::warn!(kernel = kernel.name(), "the kernel asks for a video mode; the machine has no display");
    }
    let (segments, entry) = segments(loading, header)?;
    for segment in &segments {
        let range = segment.range();
        if let Some((_, what)) = layout::USED_BY_MULTIBOOT.iter().find(|(used, _)| layout::overlap(used, &range)) {
            return Err(BootError::Overlap { name: name(), start: range.start, end: range.end, what });
        }
    }
    let Some(entry) = entry.filter(|entry| segments.iter().any(|s| s.range().contains(&u64::from(*entry)))) else {
        return Err(BootError::Damaged { name: name(), what: "its entry lies outside of what is loaded".into() });
    };
    let end = segments.last().map_or(0, Segment::end);
    let low_end = room_for(kernel, end, ram)?;
    let mut info = Info::new(ram.len(), &command_line(loading)?);
    let modules = place(loading.modules, end.max(layout::HIGH_MEMORY), low_end)?;
    info.add_modules(&modules);

    info.write(ram)?;
    segments.iter().try_for_each(|segment| segment.write(ram, kernel))?;
    modules.iter().try_for_each(|(_, placed)| placed.write(ram))?;
    let mut state = processor::boot_processor(ram, loading.board, Mode::Protected, u64::from(entry))?;
    state.gpr[RAX] = LOADED_BY_MULTIBOOT;
    state.gpr[RBX] = layout::BOOT_INFO;
    tracing::debug!(kernel = kernel.name(), entry, modules = modules.len(), "multiboot kernel in place");
    Ok(state)
}

/// What is to be in memory, lowest first, and the entry if it is a 32-bit address.
fn segments(loading: &Loading<'_>, header: &Header) -> Result<(Vec<Segment>, Option<u32>), BootError> {
    let damaged = |what: String| BootError::Damaged { name: loading.kernel.name().to_owned(), what };
    if let Some(addresses) = &header.addresses {
        let segment = header.segment(addresses, loading.kernel).map_err(damaged)?;
        return Ok((vec![segment], Some(addresses.entry)));
    }
    if !loading.is_elf() {
        return Err(damaged("its multiboot header gives no addresses, and it is no ELF either".into()));
    }
    let elf = Elf::parse(loading.kernel, &loading.head)?;
    Ok((elf.segments()?, u32::try_from(elf.physical_entry()).ok()))
}

/// The kernel's name and its parameters, as QEMU gives them.
fn command_line(loading: &Loading<'_>) -> Result<Vec<u8>, BootError> {
    without_nul(loading.cmdline.as_bytes())?;
    let parts = [loading.kernel.name(), loading.cmdline];
    let text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(text.into_bytes())
}

/// Puts all modules on page boundaries, one behind the other.
fn place(modules: &[Module], lowest: u64, end: u64) -> Result<Vec<(&Module, Placed<'_>)>, BootError> {
    let mut next = lowest;
    modules
        .iter()
        .map(|module| {
            without_nul(module.command_line())?;
            let placed = Placed::low(module.image(), next, end)?;
            next = placed.end();
            Ok((module, placed))
        })
        .collect()
}
