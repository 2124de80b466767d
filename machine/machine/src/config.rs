//! What a machine is made from.

use crate::{DiskFailures, OnReset, Tracing};
use motu_boot::BootSource;
use motu_disk::Disk;
use motu_share::Share;
use motu_virtio::rng::EntropySource;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// What a machine is made from: files are open and names are resolved already.
pub struct MachineConfig {
    /// RAM in bytes, a positive multiple of 4096.
    pub memory: u64,
    /// Virtual CPUs, at least 1.
    pub cpus: u32,
    /// One of the engine's CPU contracts.
    pub contract: &'static str,
    /// The kernel and what comes with it; loaded at each start.
    pub boot: BootSource,
    /// Takes what the guest prints on its first serial port. It is written to on a vCPU's thread:
    /// the guest waits while it blocks.
    pub serial: Box<dyn Write + Send>,
    /// Names of the virtio-console ports that the guest finds, see [`crate::Machine::take_port`].
    /// With none there is no virtio console.
    pub ports: Vec<String>,
    /// The guest finds them in this order; at most [`crate::MAX_DISKS`], together with `shares`.
    pub disks: Vec<DiskConfig>,
    /// Folders of the host, by virtio-fs.
    pub shares: Vec<ShareConfig>,
    /// Fills a slice with random bytes, for virtio-rng.
    pub entropy: EntropySource,
    pub on_reset: OnReset,
    /// A write to port 0xf4 ends the machine with [`crate::Outcome::DebugExit`].
    pub debug_exit: bool,
    pub tracing: Tracing,
    /// The CPUs stand still until a debugger lets them go on ([`crate::DebugPort`]).
    pub waits_for_debugger: bool,
}

/// A disk of a machine.
#[derive(Debug)]
pub struct DiskConfig {
    pub disk: Box<dyn Disk>,
    /// What the guest finds as its serial number; its first 20 bytes.
    pub serial: String,
    /// Takes note of what the host cannot do.
    pub failures: Arc<DiskFailures>,
}

/// A folder of the host that a machine shares.
#[derive(Debug)]
pub struct ShareConfig {
    pub share: Share,
    /// What the guest mounts it by: 1 to 36 bytes.
    pub tag: String,
}

impl fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineConfig")
            .field("memory", &self.memory)
            .field("cpus", &self.cpus)
            .field("contract", &self.contract)
            .field("boot", &self.boot)
            .field("ports", &self.ports)
            .field("disks", &self.disks)
            .field("shares", &self.shares)
            .field("on_reset", &self.on_reset)
            .field("debug_exit", &self.debug_exit)
            .field("tracing", &self.tracing)
            .field("waits_for_debugger", &self.waits_for_debugger)
            .finish_non_exhaustive()
    }
}
