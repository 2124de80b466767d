//! Differentiated System Description Table: soft off, the processors, the PCI host bridge and the
//! devices at fixed ports (ACPI 6.5, section 5.2.11.1 and chapter 6).

use super::{OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::board::{BoardTables, IsaDevice};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Name, Package, PackageBuilder, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

const HEADER: u32 = 36;
/// Integers are 64 bits wide from revision 2 on.
const REVISION: u8 = 2;
/// PCI configuration mechanism #1: address and data port.
const PCI_CONFIG: u16 = 0xcf8;
const PCI_CONFIG_PORTS: u8 = 8;

/// The interrupt of the keyboard controller's auxiliary port, as in every PC since the PS/2.
const AUX_IRQ: u8 = 12;

/// The whole table.
pub(super) struct Dsdt<'a>(pub &'a BoardTables);

impl Aml for Dsdt<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let board = self.0;
        let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
        dsdt.append_slice(&bytes(&soft_off(board.power.sleep_type_off)));
        let devices = SystemBus(board);
        dsdt.append_slice(&bytes(&Scope::new("_SB_".into(), vec![&devices])));
        dsdt.to_aml_bytes(sink);
    }
}

/// `\_S5`: SLP_TYP for PM1a and PM1b control (ACPI 6.5, section 7.4.2).
fn soft_off(sleep_type: u8) -> Name {
    Name::new("\\_S5_".into(), &Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8]))
}

/// What lies in `\_SB`.
struct SystemBus<'a>(&'a BoardTables);

impl Aml for SystemBus<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let board = self.0;
        for uid in 0..board.cpus {
            processor(uid, sink);
        }
        PciHost(board).to_aml_bytes(sink);
        let power = &board.power;
        let (rtc, serial) = (board.rtc, board.serial);
        let fixed = [
            // Keeps PCI's port window off the power registers (motherboard resources).
            Fixed::new("PWRR", "PNP0C02").ports(power.event, 4).ports(power.control, 2).ports(power.timer, 4),
            Fixed::new("PIC_", "PNP0000").ports(0x20, 2).ports(0xa0, 2).irq(2),
            Fixed::new("TIMR", "PNP0100").ports(0x40, 4).irq(0),
            Fixed::new("KBD_", "PNP0303").ports(0x60, 1).ports(0x64, 1).irq(board.keyboard_irq),
            // The controller's second port, which it always has. Nothing is plugged into it; but Linux
            // warns of a keyboard controller that firmware says has no such port.
            Fixed::new("MOU_", "PNP0F13").irq(AUX_IRQ),
            Fixed::isa("RTC_", "PNP0B00", rtc),
            Fixed::isa("COM1", "PNP0501", serial),
        ];
        for device in &fixed {
            device.to_aml_bytes(sink);
        }
    }
}

/// A processor device; its `_UID` is the one in the MADT (ACPI 6.5, section 8.4).
fn processor(uid: u32, sink: &mut dyn AmlSink) {
    let id = Name::new("_HID".into(), &"ACPI0007");
    let uid_name = Name::new("_UID".into(), &uid);
    Device::new(format!("C{uid:03X}").as_str().into(), vec![&id, &uid_name]).to_aml_bytes(sink);
}

/// The PCI host bridge (PCI Firmware Specification 3.3, section 4.1).
struct PciHost<'a>(&'a BoardTables);

impl Aml for PciHost<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let board = self.0;
        let config_end = PCI_CONFIG + u16::from(PCI_CONFIG_PORTS);
        let memory = &board.pci_memory;
        let buses = AddressSpace::<u16>::new_bus_number(0, 255);
        let config = IO::new(PCI_CONFIG, PCI_CONFIG, 1, PCI_CONFIG_PORTS);
        let ports_below = AddressSpace::<u16>::new_io(0, PCI_CONFIG - 1, None);
        let ports_above = AddressSpace::<u16>::new_io(config_end, 0xffff, None);
        let last = memory.end.saturating_sub(1);
        let window =
            AddressSpace::<u32>::new_memory(AddressSpaceCacheable::NotCacheable, true, memory.start, last, None);
        let resources = ResourceTemplate::new(vec![&buses, &config, &ports_below, &ports_above, &window]);
        Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &0u8),
                &Name::new("_BBN".into(), &0u8),
                &Name::new("_CRS".into(), &resources),
                &Name::new("_PRT".into(), &routing(board)),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// PCI routing table: every pin of every slot goes to a fixed GSI (ACPI 6.5, section 6.2.13).
fn routing(board: &BoardTables) -> PackageBuilder {
    const PINS: u8 = 4;
    const ANY_FUNCTION: u32 = 0xffff;
    let mut table = PackageBuilder::new();
    for slot in 0..board.pci_slots {
        let address = u32::from(slot) << 16 | ANY_FUNCTION;
        for pin in 0..PINS {
            let gsi = (board.intx_gsi)(slot, pin);
            table.add_element(&Package::new(vec![&address, &pin, &0u8, &gsi]));
        }
    }
    table
}

/// A device at fixed ports.
struct Fixed {
    name: &'static str,
    id: &'static str,
    resources: Vec<u8>,
}

impl Fixed {
    fn new(name: &'static str, id: &'static str) -> Self {
        Self { name, id, resources: Vec::new() }
    }

    fn isa(name: &'static str, id: &'static str, device: IsaDevice) -> Self {
        Self::new(name, id).ports(device.port, device.ports).irq(device.irq)
    }

    fn ports(mut self, first: u16, count: u8) -> Self {
        IO::new(first, first, 1, count).to_aml_bytes(&mut self.resources);
        self
    }

    /// An edge-triggered, active-high ISA interrupt: the IRQ descriptor without flags
    /// (ACPI 6.5, section 6.4.2.1).
    fn irq(mut self, irq: u8) -> Self {
        const IRQ_NO_FLAGS: u8 = 0x22;
        self.resources.push(IRQ_NO_FLAGS);
        self.resources.extend_from_slice(&1u16.unbounded_shl(u32::from(irq)).to_le_bytes());
        self
    }
}

impl Aml for Fixed {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let resources = Raw(self.resources.clone());
        Device::new(
            self.name.into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new(self.id)),
                &Name::new("_UID".into(), &0u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&resources])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// Bytes that are AML already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
