//! A running machine for gdb: its remote serial protocol (gdb's manual, appendix E), by the `gdbstub` crate.
//!
//! [`registers`] has the registers, [`description`] what gdb is told of them, [`memory`] the guest's memory by virtual address, [`target`] what
//! gdb asks for as requests to the machine ([`motu_machine::DebugPort`]), [`session`] one connection, [`server`] the thread that
//! takes connections, [`listen`] the sockets, [`monitor`] what `monitor` understands.
#![forbid(unsafe_code)]

mod description;
mod listen;
mod memory;
mod monitor;
mod registers;
mod server;
mod session;
mod target;
#[cfg(test)]
mod tests;

pub use listen::ListenError;
pub use server::{GdbServer, Listening};
