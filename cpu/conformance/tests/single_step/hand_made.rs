//! Reader and runner, tried on files made here.

use motu_conformance::moo::{Exception, FormatError, Mismatch, Register, Runner, Suite, Verdict};
use motu_engine::SoftHypervisor;

/// A file under construction.
struct File {
    cpu: [u8; 4],
    tests: Vec<Vec<u8>>,
    defined: Vec<u8>,
}

/// One case under construction. Registers are given by their place in the suites' order.
#[derive(Clone, Default)]
struct Test {
    before: Vec<(Register, u32)>,
    after: Vec<(Register, u32)>,
    ram: Vec<(u32, u8)>,
    ram_after: Vec<(u32, u8)>,
    exception: Option<Exception>,
}

fn chunk(id: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [id.as_slice(), &u32::try_from(data.len()).unwrap().to_le_bytes(), data].concat()
}

fn wide(id: &[u8; 4], registers: &[(Register, u32)]) -> Vec<u8> {
    let mut present = 0u32;
    let mut values = Vec::new();
    for (bit, register) in Register::ALL.iter().enumerate() {
        if let Some((_, value)) = registers.iter().find(|(named, _)| named == register) {
            present |= 1 << bit;
            values.extend(value.to_le_bytes());
        }
    }
    chunk(id, &[&present.to_le_bytes(), values.as_slice()].concat())
}

fn narrow(registers: &[(Register, u32)]) -> Vec<u8> {
    let mut present = 0u16;
    let mut values = Vec::new();
    for (bit, register) in Register::OF_16_BITS.iter().enumerate() {
        if let Some((_, value)) = registers.iter().find(|(named, _)| named == register) {
            present |= 1 << bit;
            values.extend(u16::try_from(*value).unwrap().to_le_bytes());
        }
    }
    chunk(b"REGS", &[&present.to_le_bytes(), values.as_slice()].concat())
}

fn ram(bytes: &[(u32, u8)]) -> Vec<u8> {
    let mut data = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    for (address, byte) in bytes {
        data.extend(address.to_le_bytes());
        data.push(*byte);
    }
    chunk(b"RAM ", &data)
}

impl File {
    fn new(cpu: &[u8; 4]) -> Self {
        Self { cpu: *cpu, tests: Vec::new(), defined: Vec::new() }
    }

    fn with(mut self, test: &Test) -> Self {
        let registers = |registers: &[(Register, u32)]| match &self.cpu {
            b"386E" => wide(b"RG32", registers),
            _ => narrow(registers),
        };
        let mut data = u32::try_from(self.tests.len()).unwrap().to_le_bytes().to_vec();
        data.extend(chunk(b"NAME", b"\x04\0\0\0test"));
        let bytes = test.code();
        data.extend(chunk(b"BYTS", &[&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes.as_slice()].concat()));
        data.extend(chunk(b"NEW!", b"of a later version"));
        data.extend(chunk(b"INIT", &[registers(&test.before), ram(&test.ram)].concat()));
        data.extend(chunk(b"FINA", &[registers(&test.after), ram(&test.ram_after)].concat()));
        if let Some(Exception { vector, flags_at }) = test.exception {
            data.extend(chunk(b"EXCP", &[&[vector], flags_at.to_le_bytes().as_slice()].concat()));
        }
        data.extend(chunk(b"HASH", &[0xab; 20]));
        self.tests.push(chunk(b"TEST", &data));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let count = u32::try_from(self.tests.len()).unwrap();
        let header = [&[1, 1, 0, 0], count.to_le_bytes().as_slice(), &self.cpu].concat();
        [chunk(b"MOO ", &header), self.defined.clone(), self.tests.concat()].concat()
    }

    /// The verdicts on its cases.
    fn run(&self) -> Vec<Verdict> {
        let suite = Suite::parse(&self.bytes()).unwrap();
        let mut runner = Runner::new(&SoftHypervisor::default()).unwrap();
        suite.cases.iter().map(|case| runner.run(&suite, case).unwrap()).collect()
    }
}

impl Test {
    /// The bytes at CS:EIP up to the HLT, which is included, if there is one.
    fn code(&self) -> Vec<u8> {
        let of = |wanted| self.before.iter().find(|(register, _)| *register == wanted).map_or(0, |(_, value)| *value);
        let start = (of(Cs) << 4) + of(Eip);
        let byte = |address| self.ram.iter().find(|(at, _)| *at == address).map(|(_, byte)| *byte);
        let mut bytes: Vec<u8> = (start..).map_while(byte).collect();
        let end = bytes.iter().position(|byte| *byte == 0xf4).map_or(bytes.len(), |end| end + 1);
        bytes.truncate(end);
        bytes
    }
}

use Register::{Cs, Ds, Eax, Ebp, Ebx, Ecx, Edi, Edx, Eflags, Eip, Es, Esi, Esp, Ss};

