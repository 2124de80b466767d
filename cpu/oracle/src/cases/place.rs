//! Where memory operands and branch targets lie, and which addresses a case may touch at all.

use crate::Mode;
use crate::layout::{self, AREA_SIZE, AREAS, CODE_OFFSET, CODE_SIZE, PAGE, SCAFFOLD_OFFSET, WINDOW_SIZE};
use crate::rng::Rng;

/// The last page of the lower canonical half: Linux maps nothing there (TASK_SIZE_MAX is below it).
const LAST_USER_PAGE: u64 = 0x7fff_ffff_f000;
const CANONICAL_END: u64 = 0x8000_0000_0000;
const KERNEL_START: u64 = 0xffff_8000_0000_0000;
/// vm.mmap_min_addr: no process has memory below.
const NULL_END: u64 = 0x1_0000;
/// The page of the old vsyscalls: the kernel emulates what is there.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// Whether an access to `address` reaches the window or nothing at all.
pub(super) fn is_harmless(mode: Mode, address: u64) -> bool {
    let address = if mode == Mode::Bits64 { address } else { u64::from(address as u32) };
    let scaffold = SCAFFOLD_OFFSET..CODE_OFFSET + CODE_SIZE;
    if let Some(offset) = AREAS.iter().map(|area| address.wrapping_sub(*area)).find(|offset| *offset < AREA_SIZE) {
        return !scaffold.contains(&offset);
    }
    mode != Mode::Bits64 || is_unmapped_everywhere(address)
}

fn is_unmapped_everywhere(address: u64) -> bool {
    address < NULL_END
        || (LAST_USER_PAGE..KERNEL_START).contains(&address)
        || address >= KERNEL_START && !(VSYSCALL..VSYSCALL + PAGE).contains(&address)
}

/// Whether all of `bytes` bytes at `address` are harmless.
pub(super) fn is_harmless_range(mode: Mode, address: u64, bytes: u64) -> bool {
    is_harmless(mode, address) && is_harmless(mode, address.wrapping_add(bytes.saturating_sub(1)))
}

/// Whether a branch from the instruction of `len` bytes at `rip` may go to `target`: to the next
/// instruction, to an INT3, or to where nothing can be fetched.
pub(super) fn is_harmless_target(mode: Mode, target: u64, rip: u64, len: usize) -> bool {
    /// The jump back behind the instruction.
    const WAY_BACK: u64 = 7;
    let own = layout::code_offset(rip).unwrap_or(0);
    match layout::code_offset(target) {
        Some(_) if target == rip.wrapping_add(len as u64) => true,
        Some(offset) => !(own..own + len as u64 + WAY_BACK).contains(&offset),
        None => is_harmless(mode, target),
    }
}

/// Where an operand of `size` bytes may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) size: u64,
    /// Which of [`AREAS`].
    pub(super) area: usize,
    /// Only below 4 GiB.
    pub(super) low: bool,
}

/// An address for an operand: mostly good, sometimes at every kind of edge.
pub(super) fn operand(rng: &mut Rng, wanted: Wanted) -> u64 {
    let size = wanted.size.clamp(1, 512);
    let start = layout::window(if wanted.low { 0 } else { wanted.area });
    let across = |page: u64, rng: &mut Rng| start + page * PAGE - rng.below(size.max(2) - 1) - 1;
    let within = |page: u64, rng: &mut Rng| start + page * PAGE + rng.below(PAGE - size + 1);
    let align = |address: u64| address - (address - start) % size.next_power_of_two().min(64);
    let page = rng.pick(&[0, 2, 2, 2, 3]);
    match rng.below(100) {
        0..58 => align(within(page, rng)),
        58..76 => within(page, rng),
        76..82 => across(3, rng),
        82..85 => align(within(layout::READ_ONLY_PAGE, rng)),
        85..86 => within(layout::READ_ONLY_PAGE, rng),
        86..88 => across(1, rng),
        88..90 => across(2, rng),
        90..93 => across(layout::WINDOW_PAGES, rng),
        93..94 => across(0, rng),
        94..96 => start + WINDOW_SIZE + rng.below(PAGE),
        _ if wanted.low => rng.below(PAGE),
        96..97 => rng.below(PAGE),
        97..98 => CANONICAL_END - 1 - rng.below(size + 8),
        98..99 => KERNEL_START + rng.below(1 << 40),
        _ => CANONICAL_END + (rng.next() >> 18),
    }
}

/// A place for a branch to go.
pub(super) fn branch_target(rng: &mut Rng, mode: Mode, area: usize) -> u64 {
    let kind = rng.below(20);
    if mode == Mode::Bits32 && matches!(kind, 14..16 | 19..) {
        return u64::from(rng.next() as u32);
    }
    match kind {
        0..14 => layout::code(area) + rng.below(CODE_SIZE),
        14..16 => layout::code(1 - area) + rng.below(CODE_SIZE),
        16 => layout::window(area) + rng.below(WINDOW_SIZE),
        17 => layout::code(area) + CODE_SIZE + rng.below(PAGE),
        18 => rng.below(PAGE),
        _ => CANONICAL_END + (rng.next() >> 18),
    }
}
