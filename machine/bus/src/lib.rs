//! Address spaces, devices, interrupt lines and clocks: what a device sees of the board.
//!
//! Devices are infallible, like hardware, and blind to their own address. Time, interrupts and
//! host I/O come in as parameters or as the small handles of this crate.
#![forbid(unsafe_code)]

mod device;
mod irq;
mod space;
mod time;

pub use device::{Device, Effect, Shared, lock, shared};
pub use irq::{IrqLine, IrqSink, MsiSink};
pub use space::{AddressSpace, MapError};
pub use time::{Clock, Nanos, Timed};
