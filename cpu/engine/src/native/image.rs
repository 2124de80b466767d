//! FXSAVE, FXRSTOR, XSAVE and XRSTOR as conversions between the live state and the guest's image
//! (SDM vol. 1, 10.5, 13.7 and 13.8).

use std::ops::Range;

use motu_x86::flags::xcr0;
use motu_x86::{XSAVE_SIZE, XsaveArea};

use super::{simd, x87};

/// Bytes of FXSAVE's image.
pub const FXSAVE_SIZE: usize = 512;

const FIP_AND_FDP: Range<usize> = 8..24;
/// x87 state around MXCSR: FCW to FDP, ST0 to ST7.
const X87_HEAD: Range<usize> = 0..24;
const X87_REGISTERS: Range<usize> = 32..160;
/// MXCSR and MXCSR_MASK.
const MXCSR: Range<usize> = 24..32;
const HEADER: Range<usize> = 512..576;
const SUPPORTED: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX;

/// #GP(0): the image has a reserved bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reserved bit in an FPU state image")]
pub struct ReservedBits;

/// What the mode and the prefixes decide about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageForm {
    /// 64-bit mode: sixteen vector registers, else eight.
    pub long: bool,
    /// REX.W: instruction and data pointers of 64 bits, else 32 and a selector.
    pub wide: bool,
}

impl ImageForm {
    fn registers(self) -> usize {
        if self.long { 16 } else { 8 }
    }

    fn xmm(self) -> Range<usize> {
        XsaveArea::XMM..XsaveArea::XMM + self.registers() * 16
    }

    fn ymm_high(self) -> Range<usize> {
        XsaveArea::YMM_HIGH..XsaveArea::YMM_HIGH + self.registers() * 16
    }

    /// The pointers as the image has them. Selectors are deprecated and read as zero (`CPUID.7.EBX[13]`).
    fn narrow(self, bytes: &mut [u8]) {
        if !self.wide
            && let Some(pointers) = bytes.get_mut(FIP_AND_FDP)
        {
            for pointer in pointers.chunks_exact_mut(8) {
                pointer.iter_mut().skip(4).for_each(|byte| *byte = 0);
            }
        }
    }
}

/// FXSAVE: the bytes to write at the start of the guest's image; the rest of its 512 stays as it is.
/// Alignment is 16 bytes, else #GP(0).
pub fn fxsave_image(fpu: &XsaveArea, form: ImageForm) -> ([u8; FXSAVE_SIZE], Range<usize>) {
    let mut image = [0; FXSAVE_SIZE];
    let written = 0..form.xmm().end;
    copy(&mut image, &fpu.0, written.clone());
    set_mxcsr_mask(&mut image);
    form.narrow(&mut image);
    (image, written)
}

/// FXRSTOR. The state is unchanged when it fails.
pub fn fxrstor_image(fpu: &mut XsaveArea, image: &[u8; FXSAVE_SIZE], form: ImageForm) -> Result<(), ReservedBits> {
    check_mxcsr(image)?;
    load_x87(fpu, image, form);
    copy(&mut fpu.0, image, MXCSR.start..MXCSR.start + 4);
    copy(&mut fpu.0, image, form.xmm());
    Ok(())
}

/// XSAVE. `features` is EDX:EAX and XCR0; `image` is the guest's area, of which only XSTATE_BV is read. Returns
/// the ranges of `image` to write to the guest; all else it keeps. Alignment is 64 bytes, else #GP(0).
pub fn xsave_image(
    fpu: &XsaveArea,
    features: u64,
    form: ImageForm,
    image: &mut [u8; XSAVE_SIZE],
) -> impl Iterator<Item = Range<usize>> + use<> {
    let features = features & SUPPORTED;
    let has = |bits: u64| features & bits != 0;
    let ranges = [
        has(xcr0::X87).then_some(X87_HEAD),
        has(xcr0::SSE | xcr0::AVX).then_some(MXCSR),
        has(xcr0::X87).then_some(X87_REGISTERS),
        has(xcr0::SSE).then(|| form.xmm()),
        has(xcr0::AVX).then(|| form.ymm_high()),
    ];
    for range in ranges.iter().flatten() {
        copy(image, &fpu.0, range.clone());
    }
    set_mxcsr_mask(image);
    form.narrow(image);
    // XINUSE may be one always (SDM vol. 1, 13.6).
    let header = (xstate_bv(image) & !features) | features;
    let bitmap = XsaveArea::XSTATE_BV..XsaveArea::XSTATE_BV + 8;
    if let Some(bytes) = image.get_mut(bitmap.clone()) {
        bytes.copy_from_slice(&header.to_le_bytes());
    }
    ranges.into_iter().flatten().chain([bitmap])
}

