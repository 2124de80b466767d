use super::*;
use crate::testing::{Wires, accesses, perform, read_byte};
use proptest::prelude::*;

struct Board {
    pic: Arc<Pic>,
    first: PicPorts,
    second: PicPorts,
    elcr: ElcrPorts,
    wires: Arc<Wires>,
}

/// A pair as Linux sets it up: vectors from 0x30 and 0x38, nothing masked, `icw4` for both.
fn board(icw4: u8) -> Board {
    let wires = Arc::new(Wires::default());
    let intr = wires.line(0);
    let pic = Arc::new(Pic::new(Box::new(move |level| intr.set(level))));
    let mut b = Board { first: pic.first_ports(), second: pic.second_ports(), elcr: pic.elcr_ports(), pic, wires };
    for (ports, base, cascade) in [(&mut b.first, 0x30, 0x04), (&mut b.second, 0x38, 0x02)] {
        ports.write(0, &[0x11]);
        for byte in [base, cascade, icw4, 0x00] {
            ports.write(1, &[byte]);
        }
    }
    b
}

impl Board {
    fn pulse(&self, irq: u32) {
        self.pic.set(irq, true);
        self.pic.set(irq, false);
    }

    fn intr(&self) -> bool {
        self.wires.level(0)
    }

    fn in_service(&mut self) -> [u8; 2] {
        self.first.write(0, &[0x0b]);
        self.second.write(0, &[0x0b]);
        [read_byte(&mut self.first, 0), read_byte(&mut self.second, 0)]
    }
}

#[test]
fn initialization_sets_vectors_and_clears_masks() {
    let mut b = board(0x01);
    assert_eq!((read_byte(&mut b.first, 1), read_byte(&mut b.second, 1)), (0, 0));
    b.pulse(3);
    assert!(b.intr());
    assert_eq!(b.pic.acknowledge(), 0x33);
    assert!(!b.intr());
    b.first.write(1, &[0xfb]);
    assert_eq!(read_byte(&mut b.first, 1), 0xfb);
    b.first.write(0, &[0x13]);
    b.first.write(1, &[0x40]);
    b.first.write(1, &[0x01]);
    b.first.write(1, &[0x80]);
    assert_eq!(read_byte(&mut b.first, 1), 0x80, "a single chip has no ICW3");
}

#[test]
fn the_second_chip_is_cascaded_through_input_2() {
    let mut b = board(0x01);
    b.pulse(12);
    b.pulse(8);
    assert_eq!(b.pic.acknowledge(), 0x38);
    assert_eq!(b.in_service(), [0x04, 0x01]);
    b.second.write(0, &[0x20]);
    assert!(!b.intr(), "the first chip still serves its input 2");
    b.first.write(0, &[0x20]);
    assert!(b.intr());
    assert_eq!(b.pic.acknowledge(), 0x3c);
}

#[test]
fn lower_priorities_wait_and_higher_ones_interrupt() {
    let mut b = board(0x01);
    b.pulse(4);
    assert_eq!(b.pic.acknowledge(), 0x34);
    b.pulse(5);
    assert!(!b.intr());
    b.pulse(0);
    assert!(b.intr());
    assert_eq!(b.pic.acknowledge(), 0x30);
    b.first.write(0, &[0x64]);
    assert_eq!(b.in_service()[0], 0x01, "a specific end of interrupt");
    b.first.write(0, &[0x20]);
    assert_eq!(b.pic.acknowledge(), 0x35);
}

#[test]
fn what_is_masked_meanwhile_is_spurious() {
    let mut b = board(0x01);
    b.pulse(4);
    b.first.write(1, &[0x10]);
    assert!(!b.intr());
    assert_eq!(b.pic.acknowledge(), 0x37);
    assert_eq!(b.in_service(), [0, 0]);
    b.first.write(1, &[0x00]);
    assert_eq!(b.pic.acknowledge(), 0x34, "an edge is remembered");
}

#[test]
fn level_inputs_ask_again_while_they_are_up() {
    let mut b = board(0x01);
    b.elcr.write(0, &[0xff, 0xff]);
    let mut elcr = [0; 2];
    b.elcr.read(0, &mut elcr);
    assert_eq!(elcr, [0xf8, 0xde]);
    b.pic.set(9, true);
    assert_eq!(b.pic.acknowledge(), 0x39);
    b.second.write(0, &[0x20]);
    b.first.write(0, &[0x20]);
    assert!(b.intr());
    b.pic.set(9, false);
    assert!(!b.intr());
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service() {
    let mut b = board(0x03);
    b.pulse(1);
    b.pulse(6);
    assert_eq!((b.pic.acknowledge(), b.pic.acknowledge()), (0x31, 0x36));
    assert_eq!(b.in_service(), [0, 0]);
}

#[test]
fn rotation_makes_the_served_input_the_lowest() {
    let mut b = board(0x01);
    b.pulse(3);
    b.pic.acknowledge();
    b.first.write(0, &[0xa0]);
    b.pulse(3);
    b.pulse(7);
    assert_eq!(b.pic.acknowledge(), 0x37);
    b.first.write(0, &[0xc7]);
    b.first.write(0, &[0x20]);
    assert_eq!(b.pic.acknowledge(), 0x33);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let mut b = board(0x01);
    b.pulse(1);
    b.pic.acknowledge();
    b.pulse(6);
    b.first.write(1, &[0x02]);
    assert!(!b.intr());
    b.first.write(0, &[0x68]);
    assert_eq!(b.pic.acknowledge(), 0x36);
}

#[test]
fn a_poll_acknowledges() {
    let mut b = board(0x01);
    b.pulse(5);
    b.first.write(0, &[0x0c]);
    assert_eq!(read_byte(&mut b.first, 0), 0x85);
    assert!(!b.intr());
    b.first.write(0, &[0x0c]);
    assert_eq!(read_byte(&mut b.first, 0), 0x00);
    assert_eq!(b.in_service()[0], 0x20);
}

#[test]
fn one_edge_is_one_request() {
    let mut b = board(0x01);
    b.pic.set(4, true);
    assert_eq!(b.pic.acknowledge(), 0x34);
    b.first.write(0, &[0x20]);
    b.pic.set(4, true);
    assert!(!b.intr());
    b.pic.set(4, false);
    b.pic.set(4, true);
    assert!(b.intr());
}

proptest! {
    #[test]
    fn random_accesses_never_panic_and_the_output_is_what_is_pending(all in accesses(3)) {
        let mut b = board(0x01);
        for access in &all {
            perform(&mut b.first, access);
            perform(&mut b.second, &(access.0, access.1, access.2, access.3 >> 8, 0));
            perform(&mut b.elcr, access);
            b.pic.set((access.3 >> 16 & 0x1f) as u32, access.3 & 1 == 0);
            let asked = b.intr();
            let pending = { let mut pair = b.pic.pair.lock().unwrap(); pair.settle() };
            prop_assert_eq!(asked, pending);
            if access.3 & 2 != 0 {
                b.pic.acknowledge();
            }
        }
    }
}
