//! Every admitted instruction form, on random state, against the same instruction run directly.

use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use motu_x86::flags::rflags;

use super::oracle::{Oracle, Random, address_register, build, compare, encodes};
use super::*;

fn check(instruction: &Instruction, cache: &mut NativeCache, oracle: &mut Oracle, random: &mut Random) {
    let mut info = InstructionInfoFactory::new();
    let pointer = address_register(instruction, &mut info);
    let mut direct = *instruction;
    let in_memory = instruction.op_kinds().any(|k| k == OpKind::Memory);
    if in_memory {
        direct.set_memory_base(pointer);
    }
    let Some(direct) = encodes(&direct) else { return };
    let thunk = cache.compile(&direct).unwrap_or_else(|error| panic!("{direct}: {error}"));
    let offset = oracle.compile(direct, pointer);
    let size = thunk.memory().map_or(0, |m| usize::from(m.size));
    for _ in 0..6 {
        let mut before = random.guest();
        if matches!(direct.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr) {
            before.memory.0[2..4].fill(0);
        }
        let (mut ours, mut theirs) = (before.clone(), before.clone());
        let outcome = cache.run(&thunk, &mut ours.gpr, &mut ours.flags, &mut ours.fpu, &mut ours.memory);
        assert_eq!(outcome, Outcome::Done, "{direct}");
        let mut memory = before.memory.0;
        oracle.run(offset, &mut memory[..size], 0, &mut theirs);
        let undefined = undefined_flags(&direct);
        compare(&format!("{direct} ({:?})", direct.code()), &before, &ours, &theirs, undefined);
        if let Some(operand) = thunk.memory() {
            assert_eq!(ours.memory.0[..size], memory[..size], "memory of {direct}");
            assert!(operand.writes || ours.memory.0 == before.memory.0, "{direct} wrote its source");
        }
        let pointers = if direct.mnemonic() == Mnemonic::Fninit { [0; 18] } else { x87::pointers(&before.fpu) };
        assert_eq!(x87::pointers(&ours.fpu), pointers, "{direct}");
    }
}

fn undefined_flags(instruction: &Instruction) -> u64 {
    use iced_x86::RflagsBits as B;
    let bits = instruction.rflags_undefined();
    [
        (B::CF, rflags::CF),
        (B::PF, rflags::PF),
        (B::AF, rflags::AF),
        (B::ZF, rflags::ZF),
        (B::SF, rflags::SF),
        (B::OF, rflags::OF),
    ]
    .into_iter()
    .filter(|&(bit, _)| bits & bit != 0)
    .fold(0, |all, (_, flag)| all | flag)
}

#[test]
fn every_form_agrees_with_the_host() {
    let (mut cache, mut oracle) = (cache(), Oracle::new());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut forms = 0;
    for code in Code::values() {
        let mut probe = Instruction::default();
        probe.set_code(code);
        if classify::admit(&probe).is_err() {
            continue;
        }
        let mut found = false;
        for memory in [false, true] {
            for _ in 0..4 {
                let Some(instruction) = build(code, memory, &mut random) else { continue };
                found = true;
                check(&instruction, &mut cache, &mut oracle, &mut random);
                forms += 1;
            }
        }
        assert!(found, "no operands found for {code:?}");
    }
    assert!(forms > 5000, "only {forms} forms");
}
