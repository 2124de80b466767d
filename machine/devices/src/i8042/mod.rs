//! The keyboard controller, with a keyboard and no mouse.

mod keyboard;
#[cfg(test)]
mod tests;

use crate::interrupt_output::InterruptOutput;
use keyboard::{Keyboard, Translation};
use motu_bus::{Device, Effect, IrqLine};
use std::collections::VecDeque;

const DATA: u64 = 0;
const COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_LAST_WAS_COMMAND: u8 = 1 << 3;
const STATUS_NOT_LOCKED: u8 = 1 << 4;

const MODE_KEYBOARD_INTERRUPT: u8 = 1 << 0;
const MODE_SYSTEM: u8 = 1 << 2;
const MODE_KEYBOARD_OFF: u8 = 1 << 4;
const MODE_AUX_OFF: u8 = 1 << 5;
const MODE_TRANSLATE: u8 = 1 << 6;
/// As firmware leaves the controller.
const MODE_POWER_UP: u8 = MODE_KEYBOARD_INTERRUPT | MODE_SYSTEM | MODE_AUX_OFF | MODE_TRANSLATE;

const SELF_TEST_PASSED: u8 = 0x55;
const KEYBOARD_TEST_PASSED: u8 = 0x00;
/// No device holds the auxiliary port's clock line up.
const AUX_TEST_CLOCK_LOW: u8 = 0x01;
/// Input port: the keyboard is not inhibited.
const INPUT_PORT: u8 = 0x80;
const OUTPUT_NOT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;
/// Replies that wait at most; a guest that reads none loses further ones.
const REPLIES: usize = 16;

/// An 8042 with the data port at offset 0 and the command and status port at offset 4 (0x60 and
/// 0x64; a [`crate::ports::Window`] leaves 0x61 to the timer).
///
/// It takes no time: a command is done when the write returns. A20 can be read back but does
/// nothing, as in every PC of today.
#[derive(Debug)]
pub struct I8042 {
    line: InterruptOutput,
    keyboard: Keyboard,
    translation: Translation,
    mode: u8,
    ram: [u8; 32],
    output_port: u8,
    replies: VecDeque<u8>,
    /// The byte that port 0x60 shows: it comes from the keyboard or is a reply.
    output: Option<u8>,
    last_read: u8,
    last_was_command: bool,
    /// The command whose data byte is awaited.
    command: Option<u8>,
}

impl I8042 {
    pub fn new(line: IrqLine) -> Self {
        Self::power_up(InterruptOutput::new(line))
    }

    fn power_up(line: InterruptOutput) -> Self {
        Self {
            line,
            keyboard: Keyboard::new(),
            translation: Translation::default(),
            mode: MODE_POWER_UP,
            ram: [0; 32],
            output_port: OUTPUT_NOT_RESET | OUTPUT_A20,
            replies: VecDeque::new(),
            output: None,
            last_read: 0,
            last_was_command: false,
            command: None,
        }
    }

    /// Presses or releases keys: scan codes of set 2 as the keyboard sends them. False if the guest
    /// does not listen or has not read enough of what came before; then nothing was sent.
    pub fn key(&mut self, codes: &[u8]) -> bool {
        let accepted = self.keyboard.key(codes);
        self.update();
        accepted
    }

    fn reply(&mut self, byte: u8) {
        if self.replies.len() < REPLIES {
            self.replies.push_back(byte);
        }
    }

    /// Fills the output buffer if it is empty and drives the interrupt.
    fn update(&mut self) {
        while self.output.is_none() {
            if let Some(reply) = self.replies.pop_front() {
                self.output = Some(reply);
            } else if self.mode & MODE_KEYBOARD_OFF == 0 && self.keyboard.has_data() {
                let byte = self.keyboard.send();
                self.output = if self.mode & MODE_TRANSLATE != 0 {
                    byte.and_then(|b| self.translation.translate(b))
                } else {
                    byte
                };
            } else {
                break;
            }
        }
        self.line.set(self.output.is_some() && self.mode & MODE_KEYBOARD_INTERRUPT != 0);
    }

    fn read_data(&mut self) -> u8 {
        if let Some(byte) = self.output.take() {
            self.last_read = byte;
            // The next byte is an edge of its own.
            self.line.set(false);
        }
        self.last_read
    }

    fn status(&self) -> u8 {
        let full = if self.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
        let command = if self.last_was_command { STATUS_LAST_WAS_COMMAND } else { 0 };
        STATUS_NOT_LOCKED | full | command | self.mode & STATUS_SYSTEM
    }

    fn write_command(&mut self, command: u8) -> Effect {
        self.last_was_command = true;
        self.command = None;
        match command {
            0x20 => self.reply(self.mode),
            0x21..0x40 => self.reply(self.ram[usize::from(command & 0x1f)]),
            0x60..0x80 | 0xd1..=0xd4 => self.command = Some(command),
            0xa9 => self.reply(AUX_TEST_CLOCK_LOW),
            0xaa => {
                self.mode |= MODE_SYSTEM;
                self.reply(SELF_TEST_PASSED);
            }
            0xab => self.reply(KEYBOARD_TEST_PASSED),
            0xad => self.mode |= MODE_KEYBOARD_OFF,
            0xae => self.mode &= !MODE_KEYBOARD_OFF,
            0xc0 => self.reply(INPUT_PORT),
            0xd0 => self.reply(self.output_port),
            // Pulses the output lines whose bits are clear; line 0 is the processor's reset.
            0xf0..=0xff if command & OUTPUT_NOT_RESET == 0 => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }

    fn write_data(&mut self, byte: u8) -> Effect {
        self.last_was_command = false;
        match self.command.take() {
            // The auxiliary port cannot be switched on.
            Some(0x60) => self.mode = byte | MODE_AUX_OFF,
            Some(command @ 0x61..0x80) => self.ram[usize::from(command & 0x1f)] = byte,
            Some(0xd1) => {
                self.output_port = byte | OUTPUT_NOT_RESET;
                if byte & OUTPUT_NOT_RESET == 0 {
                    return Effect::Reset;
                }
            }
            // What is looped back for the auxiliary port comes as the keyboard's: there is none.
            Some(0xd2 | 0xd3) => self.reply(byte),
            Some(_) => {}
            None => {
                self.mode &= !MODE_KEYBOARD_OFF;
                self.keyboard.receive(byte);
            }
        }
        Effect::None
    }
}

impl Device for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = match port {
                DATA => self.read_data(),
                COMMAND => self.status(),
                _ => 0xff,
            };
        }
        self.update();
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (&byte, port) in data.iter().zip(offset..) {
            let asked = match port {
                DATA => self.write_data(byte),
                COMMAND => self.write_command(byte),
                _ => Effect::None,
            };
            if asked != Effect::None {
                effect = asked;
            }
        }
        self.update();
        effect
    }

    fn reset(&mut self) {
        *self = Self::power_up(self.line.clone());
        self.update();
    }
}
