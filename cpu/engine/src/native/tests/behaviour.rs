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

#[test]
fn the_usual_instructions_have_the_alignment_of_the_manual() {
    let mut cache = cache();
    for (code, size, alignment) in [
        (&[0x0f, 0x28, 0x00][..], 16, 16),              // movaps xmm0, [rax]
        (&[0x0f, 0x10, 0x00], 16, 1),                   // movups xmm0, [rax]
        (&[0xf3, 0x0f, 0x6f, 0x00], 16, 1),             // movdqu xmm0, [rax]
        (&[0x0f, 0x58, 0x00], 16, 16),                  // addps xmm0, [rax]
        (&[0xf2, 0x0f, 0x58, 0x00], 8, 1),              // addsd xmm0, [rax]
        (&[0x66, 0x0f, 0x3a, 0x63, 0x00, 0x0c], 16, 1), // pcmpistri xmm0, [rax], 12
        (&[0x66, 0x0f, 0x38, 0xdc, 0x00], 16, 16),      // aesenc xmm0, [rax]
        (&[0xc5, 0xfc, 0x28, 0x00], 32, 32),            // vmovaps ymm0, [rax]
        (&[0xc5, 0xfc, 0x10, 0x00], 32, 1),             // vmovups ymm0, [rax]
        (&[0xc5, 0xf8, 0x58, 0x00], 16, 1),             // vaddps xmm0, xmm0, [rax]
        (&[0xc5, 0xfd, 0xe7, 0x00], 32, 32),            // vmovntdq [rax], ymm0
        (&[0x0f, 0xfc, 0x00], 8, 1),                    // paddb mm0, [rax]
        (&[0xdb, 0x28], 10, 1),                         // fld tbyte [rax]
    ] {
        let thunk = cache.compile(&decode(code)).expect("native");
        let memory = thunk.memory().expect("a memory operand");
        assert_eq!((memory.size, memory.alignment), (size, alignment), "{}", decode(code));
    }
}

#[test]
fn reading_and_writing_operands_are_told_apart() {
    let mut cache = cache();
    for (code, reads, writes) in [
        (&[0x0f, 0x11, 0x00][..], false, true), // movups [rax], xmm0
        (&[0x0f, 0x10, 0x00], true, false),     // movups xmm0, [rax]
        (&[0xdd, 0x18], false, true),           // fstp qword [rax]
        (&[0x0f, 0xae, 0x10], true, false),     // ldmxcsr [rax]
        (&[0x0f, 0xae, 0x18], false, true),     // stmxcsr [rax]
    ] {
        let memory = cache.compile(&decode(code)).expect("native").memory().expect("a memory operand");
        assert_eq!((memory.reads, memory.writes), (reads, writes), "{}", decode(code));
    }
    // A prefetch of an unmapped page is no fault.
    assert_eq!(cache.compile(&decode(&[0x0f, 0x18, 0x08])).expect("prefetcht0").memory(), None);
}

#[test]
fn units_follow_the_operands() {
    let mut cache = cache();
    for (code, unit, vex, waiting) in [
        (&[0xd8, 0xc1][..], Unit::X87, false, true),          // fadd st0, st1
        (&[0xdb, 0xe3], Unit::X87, false, false),             // fninit
        (&[0xdf, 0xe0], Unit::X87, false, false),             // fnstsw ax
        (&[0x9b], Unit::Wait, false, true),                   // wait
        (&[0x0f, 0x77], Unit::Mmx, false, true),              // emms
        (&[0x66, 0x0f, 0x2a, 0x00], Unit::Mmx, false, false), // cvtpi2pd xmm0, [rax]
        (&[0x0f, 0x58, 0xc1], Unit::Sse, false, false),       // addps xmm0, xmm1
        (&[0x0f, 0xae, 0x10], Unit::Sse, false, false),       // ldmxcsr [rax]
        (&[0xc5, 0xf8, 0x77], Unit::Avx, true, false),        // vzeroupper
        (&[0x0f, 0xc3, 0x00], Unit::Integer, false, false),   // movnti [rax], eax
        (&[0xc4, 0xe2, 0x78, 0xf2, 0xc1], Unit::Integer, true, false), // andn eax, eax, ecx
    ] {
        let instruction = decode(code);
        let thunk = cache.compile(&instruction).expect("native");
        assert_eq!((thunk.unit(), thunk.is_vex(), thunk.is_waiting_x87()), (unit, vex, waiting), "{instruction}");
    }
}

