//! Why a machine cannot be made, or cannot go on, on this host.

use motu_boot::BootError;
use motu_bus::MapError;
use motu_hv::HvError;
use motu_memory::MemoryError;

/// The host's trouble; what a guest does wrong is an [`crate::Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Engine(#[from] HvError),
    #[error("placing the {device} on the board: {source}")]
    Map { device: &'static str, source: MapError },
    #[error("placing the {device} on the board: {reason}")]
    Device { device: &'static str, reason: String },
    #[error("starting the {what} thread: {source}")]
    Thread { what: &'static str, source: std::io::Error },
    #[error("the thread of virtual CPU {id} ended unexpectedly: this is an error in motu")]
    CpuLost { id: u32 },
}
