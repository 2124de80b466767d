//! Random register contents.

use super::values::{self, Format};
use crate::UserState;
use crate::rng::Rng;
use motu_x86::flags::rflags;

/// A state at `rip` whose vector registers hold values of `format`.
pub(super) fn random(rng: &mut Rng, rip: u64, format: Format) -> UserState {
    let mut state = UserState::new(rip);
    state.gpr.iter_mut().for_each(|register| *register = values::integer(rng));
    state.rflags |= rng.next() & rflags::ARITHMETIC;
    if rng.chance(25) {
        state.rflags |= rflags::DF;
    }
    let format = format.vary(rng);
    for index in 0..16 {
        let mut value = [0; 32];
        format.fill(rng, &mut value);
        state.set_ymm(index, &value);
    }
    state.set_mxcsr(mxcsr(rng));
    x87(rng, &mut state, format);
    state
}

/// All rounding modes, flush-to-zero and denormals-are-zero; sometimes unmasked exceptions.
fn mxcsr(rng: &mut Rng) -> u32 {
    let mut value = 0x1f80;
    if rng.chance(50) {
        value |= (rng.below(4) as u32) << 13;
    }
    if rng.chance(20) {
        value |= rng.next() as u32 & (1 << 15 | 1 << 6);
    }
    if rng.chance(20) {
        value |= rng.next() as u32 & 0x3f;
    }
    if rng.chance(12) {
        value &= !(rng.next() as u32 & 0x1f80);
    }
    value
}

/// Control, status and tag word, and the registers (SDM vol. 1, 8.1).
fn x87(rng: &mut Rng, state: &mut UserState, format: Format) {
    let mut control = 0x037f;
    if rng.chance(50) {
        control = control & !0x0f00 | rng.pick(&[0u16, 2, 3]) << 8 | (rng.below(4) as u16) << 10;
    }
    if rng.chance(12) {
        control &= !(rng.next() as u16 & 0x3f);
    }
    let mut status = (rng.below(8) as u16) << 11 | rng.next() as u16 & 0x4700;
    if rng.chance(15) {
        status |= rng.next() as u16 & 0x7f;
    }
    // ES and B follow from the flags and the masks. Few cases have an exception pending: nothing
    // but #MF comes of them.
    if status & !control & 0x3f != 0 {
        if rng.chance(80) {
            status &= !0x3f | control;
        } else {
            status |= 0x8080;
        }
    }
    let tags = match rng.below(4) {
        0 => rng.next() as u8,
        1 => 0,
        _ => 0xff,
    };
    state.xsave.0[0..2].copy_from_slice(&control.to_le_bytes());
    state.xsave.0[2..4].copy_from_slice(&status.to_le_bytes());
    state.xsave.0[4] = tags;
    let as_mmx = format == Format::Integer && rng.chance(40);
    for index in 0..8 {
        let mut value = values::st(rng);
        if as_mmx {
            Format::Integer.fill(rng, &mut value[..8]);
            value[8..].fill(0xff);
        }
        state.set_st(index, &value);
    }
}
