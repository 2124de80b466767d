//! The registers as software reaches them: the MMIO page of xAPIC mode (SDM vol. 3, 11.4.1) and
//! the MSRs (11.12.1).

use super::lvt::{self, Entry};
use super::timer::Mode;
use super::{Action, DeliveryMode, Destination, Lapic, Message, Moment, SOFTWARE_ENABLE, Trigger, base, error};
use motu_x86::{Exception, msr};

/// Register numbers: MMIO offset divided by 16, or MSR minus 0x800.
pub(super) mod number {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const RRD: u32 = 0x0c;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT: u32 = 0x32;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}
use number::*;

/// The registers of x2APIC mode by number, first and last, as the SDM names them (vol. 3, table 11-6).
pub const X2APIC_NAMES: &[(u32, u32, &str)] = &[
    (ID, ID, "x2APIC ID"),
    (VERSION, VERSION, "version"),
    (TPR, TPR, "TPR"),
    (PPR, PPR, "PPR"),
    (EOI, EOI, "EOI"),
    (LDR, LDR, "LDR"),
    (SVR, SVR, "SVR"),
    (ISR, ISR + 7, "ISR"),
    (TMR, TMR + 7, "TMR"),
    (IRR, IRR + 7, "IRR"),
    (ESR, ESR, "ESR"),
    (ICR_LOW, ICR_LOW, "ICR"),
    (LVT, LVT, "LVT timer"),
    (LVT + 1, LVT + 1, "LVT thermal sensor"),
    (LVT + 2, LVT + 2, "LVT performance counters"),
    (LVT + 3, LVT + 4, "LVT LINT0 and LINT1"),
    (LVT + 5, LVT + 5, "LVT error"),
    (INITIAL_COUNT, INITIAL_COUNT, "initial count"),
    (CURRENT_COUNT, CURRENT_COUNT, "current count"),
    (DIVIDE, DIVIDE, "divide configuration"),
    (SELF_IPI, SELF_IPI, "self IPI"),
];

/// An integrated APIC with six LVT entries, without suppression of EOI broadcasts.
pub(super) const VERSION_VALUE: u32 = 0x0005_0014;
/// The vector, software enable and focus checking.
pub(super) const SVR_BITS: u32 = 0x3ff;
/// The low half of the ICR, without the delivery status, which always reads idle.
pub(super) const ICR_LOW_BITS: u32 = 0x000c_cfff;
/// Delivery status: read-only.
const ICR_STATUS: u64 = 1 << 12;

const GP: Exception = Exception::with_code(Exception::GP, 0);

impl Lapic {
    /// Reads 32 bits at `offset`, 0 to 0xfff, of the register page. What is between registers
    /// reads as zero.
    pub fn mmio_read(&mut self, offset: u32, at: Moment) -> u32 {
        if offset & 0xc != 0 {
            return 0;
        }
        match offset >> 4 {
            ICR_HIGH => (self.icr >> 32) as u32,
            DFR => self.dfr,
            // Neither exists since the Pentium 4 (SDM vol. 3, table 11-1); reading is harmless.
            EOI | APR | RRD => 0,
            register => self.read(register, at).unwrap_or_else(|| {
                self.detect(error::ILLEGAL_REGISTER);
                0
            }),
        }
    }