/// XRSTOR, standard form. `features` is EDX:EAX and XCR0. The state is unchanged when it fails.
pub fn xrstor_image(
    fpu: &mut XsaveArea,
    features: u64,
    xcr0: u64,
    form: ImageForm,
    image: &[u8; XSAVE_SIZE],
) -> Result<(), ReservedBits> {
    let present = xstate_bv(image);
    let reserved = image.get(HEADER.start + 8..HEADER.start + 24).unwrap_or_default();
    if present & !xcr0 != 0 || reserved.iter().any(|&byte| byte != 0) {
        return Err(ReservedBits);
    }
    let has = |bits: u64| features & SUPPORTED & bits != 0;
    // MXCSR is loaded whatever XSTATE_BV says of SSE (SDM vol. 1, 13.8.1).
    if has(xcr0::SSE | xcr0::AVX) {
        check_mxcsr(image)?;
        copy(&mut fpu.0, image, MXCSR.start..MXCSR.start + 4);
    }
    if has(xcr0::X87) {
        if present & xcr0::X87 != 0 { load_x87(fpu, image, form) } else { initialise_x87(fpu) }
    }
    for (component, range) in [(xcr0::SSE, form.xmm()), (xcr0::AVX, form.ymm_high())] {
        if has(component) {
            if present & component != 0 { copy(&mut fpu.0, image, range) } else { clear(fpu, range) }
        }
    }
    Ok(())
}

/// Makes a saved image live: components that XSTATE_BV calls initial become so, and whatever no CPU could
/// hold is dropped, since an image may come from anywhere.
pub fn make_live(fpu: &mut XsaveArea) {
    let present = xstate_bv(&fpu.0);
    let long = ImageForm { long: true, wide: true };
    if present & xcr0::X87 == 0 {
        initialise_x87(fpu);
    }
    if present & xcr0::SSE == 0 {
        clear(fpu, long.xmm());
    }
    if present & xcr0::AVX == 0 {
        clear(fpu, long.ymm_high());
    }
    x87::set_control(fpu, x87::control(fpu));
    x87::update_summary(fpu);
    simd::set_mxcsr(fpu, simd::mxcsr(fpu));
    set_mxcsr_mask(&mut fpu.0);
    clear(fpu, HEADER);
    x87::put(fpu, XsaveArea::XSTATE_BV, &SUPPORTED.to_le_bytes());
}

fn load_x87(fpu: &mut XsaveArea, image: &[u8], form: ImageForm) {
    copy(&mut fpu.0, image, X87_HEAD);
    form.narrow(&mut fpu.0);
    x87::set_instruction_pointer(fpu, canonical(x87::instruction_pointer(fpu)));
    x87::set_control(fpu, x87::control(fpu));
    x87::set_tags(fpu, x87::tags(fpu));
    x87::set_opcode(fpu, x87::opcode(fpu));
    x87::update_summary(fpu);
    for index in 0..8 {
        let start = X87_REGISTERS.start + index * 16;
        let register = image.get(start..start + 10).and_then(|bytes| bytes.try_into().ok());
        x87::set_register(fpu, index, register.unwrap_or_default());
    }
}

/// FIP has the bits of a linear address, FDP all 64.
fn canonical(address: u64) -> u64 {
    const UNUSED: u32 = 64 - 48;
    ((address << UNUSED) as i64 >> UNUSED) as u64
}

/// The initial configuration of XSAVE component 0: as after FNINIT, with all registers zero.
fn initialise_x87(fpu: &mut XsaveArea) {
    x87::initialise(fpu);
    clear(fpu, X87_REGISTERS);
}

fn check_mxcsr(image: &[u8]) -> Result<(), ReservedBits> {
    let bytes = image.get(MXCSR.start..).and_then(|b| b.first_chunk());
    let value = bytes.copied().map_or(0, u32::from_le_bytes);
    if value & !simd::MXCSR_MASK == 0 { Ok(()) } else { Err(ReservedBits) }
}

fn set_mxcsr_mask(image: &mut [u8]) {
    if let Some(bytes) = image.get_mut(MXCSR.start + 4..MXCSR.end) {
        bytes.copy_from_slice(&simd::MXCSR_MASK.to_le_bytes());
    }
}

fn xstate_bv(image: &[u8; XSAVE_SIZE]) -> u64 {
    image.get(XsaveArea::XSTATE_BV..).and_then(|b| b.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}

fn copy(target: &mut [u8], source: &[u8], range: Range<usize>) {
    if let (Some(target), Some(source)) = (target.get_mut(range.clone()), source.get(range)) {
        target.copy_from_slice(source);
    }
}

fn clear(fpu: &mut XsaveArea, range: Range<usize>) {
    if let Some(bytes) = fpu.0.get_mut(range) {
        bytes.fill(0);
    }
}