#[test]
fn thunks_know_whether_they_touch_flags() {
    let mut cache = cache();
    for (code, touches) in [
        (&[0x0f, 0x58, 0xc1][..], false),         // addps xmm0, xmm1
        (&[0xc4, 0xe2, 0x7b, 0xf6, 0xc1], false), // mulx eax, eax, ecx
        (&[0xdd, 0xe1], false),                   // fucom st1
        (&[0xdb, 0xe9], true),                    // fucomi st0, st1
        (&[0xda, 0xc1], true),                    // fcmovb st0, st1
        (&[0x66, 0x0f, 0x2e, 0xc1], true),        // ucomisd xmm0, xmm1
        (&[0xf3, 0x0f, 0xb8, 0xc1], true),        // popcnt eax, ecx
    ] {
        assert_eq!(cache.compile(&decode(code)).expect("native").touches_flags(), touches, "{}", decode(code));
    }
}

#[test]
fn instructions_of_32_bit_and_16_bit_code_run() {
    let mut cache = cache();
    for bitness in [16, 32] {
        let mut guest = Guest::new();
        guest.gpr[3] = 0xf0f;
        let prefix: &[u8] = if bitness == 16 { &[0x66] } else { &[] };
        let popcnt = [prefix, &[0xf3, 0x0f, 0xb8, 0xe3]].concat(); // popcnt esp, ebx
        let thunk = cache.compile(&decode_as(bitness, &popcnt)).expect("popcnt");
        let outcome = cache.run(&thunk, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory);
        assert_eq!((outcome, guest.gpr[4]), (Outcome::Done, 8));
        // Eight registers are all that VZEROALL clears outside 64-bit mode.
        guest.set_xmm(7, [1; 16]);
        guest.set_xmm(8, [1; 16]);
        let thunk = cache.compile(&decode_as(bitness, &[0xc5, 0xfc, 0x77])).expect("vzeroall");
        assert_eq!(
            cache.run(&thunk, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory),
            Outcome::Done
        );
        assert_eq!((guest.xmm(7), guest.xmm(8)), ([0; 16], [1; 16]));
    }
}

#[test]
fn ldmxcsr_refuses_reserved_bits() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.memory.set_dword(0x1_0000);
    assert_eq!(guest.run(&mut cache, &[0x0f, 0xae, 0x10]), Outcome::GeneralProtection);
    assert_eq!(mxcsr(&guest.fpu), MXCSR_DEFAULT);
    guest.memory.set_dword(0x9fc0);
    assert_eq!(guest.run(&mut cache, &[0x0f, 0xae, 0x10]), Outcome::Done);
    assert_eq!(mxcsr(&guest.fpu), 0x9fc0);
}

#[test]
fn an_unmasked_x87_exception_waits_for_the_next_instruction() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.memory.set_word(0x37f & !4);
    assert_eq!(guest.run(&mut cache, &[0xd9, 0x28]), Outcome::Done); // fldcw: zero divide unmasked
    assert_eq!(guest.run(&mut cache, &[0xd9, 0xee]), Outcome::Done); // fldz
    assert_eq!(guest.run(&mut cache, &[0xd9, 0xe8]), Outcome::Done); // fld1
    assert!(!pending_x87_exception(&guest.fpu));
    assert_eq!(guest.run(&mut cache, &[0xd8, 0xf1]), Outcome::Done); // fdiv st0, st1
    assert!(pending_x87_exception(&guest.fpu));
    let before = guest.fpu.clone();
    for waiting in [&[0xd8, 0xc1][..], &[0x9b], &[0x0f, 0xfc, 0xc1], &[0xd9, 0x28]] {
        assert_eq!(guest.run(&mut cache, waiting), Outcome::X87Exception);
    }
    assert_eq!(guest.fpu, before);
    assert_eq!(guest.run(&mut cache, &[0xdf, 0xe0]), Outcome::Done); // fnstsw ax
    assert_eq!(guest.gpr[0] & 0x80ff, 0x8084);
    assert_eq!(guest.run(&mut cache, &[0xdb, 0xe2]), Outcome::Done); // fnclex
    assert!(!pending_x87_exception(&guest.fpu));
}

