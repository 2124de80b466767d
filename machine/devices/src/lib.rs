//! The board's devices.
//!
//! Each is a [`motu_bus::Device`] that counts offsets from its own first port or address; time,
//! interrupt lines and host I/O come in at construction.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod debug_exit;
mod frequency;
pub mod i8042;
mod interrupt_output;
pub mod ioapic;
pub mod isa;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod ports;
pub mod rtc;
#[cfg(test)]
mod testing;
pub mod uart;
