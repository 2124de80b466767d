//! virtio devices behind their PCI transport: registers, rings and configuration space in any order.

use crate::registers::{Nowhere, access, steps};
use arbitrary::{Arbitrary, Result, Unstructured};
use motu_bus::{AddressSpace, Device, Effect, IrqSink, MsiSink};
use motu_devices::pci::{Intx, IntxRouter, PciBus, Pin};
use motu_memory::GuestRam;
use motu_virtio::block::{Block, BlockSpec};
use motu_virtio::console::{Console, PortHandle, PortSpec, ResizeOrder};
use motu_virtio::device::VirtioDevice;
use motu_virtio::pci::{VirtioPci, feature, status};
use motu_virtio::rng::Rng;
use motu_x86::Gpa;
use std::sync::Arc;
use std::time::Duration;

const SLOT: u32 = 3;
const RAM: u64 = 256 << 10;
/// The rings of queue n lie in the page n after this one; buffers behind them.
const RINGS: u64 = 0x1000;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xa00;
const BUFFERS: u64 = 0x1_0000;
/// A console of two ports has six queues, the disk two, the entropy device one.
const QUEUES: u16 = 6;
const QUEUE_SIZE: u16 = 16;
/// Bytes of a disk.
const DISK: u64 = 64 << 10;

/// Offsets of the structures in BAR 0, as [`VirtioPci`] has them.
const DEVICE_CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Registers of the common configuration (virtio 1.2, 4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESC: u64 = 0x20;
}

/// A board with one virtio device, and a driver that means it ill.
struct Driver {
    ram: GuestRam,
    bus: PciBus,
    memory: Arc<AddressSpace>,
    ports: Vec<PortHandle>,
    available: [u16; QUEUES as usize],
}

/// A BAR through the memory space, wherever the guest has put it.
struct Window<'a> {
    memory: &'a AddressSpace,
    base: u64,
}

impl Device for Window<'_> {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        self.memory.read(self.base.wrapping_add(offset), data)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.memory.write(self.base.wrapping_add(offset), data)
    }

    fn reset(&mut self) {}
}

/// The device that the input's first byte names. A port takes so many bytes at a time.
fn device(choice: u8) -> Option<(Box<dyn VirtioDevice>, Vec<PortHandle>)> {
    match choice & 3 {
        0 => return Some((Box::new(Rng::new(Box::new(|bytes| bytes.fill(1)))), Vec::new())),
        2 => return Some((Box::new(block()?), Vec::new())),
        _ => {}
    }
    let room = usize::from(choice >> 1) * 40;
    let backend = move || Box::new(move |data: &[u8]| data.len().min(room));
    let ports = vec![PortSpec::console(backend()), PortSpec::named("port", backend()).input_capacity(5000)];
    let (console, handles) = Console::new(ports, ResizeOrder::default()).ok()?;
    Some((Box::new(console), handles))
}

/// A small disk of two queues.
fn block() -> Option<Block> {
    let disk = crate::disk::memory(DISK);
    let (serial, name, quiet_after) = (String::new(), "disk".into(), Duration::from_millis(200));
    let spec = BlockSpec { disk, serial, queues: 2, workers: 1, name, failures: Default::default(), quiet_after };
    Block::new(spec).ok()
}

impl Driver {
    /// # Panics
    /// The device does not fit on a board, whatever the input.
    fn new(device: Box<dyn VirtioDevice>, ports: Vec<PortHandle>) -> Self {
        let ram = GuestRam::new(RAM).expect("a little memory");
        let memory = Arc::new(AddressSpace::new());
        let mut bus = PciBus::new(Arc::clone(&memory), Arc::new(AddressSpace::new()));
        let lines: Arc<dyn IrqSink> = Arc::new(Nowhere);
        let intx = Intx::new(&Arc::new(IntxRouter::new(lines)), SLOT as u8, Pin::A);
        let msi: Arc<dyn MsiSink> = Arc::new(Nowhere);
        let function = VirtioPci::new(device, &ram, msi, Some(intx)).expect("capabilities fit");
        function.attach(&mut bus, SLOT as u8).expect("the slot is free");
        bus.assign_resources().expect("BARs fit");
        Self { ram, bus, memory, ports, available: [0; QUEUES as usize] }
    }

