use super::*;
use crate::testing::{Wires, accesses, perform, read_byte};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

struct Port {
    uart: Uart,
    wires: Arc<Wires>,
    sent: Arc<Mutex<Vec<u8>>>,
}

const PIN: u32 = 4;

fn port() -> Port {
    let wires = Arc::new(Wires::default());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let output = sent.clone();
    let uart = Uart::new(wires.line(PIN), Box::new(move |bytes| output.lock().unwrap().extend_from_slice(bytes)));
    Port { uart, wires, sent }
}

impl Port {
    fn write(&mut self, register: u64, value: u8) {
        self.uart.write(register, &[value]);
    }

    fn read(&mut self, register: u64) -> u8 {
        read_byte(&mut self.uart, register)
    }

    /// FIFO on with trigger level 14, interrupts `ier`, DTR, RTS and OUT2.
    fn open(&mut self, ier: u8) {
        self.write(2, 0xc7);
        self.write(1, ier);
        self.write(4, 0x0b);
    }
}

#[test]
fn output_goes_out_at_once_and_the_divisor_does_not() {
    let mut p = port();
    p.write(3, 0x83);
    p.write(0, 1);
    p.write(1, 2);
    assert_eq!((p.read(0), p.read(1)), (1, 2));
    p.write(3, 0x03);
    p.write(0, b'x');
    assert_eq!(*p.sent.lock().unwrap(), b"x");
    assert_eq!(p.read(5), 0x60);
    assert_eq!(p.read(1), 0);
}

#[test]
fn linux_finds_a_16550a() {
    let mut p = port();
    p.write(1, 0xff);
    assert_eq!(p.read(1), 0x0f);
    p.write(1, 0);
    p.write(4, 0x1a);
    assert_eq!(p.read(6) & 0xf0, 0x90, "loopback: RTS is CTS, OUT2 is DCD");
    p.write(4, 0);
    assert_eq!(p.read(6) & 0xf0, 0xb0);
    assert_eq!(p.read(2), 0x01);
    p.write(2, 0x01);
    assert_eq!(p.read(2), 0xc1);
    p.write(2, 0x21);
    assert_eq!(p.read(2) & 0x20, 0, "no 64-byte FIFO");
    p.write(7, 0x5a);
    assert_eq!(p.read(7), 0x5a);
}

#[test]
fn the_transmitter_interrupt_comes_back_each_time_it_is_enabled() {
    let mut p = port();
    p.open(0x02);
    assert!(p.wires.level(PIN));
    assert_eq!(p.read(2), 0xc2);
    assert_eq!(p.read(2), 0xc1, "reading IIR clears it");
    assert!(!p.wires.level(PIN));
    p.write(1, 0x02);
    assert_eq!(p.read(2), 0xc1, "it was enabled already");
    p.write(0, b'a');
    assert_eq!(p.read(2), 0xc2);
    p.write(1, 0x00);
    p.write(1, 0x02);
    assert_eq!(p.read(2), 0xc2);
}

#[test]
fn interrupts_come_in_order_of_priority() {
    let mut p = port();
    p.open(0x0f);
    p.write(4, 0x10);
    for byte in 0..17 {
        p.write(0, byte);
    }
    p.write(4, 0x0b);
    assert_eq!(p.read(2), 0xc6, "overrun");
    assert_eq!(p.read(5), 0x63);
    assert_eq!(p.read(2), 0xc4, "trigger level");
    assert_eq!([p.read(0), p.read(0), p.read(0)], [0, 1, 2]);
    assert_eq!(p.read(2), 0xcc, "below the trigger level");
    for byte in 3..16 {
        assert_eq!(p.read(0), byte);
    }
    assert_eq!(p.read(2), 0xc2);
    assert_eq!(p.read(2), 0xc0, "modem lines changed with loopback");
    assert_ne!(p.read(6) & 0x0f, 0);
    assert_eq!(p.read(2), 0xc1);
    assert!(!p.wires.level(PIN));
}

#[test]
fn out2_gates_the_line() {
    let mut p = port();
    p.open(0x02);
    assert!(p.wires.level(PIN));
    p.write(4, 0x03);
    assert!(!p.wires.level(PIN));
    p.write(4, 0x0b);
    assert!(p.wires.level(PIN));
}

#[test]
fn input_waits_until_the_guest_is_ready_and_is_never_lost() {
    let mut p = port();
    let text: Vec<u8> = (0..100).collect();
    assert_eq!(p.uart.input(&text), 100);
    assert_eq!(p.read(5) & 1, 0);
    p.open(0x01);
    assert!(p.wires.level(PIN));
    let mut got = Vec::new();
    while p.read(5) & 1 != 0 {
        got.push(p.read(0));
    }
    assert_eq!(got, text);
    assert!(!p.wires.level(PIN));
}

#[test]
fn the_queue_is_bounded_and_tells_when_it_is_drained() {
    let mut p = port();
    let drained = Arc::new(Mutex::new(0));
    let count = drained.clone();
    p.uart.on_drained(Box::new(move || *count.lock().unwrap() += 1));
    assert_eq!(p.uart.input(&[7; Uart::QUEUE_BYTES + 1]), Uart::QUEUE_BYTES);
    assert_eq!((p.uart.space(), p.uart.input(&[1])), (0, 0));
    p.open(0x01);
    assert_eq!(p.uart.space(), 16);
    for _ in 0..Uart::QUEUE_BYTES - 16 {
        assert_eq!(*drained.lock().unwrap(), 0);
        p.read(0);
    }
    assert_eq!(*drained.lock().unwrap(), 1);
    assert_eq!(p.uart.space(), Uart::QUEUE_BYTES);
}

#[test]
fn without_fifo_there_is_one_byte() {
    let mut p = port();
    p.write(1, 1);
    p.uart.input(b"ab");
    assert_eq!((p.read(2), p.read(0), p.read(0), p.read(5) & 1), (0x04, b'a', b'b', 0));
}

proptest! {
    #[test]
    fn random_accesses_never_panic(all in accesses(10)) {
        let mut p = port();
        for access in &all {
            perform(&mut p.uart, access);
            p.uart.input(&access.3.to_le_bytes());
            prop_assert!(p.uart.space() <= Uart::QUEUE_BYTES);
        }
    }
}
