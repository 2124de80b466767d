//! An AT keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboards").

use std::collections::VecDeque;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
/// What an MF2 keyboard identifies as.
const IDENTITY: [u8; 2] = [0xab, 0x83];
/// Bytes that the keyboard keeps while nobody reads them.
const QUEUE_BYTES: usize = 64;

/// The keyboard's end of the cable.
#[derive(Clone, Debug)]
pub(super) struct Keyboard {
    queue: VecDeque<u8>,
    last_sent: u8,
    scanning: bool,
    scan_code_set: u8,
    /// The command whose parameter is awaited.
    command: Option<u8>,
}

impl Keyboard {
    pub fn new() -> Self {
        Self { queue: VecDeque::new(), last_sent: 0, scanning: true, scan_code_set: 2, command: None }
    }

    /// A key was pressed or released: scan codes of set 2. False if there is no room or the guest
    /// has switched scanning off.
    pub fn key(&mut self, codes: &[u8]) -> bool {
        let accepted = self.scanning && self.queue.len() + codes.len() <= QUEUE_BYTES;
        if accepted {
            self.queue.extend(codes);
        }
        accepted
    }

    pub fn has_data(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next byte to the controller.
    pub fn send(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        if byte != RESEND {
            self.last_sent = byte;
        }
        Some(byte)
    }

    fn reply(&mut self, bytes: &[u8]) {
        let room = QUEUE_BYTES.saturating_sub(self.queue.len());
        self.queue.extend(bytes.iter().take(room));
    }

    /// A byte from the controller. What was not read yet is dropped, as keyboards do.
    pub fn receive(&mut self, byte: u8) {
        self.queue.clear();
        match (self.command.take(), byte) {
            // Parameters have the highest bit clear; else a new command begins.
            (Some(command), 0..0x80) => self.parameter(command, byte),
            _ => self.command(byte),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (0xf0, 0) => self.reply(&[ACKNOWLEDGE, self.scan_code_set]),
            (0xf0, 1..=3) => {
                self.scan_code_set = byte;
                self.reply(&[ACKNOWLEDGE]);
            }
            (0xf0, _) => self.reply(&[RESEND]),
            _ => self.reply(&[ACKNOWLEDGE]),
        }
    }

    fn command(&mut self, byte: u8) {
        match byte {
            ECHO => self.reply(&[ECHO]),
            0xf2 => self.reply(&[ACKNOWLEDGE, IDENTITY[0], IDENTITY[1]]),
            // LEDs, scan code set and repeat rate have a parameter.
            0xed | 0xf0 | 0xf3 => {
                self.command = Some(byte);
                self.reply(&[ACKNOWLEDGE]);
            }
            0xf4 => {
                self.scanning = true;
                self.reply(&[ACKNOWLEDGE]);
            }
            0xf5 | 0xf6 => {
                *self = Self { last_sent: self.last_sent, scanning: byte == 0xf6, ..Self::new() };
                self.reply(&[ACKNOWLEDGE]);
            }
            // Key types, which only scan code set 3 has.
            0xf7..=0xfa => self.reply(&[ACKNOWLEDGE]),
            0xfe => self.reply(&[self.last_sent]),
            0xff => {
                *self = Self::new();
                self.reply(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.reply(&[RESEND]),
        }
    }
}

/// What the controller makes of scan codes of set 2 below 0x80 to be of set 1 (PS/2 Technical
/// Reference, "Keyboard and auxiliary device controller", scan code translation).
#[rustfmt::skip]
const SET_2_TO_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

const SET_2_RELEASE: u8 = 0xf0;

/// Scan code translation in the controller. A release prefix becomes the highest bit of what follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Translation {
    release: bool,
}

impl Translation {
    /// What the guest gets for `byte`; nothing for the prefix.
    pub fn translate(&mut self, byte: u8) -> Option<u8> {
        if byte == SET_2_RELEASE {
            self.release = true;
            return None;
        }
        let code = match byte {
            0x83 => 0x41,
            0x84 => 0x54,
            _ => SET_2_TO_1.get(usize::from(byte)).copied().unwrap_or(byte),
        };
        let release = if std::mem::take(&mut self.release) { 0x80 } else { 0 };
        Some(code | release)
    }
}
