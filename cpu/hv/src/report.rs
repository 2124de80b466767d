//! What an engine tells a person: counters, and the last instructions before a crash.

use motu_x86::{CpuState, Nanos};
use std::ops::Add;

/// Counters since the vCPU was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Guest instructions; of an engine with a translator only those that it interpreted, since translated code does
    /// not count.
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
    /// Those of them that another CPU had decoded, and this one has taken.
    pub blocks_shared: u64,
    /// Blocks dropped because the guest wrote to their code.
    pub blocks_invalidated: u64,
    /// Times the CPU slept in HLT.
    pub halts: u64,
    /// Of an engine whose translator is on.
    pub translator: Option<TranslatorStats>,
    /// Of an engine on the host's own CPU, which counts nothing else but accesses and the 8259 pair's interrupts.
    pub hardware: Option<HardwareStats>,
    /// Of two engines that take turns.
    pub switches: Option<SwitchStats>,
}

/// How often a machine went over to another engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchStats {
    pub done: u64,
    /// CPUs whose state the other engine did not take, so that the machine stayed where it was.
    pub refused: u64,
    /// From when a switch was asked for until all CPUs ran again: of all together, what 99 of 100 took at most (to a quarter), and
    /// the longest.
    pub time: Nanos,
    pub most: Nanos,
    pub longest: Nanos,
}

/// How often the host's own CPU left guest code since the vCPU was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardwareStats {
    /// Times that the host's kernel came back for something that it could not do alone.
    pub exits: u64,
    /// Instructions that another engine ran, as the host's kernel could not emulate them.
    pub rescues: u64,
}

/// What a translator of guest code to host code did since the vCPU was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslatorStats {
    /// Blocks translated; one that is translated again counts again.
    pub blocks: u64,
    /// Those of them that another CPU had translated, and this one has taken.
    pub shared: u64,
    /// Guest instructions in them: how many were translated, not how often they ran.
    pub instructions: u64,
    /// Bytes of host code in the code cache now.
    pub cache_bytes: u64,
    /// Translated blocks dropped because the guest, a device or another CPU wrote to their code.
    pub invalidated: u64,
    /// Translated blocks dropped to make room in the code cache.
    pub evictions: u64,
    pub exits: ExitCounts,
}

/// Why translated code gave control back to the run loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Something was up: an interrupt, another thread's post, the clock.
    pub poll: u64,
    /// The target of an indirect branch or of a return was not in the jump cache.
    pub lookup: u64,
    /// The next instruction is the interpreter's.
    pub interpret: u64,
    /// A memory access that the TLB's refill could not serve: a fault, a device, a page with code.
    pub refill_failed: u64,
    /// A direct branch that was not yet linked to the block it goes to.
    pub link: u64,
    /// The guest's x87 or vector state was not in the host's registers.
    pub fpu: u64,
}

impl Add for Stats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            instructions: self.instructions + other.instructions,
            tlb_misses: self.tlb_misses + other.tlb_misses,
            tlb_flushes: self.tlb_flushes + other.tlb_flushes,
            exceptions: self.exceptions + other.exceptions,
            interrupts: self.interrupts + other.interrupts,
            port_accesses: self.port_accesses + other.port_accesses,
            mmio_accesses: self.mmio_accesses + other.mmio_accesses,
            blocks_decoded: self.blocks_decoded + other.blocks_decoded,
            blocks_shared: self.blocks_shared + other.blocks_shared,
            blocks_invalidated: self.blocks_invalidated + other.blocks_invalidated,
            halts: self.halts + other.halts,
            translator: [self.translator, other.translator].into_iter().flatten().reduce(Add::add),
            hardware: [self.hardware, other.hardware].into_iter().flatten().reduce(Add::add),
            switches: [self.switches, other.switches].into_iter().flatten().reduce(Add::add),
        }
    }
}

impl Add for SwitchStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            refused: self.refused + other.refused,
            time: self.time.saturating_add(other.time),
            most: self.most.max(other.most),
            longest: self.longest.max(other.longest),
        }
    }
}

impl Add for HardwareStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { exits: self.exits + other.exits, rescues: self.rescues + other.rescues }
    }
}

impl Add for TranslatorStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            shared: self.shared + other.shared,
            instructions: self.instructions + other.instructions,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            invalidated: self.invalidated + other.invalidated,
            evictions: self.evictions + other.evictions,
            exits: self.exits + other.exits,
        }
    }
}

impl Add for ExitCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            poll: self.poll + other.poll,
            lookup: self.lookup + other.lookup,
            interpret: self.interpret + other.interpret,
            refill_failed: self.refill_failed + other.refill_failed,
            link: self.link + other.link,
            fpu: self.fpu + other.fpu,
        }
    }
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
