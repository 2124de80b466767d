//! Operand values that find mistakes: edges first, plain random ones too.

use crate::rng::Rng;
use iced_x86::MemorySize;

/// How an instruction reads its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Integer,
    F16,
    F32,
    F64,
    F80,
    /// Packed decimal, 80 bits.
    Bcd,
}

impl Format {
    pub(super) fn of(size: MemorySize) -> Self {
        match size.element_type() {
            MemorySize::Float16 => Self::F16,
            MemorySize::Float32 => Self::F32,
            MemorySize::Float64 => Self::F64,
            MemorySize::Float80 => Self::F80,
            MemorySize::Bcd => Self::Bcd,
            _ => Self::Integer,
        }
    }

    /// This format, or now and then another.
    pub(super) fn vary(self, rng: &mut Rng) -> Self {
        if rng.chance(85) { self } else { rng.pick(&[Self::Integer, Self::F32, Self::F64]) }
    }

    fn lane(self, rng: &mut Rng) -> ([u8; 16], usize) {
        let (value, bytes) = match self {
            Self::Integer => return integer_lane(rng),
            Self::F16 => (u128::from(float(rng, 10, 5)), 2),
            Self::F32 => (u128::from(float(rng, 23, 8)), 4),
            Self::F64 => (u128::from(float(rng, 52, 11)), 8),
            Self::F80 => (float80(rng), 10),
            Self::Bcd => (bcd(rng), 10),
        };
        (value.to_le_bytes(), bytes)
    }

    /// Fills `bytes` with values of this format.
    pub(super) fn fill(self, rng: &mut Rng, bytes: &mut [u8]) {
        // Sometimes all lanes are the same, so that comparisons find equals.
        let same = rng.chance(10).then(|| self.lane(rng));
        let mut rest = bytes;
        while !rest.is_empty() {
            let (lane, size) = same.unwrap_or_else(|| self.lane(rng));
            let (now, later) = rest.split_at_mut(size.min(rest.len()));
            now.copy_from_slice(&lane[..now.len()]);
            rest = later;
        }
    }
}

const INTEGER_EDGES: [u64; 20] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    u64::MAX - 1,
    0xffff_ffff_8000_0000,
];

/// A 64-bit operand.
pub(super) fn integer(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 | 1 => rng.pick(&INTEGER_EDGES),
        2 => rng.below(65),
        3 => rng.below(65).wrapping_neg(),
        4 => 1 << rng.below(64),
        5 => rng.next() >> rng.below(64),
        6 => rng.pick(&INTEGER_EDGES).wrapping_add(rng.below(7)).wrapping_sub(3),
        _ => rng.next(),
    }
}

fn integer_lane(rng: &mut Rng) -> ([u8; 16], usize) {
    let mut lane = [0; 16];
    match rng.below(4) {
        0 => lane[..8].copy_from_slice(&integer(rng).to_le_bytes()),
        1 => lane[..8].fill(rng.pick(&[0, 1, 0x7f, 0x80, 0xff])),
        2 => {
            let word = rng.pick(&[0u16, 1, 0x7fff, 0x8000, 0xffff, 0xff80, 0x7f]).to_le_bytes();
            lane[..8].chunks_mut(2).for_each(|to| to.copy_from_slice(&word));
        }
        _ => rng.fill(&mut lane[..8]),
    }
    (lane, 8)
}

/// An IEEE 754 number with `fraction` and `exponent` bits.
fn float(rng: &mut Rng, fraction: u32, exponent: u32) -> u64 {
    let fraction_mask = (1u64 << fraction) - 1;
    let exponent_max = (1u64 << exponent) - 1;
    let bias = exponent_max >> 1;
    let quiet = 1 << (fraction - 1);
    let sign = rng.below(2) << (fraction + exponent);
    let random_fraction = rng.next() & fraction_mask;
    let (e, f) = match rng.below(20) {
        0 => (0, 0),
        1 => (bias, 0),
        2 => (exponent_max, 0),
        3 => (exponent_max, quiet),
        4 => (exponent_max, quiet | random_fraction),
        5 => (exponent_max, (random_fraction & !quiet).max(1)),
        6 => (0, 1),
        7 => (0, fraction_mask),
        8 => (0, random_fraction),
        9 => (1, 0),
        10 => (exponent_max - 1, fraction_mask),
        // Near the limits of the integers, and halves, which are what rounding is about.
        11 => ((bias + rng.pick(&[15, 30, 31, 32, 62, 63, 64])).min(exponent_max - 1), rng.pick(&[0, fraction_mask])),
        12 => ((bias + rng.below(8)).wrapping_sub(1), rng.next() & (fraction_mask << (fraction - 4)) & fraction_mask),
        13..=16 => ((bias + rng.below(32)).wrapping_sub(16).min(exponent_max), random_fraction),
        _ => (rng.below(exponent_max + 1), random_fraction),
    };
    sign | (e << fraction) | f
}

/// A number of the x87, with the encodings that it refuses (SDM vol. 1, 8.2.2) among them.
fn float80(rng: &mut Rng) -> u128 {
    const INTEGER_BIT: u64 = 1 << 63;
    const QUIET: u64 = 1 << 62;
    let random = rng.next();
    let (exponent, significand) = match rng.below(20) {
        0 => (0, 0),
        1 => (0x3fff, INTEGER_BIT),
        2 => (0x7fff, INTEGER_BIT),
        3 => (0x7fff, INTEGER_BIT | QUIET),
        4 => (0x7fff, INTEGER_BIT | (random & (QUIET - 1)).max(1)),
        5 => (0x7fff, random | INTEGER_BIT | QUIET),
        6 => (0, random & !INTEGER_BIT),
        // A pseudo-denormal, an unnormal, a pseudo-infinity, a pseudo-NaN.
        7 => (0, random | INTEGER_BIT),
        8 => (rng.below(0x7ffe) + 1, random & !INTEGER_BIT),
        9 => (0x7fff, 0),
        10 => (0x7fff, random & !INTEGER_BIT),
        11 => (0x7ffe, u64::MAX),
        12 => (1, INTEGER_BIT),
        13 => (0x3fff + rng.pick(&[15, 30, 31, 32, 62, 63, 64]), rng.pick(&[INTEGER_BIT, u64::MAX])),
        14 => (0x3ffe + rng.below(8), INTEGER_BIT | (random & (0xf << 59))),
        15..=17 => (0x3fff - 32 + rng.below(64), random | INTEGER_BIT),
        _ => (rng.below(0x8000), random | INTEGER_BIT),
    };
    let sign = rng.below(2) << 15;
    (u128::from(sign | exponent) << 64) | u128::from(significand)
}

fn bcd(rng: &mut Rng) -> u128 {
    let digits = (0..18).fold(0, |value, _| value << 4 | u128::from(rng.below(10)));
    digits | (u128::from(rng.pick(&[0u64, 0x80])) << 72)
}

/// An 80-bit register of the x87.
pub(super) fn st(rng: &mut Rng) -> [u8; 10] {
    let mut value = [0; 10];
    value.copy_from_slice(&float80(rng).to_le_bytes()[..10]);
    value
}
