//! Clocks that stand still.

use super::*;
use std::time::Instant;

/// The APIC timer's LVT entry and divider, and its counts.
const LVT_TIMER: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const CURRENT_COUNT: usize = 0x39;
const DIVIDER: usize = 0x3e;

/// With a timer that has `count` left, in the mode of the LVT entry.
fn timed(mode: u32, count: u32) -> CpuState {
    let mut state = start();
    let registers = &mut state.lapic.registers;
    registers[LVT_TIMER] = mode << 17 | u32::from(VECTOR);
    (registers[DIVIDER], registers[INITIAL_COUNT], registers[CURRENT_COUNT]) = (0xb, count, count);
    state
}

#[test]
fn clocks_stand_still_with_the_machine() {
    const SLEEP: Duration = Duration::from_millis(200);
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[0xf4]);
    guest.vcpu.restore(&timed(0, u32::MAX), NOW).unwrap();
    let vcpu = &mut guest.vcpu;
    let clocks = |state: &CpuState| [state.tsc, u64::from(u32::MAX - state.lapic.registers[CURRENT_COUNT])];
    // How fast they are, at the least time that may have passed.
    let begun = clocks(&vcpu.save(Nanos(1)));
    let asleep = Instant::now();
    std::thread::sleep(SLEEP);
    let asleep = asleep.elapsed();
    let ended = clocks(&vcpu.save(Nanos(2)));
    let all = Instant::now();
    vcpu.stand_still(Nanos(3));
    let stopped = vcpu.save(Nanos(3));
    let stood = Instant::now();
    std::thread::sleep(SLEEP);
    assert_eq!(vcpu.save(Nanos(3)), stopped);
    // A debugger changes a register.
    let changed = CpuState { rip: CODE + 1, ..stopped.clone() };
    vcpu.restore(&changed, Nanos(3)).unwrap();
    assert_eq!(vcpu.save(Nanos(3)), changed);
    let stood = stood.elapsed();
    vcpu.go_on(Nanos(3));
    let after = clocks(&vcpu.save(Nanos(4)));
    let went = all.elapsed() - stood;
    // What emulates may have no TSC of the guest's own.
    let first = usize::from(*kvm.backing() != Backing::Hardware);
    for clock in first..2 {
        let rate = (ended[clock] - begun[clock]) as f64 / asleep.as_secs_f64();
        let most = rate * (went + stood / 10).as_secs_f64();
        let gone = (after[clock] - ended[clock]) as f64;
        assert!(rate > 0.0 && gone < most, "clock {clock}: {gone} of {most} ticks");
    }
}

#[test]
fn a_timer_that_would_have_run_out_meanwhile_interrupts_once_and_later() {
    let Some(kvm) = kvm() else { return };
    for mode in 0..3 {
        // sti; hlt
        let mut guest = Guest::new(&kvm, &program(&[&[0xfb, 0xf4], &OUT_END]));
        let mut state = timed(mode, if mode == 2 { 0 } else { 20_000_000 });
        if mode == 2 {
            state.tsc = guest.vcpu.save(Nanos(1)).tsc;
            state.lapic.tsc_deadline = state.tsc + 20_000_000;
        }
        guest.vcpu.restore(&state, Nanos(1)).unwrap();
        guest.vcpu.stand_still(Nanos(2));
        let stopped = guest.vcpu.save(Nanos(2)).lapic;
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(guest.vcpu.save(Nanos(2)).lapic, stopped, "mode {mode}");
        guest.vcpu.go_on(Nanos(2));
        assert_eq!(guest.run(), Exit::Kicked);
        assert_eq!(guest.events(), [Event::Out(LOG, vec![0])], "mode {mode}");
    }
}
