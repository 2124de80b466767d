use super::super::asm::Reg;
use super::*;
use iced_x86::{Decoder, DecoderOptions};

const RSI: Reg = Reg(6);
const RDI: Reg = Reg(7);

/// Plans code whose flags are dead where `dead` says. Operands are aligned as MOVAPS has them.
fn plan_where(code: &[u8], dead: impl Fn(usize) -> bool) -> Plan {
    plan_in(Mode::default(), code, dead)
}

fn plan_in(mode: Mode, code: &[u8], dead: impl Fn(usize) -> bool) -> Plan {
    let mut info = InstructionInfoFactory::new();
    let mut steps = Vec::new();
    for instruction in Decoder::with_ip(mode.bits(), code, 0x40_0000, DecoderOptions::NONE) {
        assert!(!instruction.is_invalid());
        let memory = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory);
        let operand = memory.map(|n| Operand {
            size: instruction.memory_size().size() as u32,
            write: info.info(&instruction).op_access(n) != OpAccess::Read,
            alignment: if instruction.mnemonic() == Mnemonic::Movaps { 16 } else { 1 },
        });
        let kind = match instruction.mnemonic() {
            Mnemonic::Push => Kind::Push,
            Mnemonic::Pop => Kind::Pop,
            Mnemonic::Lea => Kind::Lea,
            Mnemonic::Cpuid => Kind::Interpret,
            Mnemonic::Swapgs => Kind::SwapGs,
            Mnemonic::Je => Kind::JumpIf,
            _ => Kind::Copy,
        };
        steps.push((instruction, Selected { kind, operand: operand.filter(|_| kind != Kind::Lea), units: 0 }));
    }
    let live: Vec<u32> = (0..steps.len()).map(|n| if dead(n) { 0 } else { super::super::flags::ALL }).collect();
    Planner::new().plan(mode, &steps, &live, &mut info)
}

fn plan(code: &[u8]) -> Plan {
    plan_where(code, |_| true)
}

fn at(base: Reg, disp: i32) -> Address {
    Address::Computed(Computed { base: Some(Home::Host(base)), index: None, disp, short: false, segment: None })
}

fn check(before: usize, address: Address, size: u32, write: bool, word: u8) -> Check {
    Check { before, address, operand: Operand { size, write, alignment: 1 }, word, last: 0, early: false }
}

/// The checks, without their last members.
fn checks(plan: &Plan) -> Vec<Check> {
    plan.checks.iter().map(|check| Check { last: 0, ..*check }).collect()
}

/// Word, index and displacement.
type Place = (u8, Option<(Reg, u8)>, i32);

/// Of each explicit operand.
fn members(plan: &Plan) -> Vec<Option<Place>> {
    plan.steps.iter().map(|step| step.operand.map(|m| (m.word, m.mem.index, m.mem.disp))).collect()
}

#[test]
fn fields_of_a_structure_share_a_check() {
    // MOV RAX, [RDI+8]; MOV [RDI+16], ECX.
    let plan = plan(&[0x48, 0x8b, 0x47, 0x08, 0x89, 0x4f, 0x10]);
    assert_eq!(checks(&plan), [check(0, at(RDI, 8), 12, true, 0)]);
    assert_eq!(members(&plan), [Some((0, Some((RDI, 0)), 8)), Some((0, Some((RDI, 0)), 16))]);
}

#[test]
fn one_access_is_checked_by_itself() {
    assert_eq!(checks(&plan(&[0x48, 0x8b, 0x47, 0x08])), []);
}

#[test]
fn one_access_is_checked_earlier_where_flags_are_dead_only_there() {
    // CMP EAX, ECX; MOV RDX, [RDI].
    let code = [0x39, 0xc8, 0x48, 0x8b, 0x17];
    assert_eq!(checks(&plan_where(&code, |n| n == 0)), [check(0, at(RDI, 0), 8, false, 0)]);
    assert_eq!(checks(&plan_where(&code, |_| false)), []);
    // LEA RDI, [RSI]; MOV RDX, [RDI]: the register is not there yet.
    assert_eq!(checks(&plan_where(&[0x48, 0x8d, 0x3e, 0x48, 0x8b, 0x17], |n| n == 0)), []);
}

#[test]
fn changes_by_constants_are_followed() {
    // MOV RAX, [RDI]; ADD RDI, 8; MOV RCX, [RDI]; LEA RDI, [RDI-16]; INC RDI; MOV AL, [RDI].
    let code = [
        0x48, 0x8b, 0x07, 0x48, 0x83, 0xc7, 0x08, 0x48, 0x8b, 0x0f, 0x48, 0x8d, 0x7f, 0xf0, 0x48, 0xff, 0xc7, 0x8a,
        0x07,
    ];
    let followed = plan(&code);
    assert_eq!(followed.checks.first().map(|check| check.last), Some(5));
    assert_eq!(checks(&followed), [check(0, at(RDI, -7), 23, false, 0)]);
    let operand = Some((0, Some((RDI, 0)), 0));
    assert_eq!(members(&followed), [operand, None, operand, None, None, operand]);
    // Seen from where flags are dead.
    assert_eq!(checks(&plan_where(&code[3..], |n| n == 0)), [check(0, at(RDI, -7), 23, false, 0)]);
    assert_eq!(checks(&plan_where(&code[3..], |n| n == 1)), [check(1, at(RDI, -15), 23, false, 0)]);
}

