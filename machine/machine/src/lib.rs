//! Which device sits where, and the life of one machine.
//!
//! [`Machine::new`] puts the standard PC together around the CPUs that a [`motu_hv::Hypervisor`]
//! makes; [`Machine::run`] lives through the states that [`driver`] draws. It names no engine, and
//! is the only crate that names concrete devices.
//!
//! Threads: the one that calls `run` is the driver; each vCPU has one, the timers of all devices
//! share one, and each disk has a worker. Device registers are worked on by the vCPU that accesses them.
//!
//! Lock order: a device, then its interrupt line's controller, then the engine. Nothing waits for
//! the driver's queue while it holds a device.
#![forbid(unsafe_code)]

mod board;
mod clock;
mod config;
mod control;
mod debug;
pub mod driver;
mod error;
mod guest_bus;
mod machine;
mod serial;
#[cfg(test)]
mod tests;
mod timers;
mod trace;
mod vcpu;

pub use board::MAX_DISKS;
pub use config::{DiskConfig, MachineConfig, ShareConfig};
pub use debug::{CpuStop, DebugEvent, DebugPort, Orders, Resume, StopCause, Told};
pub use driver::OnReset;
pub use error::MachineError;
pub use guest_bus::BusCounters;
pub use machine::{Finished, Machine, MachineHandle, Outcome};
pub use motu_boot::{BootError, BootSource, Flat, FlatMode, Image, Module, Role};
pub use motu_virtio::block::{DiskFailures, DiskHandle};
pub use motu_virtio::console::PortStream;
pub use serial::SerialInput;
pub use trace::{Access, AccessTracer, Direction, PerCpu, Space, Tracing};
