//! MSI-X: a table of messages, each with a mask and a pending bit (6.8.2).

use motu_bus::{Device, Effect, MsiSink};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Vectors that one page with table and pending bits has room for.
pub const MAX_VECTORS: u16 = 128;

/// Bytes of a table entry: address, upper address, data, vector control.
const ENTRY_BYTES: usize = 16;
const CONTROL: usize = 3;
const CONTROL_MASK: u32 = 1;

/// The MSI-X state of a function; clones are the same state, usable from any thread.
#[derive(Clone)]
pub struct Msix {
    state: Arc<Mutex<State>>,
    sink: Arc<dyn MsiSink>,
    vectors: u16,
}

struct State {
    entries: Vec<[u32; 4]>,
    pending: Vec<bool>,
    enabled: bool,
    masked: bool,
}

impl State {
    fn new(vectors: u16) -> Self {
        let count = usize::from(vectors);
        Self {
            entries: vec![[0, 0, 0, CONTROL_MASK]; count],
            pending: vec![false; count],
            enabled: false,
            masked: false,
        }
    }

    /// Takes out the message of `vector` if it may be sent, else leaves it pending.
    fn fire(&mut self, vector: usize) -> Option<(u64, u32)> {
        let (entry, pending) = (self.entries.get(vector)?, self.pending.get_mut(vector)?);
        if !self.enabled {
            return None;
        }
        *pending = self.masked || entry[CONTROL] & CONTROL_MASK != 0;
        (!*pending).then(|| (u64::from(entry[1]) << 32 | u64::from(entry[0]), entry[2]))
    }

    fn fire_pending(&mut self) -> Vec<(u64, u32)> {
        (0..self.entries.len())
            .filter_map(|v| if self.pending.get(v) == Some(&true) { self.fire(v) } else { None })
            .collect()
    }
}

impl Msix {
    /// A table of `vectors` entries (1 to [`MAX_VECTORS`]; others are clamped), all masked.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Self {
        let vectors = vectors.clamp(1, MAX_VECTORS);
        Self { state: Arc::new(Mutex::new(State::new(vectors))), sink, vectors }
    }

    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Whether the guest has switched MSI-X on; INTx is silent then.
    pub fn is_enabled(&self) -> bool {
        self.state().enabled
    }

    /// Sends the message of `vector`, or marks it pending while it is masked. Nothing happens while
    /// MSI-X is off or if there is no such vector.
    pub fn signal(&self, vector: u16) {
        let message = self.state().fire(usize::from(vector));
        self.send(message);
    }

    /// Takes over the bits of message control (6.8.2.3).
    pub(super) fn set_control(&self, enabled: bool, masked: bool) {
        let mut state = self.state();
        (state.enabled, state.masked) = (enabled, masked);
        let messages = state.fire_pending();
        drop(state);
        self.send(messages);
    }

    pub(super) fn reset(&self) {
        *self.state() = State::new(self.vectors);
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = usize::try_from(offset).ok().and_then(|o| table_byte(&state, o.checked_add(i)?)).unwrap_or(0);
        }
    }

    /// Writes aligned doublewords or quadwords of the table; other accesses are undefined (6.8.2)
    /// and ignored. Unmasking a vector sends what is pending.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) || !matches!(data.len(), 4 | 8) {
            return;
        }
        let mut state = self.state();
        for (i, chunk) in data.chunks_exact(4).enumerate() {
            let Ok(at) = usize::try_from(offset) else { return };
            let Some(at) = at.checked_add(4 * i) else { return };
            let word = chunk.iter().rev().fold(0, |word, &b| word << 8 | u32::from(b));
            if let Some(entry) = state.entries.get_mut(at / ENTRY_BYTES) {
                let field = at % ENTRY_BYTES / 4;
                entry[field] = if field == CONTROL { word & CONTROL_MASK } else { word };
            }
        }
        let messages = state.fire_pending();
        drop(state);
        self.send(messages);
    }

    /// Reads the pending bits, 64 to a quadword.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        for (byte, at) in data.iter_mut().zip(offset..) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            *byte = (0..8).fold(0, |bits, bit| {
                let pending = first.checked_add(bit).and_then(|v| state.pending.get(v)).is_some_and(|&p| p);
                bits | u8::from(pending) << bit
            });
        }
    }

    fn send(&self, messages: impl IntoIterator<Item = (u64, u32)>) {
        for (address, data) in messages {
            self.sink.signal(address, data);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn table_byte(state: &State, at: usize) -> Option<u8> {
    let entry = state.entries.get(at / ENTRY_BYTES)?;
    let word = entry.get(at % ENTRY_BYTES / 4)?;
    word.to_le_bytes().get(at % 4).copied()
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msix").field("vectors", &self.vectors).finish_non_exhaustive()
    }
}

/// A BAR of [`MsixBar::SIZE`] bytes that holds nothing but the table and the pending bits.
#[derive(Debug)]
pub struct MsixBar(Msix);

impl MsixBar {
    /// Bytes of the BAR.
    pub const SIZE: u64 = 0x1000;
    /// Where the table lies in the BAR.
    pub const TABLE: u32 = 0;
    /// Where the pending bits lie in the BAR.
    pub const PENDING: u32 = MAX_VECTORS as u32 * ENTRY_BYTES as u32;

    pub fn new(msix: Msix) -> Self {
        Self(msix)
    }
}

impl Device for MsixBar {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        match offset.checked_sub(u64::from(Self::PENDING)) {
            Some(offset) => self.0.read_pending(offset, data),
            None => self.0.read_table(offset, data),
        }
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if offset < u64::from(Self::PENDING) {
            self.0.write_table(offset, data);
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}