#[test]
fn what_the_word_includes_goes_into_the_displacement() {
    // MOV EAX, [RSI+RCX*4]; ADD RSI, 16; INC RCX; MOV EAX, [RSI+RCX*4+1].
    let code = [0x8b, 0x04, 0x8e, 0x48, 0x83, 0xc6, 0x10, 0x48, 0xff, 0xc1, 0x8b, 0x44, 0x8e, 0x01];
    let plan = plan(&code);
    let rcx = Some((Reg(1), 2));
    assert_eq!(members(&plan), [Some((0, rcx, 0)), None, None, Some((0, rcx, 17))]);
    assert_eq!(plan.checks.first().map(|check| check.operand.size), Some(25));
}

#[test]
fn other_changes_end_a_group() {
    let between = |change: &[u8]| {
        let load = [0x48, 0x8b, 0x04, 0x24];
        plan(&[&load[..], change, &load[..]].concat()).checks.len()
    };
    assert_eq!(between(&[]), 1);
    assert_eq!(between(&[0x48, 0x83, 0xec, 0x10]), 1, "SUB RSP, 16");
    assert_eq!(between(&[0x48, 0x81, 0xec, 0, 0x10, 0, 0]), 0, "SUB RSP, 4096: too far");
    assert_eq!(between(&[0x48, 0x29, 0xcc]), 0, "SUB RSP, RCX");
    assert_eq!(between(&[0x83, 0xec, 0x10]), 0, "SUB ESP, 16");
    assert_eq!(between(&[0x48, 0x87, 0xe1]), 0, "XCHG RCX, RSP");
    assert_eq!(between(&[0x48, 0x0f, 0x44, 0xe1]), 0, "CMOVZ RSP, RCX");
    assert_eq!(between(&[0xc4, 0x62, 0xdb, 0xf6, 0xc1]), 0, "MULX R8, RSP, RCX");
    assert_eq!(between(&[0x0f, 0xa2]), 0, "CPUID: the interpreter's");
    assert_eq!(between(&[0x5c]), 1, "POP RSP: the load before and the word popped");
}

#[test]
fn the_stack_is_a_group_like_others() {
    // PUSH RBX; MOV [RSP-16], RAX; POP RBX.
    let plan = plan(&[0x53, 0x48, 0x89, 0x44, 0x24, 0xf0, 0x5b]);
    assert_eq!(checks(&plan), [check(0, at(R9, -24), 24, true, 0)]);
    let stack: Vec<_> = plan.steps.iter().map(|step| step.stack.map(|m| m.mem.disp)).collect();
    assert_eq!(stack, [Some(-8), None, Some(0)]);
    assert_eq!(members(&plan)[1], Some((0, Some((R9, 0)), -16)));
}

#[test]
fn aligned_members_are_checked_together_where_they_are_aligned_alike() {
    // MOV AL, [RSI]; MOVAPS XMM0, [RSI+24]; MOVAPS XMM1, [RSI+40].
    let code = [0x8a, 0x06, 0x0f, 0x28, 0x46, 0x18, 0x0f, 0x28, 0x4e, 0x28];
    let alike = plan(&code);
    let operand = Operand { size: 64, write: false, alignment: 16 };
    assert_eq!(checks(&alike), [Check { before: 0, address: at(RSI, -8), operand, word: 0, last: 0, early: false }]);
    // MOVAPS XMM0, [RSI]; MOVAPS XMM1, [RSI+8]: one of them faults.
    assert_eq!(checks(&plan(&[0x0f, 0x28, 0x06, 0x0f, 0x28, 0x4e, 0x08])), []);
}

#[test]
fn far_accesses_are_no_group() {
    // MOV AL, [RSI]; MOV CL, [RSI+256].
    assert_eq!(checks(&plan(&[0x8a, 0x06, 0x8a, 0x8e, 0, 1, 0, 0])), []);
    assert_eq!(plan(&[0x8a, 0x06, 0x8a, 0x8e, 255, 0, 0, 0]).checks.len(), 1);
}

#[test]
fn constants_in_a_page_are_a_group() {
    // MOV EAX, [RIP+0x10]; MOV ECX, [RIP+0x10].
    let plan = plan(&[0x8b, 0x05, 0x10, 0, 0, 0, 0x8b, 0x0d, 0x10, 0, 0, 0]);
    assert_eq!(checks(&plan), [check(0, Address::Constant(0x40_0016), 10, false, 0)]);
    assert_eq!(members(&plan), [Some((0, None, 0x16)), Some((0, None, 0x1c))]);
}

