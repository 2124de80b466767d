//! Saving and restoring: the registers as in the MMIO page.

use super::lvt::Entry;
use super::registers::{ICR_LOW_BITS, SVR_BITS, number};
use super::vectors::Vectors;
use super::{Lapic, Moment, SOFTWARE_ENABLE, Timer, lvt};

/// A state that no processor can be in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("IA32_APIC_BASE cannot be {value:#x}: a reserved bit is set, or x2APIC mode without the APIC enabled")]
    Base { value: u64 },
    #[error("the local APIC's ID is {found}, and the processor's is {expected}")]
    Id { found: u32, expected: u32 },
}

/// Holds errors that the ESR does not show yet. In xAPIC mode nothing is there, and in x2APIC mode
/// the self-IPI register, which has no state.
const DETECTED_ERRORS: u32 = number::SELF_IPI;
const ERROR_BITS: u32 = 0xff;
/// In the same place: an ExtINT message waits.
const EXT_INT_MESSAGE: u32 = 1 << 31;
/// Vectors 0 to 15 are exceptions' and never in a register.
const RESERVED_VECTORS: u32 = 0xffff;

impl Lapic {
    /// The registers at `at`. Levels of the pins are the board's and not among them. A counting
    /// timer keeps its count, which is its time cut to whole ticks.
    pub fn save(&self, at: Moment) -> motu_x86::Lapic {
        let mut settled = self.clone();
        settled.expire(at);
        settled.registers(at)
    }

    fn registers(&self, at: Moment) -> motu_x86::Lapic {
        let mut registers = [0; 64];
        let mut put = |register: u32, value: u32| registers[register as usize & 63] = value;
        put(number::ID, if self.is_x2apic() { self.id } else { self.id << 24 });
        put(number::VERSION, super::registers::VERSION_VALUE);
        put(number::TPR, u32::from(self.tpr));
        put(number::PPR, u32::from(self.processor_priority()));
        put(number::LDR, self.logical_id());
        put(number::DFR, self.dfr);
        put(number::SVR, self.svr);
        for (first, vectors) in [(number::ISR, &self.isr), (number::TMR, &self.tmr), (number::IRR, &self.irr)] {
            for (register, word) in (first..).zip(vectors.words()) {
                put(register, word);
            }
        }
        put(number::ESR, self.esr);
        put(DETECTED_ERRORS, self.errors | if self.ext_int { EXT_INT_MESSAGE } else { 0 });
        put(number::ICR_LOW, self.icr as u32);
        put(number::ICR_HIGH, (self.icr >> 32) as u32);
        for (register, entry) in (number::LVT..).zip(self.lvt) {
            put(register, entry);
        }
        put(number::INITIAL_COUNT, self.timer.initial());
        put(number::CURRENT_COUNT, self.timer.current(at.now));
        put(number::DIVIDE, self.timer.divide());
        motu_x86::Lapic { base_msr: self.base, registers, tsc_deadline: self.timer.deadline() }
    }

    /// Takes over a saved state; the timer goes on from `at`. Reserved bits are dropped.
    ///
    /// # Errors
    /// The state is not one of this processor; nothing has changed then.
    pub fn restore(&mut self, saved: &motu_x86::Lapic, at: Moment) -> Result<(), RestoreError> {
        if !self.is_valid_base(saved.base_msr) {
            return Err(RestoreError::Base { value: saved.base_msr });
        }
        let get = |register: u32| saved.registers[register as usize & 63];
        let x2apic = saved.base_msr & super::base::EXTD != 0;
        let found = if x2apic { get(number::ID) } else { get(number::ID) >> 24 };
        if found != if x2apic { self.id } else { self.id & 0xff } {
            return Err(RestoreError::Id { found, expected: self.id });
        }
        let vectors = |first: u32| {
            let mut words: [u32; 8] = std::array::from_fn(|i| get(first + i as u32));
            words[0] &= !RESERVED_VECTORS;
            Vectors::from_words(words)
        };
        self.base = saved.base_msr;
        self.tpr = get(number::TPR) as u8;
        self.isr = vectors(number::ISR);
        self.tmr = vectors(number::TMR);
        self.irr = vectors(number::IRR);
        self.ldr = if x2apic { 0 } else { get(number::LDR) & 0xff00_0000 };
        self.dfr = get(number::DFR) | 0x0fff_ffff;
        self.svr = get(number::SVR) & SVR_BITS;
        self.esr = get(number::ESR) & ERROR_BITS;
        self.errors = get(DETECTED_ERRORS) & ERROR_BITS;
        self.ext_int = get(DETECTED_ERRORS) & EXT_INT_MESSAGE != 0;
        self.icr = u64::from(get(number::ICR_HIGH)) << 32 | u64::from(get(number::ICR_LOW) & ICR_LOW_BITS);
        for register in number::LVT..number::INITIAL_COUNT {
            let Some(entry) = Entry::of_register(register) else { continue };
            let value = get(register);
            let disabled = if self.svr & SOFTWARE_ENABLE == 0 { lvt::MASKED } else { 0 };
            let remote = if value & lvt::LEVEL != 0 { value & lvt::REMOTE_IRR } else { 0 };
            self.lvt[entry as usize] = value & entry.writable() | disabled | remote;
        }
        let mode = self.timer_mode();
        self.timer = Timer::stopped(get(number::DIVIDE));
        self.timer.resume(mode, get(number::INITIAL_COUNT), get(number::CURRENT_COUNT), at.now);
        self.timer.set_deadline(mode, saved.tsc_deadline);
        self.refresh();
        Ok(())
    }
}
