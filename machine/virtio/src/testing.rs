//! A board with one virtio device, and a driver that reaches it as a kernel does: by configuration
//! mechanism #1, BARs, and split rings in RAM.

use crate::device::VirtioDevice;
use crate::pci::{VirtioPci, feature, status};
use motu_bus::{AddressSpace, Device, IrqSink, MsiSink, Shared, lock};
use motu_devices::pci::{Intx, IntxRouter, PciBus, Pin};
use motu_memory::GuestRam;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

pub const SLOT: u8 = 3;
pub const RAM: u64 = 4 << 20;
/// Where the driver's allocator begins.
const HEAP: u64 = 0x10_0000;
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;

/// What interrupt controllers saw.
#[derive(Debug, Default)]
pub struct Interrupts {
    pub messages: Mutex<Vec<(u64, u32)>>,
    pub levels: Mutex<BTreeMap<u32, bool>>,
}

impl MsiSink for Interrupts {
    fn signal(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }
}

impl IrqSink for Interrupts {
    fn set(&self, pin: u32, level: bool) {
        self.levels.lock().unwrap().insert(pin, level);
    }
}

/// A virtio structure capability as found in configuration space.
#[derive(Clone, Copy, Debug)]
pub struct Structure {
    pub cap: u16,
    pub kind: u8,
    pub bar: u8,
    pub offset: u32,
    pub length: u32,
}

/// One split ring as the driver keeps it.
#[derive(Clone, Debug)]
pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next_descriptor: u16,
    next_available: u16,
    seen_used: u16,
}

/// One buffer of a chain: address, length, whether the device writes it.
pub type Part = (u64, u32, bool);

pub struct Driver {
    pub ram: GuestRam,
    pub bus: PciBus,
    pub memory: Arc<AddressSpace>,
    pub interrupts: Arc<Interrupts>,
    pub function: Shared<VirtioPci>,
    pub structures: Vec<Structure>,
    pub rings: BTreeMap<u16, Ring>,
    pub multiplier: u32,
    pub msix_cap: u16,
    heap: u64,
}

