use super::*;
use motu_x86::flags::rflags;

const RIP: u64 = layout::code(1) + 0x800;
const WINDOW: u64 = layout::window(1);
const WRITABLE: u64 = 2 * layout::PAGE;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

/// Runs `code` on a state that `prepare` made; gives what came of it.
fn run(code: &[u8], prepare: impl FnOnce(&mut UserState, &mut [u8])) -> (End, UserState, Vec<u8>) {
    let mut oracle = Oracle::new().unwrap();
    let mut before = UserState::new(RIP);
    oracle.window().fill(0);
    prepare(&mut before, oracle.window());
    let mut after = UserState::new(0);
    let end = oracle.run_one(&before, code, &mut after);
    (end, after, oracle.window().to_vec())
}

fn exception(vector: u8) -> End {
    End::Exception { vector, error_code: 0, address: 0 }
}

fn page_fault(error_code: u32, address: u64) -> End {
    End::Exception { vector: Exception::PF, error_code, address }
}

#[test]
fn add_sets_result_and_flags_and_nothing_else() {
    // add rax, rcx
    let (end, after, _) = run(&[0x48, 0x01, 0xc8], |s, _| {
        for (index, value) in s.gpr.iter_mut().enumerate() {
            *value = 0x1111_1111_1111_1111 * index as u64;
        }
        s.gpr[RAX] = u64::MAX;
        s.gpr[RCX] = 1;
    });
    assert_eq!(end, End::Ok);
    assert_eq!(after.rip, RIP + 3);
    assert_eq!(after.gpr[RAX], 0);
    assert_eq!(after.gpr[RCX], 1);
    for index in 2..16 {
        assert_eq!(after.gpr[index], 0x1111_1111_1111_1111 * index as u64, "register {index}");
    }
    let expected = rflags::CF | rflags::ZF | rflags::PF | rflags::AF;
    assert_eq!(after.rflags & rflags::ARITHMETIC, expected);
}

#[test]
fn adc_reads_carry() {
    // adc eax, 0
    let (end, after, _) = run(&[0x83, 0xd0, 0x00], |s, _| {
        s.gpr[RAX] = 0xffff_ffff_7fff_ffff;
        s.rflags |= rflags::CF;
    });
    assert_eq!(end, End::Ok);
    assert_eq!(after.gpr[RAX], 0x8000_0000);
    assert_eq!(after.rflags & rflags::ARITHMETIC, rflags::OF | rflags::SF | rflags::AF | rflags::PF);
}

#[test]
fn direction_flag_is_given_and_taken_back() {
    // nop; then std
    let (_, after, _) = run(&[0x90], |s, _| s.rflags |= rflags::DF);
    assert_ne!(after.rflags & rflags::DF, 0);
    let (_, after, _) = run(&[0xfd], |_, _| ());
    assert_ne!(after.rflags & rflags::DF, 0);
}

#[test]
fn division_by_zero_changes_nothing() {
    // div rcx
    let (end, after, _) = run(&[0x48, 0xf7, 0xf1], |s, _| {
        s.gpr[RAX] = 5;
        s.gpr[RDX] = 7;
    });
    assert_eq!(end, exception(Exception::DE));
    assert_eq!((after.rip, after.gpr[RAX], after.gpr[RDX]), (RIP, 5, 7));
}

#[test]
fn undefined_instruction() {
    let (end, after, _) = run(&[0x0f, 0x0b], |_, _| ());
    assert_eq!(end, exception(Exception::UD));
    assert_eq!(after.rip, RIP);
}

#[test]
fn store_across_the_window_s_end_faults_at_the_guard() {
    // mov [rbx], rax
    let end_of_window = WINDOW + layout::WINDOW_SIZE;
    let (end, after, window) = run(&[0x48, 0x89, 0x03], |s, _| {
        s.gpr[RBX] = end_of_window - 4;
        s.gpr[RAX] = u64::MAX;
    });
    assert_eq!(end, page_fault(pf::USER | pf::WRITE, end_of_window));
    assert_eq!(after.rip, RIP);
    assert!(window.iter().all(|b| *b == 0), "nothing was stored");
}

