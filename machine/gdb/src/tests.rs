//! gdb's side of the protocol, played, at a machine with the software engine.

use crate::description::TABLE;
use crate::registers::{Bytes, Place, Refused, X87, get, put};
use crate::{GdbServer, Listening};
use motu_engine::SoftHypervisor;
use motu_machine::{BootSource, Flat, FlatMode, Image, Machine, MachineConfig, MachineHandle, OnReset, Outcome, Role};
use motu_spec::GdbAddress;
use motu_x86::{CpuState, XsaveArea};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;

const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;

/// 64-bit code. 0: INC RAX; 3: MOV [RBX], RAX; 6: NOP; 7: CMP RAX, RCX; 10: JNE to 0; 12: MOV DX, 0xf4; 16: OUT DX, EAX;
/// 17: JMP to itself.
const PROGRAM: [u8; 19] =
    [0x48, 0xff, 0xc0, 0x48, 0x89, 3, 0x90, 0x48, 0x39, 0xc8, 0x75, 0xf4, 0x66, 0xba, 0xf4, 0, 0xef, 0xeb, 0xfe];

/// A machine that waits for gdb, and what serves it.
struct Served {
    _folder: tempfile::TempDir,
    path: PathBuf,
    server: Option<GdbServer>,
    handle: MachineHandle,
    machine: JoinHandle<Outcome>,
}

fn serve() -> Served {
    let kernel = Image::from_bytes(Role::Kernel, "test program", PROGRAM.to_vec()).unwrap();
    let flat = Some(Flat { address: CODE, mode: FlatMode::Long });
    let config = MachineConfig {
        memory: 16 << 20,
        cpus: 1,
        contract: "v2-2026",
        boot: BootSource { kernel, modules: Vec::new(), cmdline: String::new(), flat },
        serial: Box::new(std::io::sink()),
        ports: Vec::new(),
        disks: Vec::new(),
        shares: Vec::new(),
        entropy: Box::new(|bytes| bytes.fill(7)),
        on_reset: OnReset::Restart,
        debug_exit: true,
        tracing: motu_machine::Tracing::default(),
        waits_for_debugger: true,
    };
    let machine = Machine::new(config, &SoftHypervisor::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gdb");
    let handle = machine.handle();
    let stop = machine.handle();
    let listening = Listening::at(&GdbAddress::Unix(path.clone())).unwrap();
    let server = listening.serve(machine.debug_port(), move || stop.stop()).unwrap();
    let machine = std::thread::spawn(move || machine.run().unwrap().outcome);
    Served { _folder: folder, path, server: Some(server), handle, machine }
}

impl Served {
    fn connect(&self) -> Client {
        Client(UnixStream::connect(&self.path).unwrap())
    }

    /// Waits until the machine has ended by itself.
    fn outcome(mut self) -> Outcome {
        let outcome = self.machine.join().unwrap();
        drop(self.server.take());
        outcome
    }

    fn stop(self) -> Outcome {
        self.handle.stop();
        self.outcome()
    }
}

struct Client(UnixStream);

impl Client {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}").unwrap();
    }

    /// The next packet; `None` where there is none to come. Run-length encoding is undone.
    fn receive(&mut self) -> Option<String> {
        let mut next = || {
            let mut byte = [0];
            (self.0.read(&mut byte).unwrap_or(0) == 1).then_some(byte[0])
        };
        while next()? != b'$' {}
        let mut packet = String::new();
        loop {
            match next()? {
                b'#' => break,
                b'*' => {
                    let last = packet.chars().last()?;
                    let count = next()? - 29;
                    packet.extend((0..count).map(|_| last));
                }
                byte => packet.push(byte.into()),
            }
        }
        next()?;
        next()?;
        // Behind the last packet nobody may be there to hear it.
        let _ = self.0.write_all(b"+");
        Some(packet)
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive().unwrap_or_else(|| panic!("no answer to {packet}"))
    }

    fn register(&mut self, name: &str) -> u64 {
        let number = TABLE.registers.iter().position(|register| register.name == name).unwrap();
        let hex = self.ask(&format!("p{number:x}"));
        u64::from_str_radix(&hex, 16).unwrap().swap_bytes() >> (64 - 4 * hex.len())
    }

    fn set(&mut self, name: &str, value: u64) -> String {
        let number = TABLE.registers.iter().position(|register| register.name == name).unwrap();
        let bytes = TABLE.registers[number].bytes();
        let hex: String = value.to_le_bytes().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("P{number:x}={hex}"))
    }

    fn monitor(&mut self, command: &str) -> String {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{hex}"));
        let mut text = String::new();
        while let Some(answer) = self.receive().filter(|answer| answer != "OK") {
            let hex = answer.strip_prefix('O').unwrap_or_else(|| panic!("{answer}"));
            let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            text.extend(pairs.map(|pair| char::from(u8::from_str_radix(pair, 16).unwrap())));
        }
        text
    }
}

