//! The life of machines that stay: their records, their processes, and how one speaks with them.
//!
//! A machine is a folder of the store (`machines/ID/`, which motu-store makes, locks and deletes) with, beside what that writes:
//!
//! ```text
//!   machine.json     what was asked for: the spec, and the command (record.rs)
//!   state.json       when it was started, and how it ended the last time
//!   sock             where its process listens while it runs (a Unix socket, 0600)
//!   output.log       what its command wrote, and output.log.1 before that (log.rs)
//!   console.log      what its serial console wrote, and console.log.1
//!   vmm.log          what its process had to say
//! ```
//!
//! One process runs one machine (`motu vmm ID`), started by `motu start` and outliving it. It holds the folder's lock; so a machine
//! runs exactly if its lock is taken, however its process ended. Whoever wants something of a machine that runs connects to its
//! socket ([`wire`], [`Connection`]). There is no daemon.
#![forbid(unsafe_code)]

mod client;
mod error;
mod launch;
mod log;
mod machines;
mod names;
mod record;
mod socket;
pub mod wire;

pub use client::{Connection, Says, Speaker};
pub use error::ManagerError;
pub use launch::{Launched, launch};
pub use log::{LogFollower, LogRecord, LogWriter, Tail};
pub use machines::{Machine, Machines, Phase};
pub use names::check as check_name;
pub use record::{RECORD_VERSION, Record, State};
pub use socket::{connect, listen};

/// The names of a machine's files in its folder.
pub mod files {
    /// What was asked for.
    pub const RECORD: &str = "machine.json";
    /// When it was started, and how it ended.
    pub const STATE: &str = "state.json";
    /// Where its process listens.
    pub const SOCKET: &str = "sock";
    /// What its command wrote.
    pub const OUTPUT: &str = "output.log";
    /// What its serial console wrote.
    pub const CONSOLE: &str = "console.log";
    /// What its process had to say.
    pub const VMM: &str = "vmm.log";
}
