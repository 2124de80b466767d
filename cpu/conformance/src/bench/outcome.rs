//! What came of a guest, and whether it is what the manual says.

use crate::board::{Event, Trap};
use iced_x86::IcedError;
use motu_hv::{CrashReport, HvError, Stats};
use motu_memory::MemoryError;

/// Why a guest does not conform, or could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("assembling the guest: {0}")]
    Assemble(#[from] IcedError),
    #[error("building the guest: {0}")]
    Memory(#[from] MemoryError),
    #[error("the engine: {0}")]
    Engine(#[from] HvError),
    #[error("{what} is {found} and must be {expected}")]
    Differs { what: String, found: String, expected: String },
    #[error("{0}")]
    Other(String),
}

/// What most functions here give.
pub type Checked<T = ()> = Result<T, Problem>;

/// # Errors
/// The two differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: impl Into<String>, found: T, expected: T) -> Checked {
    if found == expected {
        return Ok(());
    }
    let text = |value: T| format!("{value:x?}");
    Err(Problem::Differs { what: what.into(), found: text(found), expected: text(expected) })
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest said so, with this value; 0 is what it says when it is content.
    Value(u32),
    /// Triple fault.
    Shutdown,
    /// It had to be stopped.
    Endless,
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Run {
    pub end: End,
    pub events: Vec<Event>,
    pub report: CrashReport,
    /// Of the first CPU, as is the report.
    pub stats: Stats,
    pub cpus: usize,
}

impl Run {
    /// The values that the guest logged.
    pub fn values(&self) -> Vec<u64> {
        let value = |event: &Event| if let Event::Value(value) = event { Some(*value) } else { None };
        self.events.iter().filter_map(value).collect()
    }

    /// The exceptions and interrupts that the common handler took.
    pub fn traps(&self) -> Vec<Trap> {
        let trap = |event: &Event| if let Event::Trap(trap) = event { Some(*trap) } else { None };
        self.events.iter().filter_map(trap).collect()
    }

    /// Vector and error code of each trap.
    pub fn faults(&self) -> Vec<(u64, u64)> {
        self.traps().iter().map(|trap| (trap.vector, trap.error)).collect()
    }

    /// The trap number `index`.
    ///
    /// # Errors
    /// There were fewer.
    pub fn trap(&self, index: usize) -> Checked<Trap> {
        let missing = || Problem::Other(format!("trap number {index} did not come; there were {:x?}", self.faults()));
        self.traps().get(index).copied().ok_or_else(missing)
    }
}
