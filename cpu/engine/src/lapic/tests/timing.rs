//! The timer. One crystal clock is 40 ns; the divider is 1 unless a test says otherwise.

use super::*;

const VECTOR: u32 = 0xec;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;

fn timer(mode: u32) -> Lapic {
    let mut lapic = enabled(0);
    write(&mut lapic, number::DIVIDE, DIVIDE_BY_1);
    write(&mut lapic, number::LVT, mode | VECTOR);
    lapic
}

/// Whether the timer has interrupted; the interrupt is taken and ended.
fn fired(lapic: &mut Lapic, nanos: u64) -> bool {
    lapic.expire(at(nanos));
    let vector = lapic.pending_interrupt();
    if vector.is_some() {
        assert_eq!(u32::from(lapic.acknowledge()), VECTOR);
        write(lapic, number::EOI, 0);
    }
    vector.is_some()
}

#[test]
fn one_shot_counts_down_and_stops() {
    let mut lapic = timer(0);
    assert_eq!(lapic.next_deadline(at(0)), None);
    write_at(&mut lapic, number::INITIAL_COUNT, 100, 1000);
    assert_eq!(lapic.next_deadline(at(1000)), Some(Nanos(5000)));
    let counts = [1000, 1039, 1040, 1041, 4960, 4961].map(|nanos| read_at(&mut lapic, number::CURRENT_COUNT, nanos));
    assert_eq!(counts, [100, 100, 99, 99, 1, 1]);
    assert!(!fired(&mut lapic, 4999));
    assert!(fired(&mut lapic, 5000));
    assert_eq!(read_at(&mut lapic, number::CURRENT_COUNT, 5000), 0);
    assert_eq!(read_at(&mut lapic, number::INITIAL_COUNT, 5000), 100);
    assert_eq!(lapic.next_deadline(at(9000)), None);
    assert!(!fired(&mut lapic, u64::MAX / 2));
}

#[test]
fn an_initial_count_of_zero_stops() {
    let mut lapic = timer(PERIODIC);
    write_at(&mut lapic, number::INITIAL_COUNT, 100, 0);
    write_at(&mut lapic, number::INITIAL_COUNT, 0, 10);
    assert_eq!(lapic.next_deadline(at(10)), None);
    assert!(!fired(&mut lapic, 1_000_000));
}

#[test]
fn periodic_reloads_and_joins_what_was_missed() {
    let mut lapic = timer(PERIODIC);
    write_at(&mut lapic, number::INITIAL_COUNT, 100, 0);
    assert!(fired(&mut lapic, 4000));
    assert_eq!(read_at(&mut lapic, number::CURRENT_COUNT, 4000), 100);
    assert_eq!(lapic.next_deadline(at(4000)), Some(Nanos(8000)));
    // Late by two periods and a half: one interrupt, and the phase stays.
    assert!(fired(&mut lapic, 18_000));
    assert!(!fired(&mut lapic, 18_001));
    assert_eq!(lapic.next_deadline(at(18_001)), Some(Nanos(20_000)));
    assert_eq!(read_at(&mut lapic, number::CURRENT_COUNT, 18_000), 50);
}

#[test]
fn every_divider_scales() {
    for (code, divider) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut lapic = timer(0);
        write(&mut lapic, number::DIVIDE, code);
        write(&mut lapic, number::INITIAL_COUNT, 10);
        assert_eq!(lapic.next_deadline(at(0)), Some(Nanos(10 * 40 * divider)), "code {code}");
    }
}

#[test]
fn a_new_divider_goes_on_from_the_count() {
    let mut lapic = timer(0);
    write(&mut lapic, number::INITIAL_COUNT, 100);
    write_at(&mut lapic, number::DIVIDE, 0, 2000);
    assert_eq!(read_at(&mut lapic, number::CURRENT_COUNT, 2000), 50);
    assert_eq!(lapic.next_deadline(at(2000)), Some(Nanos(2000 + 50 * 80)));
}