impl Driver {
    /// Puts `device` on a board and finds it there.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let interrupts = Arc::new(Interrupts::default());
        let memory = Arc::new(AddressSpace::new());
        let mut bus = PciBus::new(Arc::clone(&memory), Arc::new(AddressSpace::new()));
        let lines: Arc<dyn IrqSink> = Arc::<Interrupts>::clone(&interrupts);
        let intx = Intx::new(&Arc::new(IntxRouter::new(lines)), SLOT, Pin::A);
        let msi: Arc<dyn MsiSink> = Arc::<Interrupts>::clone(&interrupts);
        let function = VirtioPci::new(device, &ram, msi, Some(intx)).unwrap().attach(&mut bus, SLOT).unwrap();
        bus.assign_resources().unwrap();
        let mut driver = Self {
            ram,
            bus,
            memory,
            interrupts,
            function,
            structures: Vec::new(),
            rings: BTreeMap::new(),
            multiplier: 0,
            msix_cap: 0,
            heap: HEAP,
        };
        driver.find_capabilities();
        driver
    }

    fn find_capabilities(&mut self) {
        let mut at = self.config8(0x34).into();
        while at != 0 {
            match self.config8(at) {
                0x09 => {
                    let structure = Structure {
                        cap: at,
                        kind: self.config8(at + 3),
                        bar: self.config8(at + 4),
                        offset: self.config32(at + 8),
                        length: self.config32(at + 12),
                    };
                    assert!(self.config8(at + 2) >= 16);
                    if structure.kind == 2 {
                        self.multiplier = self.config32(at + 16);
                    }
                    self.structures.push(structure);
                }
                0x11 => self.msix_cap = at,
                other => panic!("unexpected capability {other:#x}"),
            }
            at = self.config8(at + 1).into();
        }
    }

    pub fn config_read(&mut self, at: u16, data: &mut [u8]) {
        let address = 1u32 << 31 | u32::from(SLOT) << 11 | u32::from(at & 0xfc);
        self.bus.write(0, &address.to_le_bytes());
        self.bus.read(4 + u64::from(at & 3), data);
    }

    pub fn config_write(&mut self, at: u16, data: &[u8]) {
        let address = 1u32 << 31 | u32::from(SLOT) << 11 | u32::from(at & 0xfc);
        self.bus.write(0, &address.to_le_bytes());
        self.bus.write(4 + u64::from(at & 3), data);
    }

    pub fn config8(&mut self, at: u16) -> u8 {
        let mut data = [0];
        self.config_read(at, &mut data);
        data[0]
    }

    pub fn config32(&mut self, at: u16) -> u32 {
        let mut data = [0; 4];
        self.config_read(at, &mut data);
        u32::from_le_bytes(data)
    }

    /// Address of BAR `index`.
    pub fn bar(&mut self, index: u8) -> u64 {
        u64::from(self.config32(0x10 + 4 * u16::from(index)) & !0xf)
    }

    /// Address of a structure: 1 common, 2 notify, 3 ISR, 4 device.
    pub fn structure(&mut self, kind: u8) -> u64 {
        let found = *self.structures.iter().find(|s| s.kind == kind).unwrap();
        self.bar(found.bar) + u64::from(found.offset)
    }

    fn read<const N: usize>(&mut self, address: u64) -> [u8; N] {
        let mut data = [0; N];
        self.memory.read(address, &mut data);
        data
    }

    pub fn common8(&mut self, at: u64) -> u8 {
        let at = self.structure(1) + at;
        self.read::<1>(at)[0]
    }

    pub fn common16(&mut self, at: u64) -> u16 {
        let at = self.structure(1) + at;
        u16::from_le_bytes(self.read(at))
    }

    pub fn common32(&mut self, at: u64) -> u32 {
        let at = self.structure(1) + at;
        u32::from_le_bytes(self.read(at))
    }

    pub fn write_common(&mut self, at: u64, data: &[u8]) {
        let at = self.structure(1) + at;
        self.memory.write(at, data);
    }

    pub fn status(&mut self) -> u8 {
        self.common8(0x14)
    }

    pub fn set_status(&mut self, status: u8) {
        self.write_common(0x14, &[status]);
    }

    pub fn isr(&mut self) -> u8 {
        let at = self.structure(3);
        self.read::<1>(at)[0]
    }

    pub fn device_config<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let at = self.structure(4) + at;
        self.read(at)
    }

    pub fn device_features(&mut self) -> u64 {
        self.write_common(0, &0u32.to_le_bytes());
        let low = self.common32(4);
        self.write_common(0, &1u32.to_le_bytes());
        u64::from(self.common32(4)) << 32 | u64::from(low)
    }

    pub fn set_features(&mut self, features: u64) {
        for (select, word) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.write_common(8, &select.to_le_bytes());
            self.write_common(0xc, &word.to_le_bytes());
        }
    }

    /// Resets the device and negotiates `features` of what it offers.
    pub fn negotiate(&mut self, features: u64) {
        self.set_status(0);
        assert_eq!(self.status(), 0);
        self.rings.clear();
        self.heap = HEAP;
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = self.device_features() & features | feature::VERSION_1;
        self.set_features(features);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_eq!(self.status(), 11);
    }

    pub fn driver_ok(&mut self) {
        let status = self.status();
        self.set_status(status | status::DRIVER_OK);
    }

    pub fn alloc(&mut self, bytes: u64) -> u64 {
        let at = self.heap;
        self.heap = (at + bytes).next_multiple_of(4096);
        assert!(self.heap <= RAM);
        // Rings begin as zeros, also where a driver before had its own.
        self.write_ram(at, &vec![0; (self.heap - at) as usize]);
        at
    }

    pub fn select_queue(&mut self, queue: u16) {
        self.write_common(0x16, &queue.to_le_bytes());
    }

    /// Makes a ring of the size on offer, without enabling it.
    pub fn place_queue(&mut self, queue: u16) -> Ring {
        self.select_queue(queue);
        let size = self.common16(0x18);
        assert!(size.is_power_of_two());
        let ring = Ring {
            size,
            descriptors: self.alloc(u64::from(size) * 16),
            available: self.alloc(u64::from(size) * 2 + 6),
            used: self.alloc(u64::from(size) * 8 + 6),
            next_descriptor: 0,
            next_available: 0,
            seen_used: 0,
        };
        for (at, value) in [(0x20, ring.descriptors), (0x28, ring.available), (0x30, ring.used)] {
            self.write_common(at, &(value as u32).to_le_bytes());
            self.write_common(at + 4, &((value >> 32) as u32).to_le_bytes());
        }
        ring
    }

    pub fn setup_queue(&mut self, queue: u16) {
        let ring = self.place_queue(queue);
        self.write_common(0x1c, &1u16.to_le_bytes());
        assert_eq!(self.common16(0x1c), 1, "queue {queue} is enabled");
        self.rings.insert(queue, ring);
    }

    pub fn setup_all_queues(&mut self) {
        for queue in 0..self.common16(0x12) {
            self.setup_queue(queue);
        }
    }

    pub fn write_ram(&self, at: u64, data: &[u8]) {
        self.ram.mmap().write_slice(data, GuestAddress(at)).unwrap();
    }

    pub fn read_ram(&self, at: u64, data: &mut [u8]) {
        self.ram.mmap().read_slice(data, GuestAddress(at)).unwrap();
    }

    pub fn write16(&self, at: u64, value: u16) {
        self.write_ram(at, &value.to_le_bytes());
    }

    pub fn read16(&self, at: u64) -> u16 {
        let mut data = [0; 2];
        self.read_ram(at, &mut data);
        u16::from_le_bytes(data)
    }

    pub fn read32(&self, at: u64) -> u32 {
        let mut data = [0; 4];
        self.read_ram(at, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write_descriptor(&self, table: u64, index: u16, (address, len): (u64, u32), flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write_ram(table + 16 * u64::from(index), &bytes);
    }

    /// Makes `head` available.
    pub fn publish(&mut self, queue: u16, head: u16) {
        let ring = self.rings.get_mut(&queue).unwrap();
        let slot = ring.available + 4 + 2 * u64::from(ring.next_available % ring.size);
        ring.next_available = ring.next_available.wrapping_add(1);
        let (index, next) = (ring.available + 2, ring.next_available);
        self.write16(slot, head);
        self.write16(index, next);
    }

    /// Makes a chain available; returns its head.
    pub fn add(&mut self, queue: u16, parts: &[Part]) -> u16 {
        let ring = self.rings.get_mut(&queue).unwrap();
        let (table, size, head) = (ring.descriptors, ring.size, ring.next_descriptor);
        ring.next_descriptor = (head + parts.len() as u16) % size;
        for (i, &(address, len, write)) in parts.iter().enumerate() {
            let index = (head + i as u16) % size;
            let last = i + 1 == parts.len();
            let flags = if last { 0 } else { DESC_NEXT } | if write { DESC_WRITE } else { 0 };
            self.write_descriptor(table, index, (address, len), flags, (index + 1) % size);
        }
        self.publish(queue, head);
        head
    }

    /// As [`Driver::add`], by an indirect table.
    pub fn add_indirect(&mut self, queue: u16, parts: &[Part]) -> u16 {
        let table = self.alloc(16 * parts.len() as u64);
        for (i, &(address, len, write)) in (0u16..).zip(parts) {
            let last = usize::from(i) + 1 == parts.len();
            let flags = if last { 0 } else { DESC_NEXT } | if write { DESC_WRITE } else { 0 };
            self.write_descriptor(table, i, (address, len), flags, i + 1);
        }
        let ring = self.rings.get_mut(&queue).unwrap();
        let head = ring.next_descriptor;
        ring.next_descriptor = (head + 1) % ring.size;
        let descriptors = ring.descriptors;
        self.write_descriptor(descriptors, head, (table, 16 * parts.len() as u32), DESC_INDIRECT, 0);
        self.publish(queue, head);
        head
    }

    pub fn notify(&mut self, queue: u16) {
        self.select_queue(queue);
        let offset = u64::from(self.common16(0x1e)) * u64::from(self.multiplier);
        let at = self.structure(2) + offset;
        self.memory.write(at, &queue.to_le_bytes());
    }

    /// Chains given back since the last call: head and bytes written.
    pub fn used(&mut self, queue: u16) -> Vec<(u16, u32)> {
        let ring = self.rings[&queue].clone();
        let end = self.read16(ring.used + 2);
        let mut at = ring.seen_used;
        let mut chains = Vec::new();
        while at != end {
            let element = ring.used + 4 + 8 * u64::from(at % ring.size);
            chains.push((self.read32(element) as u16, self.read32(element + 4)));
            at = at.wrapping_add(1);
        }
        self.rings.get_mut(&queue).unwrap().seen_used = end;
        // used_event: the next one is worth an interrupt.
        self.write16(ring.available + 4 + 2 * u64::from(ring.size), end);
        chains
    }

    /// Whether the driver would have to notify for a chain it adds now, with RING_EVENT_IDX.
    pub fn wants_notification(&self, queue: u16) -> bool {
        let ring = &self.rings[&queue];
        self.read16(ring.used + 4 + 8 * u64::from(ring.size)) == ring.next_available
    }

    /// Address and length of the first descriptor of `head`.
    pub fn descriptor(&self, queue: u16, head: u16) -> (u64, u32) {
        let at = self.rings[&queue].descriptors + 16 * u64::from(head);
        (u64::from(self.read32(at)) | u64::from(self.read32(at + 4)) << 32, self.read32(at + 8))
    }

    pub fn bytes(&self, at: u64, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.read_ram(at, &mut bytes);
        bytes
    }

    /// Switches MSI-X on; vector v sends (0xfee0_0000, 0x40 + v) and is unmasked.
    pub fn enable_msix(&mut self, vectors: u16) {
        let table = self.bar(1);
        for vector in 0..vectors {
            for (word, value) in [(0, 0xfee0_0000u32), (4, 0), (8, 0x40 + u32::from(vector)), (12, 0)] {
                self.memory.write(table + 16 * u64::from(vector) + word, &value.to_le_bytes());
            }
        }
        let control = self.msix_cap + 2;
        self.config_write(control, &0x8000u16.to_le_bytes());
    }

    /// Data of the messages since the last call.
    pub fn take_messages(&self) -> Vec<u32> {
        std::mem::take(&mut *self.interrupts.messages.lock().unwrap()).into_iter().map(|(_, data)| data).collect()
    }

    /// Level of the device's INTx line: slot 3's INTA is the IOAPIC's pin 19.
    pub fn line(&self) -> bool {
        self.interrupts.levels.lock().unwrap().get(&19).copied().unwrap_or(false)
    }

    pub fn malformed(&self) -> u64 {
        lock(&self.function).malformed()
    }

    /// The device must be in need of a reset, and live again after one.
    pub fn assert_needs_reset(&mut self, case: &str) {
        assert_ne!(self.status() & status::NEEDS_RESET, 0, "{case}");
        assert!(self.malformed() > 0, "{case}");
        self.set_status(0);
        assert_eq!(self.status(), 0, "{case}");
    }
}
