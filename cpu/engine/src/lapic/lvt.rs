//! The local vector table (SDM vol. 3, 11.5.1).

/// An entry of the local vector table, in the order of the registers from 0x320.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Timer = 0,
    Thermal = 1,
    Performance = 2,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

pub(super) const MASKED: u32 = 1 << 16;
pub(super) const LEVEL: u32 = 1 << 15;
pub(super) const REMOTE_IRR: u32 = 1 << 14;
/// Delivery status: nothing is ever on the way for long enough to be seen.
const DELIVERY_STATUS: u32 = 1 << 12;

pub(super) mod delivery {
    pub const FIXED: u32 = 0;
    pub const NMI: u32 = 4;
    pub const INIT: u32 = 5;
    pub const EXT_INT: u32 = 7;
}

impl Entry {
    /// The entry whose register is number `register` (the MMIO offset divided by 16).
    pub(super) fn of_register(register: u32) -> Option<Self> {
        Some(match register {
            0x32 => Self::Timer,
            0x33 => Self::Thermal,
            0x34 => Self::Performance,
            0x35 => Self::Lint0,
            0x36 => Self::Lint1,
            0x37 => Self::Error,
            _ => return None,
        })
    }

    /// Bits that software may set.
    pub(super) fn writable(self) -> u32 {
        match self {
            Self::Timer => 0x7_00ff,
            Self::Thermal | Self::Performance => 0x1_07ff,
            Self::Lint0 | Self::Lint1 => 0x1_a7ff,
            Self::Error => 0x1_00ff,
        }
    }

    /// Bits that x2APIC mode accepts in a write: what may be set, and what is read-only.
    pub(super) fn defined(self) -> u32 {
        match self {
            Self::Lint0 | Self::Lint1 => self.writable() | DELIVERY_STATUS | REMOTE_IRR,
            _ => self.writable() | DELIVERY_STATUS,
        }
    }
}

/// The delivery mode of an entry that has one.
pub(super) fn delivery_mode(entry: u32) -> u32 {
    entry >> 8 & 7
}
