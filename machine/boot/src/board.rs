//! What the tables say of the board: plain numbers, filled in by whoever wires the board.

use crate::BootError;
use std::ops::Range;

/// The numbers that firmware would know of its board.
///
/// [`BoardTables::default`] is motu's standard PC with one CPU.
#[derive(Clone, Debug)]
pub struct BoardTables {
    /// Number of processors, 1 to [`BoardTables::MAX_CPUS`]; their APIC IDs count from 0.
    pub cpus: u32,
    /// Physical address bits that the CPU contract shows in CPUID 0x8000_0008, 36 to 52.
    pub physical_bits: u8,
    /// Physical address of every CPU's local APIC.
    pub local_apic: u32,
    /// Physical address of the I/O APIC, whose ID is the number of CPUs and first GSI is 0.
    pub io_apic: u32,
    pub power: PowerPorts,
    /// The 32-bit addresses that PCI BARs are given from.
    pub pci_memory: Range<u32>,
    /// Device slots on PCI bus 0, 1 to 32.
    pub pci_slots: u8,
    /// The GSI that a slot's INTx pin is wired to: `(slot, pin)` with pin 0 for INTA# to 3 for INTD#.
    pub intx_gsi: fn(u8, u8) -> u32,
    /// The 16550 that is COM1.
    pub serial: IsaDevice,
    /// The MC146818 clock; its CMOS has the century at [`BoardTables::century_register`].
    pub rtc: IsaDevice,
    /// CMOS register with the century in BCD; 0 if there is none.
    pub century_register: u8,
    /// The 8042's keyboard interrupt, 0 to 15; its ports are 0x60 and 0x64.
    pub keyboard_irq: u8,
    /// What SMBIOS shows as the system's UUID; all zero for none.
    pub uuid: [u8; 16],
}

/// A device at an I/O port with an ISA interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaDevice {
    /// The first port.
    pub port: u16,
    /// How many ports.
    pub ports: u8,
    /// 0 to 15.
    pub irq: u8,
}

/// ACPI fixed hardware (ACPI 6.5, section 4.8) and the reset register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerPorts {
    /// PM1a event block: status and enable, 2 bytes each.
    pub event: u16,
    /// PM1a control block, 2 bytes.
    pub control: u16,
    /// 24-bit timer of 3.579545 MHz, 4 bytes.
    pub timer: u16,
    /// The GSI of the system control interrupt: level, active high. 0 to 15.
    pub sci: u8,
    /// SLP_TYP to write for S5, soft off. 0 to 7.
    pub sleep_type_off: u8,
    /// The port that resets the machine.
    pub reset: u16,
    /// The value that does it.
    pub reset_value: u8,
}

impl BoardTables {
    /// xAPIC IDs are 8 bits; 255 is the broadcast and one ID is the I/O APIC's.
    pub const MAX_CPUS: u32 = 254;

    /// # Errors
    /// A number is out of its range; says which.
    pub(crate) fn check(&self) -> Result<(), BootError> {
        let pci = &self.pci_memory;
        let wrong = [
            (!(1..=Self::MAX_CPUS).contains(&self.cpus), format!("1 to {} CPUs, not {}", Self::MAX_CPUS, self.cpus)),
            (!(36..=52).contains(&self.physical_bits), format!("36 to 52 physical bits, not {}", self.physical_bits)),
            (pci.start >= pci.end, format!("PCI memory {:#x} to {:#x} is empty", pci.start, pci.end)),
            (!(1..=32).contains(&self.pci_slots), format!("1 to 32 PCI slots, not {}", self.pci_slots)),
            (
                [self.serial.irq, self.rtc.irq, self.keyboard_irq, self.power.sci].iter().any(|irq| *irq > 15),
                "ISA interrupts are 0 to 15".to_owned(),
            ),
            (self.power.sleep_type_off > 7, "SLP_TYP is 0 to 7".to_owned()),
        ];
        wrong.into_iter().find(|(is_wrong, _)| *is_wrong).map_or(Ok(()), |(_, what)| Err(BootError::Board(what)))
    }
}

impl Default for BoardTables {
    fn default() -> Self {
        Self {
            cpus: 1,
            physical_bits: 40,
            local_apic: 0xfee0_0000,
            io_apic: 0xfec0_0000,
            power: PowerPorts {
                event: 0x600,
                control: 0x604,
                timer: 0x608,
                sci: 9,
                sleep_type_off: 5,
                reset: 0xcf9,
                reset_value: 6,
            },
            pci_memory: 0xc000_0000..0xfec0_0000,
            pci_slots: 32,
            intx_gsi: |slot, pin| 16 + (u32::from(slot) + u32::from(pin)) % 4,
            serial: IsaDevice { port: 0x3f8, ports: 8, irq: 4 },
            rtc: IsaDevice { port: 0x70, ports: 2, irq: 8 },
            century_register: 0x32,
            keyboard_irq: 1,
            uuid: [0; 16],
        }
    }
}
