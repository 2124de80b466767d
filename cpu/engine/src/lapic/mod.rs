//! The local APIC: xAPIC and x2APIC (SDM vol. 3, chapter 11).
//!
//! A pure model: time comes in as a [`Moment`], and what concerns others goes out as an [`Action`]
//! or a [`Signal`]. The states of IA32_APIC_BASE (SDM vol. 3, 11.12.5; any other step is #GP):
//!
//! ```text
//!   disabled  --EN-->  xAPIC  --EXTD-->  x2APIC
//!      ^                 |                  |
//!      +------ clear ----+---- clear both --+
//! ```
//!
//! [`Lapic::pending_interrupt`] is read between blocks of guest code: every change of IRR, ISR or
//! TPR renews the cached answer.

mod address;
mod lvt;
mod message;
mod registers;
mod saved;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

pub use address::Address;
pub use message::{DeliveryMode, Destination, Message, Trigger};
pub use registers::X2APIC_NAMES;

use lvt::{Entry, delivery};
use motu_x86::Nanos;
use motu_x86::contract::{Contract, Feature};
use timer::{Mode, Timer};
use vectors::Vectors;

/// A point in time on the two clocks that the timer uses, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub now: Nanos,
    /// The guest's TSC.
    pub tsc: u64,
}

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    /// To be delivered to every local APIC whose [`Address::answers_to`] says so, the sender's too.
    Send(Message),
    /// The end of a level-triggered interrupt, for the I/O APICs.
    EndOfInterrupt {
        vector: u8,
    },
}

/// What a message or a pin does to the processor behind this APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Nothing, or nothing yet: [`Lapic::pending_interrupt`] tells.
    None,
    Nmi,
    /// INIT: the processor resets, calls [`Lapic::init`], and an application processor waits.
    Init,
    /// Start-up at real-mode address `page` * 4096.
    StartUp {
        page: u8,
    },
}

/// Bits of IA32_APIC_BASE.
mod base {
    pub const BSP: u64 = 1 << 8;
    pub const EXTD: u64 = 1 << 10;
    pub const EN: u64 = 1 << 11;
    pub const ADDRESS: u64 = 0xfee0_0000;
}

/// SVR bit 8: software enable.
const SOFTWARE_ENABLE: u32 = 1 << 8;

/// Bits of the error status register (SDM vol. 3, 11.5.3).
mod error {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

#[derive(Clone, Debug)]
pub struct Lapic {
    /// The initial APIC ID, which is the number of the processor and cannot be changed.
    id: u32,
    contract: &'static Contract,
    base: u64,
    tpr: u8,
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    /// The interrupt that the processor should take; follows from the fields above.
    pending: Option<u8>,
    /// Bits 24 to 31; x2APIC mode has a logical ID made from the ID instead.
    ldr: u32,
    dfr: u32,
    svr: u32,
    icr: u64,
    lvt: [u32; 6],
    /// What the ESR shows, and what was detected since it was last written.
    esr: u32,
    errors: u32,
    timer: Timer,
    /// An ExtINT message has come and was not yet taken.
    ext_int: bool,
    /// The level of LINT0, the INTR line of the 8259 pair: the board's state, not the APIC's.
    /// Nothing drives LINT1.
    lint0: bool,
}

impl Lapic {
    /// The APIC of processor `id` after power-up; number 0 is the boot processor.
    pub fn new(id: u32, contract: &'static Contract) -> Self {
        let mut lapic = Self {
            id,
            contract,
            base: 0,
            tpr: 0,
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            pending: None,
            ldr: 0,
            dfr: 0,
            svr: 0,
            icr: 0,
            lvt: [0; 6],
            esr: 0,
            errors: 0,
            timer: Timer::default(),
            ext_int: false,
            lint0: false,
        };
        lapic.reset();
        lapic
    }

    /// Power-up and reset.
    pub fn reset(&mut self) {
        let boot_processor = if self.id == 0 { base::BSP } else { 0 };
        self.base = base::ADDRESS | base::EN | boot_processor;
        self.init();
    }

