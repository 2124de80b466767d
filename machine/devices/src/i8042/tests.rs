use super::*;
use crate::testing::{Wires, accesses, perform, read_byte};
use proptest::prelude::*;
use std::sync::Arc;

struct Board {
    dev: I8042,
    wires: Arc<Wires>,
}

fn board() -> Board {
    let wires = Arc::new(Wires::default());
    Board { dev: I8042::new(wires.line(1)), wires }
}

impl Board {
    fn command(&mut self, command: u8) -> Effect {
        self.dev.write(COMMAND, &[command])
    }

    fn data(&mut self, byte: u8) -> Effect {
        self.dev.write(DATA, &[byte])
    }

    /// Everything that the controller has to say.
    fn replies(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while read_byte(&mut self.dev, COMMAND) & 1 != 0 {
            all.push(read_byte(&mut self.dev, DATA));
        }
        all
    }

    fn ask(&mut self, command: u8) -> Vec<u8> {
        self.command(command);
        self.replies()
    }

    fn keyboard(&mut self, byte: u8) -> Vec<u8> {
        self.data(byte);
        self.replies()
    }
}

#[test]
fn linux_finds_a_controller_with_a_keyboard_and_no_mouse() {
    let mut b = board();
    assert_eq!(read_byte(&mut b.dev, COMMAND), 0x14, "idle, tested, not locked");
    assert_eq!(b.ask(0x20), [0x65]);
    assert_eq!(b.ask(0xaa), [0x55]);
    assert_eq!(b.ask(0xab), [0x00]);
    b.command(0xd3);
    b.data(0x5a);
    let status = read_byte(&mut b.dev, COMMAND);
    assert_eq!(status & 0x21, 0x01, "looped back, but not from the auxiliary port");
    assert_eq!(b.replies(), [0x5a]);
    assert_eq!(b.ask(0xa9), [0x01]);
    b.command(0x60);
    b.data(0x44);
    assert_eq!(b.ask(0x20), [0x64], "the auxiliary port stays off");
    assert!(!b.wires.level(1));
}

#[test]
fn the_keyboard_answers() {
    let mut b = board();
    b.command(0x60);
    b.data(0x05);
    assert_eq!(b.keyboard(0xff), [0xfa, 0xaa]);
    assert_eq!(b.keyboard(0xf2), [0xfa, 0xab, 0x83]);
    assert_eq!((b.keyboard(0xed), b.keyboard(0x07)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf3), b.keyboard(0x00)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x00)), (vec![0xfa], vec![0xfa, 2]));
    assert_eq!(b.keyboard(0xee), [0xee]);
    assert_eq!(b.keyboard(0x01), [0xfe]);
    assert_eq!(b.keyboard(0xf5), [0xfa]);
    assert!(!b.dev.key(&[0x1c]), "scanning is off");
    assert_eq!(b.keyboard(0xf4), [0xfa]);
    assert!(b.dev.key(&[0x1c]));
    assert_eq!(b.replies(), [0x1c]);
}

#[test]
fn scan_codes_are_translated() {
    let mut b = board();
    assert!(b.dev.key(&[0x1c, 0xf0, 0x1c, 0xe0, 0xf0, 0x75, 0x83]));
    assert_eq!(b.replies(), [0x1e, 0x9e, 0xe0, 0xc8, 0x41]);
    assert_eq!(b.keyboard(0xf2), [0xfa, 0xab, 0x41]);
}

#[test]
fn each_byte_is_an_edge_on_irq_1() {
    let mut b = board();
    b.data(0xf2);
    assert!(b.wires.level(1));
    assert_eq!(b.replies().len(), 3);
    assert_eq!(b.wires.take_edges(), 3);
    assert!(!b.wires.level(1));
    b.command(0x60);
    b.data(0x64);
    b.data(0xee);
    assert!(!b.wires.level(1), "the interrupt is off");
}

#[test]
fn a_disabled_keyboard_keeps_its_bytes() {
    let mut b = board();
    b.command(0xad);
    assert!(b.dev.key(&[0x1c]));
    assert!(b.replies().is_empty());
    b.command(0xae);
    assert_eq!(b.replies(), [0x1e]);
}

#[test]
fn resets_by_pulse_and_by_output_port() {
    let mut b = board();
    assert_eq!(b.command(0xff), Effect::None);
    assert_eq!(b.command(0xfe), Effect::Reset);
    b.command(0xd1);
    assert_eq!(b.data(0xdf), Effect::None);
    assert_eq!(b.ask(0xd0), [0xdf]);
    b.command(0xd1);
    assert_eq!(b.data(0x02), Effect::Reset);
}

proptest! {
    #[test]
    fn random_accesses_never_panic_and_queues_are_bounded(all in accesses(6)) {
        let mut b = board();
        for access in &all {
            perform(&mut b.dev, access);
            b.dev.write(access.3 >> 8 & 4, &[(access.3 >> 16) as u8]);
            b.dev.key(&access.3.to_le_bytes());
            prop_assert!(b.dev.replies.len() <= REPLIES);
        }
        prop_assert!(b.replies().len() <= REPLIES + 1 + 64);
    }
}