    /// Writes 32 bits at `offset`, 0 to 0xfff, of the register page. Read-only registers ignore it.
    pub fn mmio_write(&mut self, offset: u32, value: u32, at: Moment) -> Action {
        if offset & 0xf != 0 {
            return Action::None;
        }
        match offset >> 4 {
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            ICR_LOW => {
                let high = self.icr & 0xffff_ffff_0000_0000;
                return self.command(high | u64::from(value & ICR_LOW_BITS));
            }
            SVR => self.set_svr(value & SVR_BITS),
            ESR => self.latch_errors(),
            ID | VERSION | PPR | APR | RRD | ISR..=0x27 | CURRENT_COUNT => {}
            register => match Entry::of_register(register) {
                Some(entry) => self.set_entry(entry, value, at),
                None => {
                    return self.write(register, value, at).unwrap_or_else(|| {
                        self.detect(error::ILLEGAL_REGISTER);
                        Action::None
                    });
                }
            },
        }
        Action::None
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or 0x800 to 0x8ff.
    ///
    /// # Errors
    /// #GP(0): not in x2APIC mode, a write-only register, or no such register.
    pub fn msr_read(&mut self, number: u32, at: Moment) -> Result<u64, Exception> {
        match number {
            msr::APIC_BASE => Ok(self.base),
            msr::TSC_DEADLINE => {
                self.expire(at);
                Ok(self.timer.deadline())
            }
            _ => match self.x2apic_register(number)? {
                ICR_LOW => Ok(self.icr),
                ICR_HIGH => Err(GP),
                register => self.read(register, at).map(u64::from).ok_or(GP),
            },
        }
    }

    /// WRMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or 0x800 to 0x8ff.
    ///
    /// # Errors
    /// #GP(0): a reserved bit, a step of IA32_APIC_BASE that does not exist, not in x2APIC mode, a
    /// read-only register, or no such register.
    pub fn msr_write(&mut self, number: u32, value: u64, at: Moment) -> Result<Action, Exception> {
        match number {
            msr::APIC_BASE => self.set_base(value)?,
            msr::TSC_DEADLINE => {
                self.expire(at);
                self.timer.set_deadline(self.timer_mode(), value);
            }
            _ => return self.x2apic_write(self.x2apic_register(number)?, value, at),
        }
        Ok(Action::None)
    }

    fn x2apic_register(&self, number: u32) -> Result<u32, Exception> {
        let in_range = (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&number);
        if in_range && self.is_x2apic() { Ok(number - msr::X2APIC_FIRST) } else { Err(GP) }
    }

    fn x2apic_write(&mut self, register: u32, value: u64, at: Moment) -> Result<Action, Exception> {
        let entry = Entry::of_register(register);
        let defined = match register {
            ICR_LOW => 0xffff_ffff_0000_0000 | u64::from(ICR_LOW_BITS) | ICR_STATUS,
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => u64::from(SVR_BITS),
            DIVIDE => u64::from(super::Timer::DIVIDE_BITS),
            INITIAL_COUNT => 0xffff_ffff,
            _ => entry.map_or(0, |entry| u64::from(entry.defined())),
        };
        if value & !defined != 0 {
            return Err(GP);
        }
        let low = value as u32;
        match (register, entry) {
            (ICR_LOW, _) => return Ok(self.command(value & !ICR_STATUS)),
            (SELF_IPI, _) => self.send_to_self(low as u8),
            (SVR, _) => self.set_svr(low),
            (ESR, _) => self.latch_errors(),
            (_, Some(entry)) => self.set_entry(entry, low, at),
            _ => return self.write(register, low, at).ok_or(GP),
        }
        Ok(Action::None)
    }

    /// What reads the same in both modes; `None` if there is nothing to read.
    fn read(&mut self, register: u32, at: Moment) -> Option<u32> {
        Some(match register {
            ID if self.is_x2apic() => self.id,
            ID => self.id << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(self.tpr),
            PPR => u32::from(self.processor_priority()),
            LDR => self.logical_id(),
            SVR => self.svr,
            ISR..TMR => self.isr.word(register - ISR),
            TMR..IRR => self.tmr.word(register - TMR),
            IRR..ESR => self.irr.word(register - IRR),
            ESR => self.esr,
            ICR_LOW => self.icr as u32,
            INITIAL_COUNT => self.timer.initial(),
            CURRENT_COUNT => {
                self.expire(at);
                self.timer.current(at.now)
            }
            DIVIDE => self.timer.divide(),
            _ => self.entry(Entry::of_register(register)?),
        })
    }

    /// What is written the same in both modes; `None` if there is nothing to write.
    fn write(&mut self, register: u32, value: u32, at: Moment) -> Option<Action> {
        match register {
            TPR => self.set_tpr(value as u8),
            EOI => return Some(self.end_of_interrupt()),
            INITIAL_COUNT => {
                self.expire(at);
                self.timer.start(self.timer_mode(), value, at.now);
            }
            DIVIDE => {
                self.expire(at);
                self.timer.set_divide(value, at.now);
            }
            _ => return None,
        }
        Some(Action::None)
    }

    /// Software disable masks the whole vector table (SDM vol. 3, 11.4.7.2).
    fn set_svr(&mut self, value: u32) {
        self.svr = value;
        if value & SOFTWARE_ENABLE == 0 {
            for entry in &mut self.lvt {
                *entry |= lvt::MASKED;
            }
        }
        self.refresh();
    }

    /// A write of the ESR shows the errors since the last one and forgets them.
    fn latch_errors(&mut self) {
        self.esr = std::mem::take(&mut self.errors);
    }

    fn set_entry(&mut self, entry: Entry, value: u32, at: Moment) {
        // The old entry is what expiries up to now meet.
        if entry == Entry::Timer {
            self.expire(at);
        }
        let disabled = if self.svr & SOFTWARE_ENABLE == 0 { lvt::MASKED } else { 0 };
        let old = self.entry(entry);
        // The remote IRR belongs to a level-triggered entry only.
        let kept = if value & lvt::LEVEL != 0 { old & lvt::REMOTE_IRR } else { 0 };
        self.lvt[entry as usize] = value & entry.writable() | disabled | kept;
        match entry {
            Entry::Timer => self.timer.change_mode(Mode::of_lvt(old), self.timer_mode()),
            Entry::Lint0 => self.sample_level(),
            _ => {}
        }
    }

    /// A write of the interrupt command register. Fixed interrupts to itself stay here.
    fn command(&mut self, icr: u64) -> Action {
        self.icr = icr;
        let Some(message) = Message::from_icr(icr, self.id, self.is_x2apic()) else { return Action::None };
        if message.mode == DeliveryMode::Fixed && message.destination == Destination::Physical(self.id) {
            self.send_to_self(message.vector);
        } else if message.mode.has_vector() && message.vector < 16 {
            self.detect(error::SEND_ILLEGAL_VECTOR);
        } else {
            return Action::Send(message);
        }
        Action::None
    }

    fn send_to_self(&mut self, vector: u8) {
        if vector < 16 {
            self.detect(error::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept(vector, Trigger::Edge);
        }
    }

    fn set_base(&mut self, value: u64) -> Result<(), Exception> {
        let mode = |base: u64| (base & base::EN != 0, base & base::EXTD != 0);
        let step = match (mode(self.base), mode(value)) {
            // From disabled only to xAPIC; from x2APIC only to disabled.
            ((false, _), (true, true)) | ((true, true), (true, false)) => false,
            _ => self.is_valid_base(value),
        };
        if !step {
            return Err(GP);
        }
        let was_x2apic = self.is_x2apic();
        self.base = value;
        if !self.is_enabled() {
            self.init();
        } else if self.is_x2apic() && !was_x2apic {
            // The high half of the ICR does not survive (SDM vol. 3, 11.12.5.1).
            self.icr &= 0xffff_ffff;
        }
        Ok(())
    }
}
