//! A board whose every answer comes from the input, and whose clock moves when it is looked at.

use motu_hv::{GuestBus, Kick, Msi, Vm};
use motu_x86::{Gpa, Nanos};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ports by which the guest has the board do something.
pub mod port {
    /// The address of the next message.
    pub const MSI_ADDRESS: u16 = 0x10;
    /// A message with this data.
    pub const MSI_DATA: u16 = 0x14;
    /// The level of the INTR line from the 8259 pair.
    pub const EXT_INT: u16 = 0x18;
    /// Lets time pass: a mantissa of 24 bits, and an exponent above it.
    pub const TIME: u16 = 0x1c;
}

/// What the clock moves on by when it is read.
const TICK: Nanos = Nanos(700);

/// Where messages to local APICs go (SDM vol. 3, 11.11.1).
const MESSAGES: u32 = 0xfee0_0000;

pub struct Board {
    vm: Arc<dyn Vm>,
    kick: Arc<dyn Kick>,
    /// The CPU has been kicked since it was let run.
    kicked: AtomicBool,
    state: Mutex<State>,
}

struct State {
    answers: Vec<u8>,
    next: usize,
    now: Nanos,
    message_address: u32,
}

impl State {
    fn answer(&mut self) -> u8 {
        let answer = self.answers.get(self.next).copied().unwrap_or(0xff);
        self.next = if self.next < self.answers.len() { self.next + 1 } else { 0 };
        answer
    }
}

impl Board {
    pub fn new(vm: Arc<dyn Vm>, kick: Arc<dyn Kick>) -> Self {
        let state = State { answers: Vec::new(), next: 0, now: Nanos(0), message_address: MESSAGES };
        Self { vm, kick, kicked: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// As after power-up, with other answers; INTR is low.
    pub fn reset(&self, answers: &[u8]) {
        self.vm.set_ext_int(false);
        *self.state() = State { answers: answers.to_vec(), next: 0, now: Nanos(0), message_address: MESSAGES };
    }

    /// The CPU is about to be let run.
    pub fn begin(&self) {
        self.kicked.store(false, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn signal(&self, address: u32, data: u32) {
        self.vm.signal_msi(Msi { address: address.into(), data });
    }

    pub fn set_ext_int(&self, level: bool) {
        self.vm.set_ext_int(level);
    }

    pub fn pass(&self, time: Nanos) {
        let mut state = self.state();
        state.now = state.now.saturating_add(time).min(Nanos(1 << 62));
    }
}

impl GuestBus for Board {
    fn io_read(&self, _: u16, data: &mut [u8]) {
        let mut state = self.state();
        data.fill_with(|| state.answer());
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        match port {
            port::MSI_ADDRESS => self.state().message_address = value,
            port::MSI_DATA => {
                let address = self.state().message_address;
                self.signal(address, value);
            }
            port::EXT_INT => self.set_ext_int(value & 1 != 0),
            port::TIME => self.pass(Nanos(u64::from(value & 0xff_ffff) << (value >> 24 & 31))),
            _ => {}
        }
    }

    fn mmio_read(&self, _: Gpa, data: &mut [u8]) {
        assert!(matches!(data.len(), 1..=8));
        let mut state = self.state();
        data.fill_with(|| state.answer());
    }

    fn mmio_write(&self, _: Gpa, data: &[u8]) {
        assert!(matches!(data.len(), 1..=8));
    }

    fn acknowledge_interrupt(&self) -> u8 {
        let vector = self.state().answer();
        self.vm.set_ext_int(vector & 1 != 0);
        vector
    }

    fn end_of_interrupt(&self, _: u8) {}

    /// Kicks the CPU, so that it comes back soon whatever it does.
    fn now(&self) -> Nanos {
        if !self.kicked.swap(true, Ordering::Relaxed) {
            self.kick.kick();
        }
        let mut state = self.state();
        state.now = state.now.saturating_add(TICK);
        state.now
    }
}
