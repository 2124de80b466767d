//! What was decoded and translated over a restore, behind which memory may hold other code that nobody told of.

use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
use crate::options::{Options, Translate};
use motu_hv::{Exit, Vcpu};
use motu_x86::Nanos;

const PROGRAM: u64 = 0x40_1000;
const STACK: u64 = 0x50_0000;
/// The first page of the program, to be written to.
const ALIAS: u64 = 0x60_0000;
const ROUNDS: u64 = 200;
/// Registers, as instructions number them.
const RAX: usize = 0;
const RDX: usize = 2;
/// MOV [RBP], ECX: to the board, which kicks; JMP to itself.
const END: [u8; 5] = [0x89, 0x4d, 0x00, 0xeb, 0xfe];

/// A program of two pages, at offsets in them, that counts RCX down to zero.
struct Program {
    harness: UserHarness,
    start: u64,
}

impl Program {
    fn new(options: &Options, start: u64, code: &[(u64, &[u8])]) -> Self {
        let page = |linear, frame, writable| UserPage { linear, frame, writable };
        let pages =
            [page(PROGRAM, 0, false), page(PROGRAM + 4096, 1, false), page(STACK, 2, true), page(ALIAS, 0, true)];
        let mut harness = UserHarness::with_options("v2-2026", &pages, options).unwrap();
        code.iter().for_each(|(at, code)| harness.write(*at, code));
        Self { harness, start }
    }

    /// Runs it from its beginning; then its registers.
    fn run(&mut self) -> [u64; 16] {
        self.run_from(self.start)
    }

    fn run_from(&mut self, start: u64) -> [u64; 16] {
        let vcpu = self.harness.vcpu();
        let mut state = vcpu.save(Nanos(0));
        state.rip = PROGRAM + start;
        state.gpr[..7].copy_from_slice(&[0, ROUNDS, 0, 1, STACK + 0x800, BUS, ALIAS]);
        vcpu.restore(&state, Nanos(0)).unwrap();
        let bus = KickingBus(vcpu.kicker());
        assert_eq!(vcpu.run(&bus), Exit::Kicked);
        vcpu.save(Nanos(0)).gpr
    }

    fn decoded(&mut self) -> u64 {
        self.harness.vcpu().stats().blocks_decoded
    }
}

/// The interpreter, and translated code, also if it is made at once and left often.
fn ways() -> [Options; 3] {
    let interpreted = Options { translate: Translate::Off, ..Options::default() };
    [interpreted, Options::default(), Options { stress: Some(1), ..Options::default() }]
}

/// INC by 1, jump within the page; by 2, and back.
const TWO_BLOCKS: [(u64, &[u8]); 3] = [
    (0, &[0x48, 0x83, 0xc0, 0x01, 0xeb, 0x7a]),
    (0x80, &[0x48, 0x83, 0xc0, 0x02, 0xff, 0xc9, 0x0f, 0x85, 0x74, 0xff, 0xff, 0xff]),
    (0x8c, &END),
];

#[test]
fn what_memory_still_holds_is_kept() {
    for options in ways() {
        let mut program = Program::new(&options, 0, &TWO_BLOCKS);
        assert_eq!(program.run()[RAX], 3 * ROUNDS);
        let decoded = program.decoded();
        assert_eq!(program.run()[RAX], 3 * ROUNDS);
        assert_eq!(program.decoded(), decoded, "{options:?}");
    }
}

#[test]
fn a_block_that_others_jump_to_is_another_one() {
    for options in ways() {
        let mut program = Program::new(&options, 0, &TWO_BLOCKS);
        assert_eq!(program.run()[RAX], 3 * ROUNDS);
        program.harness.frames()[0x83] = 5;
        assert_eq!(program.run()[RAX], 6 * ROUNDS, "{options:?}");
        program.harness.frames()[0x03] = 7;
        assert_eq!(program.run()[RAX], 12 * ROUNDS, "{options:?}");
    }
}

#[test]
fn flags_matter_where_they_did_not() {
    for options in ways() {
        // MOV EAX, -1; ADD EAX, EBX, which carries; MOV RSI, [RSP]; JMP to XOR EAX, EAX and NOP; DEC ECX; JNE back.
        let first = [0xb8, 0xff, 0xff, 0xff, 0xff, 0x01, 0xd8, 0x48, 0x8b, 0x34, 0x24, 0xeb, 0x73];
        let second = [0x31, 0xc0, 0x90, 0xff, 0xc9, 0x0f, 0x85, 0x75, 0xff, 0xff, 0xff];
        let mut program = Program::new(&options, 0, &[(0, &first), (0x80, &second), (0x8b, &END)]);
        assert_eq!(program.run()[RDX], 0);
        // ADC EDX, 0
        program.harness.frames()[0x80..0x83].copy_from_slice(&[0x83, 0xd2, 0x00]);
        assert_eq!(program.run()[RDX], ROUNDS, "{options:?}");
    }
}

#[test]
fn a_second_page_is_looked_at_too() {
    for options in ways() {
        // MOV RAX, 0x0102030405060708, of which two bytes lie in the second page; ADD RDX, RAX; DEC ECX; JNE back.
        let load = [0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1];
        let rest = [0x48, 0x01, 0xc2, 0xff, 0xc9, 0x0f, 0x85, 0xeb, 0xff, 0xff, 0xff];
        let mut program = Program::new(&options, 0xff8, &[(0xff8, &load), (0x1002, &rest), (0x100d, &END)]);
        assert_eq!(program.run()[RDX], ROUNDS * 0x0102_0304_0506_0708);
        program.harness.frames()[0x1001] = 0;
        assert_eq!(program.run()[RDX], ROUNDS * 0x0002_0304_0506_0708, "{options:?}");
    }
}

#[test]
fn a_page_of_which_nothing_is_kept_is_still_watched() {
    for options in ways() {
        // From 0x40 on: ADD RAX, 1; DEC ECX; JE to the end; MOV BYTE PTR [RSI + 0x43], 2, which is the addend; JMP back.
        let counts = [0x48, 0x83, 0xc0, 0x01, 0xff, 0xc9, 0x74, 0x06, 0xc6, 0x46, 0x43, 0x02, 0xeb, 0xf2];
        let mut program = Program::new(&options, 0, &[(0, &END), (0x40, &counts), (0x4e, &END)]);
        program.run();
        // Of what was decoded of the page, nothing holds, and what is run next was not decoded before.
        program.harness.frames()[0] = 0x90;
        assert_eq!(program.run_from(0x40)[RAX], 1 + 2 * (ROUNDS - 1), "{options:?}");
    }
}

#[test]
fn a_page_is_still_watched_whose_last_block_went_with_its_second_page() {
    for options in ways() {
        // Two moves of 8 bytes to RAX lie in both pages: at 0xff8, and at 0xffa in the first one's value.
        let moves = [0x48, 0xb8, 0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0xeb, 0x1c];
        // MOV BYTE PTR [RSI + 0xffc], 2, which is the second one's value; ADD EDX, EAX; DEC ECX; JNE back to it.
        let adds = [0xc6, 0x86, 0xfc, 0x0f, 0, 0, 2, 0x01, 0xc2, 0xff, 0xc9, 0x75, 0xe9];
        let code: [(u64, &[u8]); 4] = [(0xff8, &moves), (0x1004, &adds), (0x1011, &END), (0x1020, &END)];
        let mut program = Program::new(&options, 0xff8, &code);
        program.run();
        program.harness.frames()[0x1000] = 9;
        assert_eq!(program.run_from(0xffa)[RDX], 1 + 2 * (ROUNDS - 1), "{options:?}");
    }
}