#[test]
fn store_to_the_read_only_page_is_a_protection_violation() {
    // mov [rbx], al
    let (end, ..) = run(&[0x88, 0x03], |s, _| s.gpr[RBX] = WINDOW + layout::PAGE);
    assert_eq!(end, page_fault(pf::USER | pf::WRITE | pf::PRESENT, WINDOW + layout::PAGE));
}

#[test]
fn both_areas_show_the_same_window() {
    // mov [disp32], al
    let low = layout::window(0) + WRITABLE + 5;
    let mut code = vec![0x88, 0x04, 0x25];
    code.extend_from_slice(&(low as u32).to_le_bytes());
    let (end, _, window) = run(&code, |s, _| s.gpr[RAX] = 0xa5);
    assert_eq!(end, End::Ok);
    assert_eq!(window[WRITABLE as usize + 5], 0xa5);
    // mov al, [rbx]
    let (_, after, _) = run(&[0x8a, 0x03], |s, w| {
        w[7] = 0x5a;
        s.gpr[RBX] = WINDOW + 7;
    });
    assert_eq!(after.gpr[RAX], 0x5a);
}

#[test]
fn rip_relative_operands_reach_the_window() {
    // mov eax, [rip + disp32]
    let displacement = (WINDOW + 16).wrapping_sub(RIP + 6) as u32;
    let mut code = vec![0x8b, 0x05];
    code.extend_from_slice(&displacement.to_le_bytes());
    let (end, after, _) = run(&code, |_, w| w[16..20].copy_from_slice(&0x1234_5678u32.to_le_bytes()));
    assert_eq!((end, after.gpr[RAX]), (End::Ok, 0x1234_5678));
}

#[test]
fn non_canonical_addresses_are_general_protection_or_stack_faults() {
    // mov al, [rbx]; then mov al, [rsp]
    let (end, ..) = run(&[0x8a, 0x03], |s, _| s.gpr[RBX] = 1 << 63);
    assert_eq!(end, exception(Exception::GP));
    let (end, ..) = run(&[0x8a, 0x04, 0x24], |s, _| s.gpr[RSP] = 1 << 63);
    assert_eq!(end, exception(Exception::SS));
}

#[test]
fn misaligned_movaps_is_general_protection() {
    // movaps xmm1, [rbx]
    let (end, ..) = run(&[0x0f, 0x28, 0x0b], |s, _| s.gpr[RBX] = WINDOW + 8);
    assert_eq!(end, exception(Exception::GP));
}

#[test]
fn unmasked_simd_exception_leaves_the_destination() {
    // divss xmm0, xmm1: 1.0 / 0.0 with ZE unmasked
    let mut one = [0x77; 32];
    one[..4].copy_from_slice(&1.0f32.to_le_bytes());
    let (end, after, _) = run(&[0xf3, 0x0f, 0x5e, 0xc1], |s, _| {
        s.set_ymm(0, &one);
        s.set_mxcsr(0x1f80 & !(1 << 9));
    });
    assert_eq!(end, exception(Exception::XM));
    assert_eq!(after.ymm(0), one);
    assert_eq!(after.mxcsr(), (0x1f80 & !(1 << 9)) | 1 << 2, "ZE is set, the rest as before");
}

#[test]
fn masked_simd_exception_gives_infinity() {
    // vdivps ymm0, ymm0, ymm1
    let (end, after, _) = run(&[0xc5, 0xfc, 0x5e, 0xc1], |s, _| {
        let mut ones = [0; 32];
        ones.chunks_mut(4).for_each(|lane| lane.copy_from_slice(&1.0f32.to_le_bytes()));
        s.set_ymm(0, &ones);
    });
    assert_eq!(end, End::Ok);
    for lane in after.ymm(0).chunks(4) {
        assert_eq!(lane, f32::INFINITY.to_le_bytes());
    }
}

#[test]
fn pending_x87_exception_stops_the_next_waiting_instruction() {
    // fld1, with ZE flagged and unmasked
    let (end, after, _) = run(&[0xd9, 0xe8], |s, _| {
        s.xsave.0[0..2].copy_from_slice(&0x037bu16.to_le_bytes());
        s.xsave.0[2..4].copy_from_slice(&0x8084u16.to_le_bytes());
    });
    assert_eq!(end, exception(Exception::MF));
    assert_eq!(after.xsave.0[4], 0, "nothing was pushed");
}

