//! The hash that directories are sorted by: half of MD4 (fs/ext4/hash.c, `half_md4_transform` of lib/crypto or fs/ext4).

/// `s_def_hash_version`, and the version in a directory's index; that bytes are unsigned is a flag of the superblock's.
pub(crate) const HALF_MD4: u8 = 1;

/// What the last bit of a hash is for: collisions that go on in the next block.
const MASK: u32 = !1;
/// A hash that is none: the end of a directory in 32 bits (EXT4_HTREE_EOF_32BIT).
const END: u32 = 0x7fff_ffff;

/// Of a name, by the file system's `s_hash_seed`.
pub(crate) fn hash(name: &[u8], seed: &[u32; 4]) -> u32 {
    // A seed of zeros stands for MD4's own.
    let mut state = if *seed == [0; 4] { [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476] } else { *seed };
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(32..).unwrap_or_default();
    }
    let [_, hash, ..] = state;
    let hash = hash & MASK;
    if hash == END << 1 { (END - 1) << 1 } else { hash }
}

/// The next 32 bytes as words, filled up with the length (`str2hashbuf_unsigned`).
fn words(rest: &[u8]) -> [u32; 8] {
    let len = rest.len() as u32 & 0xff;
    let pad = len | len << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(pad, |value, byte| value << 8 | u32::from(*byte));
    }
    words
}

/// Three rounds of eight steps each.
fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    const ORDERS: [[usize; 8]; 3] = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 3, 5, 7, 0, 2, 4, 6], [3, 7, 2, 6, 1, 5, 0, 4]];
    const SHIFTS: [[u32; 4]; 3] = [[3, 7, 11, 19], [3, 5, 9, 13], [3, 9, 11, 15]];
    const ADDED: [u32; 3] = [0, 0x5a82_7999, 0x6ed9_eba1];
    let [mut a, mut b, mut c, mut d] = *state;
    for round in 0..3 {
        for (step, word) in ORDERS[round].into_iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = a.wrapping_add(mixed).wrapping_add(input[word]).wrapping_add(ADDED[round]);
            (a, b, c, d) = (d, sum.rotate_left(SHIFTS[round][step % 4]), b, c);
        }
    }
    for (state, added) in state.iter_mut().zip([a, b, c, d]) {
        *state = state.wrapping_add(added);
    }
}
