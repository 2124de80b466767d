//! Interrupt messages: what an inter-processor interrupt and an MSI say, and to whom.

use motu_hv::Msi;

/// How the receiver treats a message (SDM vol. 3, 11.6.1). SMI is not here: no contract has
/// system-management mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    Fixed,
    /// To the one with the lowest [`super::Lapic::processor_priority`] among the destinations.
    LowestPriority,
    Nmi,
    Init,
    StartUp,
    /// The vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    fn of_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }

    /// Whether the message carries a vector for the IRR.
    pub(super) fn has_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Edge,
    Level,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The processor with this APIC ID.
    Physical(u32),
    /// A message destination address, which each APIC compares with its logical ID.
    Logical(u32),
    All,
    /// All but the processor with this APIC ID.
    AllBut(u32),
}

/// A message on the way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub destination: Destination,
    pub mode: DeliveryMode,
    /// The vector, or for a start-up the page number of the real-mode entry point.
    pub vector: u8,
    pub trigger: Trigger,
}

impl Message {
    /// What an MSI says (SDM vol. 3, 11.11); `None` if it is not one or asks for what no CPU here does.
    pub fn from_msi(msi: Msi) -> Option<Self> {
        if msi.address >> 20 != 0xfee {
            return None;
        }
        let address = msi.address as u32;
        let id = address >> 12 & 0xff;
        let redirect = address & 1 << 3 != 0;
        let mode = match DeliveryMode::of_bits(msi.data >> 8)? {
            DeliveryMode::Fixed if redirect => DeliveryMode::LowestPriority,
            // Reserved: a start-up is for processors to send.
            DeliveryMode::StartUp => return None,
            mode => mode,
        };
        let level = msi.data & 1 << 15 != 0 && mode.has_vector();
        let asserted = msi.data & 1 << 14 != 0;
        if level && !asserted {
            return None;
        }
        Some(Self {
            destination: destination(address & 1 << 2 != 0, id, 0xff),
            mode,
            vector: msi.data as u8,
            trigger: if level { Trigger::Level } else { Trigger::Edge },
        })
    }

    /// What a write of the interrupt command register by APIC `own_id` sends (SDM vol. 3, 11.6.1).
    /// IPIs are edge-triggered: the trigger bit is for INIT level de-assert alone, which no
    /// processor since the Pentium 4 heeds. `None` for that and for what no CPU here does.
    pub(super) fn from_icr(icr: u64, own_id: u32, x2apic: bool) -> Option<Self> {
        let low = icr as u32;
        // ExtINT is reserved here.
        let mode = DeliveryMode::of_bits(low >> 8).filter(|&mode| mode != DeliveryMode::ExtInt)?;
        let (asserted, level) = (low & 1 << 14 != 0, low & 1 << 15 != 0);
        if mode == DeliveryMode::Init && level && !asserted {
            return None;
        }
        let destination = match low >> 18 & 3 {
            0 if x2apic => destination(low & 1 << 11 != 0, (icr >> 32) as u32, u32::MAX),
            0 => destination(low & 1 << 11 != 0, (icr >> 56) as u32, 0xff),
            1 => Destination::Physical(own_id),
            2 => Destination::All,
            _ => Destination::AllBut(own_id),
        };
        Some(Self { destination, mode, vector: low as u8, trigger: Trigger::Edge })
    }
}

fn destination(logical: bool, id: u32, broadcast: u32) -> Destination {
    match logical {
        true => Destination::Logical(id),
        false if id == broadcast => Destination::All,
        false => Destination::Physical(id),
    }
}
