//! The board under a test guest: a log, an end, and ways to ask for interrupts.
//!
//! One page of guest-physical space at [`PAGE`]; the registers are 8 bytes each. The ports do the same for
//! code that may use them.

use motu_hv::{GuestBus, Kick, Msi, Vm};
use motu_memory::GuestRam;
use motu_x86::{Gpa, Nanos};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Guest-physical address of the register page: where no RAM is.
pub const PAGE: u64 = 0xe000_0000;
/// Offsets of the registers.
pub mod register {
    /// A value for the log.
    pub const LOG: u64 = 0x00;
    /// The end of the test, with a value.
    pub const END: u64 = 0x08;
    /// Reads as what was last written to it.
    pub const ECHO: u64 = 0x10;
    /// Eight words of a trap record; the last one files it.
    pub const TRAP: u64 = 0x40;
}
/// Ports.
pub mod port {
    /// A byte, word or double word for the log.
    pub const LOG: u16 = 0xe9;
    /// The end of the test, with a value.
    pub const END: u16 = 0xf4;
    /// An edge-triggered MSI with this vector to APIC 0; bits 8 to 15 as in the message's data.
    pub const MSI: u16 = 0x400;
    /// The level of the INTR line from the 8259 pair.
    pub const EXT_INT: u16 = 0x404;
    /// Calls the guest's own action on the board with the value.
    pub const ACTION: u16 = 0x408;
    /// The next word of a trap record; the eighth files it.
    pub const TRAP: u16 = 0x40c;
}
/// A guest that has told of so much has gone astray, and ends with [`ASTRAY`].
const MOST_EVENTS: usize = 1 << 18;
pub const ASTRAY: u32 = 0xbad_1065;
/// What the 8259 pair answers to the acknowledge cycle.
pub const EXT_INT_VECTOR: u8 = 0x28;

/// An exception or interrupt as the common handler found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Trap {
    pub vector: u64,
    /// Zero where the vector has none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub flags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub cr2: u64,
}

/// What the guest did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Value(u64),
    Trap(Trap),
    /// The acknowledge cycle ran.
    Acknowledged,
    /// An EOI was broadcast for the vector.
    Ended(u8),
}

/// What a guest has the board do when it writes to [`port::ACTION`].
pub type Action = dyn Fn(u32, &GuestRam, &dyn Vm) + Sync + Send;

#[derive(Default)]
struct Record {
    events: Vec<Event>,
    end: Option<u32>,
    trap: [u64; 8],
    /// Words of the record that have come by the port.
    words: usize,
    echo: [u8; 8],
}

pub(crate) struct Board {
    pub vm: Arc<dyn Vm>,
    pub ram: GuestRam,
    /// One for each CPU.
    pub kicks: Vec<Arc<dyn Kick>>,
    pub action: Option<Arc<Action>>,
    pub start: Instant,
    record: Mutex<Record>,
    pub ended: AtomicBool,
}

impl Board {
    pub fn new(vm: Arc<dyn Vm>, ram: GuestRam, kicks: Vec<Arc<dyn Kick>>, action: Option<Arc<Action>>) -> Self {
        Self { vm, ram, kicks, action, start: Instant::now(), record: Mutex::default(), ended: AtomicBool::new(false) }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: Event) {
        let mut record = self.record();
        record.events.push(event);
        if record.events.len() >= MOST_EVENTS {
            drop(record);
            self.end(ASTRAY);
        }
    }

    fn end(&self, value: u32) {
        self.record().end.get_or_insert(value);
        self.stop();
    }

    /// No CPU is to go on.
    pub fn stop(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.kicks.iter().for_each(|kick| kick.kick());
    }

    /// What happened, and the value of the end if there was one.
    pub fn take(&self) -> (Vec<Event>, Option<u32>) {
        let mut record = self.record();
        (std::mem::take(&mut record.events), record.end)
    }

    fn trap_word(&self, index: usize, value: u64) {
        let mut record = self.record();
        if let Some(word) = record.trap.get_mut(index) {
            *word = value;
        }
        if index == 7 {
            let [vector, error, rip, cs, flags, rsp, ss, cr2] = record.trap;
            record.events.push(Event::Trap(Trap { vector, error, rip, cs, flags, rsp, ss, cr2 }));
        }
    }

    fn trap_port(&self, value: u64) {
        let index = self.record().words;
        self.trap_word(index, value);
        self.record().words = (index + 1) % 8;
    }
}

fn value_of(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(bytes)
}

impl GuestBus for Board {
    fn io_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        let value = value_of(data);
        match port {
            port::LOG => self.note(Event::Value(value)),
            port::END => self.end(value as u32),
            port::MSI => self.vm.signal_msi(Msi { address: 0xfee0_0000, data: value as u32 }),
            port::TRAP => self.trap_port(value),
            port::EXT_INT => self.vm.set_ext_int(value & 1 != 0),
            port::ACTION => {
                if let Some(action) = &self.action {
                    action(value as u32, &self.ram, &*self.vm);
                }
            }
            _ => {}
        }
    }

    fn mmio_read(&self, address: Gpa, data: &mut [u8]) {
        if address.0 == PAGE + register::ECHO {
            let echo = self.record().echo;
            data.iter_mut().zip(echo).for_each(|(to, from)| *to = from);
        } else {
            data.fill(0xff);
        }
    }

    fn mmio_write(&self, address: Gpa, data: &[u8]) {
        let value = value_of(data);
        match address.0.wrapping_sub(PAGE) {
            register::LOG => self.note(Event::Value(value)),
            register::END => self.end(value as u32),
            register::ECHO => {
                let mut record = self.record();
                record.echo.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
            }
            offset if (register::TRAP..register::TRAP + 64).contains(&offset) => {
                self.trap_word(((offset - register::TRAP) / 8) as usize, value);
            }
            _ => {}
        }
    }

    fn acknowledge_interrupt(&self) -> u8 {
        self.note(Event::Acknowledged);
        self.vm.set_ext_int(false);
        EXT_INT_VECTOR
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.note(Event::Ended(vector));
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
