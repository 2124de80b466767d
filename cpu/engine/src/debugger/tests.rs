use crate::cpu::slot;
use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
use crate::options::{Options, Translate};
use motu_hv::{DebugStop, Debugging, Exit, Vcpu, WatchKind, Watchpoint};
use motu_x86::Nanos;
use motu_x86::flags::rflags;
use proptest::prelude::*;

const PROGRAM: u64 = 0x40_0000;
/// The same frame, seen elsewhere.
const ALIAS: u64 = 0x60_0000;
const DATA: u64 = 0x50_0000;
const ROUNDS: u64 = 200;

/// 0: INC RAX; 3: CMP RAX, RCX; 6: MOV [RBX], RAX; 9: MOV RDX, [RBX]; 12: JNE to 0; 14: MOV [RBP], EAX (ends the run);
/// 17: JMP to itself.
const CODE: [u8; 19] =
    [0x48, 0xff, 0xc0, 0x48, 0x39, 0xc8, 0x48, 0x89, 0x03, 0x48, 0x8b, 0x13, 0x75, 0xf2, 0x89, 0x45, 0, 0xeb, 0xfe];

fn program(translate: Translate) -> UserHarness {
    let pages = [
        UserPage { linear: PROGRAM, frame: 0, writable: false },
        UserPage { linear: ALIAS, frame: 0, writable: false },
        UserPage { linear: DATA, frame: 1, writable: true },
    ];
    let options = Options { translate, ..Options::default() };
    let mut harness = UserHarness::with_options("v2-2026", &pages, &options).unwrap();
    harness.write(0, &CODE);
    begin(&mut harness, PROGRAM);
    harness
}

fn begin(harness: &mut UserHarness, rip: u64) {
    let cpu = harness.cpu();
    cpu.rip = rip;
    [(slot::RAX, 0), (slot::RCX, ROUNDS), (slot::RBX, DATA), (slot::RBP, BUS)]
        .into_iter()
        .for_each(|(register, value)| cpu.set_gpr(register, value));
}

fn run(harness: &mut UserHarness) -> Exit {
    let bus = KickingBus(harness.vcpu().kicker());
    harness.vcpu().run(&bus)
}

fn debug(harness: &mut UserHarness, debugging: Debugging) {
    harness.vcpu().set_debugging(Some(&debugging)).unwrap();
}

fn breakpoints(at: &[u64]) -> Debugging {
    Debugging { breakpoints: at.to_vec(), ..Debugging::default() }
}

fn step() -> Debugging {
    Debugging { step: true, ..Debugging::default() }
}

fn both(test: impl Fn(UserHarness)) {
    test(program(Translate::Off));
    test(program(Translate::On));
}

#[test]
fn it_stops_before_the_instruction_each_time() {
    both(|mut harness| {
        let at = PROGRAM + 6;
        for round in 1..=ROUNDS {
            debug(&mut harness, breakpoints(&[at]));
            assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Breakpoint));
            let state = harness.vcpu().save(Nanos(0));
            assert_eq!((state.rip, state.gpr[0], state.gpr[2]), (at, round, round - 1));
            assert_eq!(state.rflags & rflags::RF, 0);
            // Where it stands it stops again: whoever goes on steps.
            assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Breakpoint));
            debug(&mut harness, Debugging { step: true, ..breakpoints(&[at]) });
            assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Step));
            assert_eq!(harness.cpu().rip, at + 3);
        }
        assert_eq!(run(&mut harness), Exit::Kicked);
        assert_eq!(harness.frames()[..19], CODE, "it is nothing of the guest's");
    });
}

#[test]
fn a_breakpoint_in_hot_code_is_seen_and_leaves_with_the_debugger() {
    both(|mut harness| {
        assert_eq!(run(&mut harness), Exit::Kicked);
        begin(&mut harness, PROGRAM);
        debug(&mut harness, breakpoints(&[PROGRAM + 9]));
        assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Breakpoint));
        assert_eq!(harness.cpu().gpr(slot::RAX), 1);
        harness.vcpu().set_debugging(None).unwrap();
        assert_eq!(run(&mut harness), Exit::Kicked);
        assert_eq!(harness.cpu().gpr(slot::RAX), ROUNDS);
    });
}

#[test]
fn it_is_the_linear_address_that_counts() {
    both(|mut harness| {
        debug(&mut harness, breakpoints(&[PROGRAM + 6, PROGRAM + 0x1006]));
        begin(&mut harness, ALIAS);
        assert_eq!(run(&mut harness), Exit::Kicked);
        begin(&mut harness, PROGRAM);
        assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Breakpoint));
    });
}

