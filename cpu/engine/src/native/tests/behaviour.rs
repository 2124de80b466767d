//! One architectural rule per test.

use super::*;

const ADDSD_0_1: [u8; 4] = [0xf2, 0x0f, 0x58, 0xc1];
const DIVSD_0_1: [u8; 4] = [0xf2, 0x0f, 0x5e, 0xc1];

#[test]
fn scalar_add_reads_and_writes_the_guest_registers() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.set_double(0, 1.5);
    guest.set_double(1, 2.25);
    assert_eq!(guest.run(&mut cache, &ADDSD_0_1), Outcome::Done);
    assert_eq!(guest.double(0), 3.75);
    assert_eq!(guest.double(1), 2.25);
}

#[test]
fn legacy_sse_keeps_the_high_half_and_vex_128_clears_it() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.set_high(0, [7; 16]);
    assert_eq!(guest.run(&mut cache, &[0x66, 0x0f, 0xef, 0xc1]), Outcome::Done); // pxor xmm0, xmm1
    assert_eq!(guest.high(0), [7; 16]);
    assert_eq!(guest.run(&mut cache, &[0xc5, 0xf9, 0xef, 0xc1]), Outcome::Done); // vpxor xmm0, xmm0, xmm1
    assert_eq!(guest.high(0), [0; 16]);
}

#[test]
fn stack_pointer_works_as_an_operand() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.gpr[0] = 0xff0f;
    assert_eq!(guest.run(&mut cache, &[0xf3, 0x48, 0x0f, 0xb8, 0xe0]), Outcome::Done); // popcnt rsp, rax
    assert_eq!(guest.gpr[4], 12);
    assert_eq!(guest.run(&mut cache, &[0xf2, 0x48, 0x0f, 0x2a, 0xc4]), Outcome::Done); // cvtsi2sd xmm0, rsp
    assert_eq!(guest.double(0), 12.0);
}

#[test]
fn high_byte_registers_of_callee_saved_registers_are_found() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.gpr[3] = 0x4200;
    let mut other = guest.clone();
    other.gpr[3] = 0x42;
    assert_eq!(guest.run(&mut cache, &[0xf2, 0x0f, 0x38, 0xf0, 0xc7]), Outcome::Done); // crc32 eax, bh
    assert_eq!(other.run(&mut cache, &[0xf2, 0x0f, 0x38, 0xf0, 0xc3]), Outcome::Done); // crc32 eax, bl
    assert_eq!(guest.gpr[0], other.gpr[0]);
    assert_ne!(guest.gpr[0], 0);
}

#[test]
fn unmasked_division_by_zero_commits_nothing() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.set_double(0, 1.0);
    set_mxcsr(&mut guest.fpu, MXCSR_DEFAULT & !(1 << 9));
    assert_eq!(guest.run(&mut cache, &DIVSD_0_1), Outcome::SimdException);
    assert_eq!(guest.double(0), 1.0);
    assert_eq!(mxcsr(&guest.fpu), (MXCSR_DEFAULT & !(1 << 9)) | 1 << 2);
}