    fn select(&mut self, register: u8) {
        let address = 1u32 << 31 | SLOT << 11 | u32::from(register & 0xfc);
        self.bus.write(0, &address.to_le_bytes());
    }

    fn bar(&mut self, index: u8) -> Window<'_> {
        self.select(0x10 + 4 * index);
        let mut bytes = [0; 4];
        self.bus.read(4, &mut bytes);
        Window { memory: &self.memory, base: u64::from(u32::from_le_bytes(bytes) & !0xf) }
    }

    fn common(&mut self, register: u64, data: &[u8]) {
        self.bar(0).write(register, data);
    }

    fn status(&mut self) -> u8 {
        let mut byte = [0];
        self.bar(0).read(common::STATUS, &mut byte);
        byte[0]
    }

    /// Brings the device up as a good driver does, with the features of `wanted`.
    fn start(&mut self, wanted: u64) {
        self.bus.reset();
        self.bus.assign_resources().expect("after a reset BARs fit again");
        let mut on = 0;
        for bit in [0, status::ACKNOWLEDGE, status::DRIVER] {
            on |= bit;
            self.common(common::STATUS, &[on]);
        }
        let wanted = wanted | feature::VERSION_1;
        for (select, wanted) in [(0u32, wanted as u32), (1, (wanted >> 32) as u32)] {
            self.common(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
            let mut offered = [0; 4];
            self.bar(0).read(common::DEVICE_FEATURE, &mut offered);
            let accepted = u32::from_le_bytes(offered) & wanted;
            self.common(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.common(common::DRIVER_FEATURE, &accepted.to_le_bytes());
        }
        self.common(common::STATUS, &[on | status::FEATURES_OK]);
        for queue in 0..QUEUES {
            self.start_queue(queue);
        }
        self.common(common::STATUS, &[on | status::FEATURES_OK | status::DRIVER_OK]);
        self.available = [0; QUEUES as usize];
    }

    fn start_queue(&mut self, queue: u16) {
        let rings = ring(queue);
        self.write(rings, &[0; 0x1000]);
        self.common(common::QUEUE_SELECT, &queue.to_le_bytes());
        self.common(common::QUEUE_SIZE, &QUEUE_SIZE.to_le_bytes());
        for (at, address) in (common::QUEUE_DESC..).step_by(8).zip([rings, rings + AVAILABLE, rings + USED]) {
            self.common(at, &(address as u32).to_le_bytes());
            self.common(at + 4, &0u32.to_le_bytes());
        }
        self.common(common::QUEUE_ENABLE, &1u16.to_le_bytes());
    }

    fn write(&self, at: u64, data: &[u8]) {
        // Outside RAM there is nothing to write to.
        _ = self.ram.write(Gpa(at), data);
    }

    fn descriptor(&self, at: u64, (address, len): (u64, u32), flags: u8, next: u8) {
        self.write(at, &address.to_le_bytes());
        self.write(at + 8, &len.to_le_bytes());
        self.write(at + 12, &[flags, 0, next, 0]);
    }

    fn publish(&mut self, queue: u16, head: u8) {
        let Some(available) = self.available.get_mut(usize::from(queue)) else { return };
        let slot = ring(queue) + AVAILABLE + 4 + 2 * u64::from(*available % QUEUE_SIZE);
        *available = available.wrapping_add(1);
        let index = *available;
        self.write(slot, &[head, 0]);
        self.write(ring(queue) + AVAILABLE + 2, &index.to_le_bytes());
    }

    fn notify(&mut self, queue: u16) {
        self.bar(0).write(NOTIFY + 4 * u64::from(queue), &queue.to_le_bytes());
    }

    /// A chain of buffers that are well linked, readable ones first, perhaps by an indirect table.
    fn chain(&mut self, queue: u16, input: &mut Unstructured<'_>) -> Result<()> {
        let shape = u8::arbitrary(input)?;
        let (count, writable, indirect) = (1 + (shape & 3), shape >> 2 & 7, shape & 0x80 != 0);
        let Some(&first) = self.available.get(usize::from(queue)) else { return Ok(()) };
        let head = (first.wrapping_mul(4) % QUEUE_SIZE) as u8;
        let table = if indirect { BUFFERS - 0x1000 } else { ring(queue) };
        for n in 0..count {
            let index = if indirect { n } else { (head + n) % QUEUE_SIZE as u8 };
            let place = u16::arbitrary(input)?;
            let len = u32::from(u8::arbitrary(input)?) << (place & 7);
            let last = n + 1 == count;
            let flags = u8::from(!last) | u8::from(n >= writable) << 1;
            let next = if indirect { n + 1 } else { (index + 1) % QUEUE_SIZE as u8 };
            self.descriptor(table + 16 * u64::from(index), (BUFFERS + 2 * u64::from(place), len), flags, next);
        }
        if indirect {
            let at = ring(queue) + 16 * u64::from(head);
            self.descriptor(at, (table, 16 * u32::from(count)), 4, 0);
        }
        self.publish(queue, head);
        self.notify(queue);
        Ok(())
    }

    fn ill(&mut self, operation: u8, input: &mut Unstructured<'_>) -> Result<()> {
        let queue = u16::from(operation >> 4) % (QUEUES + 1);
        match operation & 15 {
            0 | 1 => access(&mut self.bar(0), 0x40, input)?,
            2 => access(&mut self.bar(0), 0x4000, input)?,
            3 => {
                self.select(u8::arbitrary(input)?);
                access(&mut self.bus, 8, input)?;
            }
            4 => access(&mut self.bar(1), 0x900, input)?,
            5 => {
                let (at, value) = (u16::arbitrary(input)?, u16::arbitrary(input)?);
                self.write(ring(queue) + u64::from(at) % 0xb00, &value.to_le_bytes());
            }
            6 => {
                let [index, flags, next] = <[u8; 3]>::arbitrary(input)?;
                let (address, len) = (u64::arbitrary(input)?, u32::arbitrary(input)?);
                let address = if flags & 8 == 0 { address % (RAM + 64) } else { address };
                self.descriptor(ring(queue) + 16 * u64::from(index & 15), (address, len), flags & 7, next & 31);
            }
            7 => {
                self.publish(queue, u8::arbitrary(input)? & 31);
                self.notify(queue);
            }
            8..11 => self.chain(queue, input)?,
            11 => self.control(input)?,
            12 => self.start(if operation & 0x10 == 0 { u64::MAX } else { u64::arbitrary(input)? }),
            13 => self.notify(queue),
            14 => {
                let at = DEVICE_CONFIG + u64::from(u8::arbitrary(input)?);
                self.bar(0).read(at, &mut [0; 8]);
                self.bar(0).write(at, &[operation; 4]);
            }
            _ => self.host(operation >> 4, input)?,
        }
        Ok(())
    }

    /// A control message of the console (virtio 1.2, 5.3.6.2) on its control queue.
    fn control(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        const CONTROL: u16 = 3;
        let message = <[u8; 8]>::arbitrary(input)?;
        let [port, _, _, _, event, _, value, _] = message;
        self.write(BUFFERS, &[port & 3, 0, 0, 0, event & 15, 0, value, 0]);
        self.descriptor(ring(CONTROL), (BUFFERS, 8), 0, 0);
        self.publish(CONTROL, 0);
        self.notify(CONTROL);
        Ok(())
    }

    fn host(&mut self, operation: u8, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(port) = self.ports.get(usize::from(operation >> 3)) else { return Ok(()) };
        match operation & 7 {
            0..3 => _ = port.send(&vec![1; usize::from(u16::arbitrary(input)?)]),
            3 => port.resume(),
            4 => port.close(),
            5 => port.open(),
            _ => port.set_size(u16::arbitrary(input)?, 1),
        }
        Ok(())
    }
}

fn ring(queue: u16) -> u64 {
    RINGS + 0x1000 * u64::from(queue)
}

pub fn run(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let Some((device, ports)) = device(choice) else { return };
    let mut driver = Driver::new(device, ports);
    driver.start(u64::MAX);
    steps(bytes, |operation, input| driver.ill(operation, input));
    // Whatever it was, a reset brings the device back.
    driver.start(u64::MAX);
    assert_eq!(driver.status() & (status::NEEDS_RESET | status::DRIVER_OK), status::DRIVER_OK);
}
