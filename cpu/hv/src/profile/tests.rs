use super::Frames;
use proptest::prelude::*;

/// Memory from address `start` on.
fn reader(start: u64, memory: &[u8]) -> impl Fn(u64, &mut [u8]) -> bool {
    move |address, out| {
        let first = address.wrapping_sub(start) as usize;
        let found = memory.get(first..first.saturating_add(out.len()));
        found.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }
}

const STACK: u64 = 0x7fff_0000_0000;

/// A stack at [`STACK`] of these words, and code at 0x1000 below it.
fn chain(words: &[u64], code: &[u8], frame: u64) -> Vec<u64> {
    let mut memory = vec![0x90; 0x1000];
    memory[..code.len()].copy_from_slice(code);
    memory.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let frames = Frames { word: 8, code_base: 0, read: reader(STACK - 0x1000, &memory) };
    let mut callers = [0; 4];
    let count = frames.callers(STACK, frame, &mut callers);
    callers[..count].to_vec()
}

const CODE: u64 = STACK - 0x1000;
/// call +0; call [rax]; call r12; call [rbp+8]; call [rsp+8]; call [rip+0]; call [rax*8+0]
const CALLS: [u8; 29] = [
    0xe8, 0, 0, 0, 0, 0xff, 0x10, 0x41, 0xff, 0xd4, 0xff, 0x55, 8, 0xff, 0x54, 0x24, 8, 0xff, 0x15, 0, 0, 0, 0, 0xff,
    0x14, 0xc5, 0, 0, 0,
];

#[test]
fn frames_are_followed_to_the_outermost() {
    let words = [0, STACK + 32, CODE + 5, 0, STACK + 48, CODE + 7, 0, CODE + 10];
    assert_eq!(chain(&words, &CALLS, STACK + 8), [CODE + 5, CODE + 7, CODE + 10]);
    assert_eq!(chain(&words, &CALLS, STACK + 32), [CODE + 7, CODE + 10]);
    assert_eq!(chain(&words, &CALLS, STACK + 40), [] as [u64; 0], "no frame lies there");
}

#[test]
fn every_form_of_call_is_one_and_other_places_are_none() {
    let code = [&CALLS[..], &[0]].concat();
    let ends = [5, 7, 10, 13, 17, 23, 30];
    for offset in 0..64 {
        let found = chain(&[0, CODE + offset], &code, STACK);
        assert_eq!(!found.is_empty(), ends.contains(&offset), "{offset}");
    }
}

#[test]
fn what_only_looks_like_frames_is_left_out() {
    let back = CODE + 5;
    let none: [u64; 0] = [];
    assert_eq!(chain(&[STACK, back], &CALLS, STACK), [back], "a frame that is its own caller's");
    assert_eq!(chain(&[0, back, 0, back], &CALLS, STACK - 16), none, "below the stack pointer");
    assert_eq!(chain(&[0, 0, back, 0], &CALLS, STACK + 7), none, "not aligned");
    assert_eq!(chain(&[0, back], &CALLS, STACK + (1 << 21)), none, "far away");
    assert_eq!(chain(&[0, back | 1 << 63], &CALLS, STACK), none, "back into the other half");
    assert_eq!(chain(&[0, back | 1 << 50], &CALLS, STACK), none, "not canonical");
    assert_eq!(chain(&[0, STACK + 8], &CALLS, STACK), none, "behind no call");
}

#[test]
fn as_many_callers_as_there_is_room_for() {
    let words: Vec<u64> = (0..8).flat_map(|n| [STACK + 16 * (n + 1), CODE + 5]).collect();
    assert_eq!(chain(&words, &CALLS, STACK), [CODE + 5; 4]);
}

#[test]
fn frames_of_32_bits_have_a_code_segment() {
    let words: [u32; 4] = [0x1008, 0xffff_ff05, 0, 0xffff_ff05];
    let memory = [&[0xe8, 0, 0, 0, 0, 0, 0, 0][..], &words.map(u32::to_le_bytes).concat()].concat();
    // Code at 0xff8, the stack at 0x1000; the segment of code begins at 0x10f8.
    let frames = Frames { word: 4, code_base: 0x10f8, read: reader(0xff8, &memory) };
    let mut callers = [0; 4];
    assert_eq!(frames.callers(0x1000, 0x1000, &mut callers), 2);
    assert_eq!(callers, [0xffd, 0xffd, 0, 0]);
}

proptest! {
    #[test]
    fn no_stack_panics(words in prop::collection::vec(any::<u64>(), 0..64), frame: u64, stack: u64, word in 0..2) {
        let memory: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let frames = Frames { word: if word == 0 { 4 } else { 8 }, code_base: stack, read: reader(stack, &memory) };
        let mut callers = [0; 8];
        prop_assert!(frames.callers(stack, frame, &mut callers) <= callers.len());
        prop_assert!(frames.callers(stack, stack, &mut callers) <= callers.len());
    }
}
