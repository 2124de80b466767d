//! Programs in lock-step: they end, and what is wrong in their translation is found.

use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
use crate::options::{Options, Translate};
use motu_hv::{Exit, Vcpu};

const PROGRAM: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;
const STACK: u64 = DATA + 0x1800;
/// What programs have as an operand, to be found in their host code.
const OPERAND: u32 = 0x1357_9bdf;
/// MOV [RBP], ECX, which is the bus's page; JMP to itself.
const END: [u8; 5] = [0x89, 0x4d, 0x00, 0xeb, 0xfe];

struct Program {
    harness: UserHarness,
    bus: KickingBus,
}

impl Program {
    fn new(code: &[u8]) -> Self {
        let data = (0..3).map(|n| UserPage { linear: DATA + n * 4096, frame: 1 + n, writable: true });
        let own = UserPage { linear: PROGRAM, frame: 0, writable: false };
        let pages: Vec<UserPage> = std::iter::once(own).chain(data).collect();
        let options = Options { translate: Translate::Lockstep, stress: Some(1), ..Options::default() };
        let mut harness = UserHarness::with_options("v2-2026", &pages, &options).unwrap();
        harness.write(0, &[code, &END].concat());
        let bus = KickingBus(harness.vcpu().kicker());
        Self { harness, bus }
    }

    fn run(&mut self, registers: &[(u8, u64)]) -> Exit {
        let cpu = self.harness.cpu();
        cpu.rip = PROGRAM;
        for &(register, value) in [(5, BUS), (4, STACK)].iter().chain(registers) {
            cpu.set_gpr(register, value);
        }
        self.harness.vcpu().run(&self.bus)
    }

    /// Changes the operand wherever it is in translated code. Gives how often that is.
    fn change_operand(&mut self) -> usize {
        let code = self.harness.vcpu().translator.as_mut().unwrap().code();
        let mut found = 0;
        for at in 0..0x4000u32 {
            let address = code.executable(at).cast::<[u8; 4]>();
            // SAFETY: the code cache is far longer, readable, and not running.
            if unsafe { address.read_unaligned() } == OPERAND.to_le_bytes() {
                code.patch(at, &(OPERAND ^ 0x100).to_le_bytes());
                found += 1;
            }
        }
        found
    }
}

#[test]
fn a_loop_that_begins_with_an_access_to_two_pages_goes_on() {
    // MOV RAX, [RSI]; ADD RSI, 8; DEC ECX; JNZ
    let mut program = Program::new(&[0x48, 0x8b, 0x06, 0x48, 0x83, 0xc6, 0x08, 0xff, 0xc9, 0x75, 0xf5]);
    for _ in 0..3 {
        assert_eq!(program.run(&[(1, 300), (6, DATA + 4)]), Exit::Kicked);
        assert_eq!(program.harness.cpu().gpr(6), DATA + 4 + 300 * 8);
    }
}

#[test]
fn a_difference_ends_the_machine() {
    let operand = OPERAND.to_le_bytes();
    let with = |before: &[u8], after: &[u8]| [before, &operand, after].concat();
    let programs = [
        // MOV EAX, imm32
        with(&[0xb8], &[]),
        // MOV DWORD [RSI], imm32
        with(&[0xc7, 0x06], &[]),
        // PUSH imm32; POP [RSI+8], which is the interpreter's
        with(&[0x68], &[0x8f, 0x46, 0x08]),
        // MOV EAX, imm32; MOVD XMM3, EAX; XOR EAX, EAX
        with(&[0xb8], &[0x66, 0x0f, 0x6e, 0xd8, 0x31, 0xc0]),
        // MOV ECX, 8; MOV EAX, imm32; CLD; REP STOSB; XOR EAX, EAX
        [&[0xb9, 8, 0, 0, 0][..], &with(&[0xb8], &[0xfc, 0xf3, 0xaa, 0x31, 0xc0])].concat(),
    ];
    for code in programs {
        let mut program = Program::new(&code);
        let data = [(6, DATA), (7, DATA)];
        for _ in 0..3 {
            assert_eq!(program.run(&data), Exit::Kicked, "{code:x?}");
        }
        assert!(program.change_operand() > 0, "{code:x?}");
        assert_eq!(program.run(&data), Exit::Shutdown, "{code:x?}");
    }
}

#[test]
fn a_flag_that_is_not_dead_after_all_makes_a_difference() {
    // CMP EAX, imm32; JMP to the next; MOV ECX, 5; XOR EDX, EDX, before which all flags are dead; ...
    let dead = [&[0x3d][..], &OPERAND.to_le_bytes(), &[0xeb, 0x00, 0xb9, 5, 0, 0, 0, 0x31, 0xd2]].concat();
    let mut program = Program::new(&dead);
    assert_eq!(program.run(&[(0, OPERAND.into())]), Exit::Kicked);
    assert!(program.change_operand() > 0);
    assert_eq!(program.run(&[(0, OPERAND.into())]), Exit::Kicked, "what is dead may differ");
    // ... or SETZ DL, behind which they are.
    let live = [&[0x3d][..], &OPERAND.to_le_bytes(), &[0xeb, 0x00, 0x0f, 0x94, 0xc2, 0x31, 0xd2]].concat();
    let mut program = Program::new(&live);
    assert_eq!(program.run(&[(0, OPERAND.into())]), Exit::Kicked);
    assert!(program.change_operand() > 0);
    assert_eq!(program.run(&[(0, OPERAND.into())]), Exit::Shutdown);
}
