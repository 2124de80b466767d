//! virtio over PCI, modern devices only (virtio 1.2, 4.1).
//!
//! BAR 0 has the four structures, a page each; BAR 1 has the MSI-X table. The PCI configuration
//! access capability reaches BAR 0 without mapping it.
//!
//! ```text
//!   BAR 0   0x0000 common configuration   0x1000 ISR status
//!           0x2000 device configuration   0x3000 notifications, 4 bytes a queue
//!   BAR 1   MSI-X table and pending bits
//! ```

mod common;
#[cfg(test)]
mod fuzz;
mod signals;
#[cfg(test)]
mod tests;

pub use common::{feature, status};

use crate::device::{Activation, DeviceType, Interrupt, InterruptSink, Progress, VirtioDevice};
use crate::queue::{Malformed, VirtQueue};
use common::{CommonRegs, Outside, Request};
use motu_bus::{Device, Effect, MsiSink, Shared, shared};
use motu_devices::pci::{BarKind, ConfigSpace, Identity, Intx, Msix, MsixBar, PciBus, PciError, PciFunction};
use motu_memory::{GuestRam, Mmap};
use signals::Signals;
use std::fmt;
use std::sync::{Arc, Mutex};

const VENDOR: u16 = 0x1af4;
/// Device ids of modern devices: this plus the device type (virtio 1.2, 4.1.2.1).
const DEVICE_BASE: u16 = 0x1040;
/// Any subsystem id from 0x40 on says "not transitional" (virtio 1.2, 4.1.2.2).
const SUBSYSTEM: u16 = 0x1100;

const REGISTERS_BAR: u8 = 0;
const MSIX_BAR: u8 = 1;
const REGISTERS_SIZE: u64 = 0x4000;
const PAGE: u64 = 0x1000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Bytes of the notification area for each queue.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Structure types (virtio 1.2, 4.1.4).
mod cap {
    pub const VENDOR_SPECIFIC: u8 = 0x09;
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI_ACCESS: u8 = 5;
    /// Bytes of the common part, `cap_vndr` and `cap_next` included.
    pub const LEN: u8 = 16;
    /// Where its fields lie.
    pub const BAR: u16 = 4;
    pub const OFFSET: u16 = 8;
    pub const LENGTH: u16 = 12;
    pub const DATA: u16 = 16;
}

/// A virtio device as a PCI function, and as what lies behind its BAR 0.
pub struct VirtioPci {
    config: ConfigSpace,
    /// Where the PCI configuration access capability lies.
    access_cap: u16,
    device: Box<dyn VirtioDevice>,
    regs: CommonRegs,
    signals: Arc<Signals>,
    msix: Msix,
    memory: Arc<Mmap>,
    /// Bit n: queue n was left with work, see [`Progress::More`].
    unfinished: u64,
}