#[test]
fn x87_pointers_are_the_guests() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    let pointers =
        |guest: &Guest| (x87::instruction_pointer(&guest.fpu), x87::data_pointer(&guest.fpu), x87::opcode(&guest.fpu));
    let fld = cache.compile(&decode(&[0xdd, 0x00])).expect("fld qword [rax]");
    assert_eq!(cache.run(&fld, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory), Outcome::Done);
    assert_eq!(pointers(&guest), (0, 0, 0));
    fld.record_x87_pointers(&mut guest.fpu, 0x1000, Some(0x2000));
    assert_eq!(pointers(&guest), (0x1000, 0, 0), "FDP and FOP are recorded with an unmasked exception only");
    // A control instruction records nothing; without a memory operand the data pointer stays.
    let fnclex = cache.compile(&decode(&[0xdb, 0xe2])).expect("fnclex");
    fnclex.record_x87_pointers(&mut guest.fpu, 0x3000, None);
    assert_eq!(pointers(&guest), (0x1000, 0, 0));
    guest.memory.set_word(0x37f & !4);
    assert_eq!(guest.run(&mut cache, &[0xd9, 0x28]), Outcome::Done);
    assert_eq!(guest.run(&mut cache, &[0xd9, 0xe8]), Outcome::Done); // fld1
    let fdiv = cache.compile(&decode(&[0xd8, 0xf1])).expect("fdiv st0, st1");
    assert_eq!(cache.run(&fdiv, &mut guest.gpr, &mut guest.flags, &mut guest.fpu, &mut guest.memory), Outcome::Done);
    fdiv.record_x87_pointers(&mut guest.fpu, 0x4000, None);
    assert_eq!(pointers(&guest), (0x4000, 0, 0x0f1));
    fdiv.record_x87_pointers(&mut guest.fpu, 0x4000, Some(0x2000));
    assert_eq!(pointers(&guest), (0x4000, 0x2000, 0x0f1));
}

#[test]
fn host_state_is_as_before() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    set_mxcsr(&mut guest.fpu, 0xff80);
    guest.set_double(0, 1.0);
    guest.set_double(1, 3.0);
    assert_eq!(guest.run(&mut cache, &DIVSD_0_1), Outcome::Done);
    assert_eq!(guest.run(&mut cache, &[0xd9, 0xe8]), Outcome::Done); // fld1
    let (mut control, mut tags) = (0u32, [0u8; 28]);
    // SAFETY: both instructions only store; FNSTENV's masking of exceptions finds them masked.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", "fnstenv [{}]", in(reg) &raw mut control, in(reg) &raw mut tags);
    }
    assert_eq!(control & 0xffc0, 0x1f80);
    assert_eq!(tags[0..2], [0x7f, 3]);
    assert_eq!(tags[8..10], [0xff, 0xff]);
}

#[test]
fn carry_and_overflow_chains_are_separate() {
    let (mut cache, mut guest) = (cache(), Guest::new());
    guest.flags = 2 | 1 | 1 << 11 | 1 << 9;
    guest.gpr[0] = u64::MAX;
    guest.gpr[1] = 0;
    assert_eq!(guest.run(&mut cache, &[0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc1]), Outcome::Done); // adcx rax, rcx
    assert_eq!((guest.gpr[0], guest.flags), (0, 2 | 1 | 1 << 11 | 1 << 9));
    guest.gpr[0] = 5;
    assert_eq!(guest.run(&mut cache, &[0xf3, 0x48, 0x0f, 0x38, 0xf6, 0xc1]), Outcome::Done); // adox rax, rcx
    assert_eq!((guest.gpr[0], guest.flags), (6, 2 | 1 | 1 << 9));
}
