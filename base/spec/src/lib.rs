//! What a person asks a machine to be.
//!
//! [`VmSpec`] is the same for the command line, the REST body and the stored record: unknown keys
//! are refused, and every rule is checked in one place, [`VmSpec::validate`]. Each error says what
//! would have been right.
#![forbid(unsafe_code)]

mod address;
mod command;
mod disk;
mod duration;
mod engine;
mod gdb;
mod share;
mod size;
mod trace;
mod vm;

pub use address::{GuestAddress, ParseAddressError};
pub use command::CommandSpec;
pub use disk::{DiskSpec, MAX_SERIAL, ParseDiskError};
pub use duration::{ParsePeriodError, ParseTimeoutError, Period, Timeout};
pub use engine::{EngineChoice, Flags, ParseEngineError, SoftOptions, Translate, Turn};
pub use gdb::{Gdb, GdbAddress, ParseGdbError};
pub use share::{MAX_TARGET, ParseShareError, ShareSpec};
pub use size::{ByteSize, Growth, ParseGrowthError, ParseSizeError};
pub use trace::{ParseTraceError, Profile, Trace, TraceKind};
pub use vm::{
    Console, DEFAULT_IMAGE, DEFAULT_MEMORY, KernelMode, Limits, MAX_CMDLINE, MAX_CPUS, MAX_DISKS, MAX_MEMORY,
    MIN_MEMORY, ParseModeError, SpecError, VmSpec,
};