/// The example in the README of the 80386's suite: `ADD [BP+60h], BL` as a 386EX ran it.
fn add() -> Test {
    use Register::{Cr0, Cr3, Dr6, Dr7, Fs, Gs};
    let code = [0, 94, 96, 244, 63, 216, 35, 243, 48, 40, 10, 237, 25, 231];
    Test {
        before: vec![
            (Cr0, 2_147_418_096),
            (Cr3, 0),
            (Eax, 46_917_154),
            (Ebx, 1_747_202_472),
            (Ecx, 3_247_246_033),
            (Edx, 4_206_235_108),
            (Esi, 8_323_072),
            (Edi, 4_054_220_768),
            (Ebp, 524_289),
            (Esp, 56_811),
            (Cs, 7970),
            (Ds, 809),
            (Es, 17_715),
            (Fs, 0),
            (Gs, 3855),
            (Ss, 63_468),
            (Eip, 29_344),
            (Eflags, 4_294_707_347),
            (Dr6, 4_294_905_840),
            (Dr7, 0),
        ],
        after: vec![(Eip, 29_348), (Eflags, 4_294_705_298)],
        ram: (156_864..).zip(code).chain([(1_015_585, 11)]).collect(),
        ram_after: vec![(1_015_585, 179)],
        exception: None,
    }
}

/// `DIV BL` by zero at 0200:0100; its handler is at 0300:0010.
fn divide() -> Test {
    Test {
        before: vec![
            (Eax, 0x1234),
            (Ebx, 0),
            (Esp, 0x100),
            (Ss, 0x400),
            (Cs, 0x200),
            (Eip, 0x100),
            (Eflags, 0xfffc_0003),
        ],
        after: vec![(Cs, 0x300), (Eip, 0x11), (Esp, 0xfa)],
        ram: vec![(0, 0x10), (1, 0), (2, 0), (3, 3), (0x2100, 0xf6), (0x2101, 0xf3), (0x2102, 0xf4)],
        ram_after: vec![
            (0x40fa, 0),
            (0x40fb, 1),
            (0x40fc, 0),
            (0x40fd, 2),
            // As if the division had set ZF, which it leaves undefined.
            (0x40fe, 0x43),
            (0x40ff, 0),
        ],
        exception: Some(Exception { vector: 0, flags_at: 0x40fe }),
    }
}

/// `JMP` to itself: the HLT would have to lie where it does.
fn jump_to_itself() -> Test {
    Test {
        before: vec![(Cs, 0x200), (Eip, 0x20), (Eflags, 2)],
        after: vec![(Eip, 0x21)],
        ram: vec![(0x2020, 0xeb), (0x2021, 0xfe), (0x2022, 0xf4)],
        ..Test::default()
    }
}

/// `STOSB` with 3 in CX, repeated.
fn repeat() -> Test {
    Test {
        before: vec![
            (Eax, 0x5a),
            (Ecx, 3),
            (Edi, 0x10),
            (Es, 0x500),
            (Cs, 0x200),
            (Eip, 0),
            (Eflags, 2),
            (Esp, 0x100),
            (Ss, 0x400),
        ],
        after: vec![(Ecx, 0), (Edi, 0x13), (Eip, 3)],
        ram: vec![(0x2000, 0xf3), (0x2001, 0xaa), (0x2002, 0xf4)],
        ram_after: vec![(0x5010, 0x5a), (0x5011, 0x5a), (0x5012, 0x5a)],
        exception: None,
    }
}

#[test]
fn files_are_read_whatever_chunks_a_later_version_adds() {
    let suite = Suite::parse(&File::new(b"386E").with(&add()).with(&divide()).bytes()).unwrap();
    assert_eq!((suite.cpu.as_str(), suite.halts(), suite.cases.len()), ("386E", true, 2));
    let [first, second] = suite.cases.as_slice() else { panic!("two cases") };
    assert_eq!((first.index, first.name.as_str(), first.hash.as_str()), (0, "test", "ab".repeat(20).as_str()));
    assert_eq!(first.before.registers.get(Register::Ss), Some(63_468));
    assert_eq!((first.after.registers.get(Eip), first.after.registers.get(Eax)), (Some(29_348), None));
    assert_eq!(first.after.ram, [(1_015_585, 179)]);
    assert_eq!((first.exception, second.exception), (None, divide().exception));

    let old = Test { before: vec![(Eax, 1), (Esp, 2), (Eflags, 3)], ..Test::default() };
    let suite = Suite::parse(&File::new(b"8088").with(&old).bytes()).unwrap();
    assert!(!suite.halts());
    let registers = suite.cases[0].before.registers;
    assert_eq!([Eax, Ebx, Esp, Eflags].map(|register| registers.get(register)), [Some(1), None, Some(2), Some(3)]);
}

