use super::*;
use crate::testing::{ManualClock, Wires, accesses, perform, read_byte};
use proptest::prelude::*;

struct Board {
    pit: Pit,
    clock: Arc<ManualClock>,
    wires: Arc<Wires>,
}

fn board() -> Board {
    let (clock, wires) = (Arc::new(ManualClock::default()), Arc::new(Wires::default()));
    Board { pit: Pit::new(clock.clone(), wires.line(0)), clock, wires }
}

impl Board {
    fn write(&mut self, port: u64, value: u8) {
        self.pit.write(port, &[value]);
    }

    /// Programs a counter with a 16-bit count, at tick `at`.
    fn program(&mut self, counter: u8, mode: u8, count: u16, at: u64) {
        self.at(at);
        let [low, high] = count.to_le_bytes();
        self.write(CONTROL, counter << 6 | 0x30 | mode << 1);
        self.write(u64::from(counter), low);
        self.write(u64::from(counter), high);
    }

    fn at(&mut self, tick: u64) {
        self.clock.set(CLOCK.time_of(tick));
    }

    fn count(&mut self, counter: u8, tick: u64) -> u16 {
        self.at(tick);
        self.write(CONTROL, counter << 6);
        let port = u64::from(counter);
        u16::from_le_bytes([read_byte(&mut self.pit, port), read_byte(&mut self.pit, port)])
    }

    fn out2(&mut self, tick: u64) -> bool {
        self.at(tick);
        read_byte(&mut self.pit, Pit::SPEAKER) & 0x20 != 0
    }

    /// Runs the timer to tick `until`; gives the ticks of its interrupts.
    fn interrupts(&mut self, until: u64) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some(at) = self.pit.next_deadline().filter(|at| CLOCK.ticks(*at) <= until) {
            self.clock.set(at);
            self.pit.expire(at);
            if self.wires.take_edges() > 0 {
                all.push(CLOCK.ticks(at));
            }
        }
        all
    }
}

/// A count that is written at tick 100 is loaded at 101.
const LOADED: u64 = 101;

#[test]
fn mode_0_counts_down_once_and_goes_on_past_zero() {
    let mut b = board();
    b.write(Pit::SPEAKER, 1);
    b.program(2, 0, 1000, 100);
    assert_eq!(b.count(2, LOADED), 1000);
    assert_eq!(b.count(2, LOADED + 999), 1);
    assert!(!b.out2(LOADED + 999));
    assert!(b.out2(LOADED + 1000));
    assert_eq!(b.count(2, LOADED + 1001), 0xffff);
    b.at(LOADED + 1002);
    b.write(CONTROL, 0xb0);
    assert!(!b.out2(LOADED + 1002), "the control word takes OUT low");
}

#[test]
fn the_gate_of_counter_2_holds_mode_0() {
    let mut b = board();
    b.program(2, 0, 1000, 100);
    assert_eq!(b.count(2, 5000), 1000);
    b.write(Pit::SPEAKER, 1);
    assert_eq!(b.count(2, 5300), 700);
    b.write(Pit::SPEAKER, 0);
    assert_eq!(b.count(2, 9000), 700);
    assert!(!b.out2(9000));
}

#[test]
fn mode_2_reloads_and_interrupts_each_period() {
    let mut b = board();
    b.program(0, 2, 100, 100);
    assert_eq!((b.count(0, LOADED), b.count(0, LOADED + 99)), (100, 1));
    assert_eq!((b.count(0, LOADED + 100), b.count(0, LOADED + 250)), (100, 50));
    let mut b = board();
    b.program(0, 2, 100, 100);
    assert_eq!(b.interrupts(LOADED + 350), [LOADED + 100, LOADED + 200, LOADED + 300]);
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
    let mut b = board();
    b.program(0, 2, 100, 100);
    b.at(LOADED + 30);
    b.write(0, 10);
    b.write(0, 0);
    assert_eq!(b.count(0, LOADED + 31), 69);
    assert_eq!(b.interrupts(LOADED + 125), [LOADED + 100, LOADED + 110, LOADED + 120]);
}

#[test]
fn late_periods_are_one_interrupt() {
    let mut b = board();
    b.program(0, 2, 100, 100);
    b.pit.expire(CLOCK.time_of(LOADED + 1050));
    assert_eq!(b.wires.take_edges(), 1);
    assert_eq!(b.pit.next_deadline(), Some(CLOCK.time_of(LOADED + 1100)));
}

#[test]
fn mode_3_is_a_square_wave_that_counts_in_twos() {
    let mut b = board();
    b.write(Pit::SPEAKER, 1);
    for (count, high) in [(10, 5), (11, 6)] {
        b.program(2, 3, count, 100);
        let wave: Vec<bool> = (0..2 * u64::from(count)).map(|t| b.out2(LOADED + t)).collect();
        let expected: Vec<bool> = (0..2 * count).map(|t| t % count < high).collect();
        assert_eq!(wave, expected);
    }
    b.program(2, 3, 11, 100);
    let counts: Vec<u16> = (0..12).map(|t| b.count(2, LOADED + t)).collect();
    assert_eq!(counts, [10, 8, 6, 4, 2, 0, 10, 8, 6, 4, 2, 10]);
    let mut b = board();
    b.program(0, 3, 11, 100);
    assert_eq!(b.interrupts(LOADED + 30), [LOADED + 11, LOADED + 22]);
}