impl VirtioPci {
    /// A function whose messages go to `msi` and whose pin, if it has one, is `intx`.
    ///
    /// # Errors
    /// The capabilities or BARs do not fit, which no device here brings about.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: &GuestRam,
        msi: Arc<dyn MsiSink>,
        intx: Option<Intx>,
    ) -> Result<Self, PciError> {
        let queues = device.queue_max_sizes();
        let count = u16::try_from(queues.len()).unwrap_or(u16::MAX);
        let offered = device.features() | feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC;
        let regs = CommonRegs::new(offered, queues);
        // One for each queue and one for configuration changes, so that Linux never has to share.
        let msix = Msix::new(count.saturating_add(1), msi);
        let signals = Arc::new(Signals::new(msix.clone(), intx.clone(), queues.len()));

        let mut config = ConfigSpace::new(&identity(device.device_type()));
        config.add_bar(REGISTERS_BAR.into(), BarKind::Memory32, REGISTERS_SIZE)?;
        config.add_bar(MSIX_BAR.into(), BarKind::Memory32, MsixBar::SIZE)?;
        config.add_msix(msix.clone(), (MSIX_BAR, MsixBar::TABLE), (MSIX_BAR, MsixBar::PENDING))?;
        let notify_len = u64::from(count) * u64::from(NOTIFY_MULTIPLIER);
        add_structure(&mut config, cap::COMMON, (COMMON, common::LEN), &[])?;
        add_structure(&mut config, cap::NOTIFY, (NOTIFY, notify_len), &NOTIFY_MULTIPLIER.to_le_bytes())?;
        add_structure(&mut config, cap::ISR, (ISR, 1), &[])?;
        if device.config_len() > 0 {
            add_structure(&mut config, cap::DEVICE, (DEVICE, device.config_len()), &[])?;
        }
        let access_cap = u16::from(add_structure(&mut config, cap::PCI_ACCESS, (0, 0), &[0; 4])?);
        config.allow(usize::from(access_cap + cap::BAR), &[0xff]);
        config.allow(usize::from(access_cap + cap::OFFSET), &[0xff; 12]);
        if let Some(intx) = intx {
            config.set_intx(intx);
        }
        let memory = Arc::clone(memory.mmap());
        Ok(Self { config, access_cap, device, regs, signals, msix, memory, unfinished: 0 })
    }

    /// Puts the function into `slot` of `bus`, with what answers behind its BARs.
    ///
    /// # Errors
    /// The slot does not exist or is taken.
    pub fn attach(self, bus: &mut PciBus, slot: u8) -> Result<Shared<Self>, PciError> {
        let msix: Arc<Mutex<dyn Device>> = shared(MsixBar::new(self.msix.clone()));
        let function = shared(self);
        let registers: Arc<Mutex<dyn Device>> = Arc::<Mutex<Self>>::clone(&function);
        let bars = vec![(REGISTERS_BAR.into(), registers), (MSIX_BAR.into(), msix)];
        bus.add(slot, Arc::<Mutex<Self>>::clone(&function), bars)?;
        Ok(function)
    }

    /// How often the guest's driver broke the specification since the machine was made.
    pub fn malformed(&self) -> u64 {
        self.signals.malformed()
    }

    /// The driver broke the specification: the device leaves its rings alone until it is reset.
    fn fail(&mut self, why: Malformed) {
        self.signals.needs_reset(why);
        self.device.reset();
        self.unfinished = 0;
    }

    fn reset_device(&mut self) {
        // First, so that nobody is left who could still signal.
        self.device.reset();
        self.regs.reset();
        self.signals.reset();
        self.unfinished = 0;
    }

    fn activate(&mut self) {
        if self.signals.is_failed() {
            self.regs.refuse_driver_ok();
            return;
        }
        let features = self.regs.features();
        let event_idx = features & feature::RING_EVENT_IDX != 0;
        let start = |setup: Option<&_>| setup.map(|s| VirtQueue::new(s, event_idx, &self.memory)).transpose();
        match self.regs.enabled_queues().map(start).collect::<Result<Vec<_>, _>>() {
            Ok(queues) => {
                self.signals.set_driver_ok();
                let sink: Arc<dyn InterruptSink> = Arc::<Signals>::clone(&self.signals);
                let memory = Arc::clone(&self.memory);
                self.device.activate(Activation { features, queues, memory, interrupt: Interrupt::new(sink) });
            }
            Err(why) => {
                self.regs.refuse_driver_ok();
                self.fail(why);
            }
        }
    }

    fn notify(&mut self, queue: u16) {
        if !self.regs.is_driver_ok() || queue >= self.regs.queue_count() || self.signals.is_failed() {
            return;
        }
        match self.device.notify(queue) {
            Ok(Progress::Idle) => {}
            Ok(Progress::More) => self.unfinished |= 1u64.checked_shl(queue.into()).unwrap_or(0),
            Err(why) => self.fail(why),
        }
    }

    /// One more round of what earlier notifications left.
    fn go_on(&mut self) {
        let mut left = std::mem::take(&mut self.unfinished);
        while left != 0 {
            self.notify(left.trailing_zeros() as u16);
            left &= left - 1;
        }
    }

    fn read_registers(&mut self, offset: u64, data: &mut [u8]) {
        self.go_on();
        data.fill(0);
        let within = offset % PAGE;
        match offset - within {
            COMMON => {
                let outside = Outside {
                    needs_reset: self.signals.is_failed(),
                    config_generation: self.device.config_generation(),
                    config_vector: self.signals.config_vector(),
                    queue_vector: self.signals.queue_vector(self.regs.selected_queue()),
                };
                self.regs.read(within, data, &outside);
            }
            ISR if within == 0 => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.signals.take_isr();
                }
            }
            DEVICE => self.device.read_config(within, data),
            _ => {}
        }
    }

    fn write_registers(&mut self, offset: u64, data: &[u8]) {
        self.go_on();
        let within = offset % PAGE;
        match offset - within {
            COMMON => self.write_common(within, data),
            DEVICE => self.device.write_config(within, data),
            // The queue is where the write goes; without NOTIFICATION_DATA, what is written repeats it.
            NOTIFY => self.notify(u16::try_from(within / u64::from(NOTIFY_MULTIPLIER)).unwrap_or(u16::MAX)),
            _ => {}
        }
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        match self.regs.write(offset, data) {
            Request::None => {}
            Request::Reset => self.reset_device(),
            Request::Activate => self.activate(),
            Request::Enable(setup) => match setup.check(&self.memory) {
                Ok(()) => self.regs.enable(setup.index),
                Err(why) => self.fail(why),
            },
            Request::ConfigVector(vector) => self.signals.set_config_vector(vector),
            Request::QueueVector { queue, vector } => self.signals.set_queue_vector(queue, vector),
            Request::Fail(why) => self.fail(why),
        }
    }

    /// The access to BAR 0 that the PCI configuration access capability describes (4.1.4.9): its
    /// offset and how many bytes.
    fn window(&self) -> Option<(u64, usize)> {
        let byte = |at: u16| {
            let mut byte = [0];
            self.config.read(self.access_cap + at, &mut byte);
            byte
        };
        let word = |at: u16| {
            let mut word = [0; 4];
            self.config.read(self.access_cap + at, &mut word);
            u32::from_le_bytes(word)
        };
        let (offset, len) = (u64::from(word(cap::OFFSET)), word(cap::LENGTH));
        let fits = matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len.into()) && offset < REGISTERS_SIZE;
        (byte(cap::BAR) == [REGISTERS_BAR] && fits).then_some((offset, len as usize))
    }

    /// Whether a configuration access of `len` bytes at `offset` touches the capability's data field.
    fn touches_window(&self, offset: u16, len: usize) -> bool {
        let data = usize::from(self.access_cap + cap::DATA);
        let offset = usize::from(offset);
        offset < data + 4 && data < offset.saturating_add(len)
    }
}