#[test]
fn files_that_are_none_are_refused() {
    let good = File::new(b"386E").with(&add()).bytes();
    assert_eq!(Suite::parse(b""), Err(FormatError::NotMoo));
    assert_eq!(Suite::parse(&chunk(b"RIFF", &[0; 12])), Err(FormatError::NotMoo));
    assert_eq!(Suite::parse(&chunk(b"MOO ", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), Err(FormatError::Version(2)));
    let empty = chunk(b"MOO ", &[1, 1, 0, 0, 7, 0, 0, 0, b'8', b'0', b'8', b'8']);
    assert_eq!(Suite::parse(&empty), Err(FormatError::Count { announced: 7, found: 0 }));
    let without = [empty.as_slice(), &chunk(b"TEST", &9u32.to_le_bytes())].concat();
    assert_eq!(Suite::parse(&without), Err(FormatError::Missing { index: 9, chunk: "INIT" }));
    for len in 0..good.len() {
        assert!(Suite::parse(&good[..len]).is_err(), "cut off after {len} bytes");
    }
    // A count that promises more than there is asks for no memory.
    let many = [4u32.to_le_bytes().to_vec(), chunk(b"INIT", &chunk(b"RAM ", &[0xff; 4]))].concat();
    assert_eq!(Suite::parse(&[empty, chunk(b"TEST", &many)].concat()), Err(FormatError::Short("memory")));
}

#[test]
fn an_instruction_of_a_real_processor_runs_the_same() {
    assert_eq!(File::new(b"386E").with(&add()).run(), [Verdict::Same]);
}

#[test]
fn repeated_instructions_exceptions_and_jumps_run_to_their_end() {
    let mut file = File::new(b"386E").with(&repeat()).with(&divide());
    // AF, ZF, SF, PF, OF and CF are undefined after a division.
    file.defined = wide(b"RM32", &[(Eflags, !0x8d5)]);
    // JMP over three bytes; nothing lies where it goes.
    file = file.with(&Test {
        before: vec![(Cs, 0x200), (Eip, 0x20), (Eflags, 2)],
        after: vec![(Eip, 0x26)],
        ram: vec![(0x2020, 0xeb), (0x2021, 3), (0x2022, 0xf4)],
        ..Test::default()
    });
    assert_eq!(file.run(), [Verdict::Same, Verdict::Same, Verdict::Same]);
}

#[test]
fn suites_without_a_hlt_end_in_front_of_the_next_instruction() {
    let inc = Test {
        before: vec![(Eax, 0xffff), (Ecx, 0), (Cs, 0x100), (Eip, 0), (Ss, 0), (Esp, 0x100), (Eflags, 0xf002)],
        after: vec![(Eax, 0), (Eip, 1), (Eflags, 0xf056)],
        ram: vec![(0x1000, 0x40)],
        ..Test::default()
    };
    assert_eq!(File::new(b"8088").with(&inc).run(), [Verdict::Same]);
}

#[test]
fn what_differs_is_named() {
    let mut wrong = add();
    wrong.after = vec![(Eip, 29_348), (Eflags, 4_294_705_299), (Edx, 7), (Esi, 8_323_072), (Edi, 4_054_220_768)];
    wrong.ram_after = vec![(1_015_585, 180)];
    let expected = [
        Mismatch::Register { register: Edx, expected: 7, got: 4_206_235_108 },
        Mismatch::Register { register: Eflags, expected: 0x91, got: 0x90 },
        Mismatch::Memory { address: 1_015_585, expected: 180, got: 179 },
    ];
    assert_eq!(File::new(b"386E").with(&wrong).run(), [Verdict::Differs(expected.to_vec())]);
}

#[test]
fn what_never_comes_to_its_end_has_gone_astray() {
    let spin = Test {
        before: vec![(Cs, 0x200), (Eip, 0), (Eflags, 2)],
        after: vec![(Eip, 0x11)],
        ram: vec![(0x2000, 0xeb), (0x2001, 0xfe)],
        ..Test::default()
    };
    let verdicts = File::new(b"386E").with(&spin).run();
    assert_eq!(verdicts, [Verdict::Differs(vec![Mismatch::Astray { rip: 0 }])]);
}

#[test]
fn a_case_leaves_nothing_behind_for_the_next() {
    let mut alone = repeat();
    alone.ram_after.push((0x5013, 0));
    let verdicts = File::new(b"386E").with(&add()).with(&alone).with(&add()).with(&alone).run();
    assert_eq!(verdicts, [Verdict::Same, Verdict::Same, Verdict::Same, Verdict::Same]);
}

#[test]
fn what_the_machine_cannot_hold_is_not_run() {
    let mut beyond = repeat();
    beyond.ram.push((16 << 20, 0));
    let verdicts = File::new(b"386E").with(&beyond).with(&jump_to_itself()).run();
    assert_eq!(verdicts, [Verdict::Unsuitable, Verdict::Unsuitable]);
}
