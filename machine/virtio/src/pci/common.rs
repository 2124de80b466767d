//! The common configuration structure (virtio 1.2, 4.1.4.3): registers only, no device behind them.

use crate::queue::{Malformed, QueueSetup};

/// Bytes of the structure, up to `queue_reset`.
pub const LEN: u64 = 0x3c;
/// What a vector register holds when there is no vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Device status bits (virtio 1.2, 2.1).
pub mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
    /// What a driver can set.
    pub const WRITABLE: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Feature bits of the transport and the rings (virtio 1.2, 6).
pub mod feature {
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

mod reg {
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub const DEVICE_FEATURE: usize = 0x04;
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub const DRIVER_FEATURE: usize = 0x0c;
    pub const CONFIG_VECTOR: usize = 0x10;
    pub const NUM_QUEUES: usize = 0x12;
    pub const STATUS: usize = 0x14;
    pub const CONFIG_GENERATION: usize = 0x15;
    pub const QUEUE_SELECT: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_VECTOR: usize = 0x1a;
    pub const QUEUE_ENABLE: usize = 0x1c;
    pub const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub const QUEUE_DESCRIPTORS: usize = 0x20;
    pub const QUEUE_DRIVER: usize = 0x28;
    pub const QUEUE_DEVICE: usize = 0x30;
}

/// What the transport has to do for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    None,
    /// Status went to 0.
    Reset,
    /// DRIVER_OK was set.
    Activate,
    /// The driver enables this queue; answer with [`CommonRegs::enable`] if it can be.
    Enable(QueueSetup),
    ConfigVector(u16),
    QueueVector {
        queue: u16,
        vector: u16,
    },
    /// DEVICE_NEEDS_RESET.
    Fail(Malformed),
}

/// What the registers show that is kept elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    pub needs_reset: bool,
    pub config_generation: u8,
    pub config_vector: u16,
    /// Of the selected queue.
    pub queue_vector: u16,
}

#[derive(Clone, Copy, Debug)]
struct QueueRegs {
    setup: QueueSetup,
    enabled: bool,
}

/// The registers.
#[derive(Debug)]
pub struct CommonRegs {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegs>,
}

impl CommonRegs {
    /// `offered` are all feature bits on offer, `max_sizes` those of the queues.
    pub fn new(offered: u64, max_sizes: &[u16]) -> Self {
        let queue = |(index, &max_size)| QueueRegs {
            setup: QueueSetup { index, size: max_size, max_size, ..QueueSetup::default() },
            enabled: false,
        };
        Self {
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            queue_select: 0,
            queues: (0u16..).zip(max_sizes).map(queue).collect(),
        }
    }

    /// Everything as after power-up (virtio 1.2, 4.1.4.3.1).
    pub fn reset(&mut self) {
        let max_sizes: Vec<u16> = self.queues.iter().map(|q| q.setup.max_size).collect();
        *self = Self::new(self.offered, &max_sizes);
    }

    /// What the driver accepted.
    pub fn features(&self) -> u64 {
        self.driver_features
    }

    pub fn is_driver_ok(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    pub fn selected_queue(&self) -> u16 {
        self.queue_select
    }

    /// Each queue's registers, `None` where it is not enabled.
    pub fn enabled_queues(&self) -> impl Iterator<Item = Option<&QueueSetup>> {
        self.queues.iter().map(|q| q.enabled.then_some(&q.setup))
    }

    /// Lets a queue be enabled, as [`Request::Enable`] asked.
    pub fn enable(&mut self, queue: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
            queue.enabled = true;
        }
    }

    /// Takes DRIVER_OK back: activation failed.
    pub fn refuse_driver_ok(&mut self) {
        self.status &= !status::DRIVER_OK;
    }

    /// Reads any bytes of the structure; zeros past its end.
    pub fn read(&self, offset: u64, data: &mut [u8], outside: &Outside) {
        let image = self.image(outside);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        data.fill(0);
        for (byte, &value) in data.iter_mut().zip(image.get(from..).unwrap_or_default()) {
            *byte = value;
        }
    }

