use super::*;
use motu_bus::{AddressSpace, Device, Effect, IrqSink, MsiSink, shared};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Messages {
    fn signal(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

#[derive(Default)]
struct Levels(Mutex<Vec<(u32, bool)>>);

impl IrqSink for Levels {
    fn set(&self, pin: u32, level: bool) {
        self.0.lock().unwrap().push((pin, level));
    }
}

/// Answers reads with its number.
struct Answer(u8);

impl Device for Answer {
    fn read(&mut self, _: u64, data: &mut [u8]) -> Effect {
        data.fill(self.0);
        Effect::None
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Effect {
        Effect::Reschedule
    }
    fn reset(&mut self) {}
}

struct Card(ConfigSpace);

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
    fn reset(&mut self) {
        self.0.reset();
    }
}

const SLOT: u8 = 3;

struct Board {
    bus: PciBus,
    memory: Arc<AddressSpace>,
    io: Arc<AddressSpace>,
    msix: Msix,
    messages: Arc<Messages>,
    intx: Intx,
    levels: Arc<Levels>,
}

/// Slot 3: BAR 0 is 4 KiB with MSI-X of four vectors, BAR 2 16 KiB in 64 bits, BAR 4 32 ports.
fn board() -> Board {
    let (memory, io) = (Arc::new(AddressSpace::new()), Arc::new(AddressSpace::new()));
    let messages = Arc::new(Messages::default());
    let levels = Arc::new(Levels::default());
    let msix = Msix::new(4, messages.clone());
    let router = Arc::new(IntxRouter::new(levels.clone()));
    let intx = Intx::new(&router, SLOT, Pin::B);
    let mut config =
        ConfigSpace::new(&Identity { vendor: 0x1af4, device: 0x1042, class: 0x018000, ..Identity::default() });
    config.add_bar(0, BarKind::Memory32, MsixBar::SIZE).unwrap();
    config.add_bar(2, BarKind::Memory64 { prefetchable: true }, 0x4000).unwrap();
    config.add_bar(4, BarKind::Io, 32).unwrap();
    config.add_msix(msix.clone(), (0, MsixBar::TABLE), (0, MsixBar::PENDING)).unwrap();
    config.set_intx(intx.clone());
    let mut bus = PciBus::new(memory.clone(), io.clone());
    let bars: Vec<(usize, Arc<Mutex<dyn Device>>)> =
        vec![(0, shared(MsixBar::new(msix.clone()))), (2, shared(Answer(2))), (4, shared(Answer(4)))];
    bus.add(SLOT, shared(Card(config)), bars).unwrap();
    Board { bus, memory, io, msix, messages, intx, levels }
}

impl Board {
    fn select(&mut self, register: u8) {
        let address = 1 << 31 | u32::from(SLOT) << 11 | u32::from(register & 0xfc);
        self.bus.write(0, &address.to_le_bytes());
    }

    fn read(&mut self, register: u8) -> u32 {
        self.select(register);
        let mut data = [0; 4];
        self.bus.read(4, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: u8, value: u32) {
        self.select(register);
        self.bus.write(4, &value.to_le_bytes());
    }
}

fn byte_at(space: &AddressSpace, address: u64) -> u8 {
    let mut byte = [0];
    space.read(address, &mut byte);
    byte[0]
}

#[test]
fn mechanism_1_finds_the_bridge_and_the_card_and_nothing_else() {
    let mut b = board();
    let mut read = |address: u32| {
        b.bus.write(0, &address.to_le_bytes());
        let mut data = [0; 4];
        b.bus.read(4, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!(read(0x8000_0000), 0x0008_1b36);
    assert_eq!(read(0x8000_1800), 0x1042_1af4);
    for absent in [0x8000_0800, 0x8000_1900, 0x8001_0000, 0x0000_1800] {
        assert_eq!(read(absent), 0xffff_ffff, "{absent:#x}");
    }
    let mut word = [0; 2];
    b.select(0);
    b.bus.read(6, &mut word);
    assert_eq!(word, [0x42, 0x10]);
    b.bus.read(7, &mut word);
    assert_eq!(word, [0xff, 0xff], "an access across the doubleword");
}

#[test]
fn bars_tell_their_size_and_type() {
    let mut b = board();
    for (register, sized) in
        [(0x10, 0xffff_f000), (0x18, 0xffff_c00c), (0x1c, 0xffff_ffff), (0x20, 0xffff_ffe1), (0x24, 0), (0x30, 0)]
    {
        b.write(register, 0xffff_ffff);
        assert_eq!(b.read(register), sized, "{register:#x}");
    }
}

#[test]
fn bars_are_mapped_where_and_while_the_guest_enables_them() {
    let mut b = board();
    b.write(0x18, 0xd000_0000);
    b.write(0x1c, 0x0000_0080);
    b.write(0x20, 0xc040);
    assert_eq!(byte_at(&b.memory, 0x80_d000_0000), 0xff, "decoding is off");
    b.write(0x04, 0x3);
    assert_eq!(byte_at(&b.memory, 0x80_d000_3fff), 2);
    assert_eq!(byte_at(&b.memory, 0x80_d000_4000), 0xff);
    assert_eq!(byte_at(&b.io, 0xc05f), 4);
    b.write(0x1c, 0);
    assert_eq!(byte_at(&b.memory, 0x80_d000_0000), 0xff, "moved away");
    assert_eq!(byte_at(&b.memory, 0xd000_0000), 2);
    b.write(0x04, 0x1);
    assert_eq!(byte_at(&b.memory, 0xd000_0000), 0xff);
    b.bus.reset();
    assert_eq!(byte_at(&b.io, 0xc05f), 0xff);
    assert_eq!(b.read(0x20), 1);
}

#[test]
fn a_bar_on_top_of_another_device_waits_until_that_has_gone() {
    let mut b = board();
    b.memory.map(0xd000_1000, 1, shared(Answer(9))).unwrap();
    b.write(0x18, 0xd000_0000);
    b.write(0x04, 0x2);
    assert_eq!(byte_at(&b.memory, 0xd000_0000), 0xff);
    assert_eq!(byte_at(&b.memory, 0xd000_1000), 9);
    b.memory.unmap(0xd000_1000);
    b.write(0x3c, 0);
    assert_eq!(byte_at(&b.memory, 0xd000_0000), 2);
}

#[test]
fn assigned_resources_lie_in_the_windows_without_overlap() {
    let mut b = board();
    b.bus.assign_resources().unwrap();
    assert_eq!(u64::from(b.read(0x10)), layout::MEMORY_START);
    assert_eq!(b.read(0x18), 0xc000_400c);
    assert_eq!(b.read(0x20), 0xc001);
    assert_eq!(b.read(0x04) & 7, 3);
    assert_eq!(b.read(0x3c), 0x0200 | intx_gsi(SLOT, 1));
    assert_eq!(byte_at(&b.memory, 0xc000_4000), 2);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut config = ConfigSpace::new(&Identity::default());
    assert!(config.add_bar(6, BarKind::Memory32, 16).is_err());
    assert!(config.add_bar(5, BarKind::Memory64 { prefetchable: false }, 16).is_err());
    assert!(config.add_bar(0, BarKind::Memory32, 24).is_err());
    config.add_bar(0, BarKind::Memory64 { prefetchable: false }, 1 << 40).unwrap();
    assert_eq!(config.add_bar(1, BarKind::Io, 4), Err(PciError::BarTaken(1)));
    assert_eq!(config.add_capability(9, &[0; 191]), Err(PciError::NoCapabilitySpace(193)));
    let mut bus = PciBus::new(Arc::default(), Arc::default());
    assert_eq!(bus.add(0, shared(HostBridge::new()), vec![]), Err(PciError::SlotTaken(0)));
    assert_eq!(bus.add(32, shared(HostBridge::new()), vec![]), Err(PciError::NoSuchSlot(32)));
    assert_eq!(bus.add(1, shared(HostBridge::new()), vec![(0, shared(Answer(0)))]), Err(PciError::UndefinedBar(0)));
    bus.add(1, shared(Card(config)), vec![]).unwrap();
    assert_eq!(bus.assign_resources(), Err(PciError::WindowFull { slot: 1, size: 1 << 40 }));
}

#[test]
fn capabilities_form_a_list() {
    let mut config = ConfigSpace::new(&Identity::default());
    let first = config.add_capability(9, &[1, 2, 3]).unwrap();
    let second = config.add_capability(5, &[7; 6]).unwrap();
    let mut regs = [0; 16];
    config.read(u16::from(first), &mut regs);
    assert_eq!((first, second), (0x40, 0x48));
    assert_eq!(regs[..5], [9, 0x48, 1, 2, 3]);
    assert_eq!(regs[8..11], [5, 0, 7]);
    let mut byte = [0];
    config.read(0x34, &mut byte);
    assert_eq!(byte, [0x40]);
    config.read(0x06, &mut byte);
    assert_eq!(byte, [0x10]);
}

#[test]
fn msix_honours_enable_and_both_masks() {
    let mut b = board();
    let sent = |b: &Board| std::mem::take(&mut *b.messages.0.lock().unwrap());
    assert_eq!(b.read(0x40), 0x0003_0011);
    b.bus.assign_resources().unwrap();
    for (offset, word) in [(0x10, 0xfee0_1000u32), (0x14, 0), (0x18, 0x0041)] {
        b.memory.write(layout::MEMORY_START + offset, &word.to_le_bytes());
    }
    b.msix.signal(1);
    assert!(sent(&b).is_empty() && byte_at(&b.memory, 0xc000_0800) == 0, "off");
    b.write(0x40, 0x8000_0000);
    assert!(b.msix.is_enabled());
    b.msix.signal(1);
    assert!(sent(&b).is_empty(), "the vector is masked");
    assert_eq!(byte_at(&b.memory, 0xc000_0800), 2);
    b.memory.write(0xc000_001c, &0u32.to_le_bytes());
    assert_eq!(sent(&b), [(0xfee0_1000, 0x41)], "unmasking sends what is pending");
    assert_eq!(byte_at(&b.memory, 0xc000_0800), 0);
    b.write(0x40, 0xc000_0000);
    b.msix.signal(1);
    b.msix.signal(4);
    assert!(sent(&b).is_empty(), "the function is masked");
    b.write(0x40, 0x8000_0000);
    assert_eq!(sent(&b), [(0xfee0_1000, 0x41)]);
    b.msix.signal(1);
    assert_eq!(sent(&b), [(0xfee0_1000, 0x41)]);
}

#[test]
fn intx_shows_in_status_and_obeys_the_disable_bit() {
    let mut b = board();
    let gsi = intx_gsi(SLOT, 1);
    b.intx.raise();
    assert_eq!(b.read(0x04) >> 16 & 8, 8);
    b.write(0x04, 1 << 10);
    assert_eq!(b.read(0x04) >> 16 & 8, 8, "the status bit does not depend on the disable bit");
    b.write(0x04, 0);
    b.intx.lower();
    assert_eq!(b.read(0x04) >> 16 & 8, 0);
    assert_eq!(*b.levels.0.lock().unwrap(), [(gsi, true), (gsi, false), (gsi, true), (gsi, false)]);
}

#[test]
fn a_shared_line_stays_up_until_every_pin_is_down() {
    let levels = Arc::new(Levels::default());
    let router = Arc::new(IntxRouter::new(levels.clone()));
    let (one, two) = (Intx::new(&router, 1, Pin::A), Intx::new(&router, 4, Pin::B));
    assert_eq!((intx_gsi(1, 0), intx_gsi(4, 1)), (17, 17));
    one.raise();
    two.raise();
    one.lower();
    assert_eq!(levels.0.lock().unwrap().last(), Some(&(17, true)));
    two.lower();
    assert_eq!(levels.0.lock().unwrap().last(), Some(&(17, false)));
}

#[test]
fn port_cf9_resets_and_config_address_is_dword_only() {
    let mut b = board();
    b.select(0x40);
    assert_eq!(b.bus.write(1, &[0x02]), Effect::None);
    let mut byte = [0];
    b.bus.read(1, &mut byte);
    assert_eq!(byte, [2]);
    assert_eq!(b.bus.write(1, &[0x06]), Effect::Reset);
    let mut address = [0; 4];
    b.bus.read(0, &mut address);
    assert_eq!(u32::from_le_bytes(address), 0x8000_1840);
}

proptest! {
    #[test]
    fn random_accesses_never_panic_and_read_only_bits_stay(
        accesses in prop::collection::vec((any::<bool>(), 0u64..8, 0usize..4, any::<u64>()), 1..200),
    ) {
        let mut b = board();
        for (is_write, offset, size, value) in accesses {
            let mut data = value.to_le_bytes();
            let data = &mut data[..1 << size];
            if is_write {
                b.bus.write(offset, data);
            } else {
                b.bus.read(offset, data);
            }
            let address = 0xc000_0000 + (value & 0xfff);
            b.memory.write(address, data);
            b.memory.read(address, data);
            b.select(value as u8);
            b.bus.write(4 + (offset & 3), data);
            b.msix.signal(value as u16 & 7);
        }
        prop_assert_eq!(b.read(0), 0x1042_1af4);
        prop_assert_eq!(b.read(0x40) & 0x3fff_ffff, 0x0003_0011);
    }
}