#[test]
fn x87_registers_are_given_and_taken_back() {
    // fadd st0, st1
    let one = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
    let (end, after, _) = run(&[0xd8, 0xc1], |s, _| {
        s.set_st(0, &one);
        s.set_st(1, &one);
        s.xsave.0[3] = 6 << 3;
        s.xsave.0[4] = 0xc0;
    });
    assert_eq!(end, End::Ok);
    assert_eq!(after.st(0), [0, 0, 0, 0, 0, 0, 0, 0x80, 0x00, 0x40]);
    assert_eq!(after.st(1), one);
}

#[test]
fn locked_compare_and_exchange() {
    // lock cmpxchg [rbx], rcx
    let at = WRITABLE as usize;
    let (end, after, window) = run(&[0xf0, 0x48, 0x0f, 0xb1, 0x0b], |s, w| {
        w[at..at + 8].copy_from_slice(&99u64.to_le_bytes());
        s.gpr[RAX] = 99;
        s.gpr[RCX] = 0x0123_4567_89ab_cdef;
        s.gpr[RBX] = WINDOW + WRITABLE;
    });
    assert_eq!(end, End::Ok);
    assert_eq!(&window[at..at + 8], 0x0123_4567_89ab_cdefu64.to_le_bytes());
    assert_eq!(after.rflags & rflags::ARITHMETIC, rflags::ZF | rflags::PF);
}

#[test]
fn repeated_move_into_the_guard_keeps_its_progress() {
    // rep movsb
    let end_of_window = WINDOW + layout::WINDOW_SIZE;
    let (end, after, window) = run(&[0xf3, 0xa4], |s, w| {
        w[..10].copy_from_slice(b"0123456789");
        s.gpr[RSI] = WINDOW;
        s.gpr[RDI] = end_of_window - 4;
        s.gpr[RCX] = 10;
    });
    assert_eq!(end, page_fault(pf::USER | pf::WRITE, end_of_window));
    assert_eq!((after.gpr[RSI], after.gpr[RDI], after.gpr[RCX]), (WINDOW + 4, end_of_window, 6));
    assert_eq!(&window[window.len() - 4..], b"0123");
}

#[test]
fn stack_instructions_use_the_guest_s_stack() {
    // push rcx
    let (end, after, window) = run(&[0x51], |s, _| {
        s.gpr[RSP] = WINDOW + WRITABLE + 64;
        s.gpr[RCX] = 0xdead_beef;
    });
    assert_eq!((end, after.gpr[RSP]), (End::Ok, WINDOW + WRITABLE + 56));
    assert_eq!(&window[WRITABLE as usize + 56..][..8], 0xdead_beefu64.to_le_bytes());
}

#[test]
fn taken_branches_end_at_their_target() {
    // jmp +0x10, jmp rax, jmp rax to an unmapped page, jmp +0
    let (end, after, _) = run(&[0xeb, 0x10], |_, _| ());
    assert_eq!((end, after.rip), (End::Ok, RIP + 0x12));
    let (end, after, _) = run(&[0xff, 0xe0], |s, _| s.gpr[RAX] = layout::code(0) + 3);
    assert_eq!((end, after.rip), (End::Ok, layout::code(0) + 3));
    let (end, after, _) = run(&[0xff, 0xe0], |s, _| s.gpr[RAX] = WINDOW);
    assert_eq!((end, after.rip), (End::Ok, WINDOW));
    let (end, after, _) = run(&[0xeb, 0x00], |_, _| ());
    assert_eq!((end, after.rip), (End::Ok, RIP + 2));
}