#[test]
fn a_session_from_the_first_instruction_to_the_end() {
    let served = serve();
    let mut gdb = served.connect();
    assert!(gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+").contains("qXfer:features:read+"));
    assert_eq!(gdb.register("rip"), CODE);
    assert_eq!(gdb.set("rcx", 1000), "OK");
    assert_eq!(gdb.set("rbx", DATA), "OK");
    // Steps, and a breakpoint at the NOP.
    for at in [3, 6, 7] {
        assert!(gdb.ask("vCont;s:1").starts_with("T05"));
        assert_eq!(gdb.register("rip"), CODE + at);
    }
    assert_eq!(gdb.ask(&format!("Z0,{:x},1", CODE + 6)), "OK");
    for round in 2..5 {
        let stop = gdb.ask("c");
        assert!(stop.starts_with("T05") && stop.contains("swbreak"), "{stop}");
        assert_eq!((gdb.register("rip"), gdb.register("rax")), (CODE + 6, round));
        assert_eq!(gdb.ask(&format!("m{DATA:x},2")), format!("{round:02x}00"));
        assert!(gdb.ask("vCont;s:1").starts_with("T05"));
    }
    assert_eq!(gdb.ask(&format!("m{CODE:x},3")), "48ffc0", "it is in no memory");
    assert_eq!(gdb.ask(&format!("z0,{:x},1", CODE + 6)), "OK");
    // Watched data, and a breakpoint of the other kind.
    assert_eq!(gdb.ask(&format!("Z2,{DATA:x},8")), "OK");
    let stop = gdb.ask("c");
    assert!(stop.contains(&format!("watch:{DATA:x}")), "{stop}");
    assert_eq!((gdb.register("rip"), gdb.register("rax")), (CODE + 6, 5));
    assert_eq!(gdb.ask(&format!("z2,{DATA:x},8")), "OK");
    assert_eq!(gdb.ask(&format!("Z1,{:x},1", CODE + 12)), "OK");
    let stop = gdb.ask("c");
    assert!(stop.contains("hwbreak"), "{stop}");
    assert_eq!((gdb.register("rip"), gdb.register("rax")), (CODE + 12, 1000));
    assert_eq!(gdb.ask(&format!("z1,{:x},1", CODE + 12)), "OK");
    assert_eq!(gdb.ask("c"), "W00");
    assert!(matches!(served.outcome(), Outcome::DebugExit(1000)));
}

#[test]
fn a_running_machine_is_interrupted_left_and_attached_to_again() {
    let served = serve();
    let mut gdb = served.connect();
    // It never gets there.
    assert_eq!(gdb.set("rcx", 0), "OK");
    gdb.send("c");
    gdb.0.write_all(&[3]).unwrap();
    assert!(gdb.receive().unwrap().starts_with("T02"));
    let first = gdb.register("rax");
    // A second one is turned away meanwhile.
    assert_eq!(served.connect().receive(), None);
    assert_eq!(gdb.ask(&format!("Z0,{CODE:x},1")), "OK");
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(gdb.receive(), None);
    // The breakpoint has left with it, and the machine has gone on.
    let mut gdb = served.connect();
    assert!(gdb.register("rax") >= first);
    // One that is gone while the machine runs takes its breakpoints along.
    assert_eq!(gdb.ask(&format!("Z0,{:x},1", CODE + 12)), "OK");
    gdb.send("c");
    drop(gdb);
    let mut gdb = served.connect();
    assert!(gdb.ask("?").starts_with('S') || gdb.ask("?").starts_with('T'));
    gdb.send("k");
    assert!(matches!(served.outcome(), Outcome::Stopped));
}

#[test]
fn code_that_is_written_runs_and_memory_without_ram_is_refused() {
    let served = serve();
    let mut gdb = served.connect();
    gdb.set("rbx", DATA);
    gdb.set("rcx", 0);
    // Hot first.
    assert_eq!(gdb.ask(&format!("Z0,{:x},1", CODE + 12)), "OK");
    gdb.send("c");
    std::thread::sleep(std::time::Duration::from_millis(20));
    gdb.0.write_all(&[3]).unwrap();
    assert!(gdb.receive().unwrap().starts_with("T02"));
    // JNE becomes two NOPs.
    assert_eq!(gdb.ask(&format!("M{:x},2:9090", CODE + 10)), "OK");
    assert!(gdb.ask("c").starts_with("T05"));
    assert_eq!(gdb.register("rip"), CODE + 12);
    for packet in ["mfee00000,4", "Mfee00000,1:00", "mffffffffffffffff,8", "m8000000000000000,1"] {
        assert!(gdb.ask(packet).starts_with('E'), "{packet}");
    }
    served.stop();
}

#[test]
fn registers_that_would_break_the_cpu_are_refused() {
    let served = serve();
    let mut gdb = served.connect();
    let wrong = [
        ("rip", 1 << 63),
        ("eflags", 1 << 17),
        ("cs", 8),
        ("fs_base", 1 << 47),
        ("mxcsr", 1 << 16),
        ("cr0", 0),
        ("cr3", u64::MAX),
        ("cr4", 0),
        ("efer", 0),
    ];
    for (name, value) in wrong {
        let before = gdb.register(name);
        assert!(gdb.set(name, value).starts_with('E'), "{name}");
        assert_eq!(gdb.register(name), before, "{name}");
    }
    for (name, value) in
        [("eflags", 0x8c7), ("fs_base", u64::MAX << 47), ("mxcsr", 0x1fbf), ("cr2", 7), ("fctrl", 0x27f)]
    {
        assert_eq!(gdb.set(name, value), "OK", "{name}");
        assert_eq!(gdb.register(name), value, "{name}");
    }
    let all = gdb.ask("g");
    assert_eq!(gdb.ask(&format!("G{all}")), "OK");
    assert_eq!(gdb.ask("g"), all);
    served.stop();
}

#[test]
fn the_monitor_answers() {
    let served = serve();
    let mut gdb = served.connect();
    assert!(gdb.monitor("help").contains("system_reset"));
    assert!(gdb.monitor("info registers").contains("RIP=0000000000100000"));
    assert!(gdb.monitor("info cpus").contains("CPU#0 running"));
    assert_eq!(gdb.monitor("gva2gpa 0x100010"), "gpa: 0x100010\n");
    assert!(gdb.monitor("gva2gpa ffff800000000000").contains("not mapped"));
    assert!(gdb.monitor("info wheather").contains("no command"));
    gdb.set("rip", CODE + 6);
    gdb.monitor("system_reset");
    assert_eq!(gdb.register("rip"), CODE);
    gdb.monitor("quit");
    assert!(matches!(served.outcome(), Outcome::Stopped));
}

#[test]
fn the_description_names_every_register_once() {
    let mut names: Vec<_> = TABLE.registers.iter().map(|register| register.name.clone()).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
    let served = serve();
    let mut gdb = served.connect();
    let mut xml = String::new();
    loop {
        let piece = gdb.ask(&format!("qXfer:features:read:target.xml:{:x},800", xml.len()));
        xml += piece.get(1..).unwrap_or_default();
        if !piece.starts_with('m') {
            break;
        }
    }
    assert!(xml.contains("i386:x86-64") && xml.contains("name=\"ymm15h\"") && xml.ends_with("</target>"));
    served.stop();
}

#[test]
fn x87_tags_are_told_whole_and_kept_abridged() {
    let mut state = CpuState::default();
    state.xsave.0[XsaveArea::XSTATE_BV] = 3;
    // ST(0) is physical register 7: 1.0; ST(1) is register 0: zero; ST(2) is register 1: a NaN.
    put(&mut state, Place::X87(X87::Status), &[0, 7 << 3, 0, 0]).unwrap();
    put(&mut state, Place::Stack(0), &[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]).unwrap();
    put(&mut state, Place::Stack(2), &[0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0x7f]).unwrap();
    put(&mut state, Place::X87(X87::Tag), &[0xf0, 0x3f, 0, 0]).unwrap();
    assert_eq!(state.xsave.0[4], 0b1000_0011);
    assert_eq!(get(&state, Place::X87(X87::Tag)), 0b00_11_11_11_11_11_10_01);
}

/// A state with random contents, in 64-bit mode.
fn state(bytes: &[u8]) -> CpuState {
    let mut state = CpuState { cr0: 0x8000_0031, cr4: 0x20, xcr0: 7, ..CpuState::default() };
    state.msrs.efer = 0x500;
    state.segments.cs = motu_x86::Segment::flat_code(8, true);
    state.xsave.0[XsaveArea::XSTATE_BV] = bytes.first().copied().unwrap_or(0) & 7;
    let words: Vec<_> = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    state.gpr.iter_mut().zip(&words).for_each(|(register, word)| *register = *word);
    state.xsave.0[32..416].iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn registers_come_back_as_they_went(bytes in prop::collection::vec(any::<u8>(), 384)) {
        let from = state(&bytes);
        let mut to = state(&[]);
        Bytes::of(&from).put(&mut to).unwrap();
        prop_assert_eq!(Bytes::of(&to), Bytes::of(&from));
        prop_assert_eq!(to.gpr, from.gpr);
    }

    #[test]
    fn any_value_of_a_register_is_taken_whole_or_refused(number in 0..TABLE.registers.len(), value in any::<[u8; 16]>()) {
        let register = &TABLE.registers[number];
        let before = state(&[]);
        let mut after = before.clone();
        let bytes = &value[..register.bytes()];
        match put(&mut after, register.place, bytes) {
            Err(Refused) => prop_assert_eq!(after, before),
            // What gdb has more bits for than the processor is cut; tags are as the registers have them.
            Ok(()) if matches!(register.place, Place::X87(_)) => {}
            Ok(()) => prop_assert_eq!(&get(&after, register.place).to_le_bytes()[..bytes.len()], bytes),
        }
    }
}

/// Bytes as a hostile client may send them: packets that are right around something, and what is none.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let commands = prop::sample::select(vec![
        "",
        "?",
        "g",
        "G",
        "m",
        "M",
        "X",
        "p",
        "P",
        "Z0,",
        "Z2,",
        "z1,",
        "vCont;",
        "vCont;s:",
        "H",
        "T",
        "qSupported:",
        "qRcmd,",
        "qXfer:features:read:target.xml:",
        "qfThreadInfo",
        "qThreadExtraInfo,",
        "vKill;",
        "QStartNoAckMode",
        "D",
        "s",
        "c",
        "!",
        "R",
    ]);
    let tail = prop_oneof!["[0-9a-f,;:*-]{0,40}", ".{0,20}"];
    let packet = (commands, tail, any::<bool>()).prop_map(|(command, tail, right)| {
        let text = format!("{command}{tail}");
        let sum = text.bytes().fold(u8::from(!right), u8::wrapping_add);
        format!("${text}#{sum:02x}").into_bytes()
    });
    let piece = prop_oneof![4 => packet, 1 => prop::collection::vec(any::<u8>(), 0..64), 1 => Just(vec![3])];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn whatever_comes_the_machine_and_the_next_debugger_are_served() {
    let served = serve();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    runner
        .run(&hostile(), |bytes| {
            // Not while the last one is still being left.
            let mut client = loop {
                let mut client = served.connect();
                client.send("?");
                if client.receive().is_some() {
                    break client;
                }
            };
            // What was sent before may have closed it.
            let _ = client.0.write_all(&bytes);
            let _ = client.0.shutdown(std::net::Shutdown::Write);
            let mut answers = Vec::new();
            let _ = client.0.read_to_end(&mut answers);
            Ok(())
        })
        .unwrap();
    served.stop();
}
