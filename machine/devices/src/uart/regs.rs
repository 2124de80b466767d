//! The registers of a 16550A (National Semiconductor PC16550D data sheet, section 8).

use std::collections::VecDeque;

/// Bytes that the receive FIFO holds.
pub(super) const FIFO_BYTES: usize = 16;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MODEM_STATUS: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_CHARACTER_TIMEOUT: u8 = 0x0c;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const LCR_DIVISOR: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// The other end is there and ready.
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// The UART without its wires. Transmission takes no time: the transmitter is always empty.
#[derive(Clone, Debug, Default)]
pub(super) struct UartRegs {
    interrupt_enable: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
    fifo_control: u8,
    overrun: bool,
    /// The transmitter became empty and nobody has been told yet.
    transmitter_event: bool,
    /// Lower half of the modem status register.
    modem_changes: u8,
    received: VecDeque<u8>,
}

impl UartRegs {
    /// Reads register `offset` (0 to 7).
    pub fn read(&mut self, offset: u64) -> u8 {
        match (offset, self.line_control & LCR_DIVISOR != 0) {
            (0, true) => self.divisor[0],
            (1, true) => self.divisor[1],
            (0, false) => self.received.pop_front().unwrap_or(0),
            (1, false) => self.interrupt_enable,
            (2, _) => {
                let cause = self.interrupt_cause();
                if cause == IIR_TRANSMITTER_EMPTY {
                    self.transmitter_event = false;
                }
                cause | if self.fifo_enabled() { IIR_FIFO } else { 0 }
            }
            (3, _) => self.line_control,
            (4, _) => self.modem_control,
            (5, _) => {
                let ready = if self.received.is_empty() { 0 } else { LSR_DATA_READY };
                let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
                LSR_TRANSMITTER_EMPTY | ready | overrun
            }
            (6, _) => self.modem_lines() | std::mem::take(&mut self.modem_changes),
            (7, _) => self.scratch,
            _ => 0xff,
        }
    }

    /// Writes register `offset`; gives the byte that leaves on the wire, if one does.
    pub fn write(&mut self, offset: u64, value: u8) -> Option<u8> {
        match (offset, self.line_control & LCR_DIVISOR != 0) {
            (0, true) => self.divisor[0] = value,
            (1, true) => self.divisor[1] = value,
            (0, false) => return self.transmit(value),
            (1, false) => {
                let newly = value & !self.interrupt_enable;
                self.interrupt_enable = value & 0x0f;
                // Enabling the interrupt while the transmitter is empty raises it at once (8.6.2).
                self.transmitter_event =
                    newly & IER_TRANSMITTER_EMPTY != 0 || self.transmitter_event && value & IER_TRANSMITTER_EMPTY != 0;
            }
            (2, _) => self.write_fifo_control(value),
            (3, _) => self.line_control = value,
            (4, _) => {
                let before = self.modem_lines();
                self.modem_control = value & 0x1f;
                let after = self.modem_lines();
                let changed = (before ^ after) & !MSR_RI | before & !after & MSR_RI;
                self.modem_changes |= changed >> 4;
            }
            (7, _) => self.scratch = value,
            _ => {}
        }
        None
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.transmitter_event = self.interrupt_enable & IER_TRANSMITTER_EMPTY != 0;
        if self.modem_control & MCR_LOOP == 0 {
            return Some(byte);
        }
        if self.free() == 0 {
            self.overrun = true;
        } else {
            self.received.push_back(byte);
        }
        None
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
        }
        // The other bits count only together with the enable bit (8.5).
        self.fifo_control = if value & FCR_ENABLE != 0 { value & 0xc1 } else { 0 };
    }

    fn fifo_enabled(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn trigger_level(&self) -> usize {
        match (self.fifo_enabled(), self.fifo_control >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    fn modem_lines(&self) -> u8 {
        if self.modem_control & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
            .iter()
            .filter(|(output, _)| self.modem_control & output != 0)
            .fold(0, |lines, (_, input)| lines | input)
    }

    /// The interrupt of highest priority (8.6.1). The character timeout has no clock here: what the
    /// FIFO holds below its trigger level is announced at once.
    fn interrupt_cause(&self) -> u8 {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && self.received.len() >= self.trigger_level() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && !self.received.is_empty() {
            IIR_CHARACTER_TIMEOUT
        } else if enabled(IER_TRANSMITTER_EMPTY) && self.transmitter_event {
            IIR_TRANSMITTER_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_changes != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// The interrupt pin, behind the gate that a PC has on OUT2; in loopback OUT2 is off (8.7).
    pub fn interrupt(&self) -> bool {
        self.modem_control & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && self.interrupt_cause() != IIR_NONE
    }

    /// Takes a byte from the wire.
    pub fn receive(&mut self, byte: u8) {
        self.received.push_back(byte);
    }

    /// Whether the guest takes bytes from the wire: it asserts RTS or has enabled the interrupt, and
    /// has no loopback.
    pub fn accepts_input(&self) -> bool {
        self.modem_control & MCR_LOOP == 0
            && (self.modem_control & MCR_RTS != 0 || self.interrupt_enable & IER_RECEIVED != 0)
    }

    /// Bytes that the receiver has room for.
    pub fn free(&self) -> usize {
        let room = if self.fifo_enabled() { FIFO_BYTES } else { 1 };
        room.saturating_sub(self.received.len())
    }
}