#[test]
fn mode_3_takes_a_new_count_at_the_end_of_the_half() {
    let mut b = board();
    b.write(Pit::SPEAKER, 1);
    b.program(2, 3, 20, 100);
    b.at(LOADED + 3);
    b.write(2, 8);
    b.write(2, 0);
    let wave: String = (0..24).map(|t| if b.out2(LOADED + t) { '1' } else { '0' }).collect();
    assert_eq!(wave, "111111111100001111000011");
}

#[test]
fn mode_4_strobes_once() {
    let mut b = board();
    b.program(0, 4, 50, 100);
    assert_eq!(b.interrupts(1 << 20), [LOADED + 51]);
    assert_eq!(b.pit.next_deadline(), None);
    b.write(Pit::SPEAKER, 1);
    b.program(2, 4, 50, 100);
    assert_eq!([49, 50, 51].map(|t| b.out2(LOADED + t)), [true, false, true]);
}

#[test]
fn mode_1_starts_with_the_gate() {
    let mut b = board();
    b.program(2, 1, 50, 100);
    assert!(b.out2(500));
    b.write(Pit::SPEAKER, 1);
    assert!(!b.out2(501) && !b.out2(550));
    assert!(b.out2(551));
}

#[test]
fn a_count_of_zero_is_the_largest() {
    let mut b = board();
    b.program(0, 0, 0, 100);
    assert_eq!(b.count(0, LOADED), 0);
    assert_eq!(b.interrupts(1 << 20), [LOADED + 0x1_0000]);
}

#[test]
fn bcd_counts_in_decimal() {
    let mut b = board();
    b.at(100);
    b.write(CONTROL, 0x31);
    b.write(0, 0x00);
    b.write(0, 0x10);
    assert_eq!(b.count(0, LOADED + 1), 0x0999);
    assert_eq!(b.count(0, LOADED + 1001), 0x9999);
}

#[test]
fn linux_quick_calibration_sees_the_high_byte_fall() {
    let mut b = board();
    b.write(Pit::SPEAKER, 1);
    b.program(2, 0, 0xffff, 100);
    for step in 0..20u64 {
        b.at(LOADED + step * 256 + 10);
        read_byte(&mut b.pit, 2);
        assert_eq!(u64::from(read_byte(&mut b.pit, 2)), 0xff - step);
    }
}

#[test]
fn read_back_latches_status_and_count_together() {
    let mut b = board();
    b.program(0, 2, 1000, 100);
    b.at(LOADED + 10);
    b.write(CONTROL, 0xc2);
    b.at(LOADED + 500);
    let got = [0; 3].map(|_: u8| read_byte(&mut b.pit, 0));
    assert_eq!(got, [0xb4, (990u16 & 0xff) as u8, (990u16 >> 8) as u8]);
    b.write(CONTROL, 0x36);
    b.write(CONTROL, 0xe2);
    assert_eq!(read_byte(&mut b.pit, 0), 0xf6, "no count is loaded");
}

#[test]
fn programming_a_counter_ends_its_old_interrupts() {
    let mut b = board();
    b.program(0, 2, 100, 100);
    b.program(0, 0, 0, 150);
    assert_eq!(b.pit.next_deadline(), Some(CLOCK.time_of(151 + 0x1_0000)));
    b.write(CONTROL, 0x30);
    assert_eq!(b.pit.next_deadline(), None);
    assert_eq!(b.wires.take_edges(), 0);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(all in accesses(4)) {
        let mut b = board();
        for access in &all {
            perform(&mut b.pit, access);
            perform(&mut b.pit, &(access.0, Pit::SPEAKER, 0, access.3 >> 32, 0));
            if let Some(at) = b.pit.next_deadline() {
                prop_assert!(CLOCK.ticks(at) as i64 >= b.pit.seen);
            }
            b.clock.advance(access.4 >> (access.3 >> 8 & 0x1f));
            b.pit.expire(b.clock.now());
        }
    }

    /// Deadlines find every rise of OUT that looking at each tick finds.
    #[test]
    fn interrupts_are_the_rises_of_out(
        mode in 0u8..5, count in 2u16..40, second in proptest::option::of((2u16..40, 1u64..100)),
    ) {
        let (mut b, mut twin) = (board(), Channel::new(true));
        let write = |channel: &mut Channel, count: u16, now: i64| {
            for byte in count.to_le_bytes() {
                channel.write_count(byte, now);
            }
        };
        twin.write_control(0x30 | mode << 1);
        let mut was_high = twin.out(99);
        b.program(0, mode, count, 100);
        let mut expected = Vec::new();
        let mut found = Vec::new();
        for now in 100..400i64 {
            if now == 100 {
                write(&mut twin, count, now);
            }
            let high = twin.out(now);
            if high && !was_high {
                expected.push(now as u64);
            }
            was_high = high;
            if let Some((count, _)) = second.filter(|&(_, at)| now == 100 + at as i64 && mode != 0) {
                write(&mut twin, count, now);
                was_high = twin.out(now);
                found.extend(b.interrupts(now as u64));
                b.at(now as u64);
                b.write(0, count as u8);
                b.write(0, 0);
            }
        }
        found.extend(b.interrupts(399));
        prop_assert_eq!(found, expected);
    }
}
