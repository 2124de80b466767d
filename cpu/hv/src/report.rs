//! What an engine tells a person: counters, and the last instructions before a crash.

use motu_x86::CpuState;

/// Counters since the vCPU was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub instructions: u64,
    /// Look-ups of the software TLB that had to walk the page tables.
    pub tlb_misses: u64,
    pub tlb_flushes: u64,
    pub exceptions: u64,
    pub interrupts: u64,
    pub port_accesses: u64,
    pub mmio_accesses: u64,
    /// Blocks of instructions decoded.
    pub blocks_decoded: u64,
    /// Blocks dropped because the guest wrote to their code.
    pub blocks_invalidated: u64,
    /// Times the CPU slept in HLT.
    pub halts: u64,
}

/// One instruction that ran shortly before a crash.
#[derive(Clone, Debug)]
pub struct RecentInstruction {
    /// CS, for a person: in real mode the base of the addresses.
    pub cs: u16,
    pub rip: u64,
    /// The linear address of its first byte.
    pub linear: u64,
    /// Intel syntax.
    pub text: String,
}

/// The state of a CPU and how it came there, oldest instruction first.
#[derive(Clone, Debug)]
pub struct CrashReport {
    pub state: CpuState,
    pub recent: Vec<RecentInstruction>,
}