fn identity(kind: DeviceType) -> Identity {
    Identity {
        vendor: VENDOR,
        device: DEVICE_BASE + kind as u16,
        revision: 1,
        class: match kind {
            // As QEMU's: a SCSI controller, the nearest there is.
            DeviceType::Block => 0x01_00_00,
            DeviceType::Console => 0x07_80_00,
            DeviceType::Entropy => 0x00_ff_00,
            // Mass storage of another kind.
            DeviceType::FileSystem => 0x01_80_00,
        },
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    }
}

/// Appends a virtio structure capability (4.1.4) for `place`, an offset and length in BAR 0.
fn add_structure(config: &mut ConfigSpace, kind: u8, place: (u64, u64), extra: &[u8]) -> Result<u8, PciError> {
    let len = usize::from(cap::LEN) + extra.len();
    let mut body = vec![u8::try_from(len).unwrap_or(u8::MAX), kind, REGISTERS_BAR, 0, 0, 0];
    body.extend((place.0 as u32).to_le_bytes());
    body.extend((place.1 as u32).to_le_bytes());
    body.extend(extra);
    config.add_capability(cap::VENDOR_SPECIFIC, &body)
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window()
        {
            let mut bytes = [0; 4];
            if let Some(bytes) = bytes.get_mut(..len) {
                self.read_registers(at, bytes);
            }
            self.config.set(usize::from(self.access_cap + cap::DATA), &bytes);
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        if self.touches_window(offset, data.len())
            && let Some((at, len)) = self.window()
        {
            let mut bytes = [0; 4];
            self.config.read(self.access_cap + cap::DATA, &mut bytes);
            self.write_registers(at, bytes.get(..len).unwrap_or_default());
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.reset_device();
        self.config.reset();
    }
}

impl Device for VirtioPci {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        self.read_registers(offset, data);
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.write_registers(offset, data);
        Effect::None
    }

    fn reset(&mut self) {
        PciFunction::reset(self);
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("device", &self.device.device_type()).field("regs", &self.regs).finish()
    }
}
