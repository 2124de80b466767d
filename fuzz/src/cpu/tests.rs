//! That the starts are what they are meant to be: a CPU that shuts down at once finds nothing.

use super::start::{CODE, Mode};
use super::{Machine, START};
use motu_x86::CpuState;

/// Runs `code` in each mode for a while, and gives what came of it.
fn run(code: &[u8], check: impl Fn(Mode, &CpuState, &CpuState)) {
    for mode in Mode::ALL {
        Machine::with(0, mode, &[], |machine| {
            let start = mode.state();
            machine.write(CODE, code);
            machine.restore(&start).unwrap();
            for _ in 0..50 {
                assert!(machine.run(), "{mode:?} shuts down: {:x?}", machine.vcpu.crash_report(START));
            }
            check(mode, &start, &machine.vcpu.save(START));
        });
    }
}

#[test]
fn code_runs_in_every_mode() {
    // inc eax (or ax), twice; jmp to itself.
    run(&[0xff, 0xc0, 0xff, 0xc0, 0xeb, 0xfe], |mode, start, end| {
        assert_eq!((end.rip, end.gpr[0]), (mode.rip(4), start.gpr[0] + 2), "{mode:?}");
    });
}

#[test]
fn faults_go_to_handlers_and_on_behind_their_first_byte() {
    // ud2, which becomes or eax, eax; inc eax; jmp to itself.
    run(&[0x0f, 0x0b, 0xc0, 0xff, 0xc0, 0xeb, 0xfe], |mode, start, end| {
        assert_eq!((end.rip, end.gpr[0]), (mode.rip(5), start.gpr[0] + 1), "{mode:?}");
        assert_eq!(end.segments.cs, start.segments.cs, "{mode:?}");
    });
}

#[test]
fn a_general_protection_fault_has_its_error_code_dropped() {
    // hlt, which is refused to all but ring 0; inc eax; jmp to itself.
    run(&[0xf4, 0xff, 0xc0, 0xeb, 0xfe], |mode, start, end| {
        let user = matches!(mode, Mode::Paged32 | Mode::Virtual8086 | Mode::LongUser | Mode::Compatibility);
        if user {
            assert_eq!((end.rip, end.gpr[0]), (mode.rip(3), start.gpr[0] + 1), "{mode:?}");
        } else {
            assert_eq!((end.rip, end.activity), (mode.rip(1), motu_x86::Activity::Halted), "{mode:?}");
        }
    });
}