    /// INIT: all but the ID and IA32_APIC_BASE is as after reset (SDM vol. 3, 11.4.7).
    pub fn init(&mut self) {
        self.tpr = 0;
        self.irr = Vectors::default();
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.icr = 0;
        self.lvt = [lvt::MASKED; 6];
        self.esr = 0;
        self.errors = 0;
        self.timer = Timer::default();
        self.ext_int = false;
        self.refresh();
    }

    /// IA32_APIC_BASE bit 11.
    pub fn is_enabled(&self) -> bool {
        self.base & base::EN != 0
    }

    fn is_x2apic(&self) -> bool {
        self.base & base::EXTD != 0
    }

    fn accepts_interrupts(&self) -> bool {
        self.is_enabled() && self.svr & SOFTWARE_ENABLE != 0
    }

    /// The offset into the register page, if `physical` is in it. There is none in x2APIC mode.
    #[inline]
    pub fn mmio_offset(&self, physical: u64) -> Option<u32> {
        let offset = physical.wrapping_sub(self.base & self.base_address_bits());
        (offset < 0x1000 && self.is_enabled() && !self.is_x2apic()).then_some(offset as u32)
    }

    fn base_address_bits(&self) -> u64 {
        (1 << self.contract.physical_address_bits()) - 0x1000
    }

    /// Renews `pending`: call after any change of what it is made from. A software-disabled APIC takes nothing
    /// more, but holds what it has for the processor to handle (SDM vol. 3, 11.4.7.2).
    fn refresh(&mut self) {
        let class = self.processor_priority() >> 4;
        self.pending = self.irr.highest().filter(|vector| self.is_enabled() && vector >> 4 > class);
    }

    /// PPR (SDM vol. 3, 11.8.3.1). Lowest-priority delivery goes to the destination with the least.
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    /// The vector that [`Lapic::acknowledge`] would return, if the processor is to be interrupted.
    #[inline]
    pub fn pending_interrupt(&self) -> Option<u8> {
        self.pending
    }

    /// The processor takes the interrupt: it goes from IRR to ISR. The spurious vector if nothing
    /// is pending any more (SDM vol. 3, 11.9).
    pub fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending else { return self.svr as u8 };
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.refresh();
        vector
    }

    /// CR8: the class of the TPR.
    #[inline]
    pub fn cr8(&self) -> u64 {
        u64::from(self.tpr >> 4)
    }

    /// MOV to CR8; the caller has refused values over 15.
    #[inline]
    pub fn set_cr8(&mut self, class: u64) {
        self.set_tpr((class as u8) << 4);
    }

    fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
        self.refresh();
    }

    /// What decides whether a message is for this APIC.
    pub fn address(&self) -> Address {
        Address {
            enabled: self.is_enabled(),
            x2apic: self.is_x2apic(),
            accepts: self.accepts_interrupts(),
            logical: self.logical_id(),
            model: (self.dfr >> 28) as u8,
        }
    }

    /// Whether a message is for this APIC.
    #[cfg(test)]
    pub fn is_destination(&self, destination: Destination) -> bool {
        self.address().answers_to(self.id, destination)
    }

    /// The LDR as software reads it.
    fn logical_id(&self) -> u32 {
        if self.is_x2apic() { self.id >> 4 << 16 | 1 << (self.id & 0xf) } else { self.ldr }
    }

    /// Takes a message that is for this APIC.
    pub fn deliver(&mut self, message: Message) -> Signal {
        match message.mode {
            _ if !self.is_enabled() => Signal::None,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.accept(message.vector, message.trigger);
                Signal::None
            }
            DeliveryMode::Nmi => Signal::Nmi,
            DeliveryMode::Init => Signal::Init,
            DeliveryMode::StartUp => Signal::StartUp { page: message.vector },
            DeliveryMode::ExtInt => {
                self.ext_int |= self.accepts_interrupts();
                Signal::None
            }
        }
    }

    /// Puts a vector in the IRR (SDM vol. 3, 11.8.4); false if the APIC takes none, or not this one.
    pub fn accept(&mut self, vector: u8, trigger: Trigger) -> bool {
        if !self.accepts_interrupts() {
            return false;
        }
        if vector < 16 {
            self.detect(error::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        match trigger {
            Trigger::Edge => self.tmr.remove(vector),
            Trigger::Level => self.tmr.insert(vector),
        }
        self.irr.insert(vector);
        self.refresh();
        true
    }

    /// Notes an error. The first one raises the error interrupt, which a write of the ESR arms again (SDM vol. 3,
    /// 11.5.3).
    fn detect(&mut self, error: u32) {
        let armed = self.errors == 0;
        self.errors |= error;
        let entry = self.entry(Entry::Error);
        if armed && entry & lvt::MASKED == 0 {
            self.accept(entry as u8, Trigger::Edge);
        }
    }

    fn entry(&self, entry: Entry) -> u32 {
        self.lvt[entry as usize]
    }

    fn end_of_interrupt(&mut self) -> Action {
        let Some(vector) = self.isr.highest() else { return Action::None };
        self.isr.remove(vector);
        self.refresh();
        if !self.tmr.contains(vector) {
            return Action::None;
        }
        if self.entry(Entry::Lint0) as u8 == vector {
            self.lvt[Entry::Lint0 as usize] &= !lvt::REMOTE_IRR;
            self.sample_level();
        }
        Action::EndOfInterrupt { vector }
    }

    /// LINT0 goes high or low. As ExtINT it is [`Lapic::ext_int_pending`] that tells.
    pub fn set_lint0(&mut self, level: bool) -> Signal {
        let was = std::mem::replace(&mut self.lint0, level);
        let entry = self.entry(Entry::Lint0);
        if was || !level || !self.is_enabled() || entry & lvt::MASKED != 0 {
            return Signal::None;
        }
        match lvt::delivery_mode(entry) {
            delivery::FIXED if entry & lvt::LEVEL != 0 => self.sample_level(),
            delivery::FIXED => {
                self.accept(entry as u8, Trigger::Edge);
            }
            delivery::NMI => return Signal::Nmi,
            delivery::INIT => return Signal::Init,
            _ => {}
        }
        Signal::None
    }

    /// A level-triggered LINT0 interrupts again for as long as the pin is high.
    fn sample_level(&mut self) {
        let entry = self.entry(Entry::Lint0);
        let ready = entry & (lvt::MASKED | lvt::LEVEL | lvt::REMOTE_IRR) == lvt::LEVEL;
        if self.lint0
            && ready
            && lvt::delivery_mode(entry) == delivery::FIXED
            && self.accept(entry as u8, Trigger::Level)
        {
            self.lvt[Entry::Lint0 as usize] |= lvt::REMOTE_IRR;
        }
    }

    /// Whether the 8259 pair asks for the processor, by LINT0 if that lets it or by a message: the vector then
    /// comes from there, and no register of this APIC changes. With the APIC disabled LINT0 is INTR itself.
    #[inline]
    pub fn ext_int_pending(&self) -> bool {
        let entry = self.entry(Entry::Lint0);
        let wired = entry & lvt::MASKED == 0 && lvt::delivery_mode(entry) == delivery::EXT_INT;
        self.ext_int || (self.lint0 && (wired || !self.is_enabled()))
    }

    /// The processor asks the 8259 pair for the vector: a message is done with.
    pub fn acknowledge_ext_int(&mut self) {
        self.ext_int = false;
    }

    fn timer_mode(&self) -> Mode {
        Mode::of_lvt(self.entry(Entry::Timer))
    }

    /// When the timer will next interrupt; in the past if [`Lapic::expire`] is due.
    #[inline]
    pub fn next_deadline(&self, at: Moment) -> Option<Nanos> {
        let silent = self.entry(Entry::Timer) & lvt::MASKED != 0;
        if silent { None } else { self.timer.next(self.timer_mode(), at) }
    }

    /// Brings the timer up to `at`.
    pub fn expire(&mut self, at: Moment) {
        let entry = self.entry(Entry::Timer);
        if self.timer.expire(self.timer_mode(), at) && entry & lvt::MASKED == 0 {
            self.accept(entry as u8, Trigger::Edge);
        }
    }

    /// Whether the processor can have this value in IA32_APIC_BASE.
    fn is_valid_base(&self, value: u64) -> bool {
        let mut defined = self.base_address_bits() | base::EN | base::BSP;
        if self.contract.has(Feature::X2apic) {
            defined |= base::EXTD;
        }
        value & !defined == 0 && value & (base::EN | base::EXTD) != base::EXTD
    }
}
