//! How the software CPU runs: what a person may turn off, compare or stress, without the guest's seeing it.

use std::ops::RangeInclusive;

/// Options of a machine's CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub translate: Translate,
    /// Linear addresses: blocks with an instruction that begins in one of these ranges are left to the interpreter, so that a fault
    /// in their translation can be found by bisection.
    pub deny: Vec<RangeInclusive<u64>>,
    /// No check changes a flag, so that whatever looks at RFLAGS finds each of them as it is on a processor; it costs speed. Otherwise
    /// flags are so where the program itself looks (docs/adr/0013).
    pub exact_flags: bool,
    /// No translation goes on where a branch leads: a single instruction is all that is run where nothing translatable follows it.
    pub no_paths: bool,
    /// Seed of a stress mode in which the CPU looks for interrupts every few instructions.
    pub stress: Option<u64>,
}

/// Whether guest code is translated to host code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Translate {
    /// Everything is interpreted.
    Off,
    /// What can be translated is.
    #[default]
    On,
    /// Every block runs translated and interpreted, and the first difference ends the machine.
    Lockstep,
}