    fn image(&self, outside: &Outside) -> [u8; 0x40] {
        let mut image = [0; 0x40];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in image.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(reg::DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(reg::DEVICE_FEATURE, &word(self.offered, self.device_feature_select).to_le_bytes());
        put(reg::DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(reg::DRIVER_FEATURE, &word(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(reg::CONFIG_VECTOR, &outside.config_vector.to_le_bytes());
        put(reg::NUM_QUEUES, &self.queue_count().to_le_bytes());
        put(reg::STATUS, &[self.status | if outside.needs_reset { status::NEEDS_RESET } else { 0 }]);
        put(reg::CONFIG_GENERATION, &[outside.config_generation]);
        put(reg::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        put(reg::QUEUE_VECTOR, &NO_VECTOR.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(reg::QUEUE_SIZE, &queue.setup.size.to_le_bytes());
            put(reg::QUEUE_VECTOR, &outside.queue_vector.to_le_bytes());
            put(reg::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(reg::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(reg::QUEUE_DESCRIPTORS, &queue.setup.descriptors.to_le_bytes());
            put(reg::QUEUE_DRIVER, &queue.setup.driver.to_le_bytes());
            put(reg::QUEUE_DEVICE, &queue.setup.device.to_le_bytes());
        }
        image
    }

    /// Writes one register with its own width; an address register also by halves
    /// (virtio 1.2, 4.1.3.1). Any other access is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Request {
        let Ok(at) = usize::try_from(offset) else { return Request::None };
        match *data {
            [value] if at == reg::STATUS => return self.write_status(value),
            [a, b] => return self.write16(at, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write32(at, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if at >= reg::QUEUE_DESCRIPTORS && at.is_multiple_of(8) => {
                self.write32(at, u32::from_le_bytes([a, b, c, d]));
                self.write32(at + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Request::None
    }

    fn write16(&mut self, at: usize, value: u16) -> Request {
        let queue = self.queue_select;
        let fixed = self.is_driver_ok();
        let selected = self.queues.get_mut(usize::from(queue));
        match at {
            reg::CONFIG_VECTOR => return Request::ConfigVector(value),
            reg::QUEUE_SELECT => self.queue_select = value,
            reg::QUEUE_SIZE => {
                if let Some(q) = selected.filter(|q| !q.enabled && !fixed) {
                    q.setup.size = value;
                }
            }
            reg::QUEUE_VECTOR if selected.is_some() => return Request::QueueVector { queue, vector: value },
            // Only 1 may be written, and before DRIVER_OK (4.1.4.3.2).
            reg::QUEUE_ENABLE if value == 1 => {
                if let Some(q) = selected.filter(|q| !q.enabled && !fixed) {
                    return Request::Enable(q.setup);
                }
            }
            _ => {}
        }
        Request::None
    }

    fn write32(&mut self, at: usize, value: u32) {
        match at {
            reg::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            reg::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            // After FEATURES_OK the negotiation is over (3.1.1).
            reg::DRIVER_FEATURE if self.status & status::FEATURES_OK == 0 => {
                let value = u64::from(value);
                match self.driver_feature_select {
                    0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
                    1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
                    _ => {}
                }
            }
            reg::QUEUE_DESCRIPTORS.. => {
                let fixed = self.is_driver_ok();
                let selected = self.queues.get_mut(usize::from(self.queue_select));
                let Some(q) = selected.filter(|q| !q.enabled && !fixed) else { return };
                let address = match at & !7 {
                    reg::QUEUE_DESCRIPTORS => &mut q.setup.descriptors,
                    reg::QUEUE_DRIVER => &mut q.setup.driver,
                    reg::QUEUE_DEVICE => &mut q.setup.device,
                    _ => return,
                };
                let value = u64::from(value);
                match at & 7 {
                    0 => *address = *address & !0xffff_ffff | value,
                    4 => *address = *address & 0xffff_ffff | value << 32,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The initialisation of a device (virtio 1.2, 3.1.1), each step needing the one before:
    ///
    /// ```text
    ///   0 ─► ACKNOWLEDGE ─► DRIVER ─► FEATURES_OK (not taken if the features do not fit) ─► DRIVER_OK
    ///   any ─► FAILED    any ─► 0 (reset)    a bit taken back, or a step left out ─► NEEDS_RESET
    /// ```
    fn write_status(&mut self, value: u8) -> Request {
        if value == 0 {
            return Request::Reset;
        }
        let from = self.status;
        let mut to = value & status::WRITABLE;
        let fail = Request::Fail(Malformed::StatusOrder { from, to });
        let added = to & !from;
        if added & status::FEATURES_OK != 0 && !self.features_fit() {
            to &= !status::FEATURES_OK;
        }
        let steps = [status::ACKNOWLEDGE, status::DRIVER, status::FEATURES_OK, status::DRIVER_OK];
        let in_order = steps.windows(2).all(|pair| match *pair {
            [before, after] => to & after == 0 || to & before != 0,
            _ => true,
        });
        if from & !to != 0 || !in_order {
            return fail;
        }
        self.status = to;
        if added & status::DRIVER_OK != 0 { Request::Activate } else { Request::None }
    }

    fn features_fit(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & feature::VERSION_1 != 0
    }
}

/// The 32 bits of `features` that a select register chooses.
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
