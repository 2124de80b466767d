//! Architectural facts of x86-64: registers, CPUID, MSRs, paging and descriptor formats, exceptions.
//!
//! Nothing here runs an instruction. The one type that crosses every border is [`CpuState`]: the
//! bridge between engines, the debugger's view and the test oracle.
#![forbid(unsafe_code)]

pub mod contract;
pub mod exception;
pub mod flags;
pub mod msr;
mod paging;
mod state;

pub use exception::{Exception, Vector};
pub use paging::Paging;
pub use state::{
    Activity, CpuState, DescriptorTable, Lapic, Msrs, PKRU_OFFSET, PKRU_SIZE, Segment, Segments, Shadow, XSAVE_SIZE,
    XsaveArea,
};

use std::fmt;

/// A guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// A guest-linear (virtual) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gva(pub u64);

/// Nanoseconds of a monotonic clock, or a length of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Gpa {
    /// The address `bytes` further on, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Gpa> {
        self.0.checked_add(bytes).map(Gpa)
    }
}

impl Nanos {
    pub const PER_SECOND: u64 = 1_000_000_000;

    pub fn saturating_add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }

    pub fn saturating_sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpa:{:#x}", self.0)
    }
}

impl fmt::Debug for Gva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gva:{:#x}", self.0)
    }
}

impl fmt::Debug for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}
