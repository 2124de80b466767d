//! The board's devices.
//!
//! Each is a [`motu_bus::Device`] that counts offsets from its own first port or address; time,
//! interrupt lines and host I/O come in at construction.
#![forbid(unsafe_code)]

pub mod pci;
