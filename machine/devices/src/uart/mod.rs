//! A serial port: the 16550A as PCs have it, eight ports.

mod regs;
#[cfg(test)]
mod tests;

use crate::interrupt_output::InterruptOutput;
use motu_bus::{Device, Effect, IrqLine};
use regs::UartRegs;
use std::collections::VecDeque;
use std::fmt;

/// Where the guest's output goes. It is called with the device locked, so it should only queue.
pub type Output = Box<dyn FnMut(&[u8]) + Send>;

/// A 16550A with a queue of host input behind its receive FIFO.
///
/// Input waits in the queue until the guest is ready for it (RTS or the receive interrupt on), so
/// what is typed or piped before the guest opens the port is not lost.
pub struct Uart {
    regs: UartRegs,
    waiting: VecDeque<u8>,
    line: InterruptOutput,
    output: Output,
    drained: Option<Box<dyn FnMut() + Send>>,
}

impl Uart {
    /// Bytes of host input that wait at most.
    pub const QUEUE_BYTES: usize = 4096;

    pub fn new(line: IrqLine, output: Output) -> Self {
        Self {
            regs: UartRegs::default(),
            waiting: VecDeque::new(),
            line: InterruptOutput::new(line),
            output,
            drained: None,
        }
    }

    /// Has `drained` called each time the guest has taken the last byte of the queue, with the
    /// device locked: for a host thread to wait for space.
    pub fn on_drained(&mut self, drained: Box<dyn FnMut() + Send>) {
        self.drained = Some(drained);
    }

    /// Sends bytes to the guest; gives how many were accepted, the first ones.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(self.space());
        self.waiting.extend(bytes.iter().take(accepted));
        self.update();
        accepted
    }

    /// How many bytes [`Uart::input`] would accept.
    pub fn space(&self) -> usize {
        Self::QUEUE_BYTES.saturating_sub(self.waiting.len())
    }

    /// Fills the receiver from the queue and drives the interrupt line.
    fn update(&mut self) {
        let had_waiting = !self.waiting.is_empty();
        if self.regs.accepts_input() {
            for byte in self.waiting.drain(..self.regs.free().min(self.waiting.len())) {
                self.regs.receive(byte);
            }
        }
        self.line.set(self.regs.interrupt());
        if had_waiting
            && self.waiting.is_empty()
            && let Some(drained) = &mut self.drained
        {
            drained();
        }
    }
}

impl Device for Uart {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        for (byte, register) in data.iter_mut().zip(offset..) {
            *byte = self.regs.read(register);
        }
        self.update();
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        for (&byte, register) in data.iter().zip(offset..) {
            if let Some(sent) = self.regs.write(register, byte) {
                (self.output)(&[sent]);
            }
        }
        self.update();
        Effect::None
    }

    /// Host input that waits is kept: it was meant for whatever runs next.
    fn reset(&mut self) {
        self.regs = UartRegs::default();
        self.update();
    }
}

impl fmt::Debug for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uart").field("regs", &self.regs).finish_non_exhaustive()
    }
}
