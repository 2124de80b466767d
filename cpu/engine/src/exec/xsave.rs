//! The XSAVE family (Intel SDM vol. 1, chapter 13): XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR and XRSTORS.
//!
//! [`native`] has the images of x87, SSE and AVX in the standard format. Here is what surrounds them: PKRU, the
//! header, and the compacted format, in which AVX has its standard place and PKRU follows it or takes it. AVX, SSE
//! and x87 count as in use always, PKRU where it is not zero (13.6), so that XSAVEOPT is XSAVE. There is no
//! supervisor state: IA32_XSS is zero, and XSAVES is XSAVEC in ring 0.

use super::fpu::{aligned, form};
use crate::cpu::{Cpu, Done, Faulting, Flow, slot};
use crate::decode::{Handler, Op};
use crate::native;
use iced_x86::{Instruction, Mnemonic as M};
use motu_x86::contract::Feature;
use motu_x86::flags::{cr0, cr4, xcr0};
use motu_x86::{Exception, PKRU_OFFSET, PKRU_SIZE, XSAVE_SIZE, XsaveArea};
use std::ops::Range;

/// Where XCOMP_BV is (13.4.2).
const XCOMP_BV: usize = 520;
/// XCOMP_BV bit 63: the compacted format.
const COMPACTED: u64 = 1 << 63;
/// Bytes of the header that are zero in the compacted format.
const RESERVED: Range<usize> = 528..576;
/// End of the header, and where the components of the compacted format begin.
const EXTENDED: usize = 576;
const AVX_SIZE: usize = XSAVE_SIZE - EXTENDED;
const MXCSR: usize = 24;
/// MXCSR's initial value.
const MXCSR_INITIAL: u32 = 0x1f80;

pub fn handler(i: &Instruction) -> Option<Handler> {
    Some(match i.mnemonic() {
        M::Xsave | M::Xsaveopt => xsave::<false>,
        M::Xsave64 | M::Xsaveopt64 => xsave::<true>,
        M::Xsavec => xsavec::<false, false>,
        M::Xsavec64 => xsavec::<true, false>,
        M::Xsaves => xsavec::<false, true>,
        M::Xsaves64 => xsavec::<true, true>,
        M::Xrstor => xrstor::<false, false>,
        M::Xrstor64 => xrstor::<true, false>,
        M::Xrstors => xrstor::<false, true>,
        M::Xrstors64 => xrstor::<true, true>,
        _ => return None,
    })
}

impl Cpu {
    /// The components that are not in their initial configuration, as far as it is known (13.6).
    pub fn components_in_use(&self) -> u64 {
        xcr0::X87 | xcr0::SSE | xcr0::AVX | if self.pkru == 0 { 0 } else { xcr0::PKRU }
    }
}

/// The requested-feature bitmap. #UD without CR4.OSXSAVE, #GP(0) in a user of `supervisor` instructions, #NM with
/// CR0.TS (13.7 to 13.12).
fn requested(cpu: &mut Cpu, supervisor: bool) -> Faulting<u64> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return cpu.undefined();
    }
    if supervisor {
        cpu.require_cpl0()?;
    }
    if cpu.cr0 & cr0::TS != 0 {
        return cpu.raise(Exception::plain(Exception::NM));
    }
    let requested = (cpu.gpr(slot::RDX) << 32) | (cpu.gpr(slot::RAX) & 0xffff_ffff);
    Ok(requested & cpu.xcr0)
}

/// Ranges of an image at most: x87 in two, MXCSR, XMM, the upper halves of YMM, and the header.
const PIECES: usize = 6;

/// What goes into the guest's area: ranges of an image, and PKRU. It is written all or not at all.
struct Saved {
    image: [u8; XSAVE_SIZE],
    ranges: [Range<usize>; PIECES],
    count: usize,
    /// PKRU's component, and where it goes.
    pkru: Option<(usize, [u8; PKRU_SIZE])>,
}

impl Saved {
    /// x87, SSE and AVX of `features` as XSAVE writes them, without the header.
    fn new(cpu: &Cpu, features: u64, wide: bool) -> Self {
        let mut image = [0; XSAVE_SIZE];
        let ranges = native::xsave_image(&cpu.fpu, features & !xcr0::PKRU, form(cpu, wide), &mut image);
        let mut saved = Self { image, ranges: [const { 0..0 }; PIECES], count: 0, pkru: None };
        ranges.filter(|range| !(XsaveArea::XSTATE_BV..EXTENDED).contains(&range.start)).for_each(|r| saved.add(r));
        saved
    }

    fn add(&mut self, range: Range<usize>) {
        if let Some(next) = self.ranges.get_mut(self.count) {
            *next = range;
            self.count += 1;
        }
    }

    /// Adds XSTATE_BV, and XCOMP_BV if there is one.
    fn header(mut self, words: &[u64]) -> Self {
        let range = XsaveArea::XSTATE_BV..XsaveArea::XSTATE_BV + 8 * words.len();
        if let Some(target) = self.image.get_mut(range.clone()) {
            for (target, word) in target.chunks_exact_mut(8).zip(words) {
                target.copy_from_slice(&word.to_le_bytes());
            }
        }
        self.add(range);
        self
    }

    /// Adds PKRU.
    fn pkru(&mut self, value: u32, offset: usize) {
        self.pkru = Some((offset, u64::from(value).to_le_bytes()));
    }

