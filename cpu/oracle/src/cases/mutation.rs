//! Instructions with some of their bytes changed, for what decoders find hard: prefixes in places where
//! they count for nothing, prefixes that forbid an instruction, reserved fields, too many bytes.

use super::encoding::Encoded;
use crate::native::MAX_INSTRUCTION;
use crate::rng::Rng;

const PREFIXES: [u8; 10] = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x48];

/// `encoded` changed at random; what it is now, the decoder says.
pub(super) fn mutate(encoded: &Encoded, rng: &mut Rng) -> Encoded {
    let mut bytes = encoded.all_bytes();
    match rng.below(16) {
        0..6 => (0..=rng.below(3)).for_each(|_| insert(&mut bytes, rng.below(5) as usize, prefix(rng))),
        6..9 => bytes[rng.below(5) as usize] = rng.next() as u8,
        9..11 => bytes[rng.below(5) as usize] ^= 1 << rng.below(8),
        11 => (0..rng.below(16)).for_each(|_| insert(&mut bytes, 0, prefix(rng))),
        12 => rng.fill(&mut bytes),
        13 => {
            rng.fill(&mut bytes[1..]);
            bytes[0] = 0x0f;
        }
        14 => {
            rng.fill(&mut bytes[1..]);
            bytes[0] = rng.pick(&[0xc4, 0xc5]);
            // A map that exists, mostly.
            if bytes[0] == 0xc4 && rng.chance(90) {
                bytes[1] = bytes[1] & 0xe0 | rng.below(4) as u8;
            }
        }
        _ => {
            insert(&mut bytes, 0, prefix(rng));
            bytes[rng.below(6) as usize] = rng.next() as u8;
        }
    }
    Encoded::decode(bytes, encoded.instruction.ip(), encoded.mode)
}

fn prefix(rng: &mut Rng) -> u8 {
    if rng.chance(30) { 0x40 | rng.below(16) as u8 } else { rng.pick(&PREFIXES) }
}

fn insert(bytes: &mut [u8; MAX_INSTRUCTION], at: usize, byte: u8) {
    bytes.copy_within(at..MAX_INSTRUCTION - 1, at + 1);
    bytes[at] = byte;
}
