use super::*;
use crate::testing::{ManualClock, Wires, accesses, perform};
use proptest::prelude::*;

struct Board {
    pm: AcpiPm,
    clock: Arc<ManualClock>,
    wires: Arc<Wires>,
}

fn board() -> Board {
    let (clock, wires) = (Arc::new(ManualClock::default()), Arc::new(Wires::default()));
    Board { pm: AcpiPm::new(clock.clone(), wires.line(9)), clock, wires }
}

impl Board {
    fn word(&mut self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn timer(&mut self) -> u32 {
        let mut data = [0; 4];
        self.pm.read(8, &mut data);
        u32::from_le_bytes(data)
    }
}

#[test]
fn the_power_button_raises_the_sci_until_it_is_cleared() {
    let mut b = board();
    b.pm.press_power_button();
    assert!(!b.wires.level(9), "not enabled");
    b.pm.write(2, &0x0120u16.to_le_bytes());
    assert!(b.wires.level(9));
    assert_eq!((b.word(0), b.word(2)), (0x0100, 0x0120));
    b.pm.write(0, &0x0001u16.to_le_bytes());
    assert!(b.wires.level(9));
    b.pm.write(0, &0x0100u16.to_le_bytes());
    assert!(!b.wires.level(9));
    assert_eq!(b.word(0), 0);
}

#[test]
fn only_s5_with_sleep_enable_switches_off() {
    let mut b = board();
    let s5 = u16::from(ports::SLP_TYP_S5) << 10;
    assert_eq!(b.pm.write(4, &s5.to_le_bytes()), Effect::Reschedule);
    assert_eq!(b.word(4), s5 | 1);
    assert_eq!(b.pm.write(4, &(0x2000u16 | 1 << 10).to_le_bytes()), Effect::Reschedule);
    assert_eq!(b.pm.write(4, &(0x2000 | s5).to_le_bytes()), Effect::PowerOff);
    assert_eq!(b.word(4), s5 | 1, "SLP_EN reads as zero");
    assert_eq!(b.pm.write(5, &[0x34]), Effect::PowerOff, "a byte will do");
}

#[test]
fn the_timer_counts_at_its_rate_and_wraps_at_24_bits() {
    let mut b = board();
    b.clock.set(Nanos(Nanos::PER_SECOND));
    assert_eq!(b.timer(), 3_579_545);
    b.clock.set(CLOCK.time_of(0x123_4567));
    assert_eq!(b.timer(), 0x23_4567);
}

#[test]
fn the_timer_interrupts_when_its_highest_bit_changes() {
    let mut b = board();
    assert_eq!(b.pm.next_deadline(), None);
    b.pm.write(2, &[1, 0]);
    let at = b.pm.next_deadline().unwrap();
    assert_eq!(at, CLOCK.time_of(0x80_0000));
    b.clock.set(at);
    b.pm.expire(at);
    assert!(b.wires.level(9));
    assert_eq!(b.pm.next_deadline(), None);
    b.pm.write(0, &[1, 0]);
    assert!(!b.wires.level(9));
    assert_eq!(b.pm.next_deadline(), Some(CLOCK.time_of(0x100_0000)));
}

#[test]
fn the_ports_are_where_the_offsets_say() {
    assert_eq!((ports::PM1A_CNT - ports::BASE, ports::PM_TMR - ports::BASE), (4, 8));
    assert_eq!(ports::BASE + ports::LEN, ports::PM_TMR + 4);
}

proptest! {
    #[test]
    fn random_accesses_never_panic_and_the_sci_is_status_and_enable(all in accesses(16)) {
        let mut b = board();
        for access in &all {
            perform(&mut b.pm, access);
            b.clock.advance(access.4);
            if access.3 & 7 == 0 {
                b.pm.press_power_button();
            }
            let expected = b.word(0) & b.word(2) != 0;
            prop_assert_eq!(b.wires.level(9), expected);
        }
    }
}