#[test]
fn a_masked_timer_counts_in_silence() {
    let mut lapic = timer(lvt::MASKED);
    write(&mut lapic, number::INITIAL_COUNT, 100);
    assert_eq!(lapic.next_deadline(at(0)), None);
    assert_eq!(read_at(&mut lapic, number::CURRENT_COUNT, 2000), 50);
    // What ran out while masked is not made up for.
    write_at(&mut lapic, number::LVT, VECTOR, 6000);
    assert!(!fired(&mut lapic, 6000));
    // A periodic one goes on when unmasked.
    write_at(&mut lapic, number::LVT, PERIODIC | lvt::MASKED | VECTOR, 6000);
    write_at(&mut lapic, number::INITIAL_COUNT, 100, 10_000);
    write_at(&mut lapic, number::LVT, PERIODIC | VECTOR, 15_000);
    assert_eq!(lapic.next_deadline(at(15_000)), Some(Nanos(18_000)));
}

#[test]
fn a_deadline_is_in_guest_tsc_and_fires_once() {
    let mut lapic = timer(TSC_DEADLINE);
    lapic.msr_write(msr::TSC_DEADLINE, 6000, at(0)).unwrap();
    assert_eq!(lapic.next_deadline(at(0)), Some(Nanos(5000)));
    assert_eq!(lapic.msr_read(msr::TSC_DEADLINE, at(100)), Ok(6000));
    assert!(!fired(&mut lapic, 4999));
    assert!(fired(&mut lapic, 5000));
    assert_eq!(lapic.msr_read(msr::TSC_DEADLINE, at(5000)), Ok(0));
    assert!(!fired(&mut lapic, 9000));
}

#[test]
fn a_deadline_in_the_past_fires_at_once_and_zero_disarms() {
    let mut lapic = timer(TSC_DEADLINE);
    lapic.msr_write(msr::TSC_DEADLINE, 1, at(5000)).unwrap();
    assert_eq!(lapic.next_deadline(at(5000)), Some(Nanos(5000)));
    assert!(fired(&mut lapic, 5000));
    lapic.msr_write(msr::TSC_DEADLINE, 90_000, at(5000)).unwrap();
    lapic.msr_write(msr::TSC_DEADLINE, 0, at(6000)).unwrap();
    assert_eq!(lapic.next_deadline(at(6000)), None);
}

#[test]
fn a_deadline_follows_the_tsc_when_it_is_set() {
    let mut lapic = timer(TSC_DEADLINE);
    lapic.msr_write(msr::TSC_DEADLINE, 6000, at(0)).unwrap();
    let adjusted = Moment { now: Nanos(0), tsc: 5500 };
    assert_eq!(lapic.next_deadline(adjusted), Some(Nanos(500)));
}

#[test]
fn modes_do_not_mix() {
    let mut lapic = timer(TSC_DEADLINE);
    write(&mut lapic, number::INITIAL_COUNT, 100);
    assert_eq!(read(&mut lapic, number::INITIAL_COUNT), 0);
    assert_eq!(lapic.next_deadline(at(0)), None);
    lapic.msr_write(msr::TSC_DEADLINE, 6000, at(0)).unwrap();
    write(&mut lapic, number::LVT, VECTOR);
    assert_eq!(lapic.msr_read(msr::TSC_DEADLINE, at(0)), Ok(0));
    lapic.msr_write(msr::TSC_DEADLINE, 6000, at(0)).unwrap();
    assert_eq!(lapic.next_deadline(at(0)), None, "ignored outside its mode");
    // From counting to the deadline disarms too; from one-shot to periodic does not.
    write(&mut lapic, number::INITIAL_COUNT, 100);
    write(&mut lapic, number::LVT, PERIODIC | VECTOR);
    assert_eq!(lapic.next_deadline(at(0)), Some(Nanos(4000)));
    write(&mut lapic, number::LVT, TSC_DEADLINE | VECTOR);
    assert_eq!(read(&mut lapic, number::CURRENT_COUNT), 0);
    assert_eq!(lapic.next_deadline(at(0)), None);
}
