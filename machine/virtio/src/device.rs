//! What every virtio device is to its transport, and the transport to it.

use crate::queue::{Malformed, VirtQueue};
use motu_memory::Mmap;
use std::fmt;
use std::sync::Arc;

/// A device's type (virtio 1.2, 5): its PCI device id is 0x1040 more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    Block = 2,
    Console = 3,
    Entropy = 4,
    FileSystem = 26,
}

/// What a device is given when the driver sets DRIVER_OK.
#[derive(Debug)]
pub struct Activation {
    /// The negotiated feature bits.
    pub features: u64,
    /// By queue index; `None` where the driver did not enable the queue.
    pub queues: Vec<Option<VirtQueue>>,
    pub memory: Arc<Mmap>,
    pub interrupt: Interrupt,
}

/// Where a device's notifications to the driver go: the transport.
pub trait InterruptSink: Send + Sync {
    /// Buffers of queue `queue` were used.
    fn queue_used(&self, queue: u16);
    /// The device's configuration space changed.
    fn config_changed(&self);
    /// The device cannot go on: DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2).
    fn needs_reset(&self, why: Malformed);
}

/// A device's handle to notify the driver; any thread, also while the device is locked.
#[derive(Clone)]
pub struct Interrupt(Arc<dyn InterruptSink>);

impl Interrupt {
    pub fn new(sink: Arc<dyn InterruptSink>) -> Self {
        Self(sink)
    }

    /// See [`InterruptSink::queue_used`].
    pub fn queue_used(&self, queue: u16) {
        self.0.queue_used(queue);
    }

    /// See [`InterruptSink::config_changed`].
    pub fn config_changed(&self) {
        self.0.config_changed();
    }

    /// See [`InterruptSink::needs_reset`].
    pub fn needs_reset(&self, why: Malformed) {
        self.0.needs_reset(why);
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupt")
    }
}

/// Whether a device has done all there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Idle,
    /// The driver keeps adding work; it is gone on with at the driver's next register access.
    More,
}

/// A virtio device behind any transport.
///
/// The transport negotiates `VIRTIO_F_VERSION_1`, `RING_EVENT_IDX` and `RING_INDIRECT_DESC` itself.
pub trait VirtioDevice: Send {
    fn device_type(&self) -> DeviceType;

    /// Device-specific feature bits on offer (0..=23 and 50..=127; virtio 1.2, 2.2).
    fn features(&self) -> u64;

    /// Largest size of each queue, in entries; powers of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// Bytes of device configuration space; 0 if the device has none.
    fn config_len(&self) -> u64;

    /// Reads device configuration space; bytes past its end are left as they are (zero).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes device configuration space; what is read-only is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Changes whenever what [`VirtioDevice::read_config`] gives changed (virtio 1.2, 2.5.3).
    fn config_generation(&self) -> u8;

    /// The driver is ready: queues may be used from now on.
    fn activate(&mut self, activation: Activation);

    /// The driver made buffers available in queue `queue`.
    ///
    /// # Errors
    /// The driver broke the specification; the device does nothing more until it is reset.
    fn notify(&mut self, queue: u16) -> Result<Progress, Malformed>;

    /// Forgets the driver; called also when the device was never activated.
    fn reset(&mut self);
}

/// Reads from a configuration space that is these bytes; what lies behind its end is left as it is.
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    for (to, value) in data.iter_mut().zip(space.get(from..).unwrap_or_default()) {
        *to = *value;
    }
}
