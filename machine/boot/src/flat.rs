//! Flat binaries: bytes that are loaded at an address and started there, whatever they are.

use crate::error::BootError;
use crate::layout;
use crate::loading::Loading;
use crate::memory_map::low_ram_end;
use crate::processor::{self, Mode};
use motu_x86::CpuState;
use std::ops::Range;

/// Where a flat binary is loaded and started, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Physical address of its first byte, which is its first instruction too.
    pub address: u64,
    pub mode: FlatMode,
}

/// The mode that a flat binary is started in; interrupts are off, and the stack pointer is 0x7000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlatMode {
    /// 16-bit real mode, interrupt vectors at 0. Below 64 KiB in segment 0, as a BIOS starts a boot
    /// sector; else in the segment that begins there.
    Real,
    /// 32-bit protected mode with flat segments, without paging.
    #[default]
    Protected,
    /// 64-bit mode, the first 4 GiB mapped to themselves.
    Long,
}

/// What motu writes for the mode itself; firmware's tables give way to the binary, these do not.
fn needed(mode: FlatMode) -> &'static [(Range<u64>, &'static str)] {
    const TABLES: [(Range<u64>, &str); 2] =
        [(layout::GDT..layout::GDT_END, "GDT"), (layout::PAGE_TABLES..layout::PAGE_TABLES_END, "page tables")];
    match mode {
        FlatMode::Real => &[],
        FlatMode::Protected => &TABLES[..1],
        FlatMode::Long => &TABLES,
    }
}

/// Loads the binary and answers the boot processor's state at its first byte.
pub(crate) fn load(loading: &Loading<'_>, flat: Flat) -> Result<CpuState, BootError> {
    let Loading { ram, kernel, board, .. } = *loading;
    let Flat { address: start, mode } = flat;
    let name = || kernel.name().to_owned();
    for (given, what) in [(!loading.modules.is_empty(), "initrd"), (!loading.cmdline.is_empty(), "command line")] {
        if given {
            return Err(BootError::FlatTakesNo { name: name(), what });
        }
    }
    let end = start.saturating_add(kernel.size());
    let low_end = low_ram_end(ram.len());
    if end > low_end {
        return Err(BootError::FlatOutside { name: name(), start, end, ram: low_end });
    }
    if let Some((_, what)) = needed(mode).iter().find(|(used, _)| layout::overlap(used, &(start..end))) {
        return Err(BootError::Overlap { name: name(), start, end, what });
    }
    let mut state = match mode {
        FlatMode::Real => processor::in_real_mode(board, start).ok_or(BootError::FlatRealEntry { address: start })?,
        FlatMode::Protected => processor::boot_processor(ram, board, Mode::Protected, start)?,
        FlatMode::Long => processor::boot_processor(ram, board, Mode::Long, start)?,
    };
    state.gpr[processor::RSP] = layout::FLAT_STACK_TOP;
    kernel.copy_to(ram, start, 0, kernel.size())?;
    tracing::debug!(kernel = kernel.name(), start, "flat binary in place");
    Ok(state)
}
