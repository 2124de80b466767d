use super::*;
use crate::testing::{ManualClock, Wires, accesses, perform, read_byte};
use proptest::prelude::*;

/// 2024-02-29 12:34:56 UTC, a Thursday.
const START: i64 = 1_709_210_096;
const SECOND: u64 = Nanos::PER_SECOND;

struct Board {
    rtc: Rtc,
    clock: Arc<ManualClock>,
    wires: Arc<Wires>,
}

fn board() -> Board {
    let (clock, wires) = (Arc::new(ManualClock::default()), Arc::new(Wires::default()));
    Board { rtc: Rtc::new(clock.clone(), wires.line(8), START), clock, wires }
}

impl Board {
    fn get(&mut self, register: u8) -> u8 {
        self.rtc.write(INDEX, &[register]);
        read_byte(&mut self.rtc, DATA)
    }

    fn set(&mut self, register: u8, value: u8) {
        self.rtc.write(INDEX, &[register]);
        self.rtc.write(DATA, &[value]);
    }

    fn time(&mut self) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|register| self.get(register))
    }

    fn expire_next(&mut self) -> Nanos {
        let at = self.rtc.next_deadline().expect("a deadline");
        self.clock.set(at);
        self.rtc.expire(at);
        at
    }
}

#[test]
fn time_of_day_in_each_format() {
    let mut b = board();
    b.clock.set(Nanos(4 * SECOND + 5));
    assert_eq!(b.time(), [0x20, 0x24, 0x02, 0x29, 0x05, 0x12, 0x35, 0x00]);
    b.set(0x0b, 0x06);
    assert_eq!(b.time(), [0x20, 24, 2, 29, 5, 12, 35, 0]);
    b.set(0x0b, 0x00);
    assert_eq!(b.get(4), 0x92, "noon is 12 PM");
    b.clock.set(Nanos(12 * 3600 * SECOND));
    assert_eq!(b.get(4), 0x12, "midnight is 12 AM");
    assert_eq!(b.get(7), 0x01);
}

#[test]
fn the_guest_sets_the_time() {
    let mut b = board();
    b.set(0x0b, 0x82);
    for (register, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)] {
        b.set(register, value);
    }
    b.clock.set(Nanos(10 * SECOND));
    assert_eq!(b.get(0), 0x58, "it stands still while it is set");
    b.set(0x0b, 0x02);
    b.clock.set(Nanos(12 * SECOND));
    assert_eq!(b.time(), [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
    b.set(2, 0x30);
    assert_eq!((b.get(2), b.get(4)), (0x30, 0x00), "a register alone");
}

#[test]
fn update_in_progress_warns_of_the_next_second() {
    let mut b = board();
    assert_eq!(b.get(0x0a), 0x26);
    b.clock.set(Nanos(SECOND - 244_000));
    assert_eq!(b.get(0x0a), 0xa6);
    b.clock.set(Nanos(SECOND));
    assert_eq!(b.get(0x0a), 0x26);
}

#[test]
fn update_interrupts_come_each_second_once_acknowledged() {
    let mut b = board();
    b.clock.set(Nanos(SECOND / 2));
    b.set(0x0b, 0x12);
    assert_eq!(b.expire_next(), Nanos(SECOND));
    assert!(b.wires.level(8));
    assert_eq!(b.rtc.next_deadline(), None);
    assert_eq!(b.get(0x0c) & 0x90, 0x90);
    assert!(!b.wires.level(8));
    assert_eq!(b.get(0x0c), 0);
    assert_eq!(b.expire_next(), Nanos(2 * SECOND));
}

#[test]
fn the_periodic_rate_is_exact() {
    let mut b = board();
    b.set(0x0b, 0x42);
    for tick in 1..=1024u64 {
        assert_eq!(b.expire_next(), Nanos((tick * SECOND).div_ceil(1024)));
        assert_eq!(b.get(0x0c) & 0xc0, 0xc0);
    }
    assert_eq!(b.clock.now(), Nanos(SECOND));
    assert_eq!(b.wires.take_edges(), 1024);
    b.set(0x0a, 0x20);
    assert_eq!(b.rtc.next_deadline(), None);
}

#[test]
fn alarms_match_the_time_and_wildcards() {
    let mut b = board();
    for (register, value) in [(5, 0x13), (3, 0x00), (1, 0x10)] {
        b.set(register, value);
    }
    b.set(0x0b, 0x22);
    assert_eq!(b.expire_next(), Nanos((25 * 60 + 14) * SECOND));
    assert!(b.wires.level(8));
    assert_eq!(b.get(0x0c) & 0xa0, 0xa0);
    assert_eq!(b.rtc.next_deadline(), Some(Nanos((86_400 + 25 * 60 + 14) * SECOND)));
    b.set(5, 0xff);
    assert_eq!(b.rtc.next_deadline(), Some(Nanos((3_600 + 25 * 60 + 14) * SECOND)));
    b.set(3, 0x75);
    assert_eq!(b.rtc.next_deadline(), None, "there is no such minute");
}

#[test]
fn flags_are_set_without_interrupts_too() {
    let mut b = board();
    b.clock.set(Nanos(3 * SECOND));
    assert_eq!(b.get(0x0c), 0x50);
    assert!(!b.wires.level(8));
}

#[test]
fn memory_survives_reset() {
    let mut b = board();
    b.rtc.set_cmos(0x5b, 7);
    b.set(0x7f, 9);
    b.set(0x0b, 0x72);
    b.rtc.reset();
    assert_eq!((b.get(0x5b), b.get(0xff), b.get(0x0b), b.get(0x0d)), (7, 9, 0x02, 0x80));
    assert_eq!(b.get(9), 0x24);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(all in accesses(3), registers in prop::collection::vec((0u8..16, any::<u8>()), 200)) {
        let mut b = board();
        for (access, &(register, value)) in all.iter().zip(&registers) {
            perform(&mut b.rtc, access);
            b.set(register, value);
            b.time();
            if let Some(at) = b.rtc.next_deadline() {
                prop_assert!(at.0 > b.clock.now().0);
            }
            b.clock.advance(access.4);
            b.rtc.expire(b.clock.now());
        }
    }
}
