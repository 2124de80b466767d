//! `--profile`: tells a [`Profiler`] where the guest is, at the ticks of a clock of the host's.
//!
//! A thread counts the ticks and rings the vCPU, which looks up when it next leaves the code that runs and finds out what
//! the time belongs to: behind the block, or, in translated code, at the next jump that is indirect or backwards. Were it
//! taken where the run loop looks up anyway, halts and repeated string instructions would get the time of others.

mod look;

use crate::cpu::{CodeSize, Cpu, seg, slot};
use crate::smp::Mailbox;
use motu_hv::{Frames, GuestSample, HvError, MAX_CALLERS, Profiler, Ticks};
use std::sync::Arc;

/// A profiler and its clock, which stops when this is dropped.
pub struct Sampler {
    profiler: Box<dyn Profiler>,
    ticks: Ticks,
}

impl Sampler {
    /// # Errors
    /// The host gives no thread.
    pub fn start(profiler: Box<dyn Profiler>, mailbox: Arc<Mailbox>) -> Result<Self, HvError> {
        Ok(Self { profiler, ticks: Ticks::start(move || mailbox.ring())? })
    }

    /// What passed before now is no time of the guest's.
    pub fn forget(&self) {
        self.ticks.forget();
    }

    /// Tells where `cpu` is, if a tick has come since the last time; `halted` is what it did in between.
    pub fn take(&mut self, cpu: &Cpu, halted: bool) {
        let Some(time) = self.ticks.take() else { return };
        let mut callers = [0; MAX_CALLERS];
        let count = if halted { 0 } else { callers_of(cpu, &mut callers) };
        self.profiler.sample(&GuestSample {
            time,
            halted,
            linear: cpu.rip.wrapping_add(cpu.bases[seg::CS]) & cpu.linear_mask,
            cpl: cpu.cpl,
            cr3: cpu.cr3,
            syscall_entry: cpu.msrs.lstar,
            callers: callers.get(..count).unwrap_or_default(),
        });
    }
}

/// Puts the return addresses of the chain of frame pointers into `callers`; gives how many there are.
fn callers_of(cpu: &Cpu, callers: &mut [u64]) -> usize {
    let word = match cpu.code_size {
        CodeSize::Bits64 => 8,
        CodeSize::Bits32 => 4,
        // Code of 16 bits has near and far calls, and no frames that one could tell from data.
        CodeSize::Bits16 => return 0,
    };
    let base = cpu.bases[seg::SS];
    let linear = |offset: u64| offset.wrapping_add(base) & cpu.linear_mask;
    let frames =
        Frames { word, code_base: cpu.bases[seg::CS], read: |address, out: &mut [u8]| cpu.look_at(address, out) };
    frames.callers(linear(cpu.gpr(slot::RSP)), linear(cpu.gpr(slot::RBP)), callers)
}

#[cfg(test)]
mod tests;