#[test]
fn flags_are_right_where_only_the_debugger_looks() {
    both(|mut harness| {
        // Behind CMP, which JNE alone looks at.
        debug(&mut harness, breakpoints(&[PROGRAM + 9]));
        for round in 1..=ROUNDS {
            assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Breakpoint));
            let flags = harness.vcpu().save(Nanos(0)).rflags;
            assert_eq!(flags & rflags::CF != 0, round < ROUNDS, "{round}");
            assert_eq!(flags & rflags::ZF != 0, round == ROUNDS, "{round}");
            debug(&mut harness, Debugging { step: true, ..breakpoints(&[PROGRAM + 9]) });
            assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Step));
        }
    });
}

#[test]
fn steps_go_from_instruction_to_instruction() {
    both(|mut harness| {
        for at in [3, 6, 9, 12, 0, 3] {
            debug(&mut harness, step());
            assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Step));
            assert_eq!(harness.cpu().rip, PROGRAM + at);
        }
        // A step is for once.
        assert_eq!(run(&mut harness), Exit::Kicked);
    });
}

#[test]
fn a_kick_does_not_lose_a_step() {
    both(|mut harness| {
        debug(&mut harness, step());
        harness.vcpu().kicker().kick();
        assert_eq!(run(&mut harness), Exit::Kicked);
        assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Step));
        assert_eq!(harness.cpu().rip, PROGRAM + 3);
    });
}

#[test]
fn watched_data_stops_behind_the_access() {
    let watched = |kind, linear| Watchpoint { linear, bytes: 1, kind };
    both(|mut harness| {
        let cases = [
            (WatchKind::Write, DATA, Some(9)),
            (WatchKind::Read, DATA + 7, Some(12)),
            (WatchKind::Access, DATA + 1, Some(9)),
            (WatchKind::Access, DATA + 8, None),
        ];
        for (kind, linear, stops) in cases {
            begin(&mut harness, PROGRAM);
            let watchpoint = watched(kind, linear);
            debug(&mut harness, Debugging { watchpoints: vec![watchpoint], ..Debugging::default() });
            match stops {
                Some(behind) => {
                    // Of those that stop at both, the write comes first.
                    let rounds = if kind == WatchKind::Access { 1 } else { 3 };
                    for round in 1..=rounds {
                        assert_eq!(run(&mut harness), Exit::Debug(DebugStop::Watchpoint(watchpoint)));
                        assert_eq!((harness.cpu().rip, harness.cpu().gpr(slot::RAX)), (PROGRAM + behind, round));
                    }
                }
                None => assert_eq!(run(&mut harness), Exit::Kicked),
            }
        }
        assert_eq!(harness.cpu().dr[6], 0xffff_0ff0, "the guest's debug registers are its own");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Breakpoints anywhere, also inside of instructions, and watched data: the program does what it does without.
    #[test]
    fn nothing_of_it_is_the_guests(
        offsets in prop::collection::vec(0u64..24, 0..6),
        watches in prop::collection::vec((0u64..16, 1u64..9, any::<bool>()), 0..3),
        translate: bool,
    ) {
        let end = |harness: &mut UserHarness| {
            let state = harness.vcpu().save(Nanos(0));
            (state.gpr, state.rip, state.rflags, state.dr, harness.frames().to_vec())
        };
        let kind = if translate { Translate::On } else { Translate::Off };
        let mut plain = program(kind);
        prop_assert_eq!(run(&mut plain), Exit::Kicked);
        let mut debugged = program(kind);
        let watchpoints: Vec<_> = watches
            .iter()
            .map(|&(at, bytes, write)| {
                let kind = if write { WatchKind::Write } else { WatchKind::Read };
                Watchpoint { linear: DATA + at, bytes, kind }
            })
            .collect();
        let breakpoints: Vec<_> = offsets.iter().map(|offset| PROGRAM + offset).collect();
        let asked = Debugging { breakpoints, watchpoints, step: false };
        loop {
            debug(&mut debugged, asked.clone());
            match run(&mut debugged) {
                Exit::Debug(DebugStop::Breakpoint) => {
                    prop_assert!(asked.breakpoints.contains(&debugged.cpu().rip));
                    debug(&mut debugged, Debugging { step: true, ..asked.clone() });
                    match run(&mut debugged) {
                        Exit::Debug(DebugStop::Step | DebugStop::Watchpoint(_)) => {}
                        // The last store of the program kicks.
                        Exit::Kicked => break,
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Exit::Debug(DebugStop::Watchpoint(watched)) => prop_assert!(asked.watchpoints.contains(&watched)),
                Exit::Kicked => break,
                other => prop_assert!(false, "{other:?}"),
            }
            if debugged.cpu().rip == PROGRAM + 17 {
                break;
            }
        }
        prop_assert_eq!(end(&mut debugged), end(&mut plain));
    }
}