    fn store(&self, cpu: &mut Cpu, area: u64) -> Faulting<()> {
        let ranges = self.ranges.iter().take(self.count).filter(|range| !range.is_empty());
        let vectors = ranges.filter_map(|range| Some((range.start, self.image.get(range.clone())?)));
        let pkru = self.pkru.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()));
        let pieces = vectors.chain(pkru).map(|(offset, bytes)| (area.wrapping_add(offset as u64), bytes));
        if !cpu.store_cannot_fault(area, XSAVE_SIZE as u64) || self.pkru.is_some() {
            for (address, bytes) in pieces.clone() {
                cpu.check_write(address, bytes.len() as u64)?;
            }
        }
        for (address, bytes) in pieces {
            cpu.write_bytes(address, bytes)?;
        }
        Ok(())
    }
}

/// XSAVE and XSAVEOPT (13.7, 13.9): what is requested, whether in use or not; XSTATE_BV keeps its other bits.
fn xsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let features = requested(cpu, false)?;
    let area = aligned(cpu, op, 64)?;
    let bitmap_at = area.wrapping_add(XsaveArea::XSTATE_BV as u64);
    cpu.check_write(bitmap_at, 8)?;
    let kept = cpu.load::<u64>(bitmap_at)? & !features;
    let mut saved = Saved::new(cpu, features, WIDE);
    if features & xcr0::PKRU != 0 {
        saved.pkru(cpu.pkru, PKRU_OFFSET);
    }
    saved.header(&[kept | (features & cpu.components_in_use())]).store(cpu, area)?;
    Ok(Flow::Next)
}

/// XSAVEC and XSAVES (13.10, 13.11): what is requested and in use, packed. MXCSR belongs to SSE here.
fn xsavec<const WIDE: bool, const SUPERVISOR: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let features = requested(cpu, SUPERVISOR)?;
    let area = aligned(cpu, op, 64)?;
    let present = features & cpu.components_in_use();
    let mut saved = Saved::new(cpu, present, WIDE);
    if present & xcr0::SSE == 0 {
        saved.ranges.iter_mut().filter(|range| range.start == MXCSR).for_each(|range| *range = 0..0);
    }
    if present & xcr0::PKRU != 0 {
        saved.pkru(cpu.pkru, compacted_pkru(features));
    }
    saved.header(&[present, features | COMPACTED]).store(cpu, area)?;
    Ok(Flow::Next)
}

/// Where PKRU is in the compacted format with these components (13.4.3).
fn compacted_pkru(components: u64) -> usize {
    EXTENDED + if components & xcr0::AVX != 0 { AVX_SIZE } else { 0 }
}

fn quad(image: &[u8; XSAVE_SIZE], offset: usize) -> u64 {
    image.get(offset..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}

/// XRSTOR in either format, and XRSTORS in the compacted one (13.8, 13.12). Only what is restored is read.
fn xrstor<const WIDE: bool, const SUPERVISOR: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let features = requested(cpu, SUPERVISOR)?;
    let area = aligned(cpu, op, 64)?;
    let mut image = [0; XSAVE_SIZE];
    let (head, extended) = image.split_at_mut(EXTENDED);
    cpu.read_bytes(area, head)?;
    let present = XsaveArea::XSTATE_BV;
    let has = |head: &[u8], component: u64| {
        head.get(present..).and_then(|b| b.first_chunk()).is_some_and(|b| u64::from_le_bytes(*b) & component != 0)
    };
    if features & xcr0::AVX != 0 && has(head, xcr0::AVX) {
        cpu.read_bytes(area.wrapping_add(EXTENDED as u64), extended)?;
    }
    let layout = quad(&image, XCOMP_BV);
    let compacted = layout & COMPACTED != 0 && cpu.contract.has(Feature::Xsavec);
    if compacted {
        unpack(cpu, features, &mut image)?;
    } else if SUPERVISOR {
        return cpu.general_protection(0);
    }
    let pkru_at = if compacted { compacted_pkru(layout) } else { PKRU_OFFSET };
    let pkru = match features & xcr0::PKRU {
        0 => None,
        _ if quad(&image, present) & xcr0::PKRU == 0 => Some(0),
        _ => Some(cpu.load(area.wrapping_add(pkru_at as u64))?),
    };
    let (form, enabled) = (form(cpu, WIDE), cpu.xcr0);
    if native::xrstor_image(&mut cpu.fpu, features & !xcr0::PKRU, enabled, form, &image).is_err() {
        return cpu.general_protection(0);
    }
    if let Some(pkru) = pkru {
        cpu.set_pkru(pkru);
    }
    Ok(Flow::Stop)
}

/// Makes a compacted image, whose AVX is in its standard place, one of the standard format.
fn unpack(cpu: &mut Cpu, features: u64, image: &mut [u8; XSAVE_SIZE]) -> Faulting<()> {
    let (present, layout) = (quad(image, XsaveArea::XSTATE_BV), quad(image, XCOMP_BV) & !COMPACTED);
    let reserved = image.get(RESERVED).is_none_or(|bytes| bytes.iter().any(|&byte| byte != 0));
    if layout & !cpu.xcr0 != 0 || present & !layout != 0 || reserved {
        return cpu.general_protection(0);
    }
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(target) = image.get_mut(offset..offset + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    };
    put(XCOMP_BV, &[0; 8]);
    if features & xcr0::SSE == 0 {
        // AVX alone leaves MXCSR as it is.
        let current: [u8; 4] = cpu.fpu.0.get(MXCSR..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        put(MXCSR, &current);
    } else if present & xcr0::SSE == 0 {
        put(MXCSR, &MXCSR_INITIAL.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