#[test]
fn an_instruction_may_end_with_the_code_page_or_be_cut_by_it() {
    let mut oracle = Oracle::new().unwrap();
    let mut after = UserState::new(0);
    let end_of_code = layout::code(0) + layout::CODE_SIZE;
    // mov eax, imm32
    let code = [0xb8, 1, 2, 3, 4];
    let end = oracle.run_one(&UserState::new(end_of_code - 5), &code, &mut after);
    assert_eq!((end, after.gpr[RAX], after.rip), (End::Ok, 0x0403_0201, end_of_code));
    let end = oracle.run_one(&UserState::new(end_of_code - 3), &code, &mut after);
    assert_eq!(end, page_fault(pf::USER | pf::FETCH, end_of_code));
    assert_eq!(after.rip, end_of_code - 3);
    // The code before it is back to INT3.
    let end = oracle.run_one(&UserState::new(end_of_code - 6), &[0x90], &mut after);
    assert_eq!((end, after.rip), (End::Ok, end_of_code - 5));
}

#[test]
fn popf_may_set_the_alignment_check() {
    // popfq with AC, DF, NT and ID; the host must come back without them.
    let flags = rflags::AC | rflags::DF | rflags::NT | rflags::ID;
    let (end, after, _) = run(&[0x9d], |s, w| {
        w[..8].copy_from_slice(&flags.to_le_bytes());
        s.gpr[RSP] = WINDOW;
    });
    assert_eq!(end, End::Ok);
    assert_eq!(after.rflags, flags | rflags::IF | rflags::FIXED_1);
    let (end, ..) = run(&[0x8b, 0x03], |s, _| {
        s.gpr[RBX] = WINDOW + 1;
        s.rflags |= rflags::AC;
    });
    assert_eq!(end, exception(Exception::AC));
}

/// Runs 32-bit `code` on a state that `prepare` made.
fn run_narrow(code: &[u8], prepare: impl FnOnce(&mut UserState)) -> (End, UserState) {
    let mut oracle = Oracle::new().unwrap();
    let mut before = UserState::new(layout::code(0) + 0x800);
    before.selectors = crate::Mode::Bits32.selectors();
    oracle.window().fill(0);
    prepare(&mut before);
    let mut after = UserState::new(0);
    let end = oracle.run_one(&before, code, &mut after);
    (end, after)
}

#[test]
fn compatibility_mode_runs_what_64_bit_mode_has_not() {
    // inc eax: a REX prefix in 64-bit mode
    let (end, after) = run_narrow(&[0x40], |s| s.gpr[RAX] = 7);
    assert_eq!((end, after.gpr[RAX] as u32, after.rip), (End::Ok, 8, layout::code(0) + 0x801));
    // aaa
    let (end, after) = run_narrow(&[0x37], |s| s.gpr[RAX] = 0x0b);
    assert_eq!((end, after.gpr[RAX] as u16), (End::Ok, 0x0101));
    // jmp +0x10
    let (end, after) = run_narrow(&[0xeb, 0x10], |_| ());
    assert_eq!((end, after.rip), (End::Ok, layout::code(0) + 0x812));
}

#[test]
fn segment_registers_are_given_and_taken_back() {
    // mov al, [ebx] with DS null; then mov gs, ax, and the host's own FS is not lost
    let (end, after) = run_narrow(&[0x8a, 0x03], |s| {
        s.gpr[RBX] = layout::window(0);
        s.selectors[3] = 0;
    });
    assert_eq!((end, after.selectors), (exception(Exception::GP), [0x2b, 0x23, 0x2b, 0, 0, 0]));
    let (end, after) = run_narrow(&[0x8e, 0xe8], |s| s.gpr[RAX] = 0x23);
    assert_eq!((end, after.selectors[5]), (End::Ok, 0x23));
    // mov fs, ax: no such descriptor
    let (end, _) = run_narrow(&[0x8e, 0xe0], |s| s.gpr[RAX] = 0xfff8);
    assert_eq!(end, End::Exception { vector: Exception::GP, error_code: 0xfff8, address: 0 });
    assert_eq!(std::thread::current().name().map(|name| name.contains("segment_registers")), Some(true));
}

#[test]
fn all_of_the_first_4_gib_faults_but_the_window() {
    // mov al, [ebx]
    for address in [0x10_0000, 0x0fff_ffff, 0x5000_0000, 0xffff_ffff] {
        let (end, _) = run_narrow(&[0x8a, 0x03], |s| s.gpr[RBX] = address);
        assert_eq!(end, page_fault(pf::USER, address));
    }
}
