//! INTx: level-triggered interrupt pins that functions share (2.2.6).

use motu_bus::{IrqLine, IrqSink};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// IOAPIC pins that PCI interrupts use, from [`FIRST_GSI`] on.
const LINES: u32 = 4;
/// First IOAPIC pin above the ISA interrupts.
const FIRST_GSI: u32 = 16;

/// The IOAPIC pin (16 to 19) of a slot's interrupt pin, `pin` counting from 0 = INTA as in ACPI's
/// _PRT (ACPI 6.5, 6.2.13). Neighbouring slots' INTA use different lines (PCI 3.0, 2.2.6).
pub fn intx_gsi(slot: u8, pin: u8) -> u32 {
    FIRST_GSI + (u32::from(slot) + u32::from(pin)) % LINES
}

/// An interrupt pin of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    A,
    B,
    C,
    D,
}

impl Pin {
    /// As ACPI's _PRT counts: INTA is 0.
    pub fn index(self) -> u8 {
        self as u8
    }

    /// As the interrupt pin register counts: INTA is 1 (6.2.4).
    pub fn register(self) -> u8 {
        self as u8 + 1
    }
}

/// Joins the pins of all slots on the four lines: a line is up while any pin on it is.
///
/// Its own inputs are numbered `slot * 4 + pin`.
pub struct IntxRouter {
    sink: Arc<dyn IrqSink>,
    /// Bit `slot * 4 + pin` is set while that pin is raised; 128 bits for 32 slots.
    raised: Mutex<u128>,
}

impl IntxRouter {
    /// Drives pins 16 to 19 of `sink`, the IOAPIC.
    pub fn new(sink: Arc<dyn IrqSink>) -> Self {
        Self { sink, raised: Mutex::new(0) }
    }
}

impl IrqSink for IntxRouter {
    fn set(&self, pin: u32, level: bool) {
        let Some(bit) = 1u128.checked_shl(pin) else { return };
        let gsi_of = |input: u32| intx_gsi((input / LINES) as u8, (input % LINES) as u8);
        let gsi = gsi_of(pin);
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        *raised = if level { *raised | bit } else { *raised & !bit };
        let any = (0..128).any(|input| *raised >> input & 1 != 0 && gsi_of(input) == gsi);
        self.sink.set(gsi, any);
    }
}

impl fmt::Debug for IntxRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntxRouter").finish_non_exhaustive()
    }
}

/// The interrupt pin of one function; clones are the same pin, usable from any thread.
#[derive(Clone, Debug)]
pub struct Intx {
    line: IrqLine,
    pin: Pin,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    raised: bool,
    disabled: bool,
}

impl Intx {
    pub fn new(router: &Arc<IntxRouter>, slot: u8, pin: Pin) -> Self {
        let sink: Arc<dyn IrqSink> = Arc::<IntxRouter>::clone(router);
        let line = IrqLine::new(sink, u32::from(slot) * LINES + u32::from(pin.index()));
        Self { line, pin, state: Arc::default() }
    }

    pub fn pin(&self) -> Pin {
        self.pin
    }

    pub fn raise(&self) {
        self.change(|s| s.raised = true);
    }

    pub fn lower(&self) {
        self.change(|s| s.raised = false);
    }

    /// Whether the function asks for service, even if the command register silences the pin.
    pub fn is_raised(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).raised
    }

    /// Takes over the INTx disable bit of the command register (6.2.2).
    pub(super) fn set_disabled(&self, disabled: bool) {
        self.change(|s| s.disabled = disabled);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let level = |s: &State| s.raised && !s.disabled;
        let before = level(&state);
        change(&mut state);
        if level(&state) != before {
            self.line.set(!before);
        }
    }
}
