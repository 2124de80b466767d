//! The registers of a 24-pin I/O APIC (Intel 82093AA data sheet, section 3; the EOI register of
//! version 0x20 is in the ICH series' data sheets).

/// Input pins.
pub(super) const PINS: usize = 24;
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

const REG_ID: u8 = 0x00;
const REG_VERSION: u8 = 0x01;
const REG_ARBITRATION: u8 = 0x02;
const REG_REDIRECTION: u8 = 0x10;

const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;
/// Delivery status and remote IRR are read-only; bits 17 to 55 are reserved.
const WRITABLE: u64 = 0xff << DESTINATION_SHIFT | MASKED | LEVEL | 1 << 13 | LOGICAL | DELIVERY_MODE | VECTOR;
/// Delivery modes above the lowest-priority one are edges whatever the entry says (3.2.4).
const DELIVERY_LOWEST_PRIORITY: u64 = 1 << 8;

/// Whether the pin of `entry` interrupts for as long as it is asserted.
fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && entry & DELIVERY_MODE <= DELIVERY_LOWEST_PRIORITY
}

/// An interrupt message as a local APIC takes it (SDM vol. 3, 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub address: u64,
    pub data: u32,
}

#[derive(Clone, Debug)]
pub(super) struct IoApicRegs {
    select: u8,
    id: u8,
    redirection: [u64; PINS],
    /// Which pins are asserted; bit n is pin n.
    lines: u32,
}

impl IoApicRegs {
    pub fn new() -> Self {
        Self { select: 0, id: 0, redirection: [MASKED; PINS], lines: 0 }
    }

    /// Back to power-up; the pins stay as they are driven.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    pub fn select(&self) -> u8 {
        self.select
    }

    pub fn set_select(&mut self, register: u8) {
        self.select = register;
    }

    /// The register that is selected; zero where there is none.
    pub fn read(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => u32::from(self.id) << 24,
            REG_VERSION => VERSION,
            _ => match self.entry() {
                Some((pin, half)) => (self.redirection.get(pin).copied().unwrap_or(0) >> (32 * half)) as u32,
                None => 0,
            },
        }
    }

    /// Writes the register that is selected; gives the message that a level-triggered pin sends
    /// because it is unmasked while asserted. An edge that comes while masked is lost (3.2.4).
    pub fn write(&mut self, value: u32) -> Option<Message> {
        if self.select == REG_ID {
            self.id = (value >> 24 & 0x0f) as u8;
            return None;
        }
        let (pin, half) = self.entry()?;
        let entry = self.redirection.get_mut(pin)?;
        let shift = 32 * half;
        let writable = WRITABLE & (0xffff_ffff << shift);
        *entry = *entry & !writable | u64::from(value) << shift & writable;
        // Kernels clear a stuck remote IRR by making the pin edge-triggered for a moment.
        if !is_level(*entry) {
            *entry &= !REMOTE_IRR;
        }
        self.deliver_level(pin)
    }

    /// Which redirection entry is selected, and which half of it.
    fn entry(&self) -> Option<(usize, u32)> {
        let index = usize::from(self.select.checked_sub(REG_REDIRECTION)?);
        (index < 2 * PINS).then_some((index / 2, (index % 2) as u32))
    }

    /// The pin is now asserted or not, whichever polarity its entry has.
    pub fn set_line(&mut self, pin: u32, asserted: bool) -> Option<Message> {
        let index = usize::try_from(pin).ok()?;
        let entry = *self.redirection.get(index)?;
        let bit = 1 << pin;
        let rising = asserted && self.lines & bit == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        if is_level(entry) {
            self.deliver_level(index)
        } else if rising && entry & MASKED == 0 {
            Some(message(entry))
        } else {
            None
        }
    }

    fn deliver_level(&mut self, pin: usize) -> Option<Message> {
        let entry = self.redirection.get_mut(pin)?;
        if self.lines >> pin & 1 == 0 || !is_level(*entry) || *entry & (MASKED | REMOTE_IRR) != 0 {
            return None;
        }
        *entry |= REMOTE_IRR;
        Some(message(*entry))
    }

    /// A local APIC has ended `vector`: level-triggered pins with it may interrupt again, and those
    /// still asserted do.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        for pin in 0..PINS {
            let Some(entry) = self.redirection.get_mut(pin) else { continue };
            if *entry & VECTOR == u64::from(vector) && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                messages.extend(self.deliver_level(pin));
            }
        }
        messages
    }
}

fn message(entry: u64) -> Message {
    let destination = entry >> DESTINATION_SHIFT;
    let logical = (entry & LOGICAL) >> 11;
    // Bit 14 of the data asserts; it counts for level-triggered messages only.
    let assert = 1 << 14;
    let trigger = if is_level(entry) { LEVEL } else { 0 };
    Message {
        address: 0xfee0_0000 | destination << 12 | logical << 2,
        data: (entry & (VECTOR | DELIVERY_MODE) | trigger | assert) as u32,
    }
}
