//! Random register contents.

use super::values::{self, Format};
use crate::rng::Rng;
use crate::{Mode, UserState};
use iced_x86::{CpuidFeature, Instruction, InstructionInfo, Mnemonic, OpKind, Register};
use motu_x86::flags::rflags;

/// A state at `rip` whose vector registers hold values of `format`.
pub(super) fn random(rng: &mut Rng, mode: Mode, rip: u64, format: Format) -> UserState {
    let mut state = UserState::new(rip);
    state.selectors = mode.selectors();
    redraw(rng, &mut state, format, Drawn::ALL);
    narrow(&mut state);
    state
}

/// Takes away what 32-bit code cannot have in its registers.
pub(super) fn narrow(state: &mut UserState) {
    if state.mode() == Mode::Bits32 {
        state.gpr[..8].iter_mut().for_each(|register| *register &= 0xffff_ffff);
        state.gpr[8..].fill(0);
    }
}

/// What of a state differs between the cases of one instruction: what the instruction reads or changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drawn {
    /// Bit i for general register i.
    general: u16,
    /// Bit i for vector register i.
    vectors: u16,
    x87: bool,
    /// It reads or loads a segment register.
    segments: bool,
    /// How many cases in a hundred have EFLAGS.AC set.
    pub(super) alignment_checks: u64,
}

/// Features of instructions that read or write the x87 state.
const X87_FEATURES: [CpuidFeature; 7] = [
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::MMX,
    CpuidFeature::FXSR,
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEOPT,
];

impl Drawn {
    const ALL: Self = Self { general: u16::MAX, vectors: u16::MAX, x87: true, segments: false, alignment_checks: 0 };

    pub(super) fn by(instruction: &Instruction, info: &InstructionInfo) -> Self {
        let x87 = instruction.cpuid_features().iter().any(|feature| X87_FEATURES.contains(feature));
        let mut drawn = Self { x87, ..Self::default() };
        for used in info.used_registers() {
            let register = used.register();
            let full = register.full_register();
            if register.is_vector_register() {
                drawn.vectors |= 1 << (register.number() & 15);
            } else if full.is_gpr64() {
                drawn.general |= 1 << (full.number() & 15);
            }
            drawn.x87 |= register.is_mm() || register.is_st();
            drawn.segments |= register.is_segment_register() && is_explicit(instruction, register);
        }
        // What used memory is addressed by counts too.
        for used in info.used_memory() {
            for register in [used.base(), used.index()] {
                if register.full_register().is_gpr64() {
                    drawn.general |= 1 << (register.full_register().number() & 15);
                }
            }
        }
        drawn
    }
}

/// Draws what `drawn` says anew, and the flags and MXCSR.
pub(super) fn redraw(rng: &mut Rng, state: &mut UserState, format: Format, drawn: Drawn) {
    for (index, register) in state.gpr.iter_mut().enumerate() {
        if drawn.general >> index & 1 != 0 {
            *register = values::integer(rng);
        }
    }
    state.rflags = state.rflags & !(rflags::ARITHMETIC | rflags::DF | rflags::AC) | rng.next() & rflags::ARITHMETIC;
    if rng.chance(25) {
        state.rflags |= rflags::DF;
    }
    if rng.chance(drawn.alignment_checks) {
        state.rflags |= rflags::AC;
    }
    if state.mode() == Mode::Bits32 {
        segments(rng, &mut state.selectors);
    } else if drawn.segments {
        // Because GS is not null, the native side gives the host its own segments back.
        state.selectors[4] = rng.pick(&[0, DATA]);
        state.selectors[5] = DATA;
    }
    let format = format.vary(rng);
    for index in (0..16).filter(|index| drawn.vectors >> index & 1 != 0) {
        let mut value = [0; 32];
        format.fill(rng, &mut value);
        state.set_ymm(index, &value);
    }
    state.set_mxcsr(mxcsr(rng));
    if drawn.x87 {
        x87(rng, state, format);
    }
}

const DATA: u16 = 0x2b;

/// Whether `register` is not only there to address memory.
fn is_explicit(instruction: &Instruction, register: Register) -> bool {
    use Mnemonic as M;
    let operand = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n) == register);
    operand || matches!(instruction.mnemonic(), M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs)
}

/// Data segments that 32-bit code may find: flat ones mostly, else null or read-only ones.
fn segments(rng: &mut Rng, selectors: &mut [u16; 6]) {
    const CODE: u16 = 0x23;
    for (index, selector) in selectors.iter_mut().enumerate() {
        let odd = match index {
            0 | 3 => rng.chance(4),
            4 | 5 => rng.chance(30),
            _ => continue,
        };
        // IRETQ, by which the case is entered, would take the RPL of another null selector away.
        *selector = if odd { rng.pick(&[0, CODE]) } else { DATA };
    }
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
    if rng.chance(50) {
        let opcode = rng.next() as u16 & 0x7ff;
        state.xsave.0[6..8].copy_from_slice(&opcode.to_le_bytes());
        for pointer in [8, 16] {
            // Canonical, and in the lower half: processors keep no more of it.
            let value = rng.next() >> rng.pick(&[17, 33]);
            state.xsave.0[pointer..pointer + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
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
