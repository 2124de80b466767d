//! Limits of the cache and of its memory.

use super::*;

#[test]
fn no_page_is_writable_and_executable() {
    let mut cache = cache();
    let mut guest = Guest::new();
    assert_eq!(guest.run(&mut cache, &[0x0f, 0x58, 0xc1]), Outcome::Done);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let ours: Vec<&str> = maps.lines().filter(|line| line.contains("motu-native")).collect();
    assert!(ours.iter().any(|line| line.contains("r-x")), "{maps}");
    assert!(ours.iter().any(|line| line.contains("rw-")), "{maps}");
    assert!(maps.lines().all(|line| !line.contains("wx")), "{maps}");
}

/// `vaddps xmmA, xmmB, xmmC` for all A, B and C: 4096 different instructions.
fn many() -> impl Iterator<Item = [u8; 5]> {
    (0..4096u32).map(|n| {
        let (a, b, c) = (n & 15, n >> 4 & 15, n >> 8);
        let inverted = |bit: u32, at: u32| (!bit & 1) << at;
        let second = inverted(a >> 3, 7) | 1 << 6 | inverted(c >> 3, 5) | 1;
        let third = (!b & 15) << 3;
        [0xc4, second as u8, third as u8, 0x58, (0xc0 | (a & 7) << 3 | c & 7) as u8]
    })
}

#[test]
fn a_full_table_is_emptied_and_old_thunks_are_stale() {
    let mut cache = NativeCache::with_limits(2 << 20, 64).expect("executable memory");
    let first = cache.compile(&decode(&[0x0f, 0x58, 0xc1])).expect("addps");
    let generation = cache.generation();
    for code in many().take(200) {
        cache.compile(&decode(&code)).expect("vaddps");
        assert!(cache.stubs.len() <= 64);
    }
    assert_ne!(cache.generation(), generation);
    let mut guest = Guest::new();
    let outcome = cache.run(&first, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory);
    assert_eq!(outcome, Outcome::Stale);
}

#[test]
fn a_full_arena_is_emptied_and_new_code_runs() {
    let mut cache = NativeCache::with_limits(16 << 10, usize::MAX).expect("executable memory");
    let generation = cache.generation();
    let mut guest = Guest::new();
    for number in 0..16 {
        guest.set_xmm(number, [0, 0, 0x80, 0x3f].repeat(4).try_into().unwrap());
    }
    for code in many().filter(|code| code[4] & 0x38 == 0 && code[1] & 0x80 != 0).take(400) {
        let expected = {
            let single = |register: usize| f32::from_le_bytes(guest.xmm(register)[..4].try_into().unwrap());
            let (b, c) = (!code[2] >> 3 & 15, code[4] & 7 | (!code[1] >> 5 & 1) << 3);
            single(b.into()) + single(c.into())
        };
        assert_eq!(guest.run(&mut cache, &code), Outcome::Done);
        assert_eq!(f32::from_le_bytes(guest.xmm(0)[..4].try_into().unwrap()), expected, "{}", decode(&code));
    }
    assert_ne!(cache.generation(), generation);
}

#[test]
fn a_thunk_of_another_cache_does_not_run() {
    let (mut one, mut other) = (cache(), cache());
    let thunk = one.compile(&decode(&[0x0f, 0x58, 0xc1])).expect("addps");
    other.compile(&decode(&[0x0f, 0x58, 0xc1])).expect("addps");
    let mut guest = Guest::new();
    let outcome = other.run(&thunk, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory);
    assert_eq!(outcome, Outcome::Stale);
}

#[test]
fn addressing_forms_share_a_stub() {
    let mut cache = cache();
    // paddb xmm0, [rax]; [rip+8]; fs:[rsp+rbx*4+0x1000]
    for code in [
        &[0x66, 0x0f, 0xfc, 0x00][..],
        &[0x66, 0x0f, 0xfc, 0x05, 8, 0, 0, 0],
        &[0x64, 0x66, 0x0f, 0xfc, 0x84, 0x9c, 0, 0x10, 0, 0],
    ] {
        let thunk = cache.compile(&decode(code)).expect("paddb");
        assert_eq!(thunk.memory(), Some(MemoryOperand { size: 16, reads: true, writes: false, alignment: 16 }));
    }
    assert_eq!(cache.stubs.len(), 1);
}

#[test]
fn what_is_not_a_computation_is_refused() {
    let mut cache = cache();
    for (code, reason) in [
        (&[0x90][..], NotNative::Interpreted),                           // nop
        (&[0xff, 0xe0], NotNative::Interpreted),                         // jmp rax
        (&[0x0f, 0xa2], NotNative::Interpreted),                         // cpuid
        (&[0x0f, 0x01, 0xd0], NotNative::Interpreted),                   // xgetbv
        (&[0xf3, 0xa4], NotNative::Interpreted),                         // rep movsb
        (&[0x0f, 0x44, 0xc1], NotNative::Interpreted),                   // cmove
        (&[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1], NotNative::Interpreted), // vaddps zmm
        (&[0xc4, 0xe2, 0x75, 0xdc, 0xc2], NotNative::Interpreted),       // vaesenc ymm
        (&[0x0f, 0x04], NotNative::Interpreted),                         // undefined
        (&[0x0f, 0xae, 0x00], NotNative::StateImage),                    // fxsave
        (&[0xd9, 0x30], NotNative::StateImage),                          // fnstenv
        (&[0x66, 0x0f, 0xf7, 0xc1], NotNative::PerElement),              // maskmovdqu
        (&[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08], NotNative::PerElement),  // vpgatherdd
    ] {
        assert_eq!(cache.compile(&decode(code)).map(|_| ()), Err(reason), "{code:x?}");
    }
}

proptest::proptest! {
    /// Whatever bytes a guest has, compiling and running them is safe in every mode.
    #[test]
    fn random_code_never_panics(code: [u8; 15], bitness in 0..3usize, map in 0..4usize, seed: u64) {
        let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x66, 0x0f, 0x38], &[0xc5]];
        let code: Vec<u8> = maps[map].iter().chain(&code).copied().take(15).collect();
        let instruction = decode_as([16, 32, 64][bitness], &code);
        let mut cache = NativeCache::with_limits(64 << 10, 64).expect("executable memory");
        if let Ok(thunk) = cache.compile(&instruction) {
            let mut guest = oracle::Random(seed | 1).guest();
            let outcome = cache.run(&thunk, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory);
            proptest::prop_assert_ne!(outcome, Outcome::Stale);
            thunk.record_x87_pointers(&mut guest.fpu, 1, Some(2));
        }
    }
}
