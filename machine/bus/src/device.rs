//! What every device on the board is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that answers reads and writes in an address space.
///
/// `offset` counts from where the device was mapped; `data` is 1, 2, 4 or 8 bytes, little endian.
/// Neither call can fail: what a guest does wrong is answered as hardware would (all ones, ignored).
pub trait Device: Send {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect;
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect;
    /// Back to the state after power-up.
    fn reset(&mut self);
}

/// What an access asks of the machine as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    #[default]
    None,
    /// The device's [`crate::Timed::next_deadline`] may have changed.
    Reschedule,
    /// Reset the machine.
    Reset,
    /// Switch the machine off.
    PowerOff,
    /// End the machine with this value, as QEMU's `isa-debug-exit` does.
    DebugExit(u32),
}

/// A device that several threads or address spaces reach.
pub type Shared<T> = Arc<Mutex<T>>;

/// Makes a device shareable.
pub fn shared<T>(device: T) -> Shared<T> {
    Arc::new(Mutex::new(device))
}

/// Locks a device. A panic of another holder does not make it unusable: its registers are plain
/// data, valid in every state.
pub fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
