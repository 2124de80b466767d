//! Where a CPU's time goes: `--profile`.

mod chain;
mod ticks;

#[cfg(test)]
mod tests;

pub use chain::Frames;
pub use ticks::Ticks;

use motu_x86::Nanos;

/// Return addresses of a [`GuestSample`] at most; those nearest to the sample are kept.
pub const MAX_CALLERS: usize = 64;

/// Is told now and then where a CPU is. Called on the vCPU's thread, between guest instructions.
pub trait Profiler: Send {
    fn sample(&mut self, sample: &GuestSample<'_>);
}

/// Where a CPU was found, and how long it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestSample<'a> {
    /// Wall time that this sample stands for: what has passed since the last one, in whole sampling periods.
    pub time: Nanos,
    /// The CPU slept (HLT) for all of it; the addresses are those of the instruction behind the HLT.
    pub halted: bool,
    /// Linear address of the instruction that is next.
    pub linear: u64,
    /// 0 to 3.
    pub cpl: u8,
    /// The root of the page tables, which names the program.
    pub cr3: u64,
    /// IA32_LSTAR: where the kernel's code for SYSCALL lies, which gives away where the kernel was put; 0 if it was not
    /// set yet.
    pub syscall_entry: u64,
    /// Linear addresses that the running function and its callers return to, innermost first, at most [`MAX_CALLERS`]:
    /// what the chain of frame pointers has, as far as there is one.
    pub callers: &'a [u64],
}
