//! PCI: configuration accesses, BARs moved anywhere, MSI-X tables and INTx pins.

use crate::registers::{Nowhere, access, steps};
use arbitrary::Arbitrary;
use motu_bus::{AddressSpace, Device, MsiSink, Shared, lock, shared};
use motu_devices::pci::{BarKind, ConfigSpace, Identity, Intx, IntxRouter, Msix, MsixBar, PciBus, PciFunction, Pin};
use motu_devices::ports::DebugPort;
use std::sync::{Arc, Mutex};

/// A function that has everything a configuration space can have.
struct Function(ConfigSpace);

impl PciFunction for Function {
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

const VECTORS: u16 = 5;

/// Adds it to `bus`.
///
/// # Panics
/// The slot is not one, which only this file could have brought about.
fn add(bus: &mut PciBus, slot: u8, router: &Arc<IntxRouter>, msi: &Arc<dyn MsiSink>) -> (Shared<Function>, Msix, Intx) {
    let msix = Msix::new(VECTORS, Arc::clone(msi));
    let intx = Intx::new(router, slot, Pin::C);
    let mut config = ConfigSpace::new(&Identity { vendor: 0x1af4, device: 0x1234, ..Identity::default() });
    config.add_bar(0, BarKind::Io, 32).expect("BAR 0 is free");
    config.add_bar(1, BarKind::Memory32, 0x2000).expect("BAR 1 is free");
    config.add_bar(2, BarKind::Memory64 { prefetchable: true }, 1 << 24).expect("BAR 2 is free");
    config.add_bar(4, BarKind::Memory32, MsixBar::SIZE).expect("BAR 4 is free");
    config.add_msix(msix.clone(), (4, MsixBar::TABLE), (4, MsixBar::PENDING)).expect("there is room");
    config.set_intx(intx.clone());
    let function = shared(Function(config));
    let registers = || shared(DebugPort::new()) as Arc<Mutex<dyn Device>>;
    let table = shared(MsixBar::new(msix.clone()));
    let bars = vec![(0, registers()), (1, registers()), (2, registers()), (4, table as Arc<Mutex<dyn Device>>)];
    bus.add(slot, Arc::<Mutex<Function>>::clone(&function), bars).expect("the slot is free");
    (function, msix, intx)
}

pub fn run(bytes: &[u8]) {
    let (memory, io) = (Arc::new(AddressSpace::new()), Arc::new(AddressSpace::new()));
    let mut bus = PciBus::new(Arc::clone(&memory), Arc::clone(&io));
    let (router, msi) = (Arc::new(IntxRouter::new(Arc::new(Nowhere))), Arc::new(Nowhere) as Arc<dyn MsiSink>);
    let functions = [1, 31].map(|slot| add(&mut bus, slot, &router, &msi));
    steps(bytes, |operation, input| {
        let which = usize::from(operation >> 7);
        let Some((function, msix, intx)) = functions.get(which) else { return Ok(()) };
        match operation % 8 {
            0 => access(&mut bus, 8, input)?,
            1..4 => {
                // A register of one of the slots, which a blind address seldom finds.
                let (slot, register) = (operation >> 3 & 3, u8::arbitrary(input)?);
                let slot = u32::from([0, 1, 31, 2].get(usize::from(slot)).copied().unwrap_or(0u8));
                let address = 1 << 31 | slot << 11 | u32::from(register);
                bus.write(0, &address.to_le_bytes());
                access(&mut bus, 8, input)?;
                let mut dword = [0; 4];
                bus.read(4, &mut dword);
            }
            4 => {
                let (address, data) = (u32::arbitrary(input)?, <[u8; 8]>::arbitrary(input)?);
                let len = 1 << (operation >> 5 & 3);
                let Some(data) = data.get(..len) else { return Ok(()) };
                let space = if operation & 8 == 0 { &memory } else { &io };
                space.write(address.into(), data);
                space.read(address.into(), &mut data.to_vec());
            }
            5 => {
                let vector = u16::from(u8::arbitrary(input)?);
                let (at, value) = (u64::from(u8::arbitrary(input)?), u32::arbitrary(input)?);
                msix.write_table(at, &value.to_le_bytes());
                msix.signal(vector % (VECTORS + 1));
                msix.read_pending(at, &mut [0; 8]);
                msix.read_table(at, &mut [0; 8]);
            }
            6 if operation & 8 == 0 => intx.raise(),
            6 => intx.lower(),
            _ if operation == 7 => bus.reset(),
            _ if operation == 15 => _ = bus.assign_resources(),
            _ => {
                let bar = usize::from(u8::arbitrary(input)? % 7);
                let address = u64::arbitrary(input)?;
                lock(function).config_mut().place_bar(bar, address);
            }
        }
        Ok(())
    });
    bus.reset();
    assert!(bus.assign_resources().is_ok(), "after a reset BARs fit again");
}
