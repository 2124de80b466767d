//! PCI: functions, their configuration space, interrupts, and the bus with its host bridge.
//!
//! A device on the bus is a [`PciFunction`] whose registers are a [`ConfigSpace`]; what lies behind
//! each BAR is an ordinary [`motu_bus::Device`] that [`PciBus::add`] is given. The bus maps it into
//! the memory or I/O address space wherever the guest moves the BAR.
//!
//! Lock order: bus, then function, then [`Msix`] or [`Intx`]. A function may signal interrupts while
//! it is locked, from any thread.
//!
//! Sections named here are of the PCI Local Bus Specification 3.0.

mod bus;
mod config;
mod host;
mod intx;
mod msix;
#[cfg(test)]
mod tests;

pub use bus::{PciBus, PciFunction, layout};
pub use config::{BarKind, BarValue, ConfigSpace, Identity};
pub use host::HostBridge;
pub use intx::{Intx, IntxRouter, Pin, intx_gsi};
pub use msix::{MAX_VECTORS, Msix, MsixBar};

/// Why a function could not be put together or added: a mistake in the board, never the guest's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    #[error("PCI slot {0} does not exist: slots are 0 to 31")]
    NoSuchSlot(u8),
    #[error("PCI slot {0} is taken")]
    SlotTaken(u8),
    #[error(
        "BAR {index} of {size:#x} bytes: the index is 0 to 5 (0 to 4 for 64 bits), the size a power of two of at least 16 bytes (4 for I/O, at most 256)"
    )]
    BadBar { index: usize, size: u64 },
    #[error("BAR {0} is defined already")]
    BarTaken(usize),
    #[error("BAR {0} has a device behind it but the function does not define it")]
    UndefinedBar(usize),
    #[error("no room for a capability of {0} bytes: all lie in the 192 bytes from 0x40")]
    NoCapabilitySpace(usize),
    #[error("the BARs of slot {slot} do not fit: {size:#x} bytes more are wanted than the window has")]
    WindowFull { slot: u8, size: u64 },
}
