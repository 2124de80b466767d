//! virtio 1.2 devices and their PCI transport.
//!
//! A device ([`device::VirtioDevice`]) knows its queues and its configuration space; the transport
//! ([`pci::VirtioPci`]) has the registers and negotiates; [`queue::VirtQueue`] is what both trust
//! instead of the rings in guest memory. A driver that breaks the specification gets
//! DEVICE_NEEDS_RESET and is counted; nothing it writes panics, loops or allocates without bound.
//!
//! Queues are worked on by the thread that writes the notification register (a vCPU's), by host
//! threads that feed a device, and a disk's and a share's by workers of its own. Lock order, each lock taken only while holding those before it:
//!
//! 1. the bus, 2. the function (`Shared<VirtioPci>`), 3. the device's own state (a console's ports),
//! 4. what a device calls: a port's backend, and the transport's interrupt state,
//! 5. MSI-X, INTx and the interrupt controllers behind them.
//!
//! Host threads enter at 3. A device never holds the function, so it may raise interrupts from any
//! thread; a backend must not call back into its device.
#![forbid(unsafe_code)]

pub mod block;
pub mod console;
pub mod device;
pub mod fs;
mod lookout;
pub mod pci;
pub mod queue;
pub mod rng;

mod worker;

#[cfg(test)]
mod testing;