#[test]
fn a_check_is_not_before_what_changes_the_meaning_of_its_address() {
    // MOV EAX, GS:[8]; MOV ECX, GS:[16], and the same without GS by RIP.
    let by_gs = [0x65, 0x8b, 0x04, 0x25, 8, 0, 0, 0, 0x65, 0x8b, 0x0c, 0x25, 16, 0, 0, 0];
    let by_rip = [0x8b, 0x05, 0x10, 0, 0, 0, 0x8b, 0x0d, 0x10, 0, 0, 0];
    let place = |before: &[u8], code: &[u8]| {
        let plan = plan_where(&[before, code].concat(), |n| n == 0);
        plan.checks.first().map(|check| check.before)
    };
    let (swapgs, cpuid) = ([0x0f, 0x01, 0xf8], [0x0f, 0xa2]);
    assert_eq!(place(&[0x90], &by_gs), Some(0));
    assert_eq!(place(&swapgs, &by_gs), Some(1));
    assert_eq!(place(&cpuid, &by_gs), Some(1));
    assert_eq!(place(&[0x90], &by_rip), Some(0));
    assert_eq!(place(&swapgs, &by_rip), Some(0));
    assert_eq!(place(&cpuid, &by_rip), Some(1));
}

#[test]
fn a_check_does_not_come_between_the_members_of_another_group_if_it_need_not() {
    // ADD [RDI+8], RSI; ADD DWORD [RDI+16], 1; POP RBX.
    let code = [0x48, 0x01, 0x77, 0x08, 0x83, 0x47, 0x10, 0x01, 0x5b];
    let structure = check(0, at(RDI, 8), 12, true, 1);
    assert_eq!(checks(&plan_where(&code, |n| n < 2)), [check(0, at(R9, 0), 8, false, 0), structure]);
    // MOV R9, [RDI]; ADD RSP, R9 before: RSP is not what it was.
    let moved = [&[0x4c, 0x8b, 0x0f, 0x4c, 0x01, 0xcc][..], &code].concat();
    let places: Vec<usize> = plan_where(&moved, |n| n < 4).checks.iter().map(|check| check.before).collect();
    assert_eq!(places, [0, 3]);
}

#[test]
fn groups_that_overlap_have_words_of_their_own_and_too_many_are_none() {
    // MOV AL, [r] for ten registers, and once more.
    let once: Vec<u8> = (0..10u8)
        .flat_map(|n| match n {
            0..=1 => [0x3e, 0x8a, 0x06 + n],
            _ => [0x41, 0x8a, [0x01, 0x02, 0x03, 0x06, 0x07, 0x00, 0x06, 0x07][usize::from(n - 2)]],
        })
        .collect();
    let plan = plan(&[once.clone(), once].concat());
    let mut words: Vec<_> = plan.checks.iter().map(|check| check.word).collect();
    words.dedup();
    assert_eq!(words, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_word_serves_the_next_group_when_it_is_not_needed_any_more() {
    // MOV AX, [RSI]; MOV AX, [RSI+2]; MOV AX, [RDI]; MOV AX, [RDI+2].
    let code = [0x66, 0x8b, 0x06, 0x66, 0x8b, 0x46, 2, 0x66, 0x8b, 0x07, 0x66, 0x8b, 0x47, 2];
    assert_eq!(checks(&plan(&code)), [check(0, at(RSI, 0), 4, false, 0), check(2, at(RDI, 0), 4, false, 0)]);
}

#[test]
fn what_a_jump_may_skip_is_only_looked_at_before_it() {
    // JE +16; MOV EAX, [RDI]; MOV ECX, [RDI+4]: behind the jump, or before it if flags are dead only there.
    let code = [0x74, 0x10, 0x8b, 0x07, 0x8b, 0x4f, 0x04];
    assert_eq!(checks(&plan(&code)), [check(1, at(RDI, 0), 8, false, 0)]);
    let early = Check { early: true, ..check(0, at(RDI, 0), 8, false, 0) };
    assert_eq!(checks(&plan_where(&code, |n| n == 0)), [early]);
    assert_eq!(checks(&plan_where(&code, |_| false)), [check(1, at(RDI, 0), 8, false, 0)]);
    // MOV EAX, [RDI]; JE +16; MOV ECX, [RDI+4]: reads share the check before it.
    let code = [0x8b, 0x07, 0x74, 0x10, 0x8b, 0x4f, 0x04];
    assert_eq!(checks(&plan(&code)), [check(0, at(RDI, 0), 8, false, 0)]);
    // MOV EAX, [RDI]; JE +16; MOV [RDI+4], ECX; MOV [RDI+8], ECX: the right to write is asked for behind it.
    let code = [0x8b, 0x07, 0x74, 0x10, 0x89, 0x4f, 0x04, 0x89, 0x4f, 0x08];
    assert_eq!(checks(&plan(&code)), [check(2, at(RDI, 4), 8, true, 0)]);
    // MOV [RDI], EAX; JE +16; MOV [RDI+4], ECX: it was asked for anyway.
    let code = [0x89, 0x07, 0x74, 0x10, 0x89, 0x4f, 0x04];
    assert_eq!(checks(&plan(&code)), [check(0, at(RDI, 0), 8, true, 0)]);
}
