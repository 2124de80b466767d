//! The machine stands still for its debugger, and the guest's clocks with it.
//!
//! The kernel's go on: a TSC is the host's and an offset, and the local APIC's timer one of the host's. So when the machine
//! stops it is noted what they are, and when it goes on the TSC gets another offset, the same for all CPUs, and the timer is
//! started anew with what it had left. A kernel that takes no offset (before Linux 5.16) takes the value of the TSC, if that is
//! more than a second from what it would be (it holds anything nearer for an attempt to bring CPUs together).

use crate::host::failed;
use crate::state::lapic::{self, CURRENT_COUNT};
use crate::vcpu::KvmVcpu;
use motu_hv::HvError;
use motu_x86::{CpuState, Nanos, msr};
use std::sync::PoisonError;

/// The guest's clocks at the moment in which the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    tsc: u64,
    /// The host's TSC that it was at.
    host: Option<u64>,
    count: u32,
    deadline: u64,
}

impl Standing {
    /// What the clocks show, in a state that was read meanwhile.
    pub fn show(&self, state: &mut CpuState) {
        state.tsc = self.tsc;
        state.lapic.registers[CURRENT_COUNT] = self.count;
        state.lapic.tsc_deadline = self.deadline;
    }

    /// The clocks are set to those of `state` meanwhile.
    pub fn set(&mut self, state: &CpuState) {
        self.tsc = state.tsc;
        self.count = state.lapic.registers[CURRENT_COUNT];
        self.deadline = state.lapic.tsc_deadline;
    }
}

impl KvmVcpu {
    /// Notes what the clocks are at the machine's time `now`.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub(crate) fn note_clocks(&self, now: Nanos) -> Result<Standing, HvError> {
        let count = lapic::count(&self.fd.get_lapic().map_err(failed("reading the local APIC"))?);
        let (tsc, host) = self.tsc_and_host(now)?;
        let deadline = self.get_msrs(&[msr::TSC_DEADLINE])?.first().map_or(0, |(_, value)| *value);
        Ok(Standing { tsc, host, count, deadline })
    }

    /// Has the clocks go on from there.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub(crate) fn start_clocks(&self, standing: Standing, now: Nanos) -> Result<(), HvError> {
        if let Some(before) = standing.host {
            self.shared.host_tsc.go_on(now, before, || self.current_host_tsc())?;
        }
        self.set_tsc(standing.tsc, now)?;
        // A count that has come to its end has interrupted, or is about to.
        if standing.count != 0 {
            let _sending = self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner);
            let mut kernel = self.fd.get_lapic().map_err(failed("reading the local APIC"))?;
            lapic::set_count(&mut kernel, standing.count);
            self.fd.set_lapic(&kernel).map_err(failed("starting the local APIC's timer"))?;
        }
        // The kernel computes when that is by the TSC that there is then.
        self.set_msrs(&[(msr::TSC_DEADLINE, standing.deadline)])
    }
}
