//! Inputs by chance: pieces of a corpus, changed here and there. What is used where libFuzzer cannot be
//! built; it knows nothing of coverage.

/// A generator of numbers (SplitMix64) that gives the same ones for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; zero if there is nothing below it.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % (end as u64).max(1)) as usize
    }
}

/// Values at which behaviour changes.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];

/// An input of at most `max_len` bytes, made from one or two of `corpus`.
pub fn input(random: &mut Random, corpus: &[Vec<u8>], max_len: usize) -> Vec<u8> {
    let one = |random: &mut Random| corpus.get(random.below(corpus.len())).cloned().unwrap_or_default();
    let mut bytes = one(random);
    if random.below(4) == 0 {
        let other = one(random);
        let (keep, from) = (random.below(bytes.len() + 1), random.below(other.len() + 1));
        bytes.truncate(keep);
        bytes.extend(other.get(from..).unwrap_or_default());
    }
    for _ in 0..=random.below(8) {
        change(random, &mut bytes);
    }
    bytes.truncate(max_len);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    match random.below(6) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            let edge = EDGES[random.below(EDGES.len())].wrapping_neg().wrapping_mul(1 + 2 * (random.draw() & 1));
            overwrite(bytes, at, &edge.to_le_bytes()[..1 << random.below(4)]);
        }
        2 => overwrite(bytes, at, &random.draw().to_le_bytes()[..1 << random.below(4)]),
        3 => {
            let new: Vec<u8> = (0..=random.below(24)).map(|_| random.draw() as u8).collect();
            bytes.splice(at..at, new);
        }
        4 => {
            let end = (at + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let from = random.below(bytes.len() + 1);
            let end = (from + random.below(64)).min(bytes.len());
            let piece = bytes.get(from..end).unwrap_or_default().to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes.iter_mut().skip(at).zip(new).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_repeat_with_their_seed_and_keep_their_bound() {
        let corpus = [vec![1; 40], vec![2; 7], Vec::new()];
        let made = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| input(&mut random, &corpus, 50)).collect::<Vec<_>>()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
        assert!(made(3).iter().all(|bytes| bytes.len() <= 50));
    }
}
