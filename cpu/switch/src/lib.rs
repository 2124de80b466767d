//! Two engines that take turns with one machine, while it runs.
//!
//! Both have a machine on the same RAM and the same board; one of them has the CPUs. At a switch all CPUs stop between two
//! instructions, each gives its state to the other engine's CPU, and all go on:
//!
//! ```text
//!              pull: all are kicked          all are there                all have moved
//!   running ------------------------> gathering -------------> moving ----------------------> running, on the other engine
//!      ^                                  |                       |
//!      |      a CPU leaves `run`          |                       | one cannot
//!      +----------------------------------+                       +-------------------------> running, on the same
//! ```
//!
//! They move together, since what one CPU sends another goes through one engine's local APICs. Messages of the board wait from
//! the pull until the end; what CPUs have sent each other is taken in before a state is saved ([`motu_hv::Kick`]).
//!
//! It knows neither of the two: they are told to it as [`Hypervisor`]s.
#![forbid(unsafe_code)]

mod durations;
mod meeting;
mod shared;
mod trigger;
mod vcpu;

#[cfg(test)]
mod tests;

pub use trigger::Trigger;

use meeting::Meeting;
use motu_hv::{Capabilities, HvError, Hypervisor, Msi, Vcpu, Vm, VmConfig};
use motu_memory::DirtyPages;
use std::sync::Arc;
use std::time::Duration;
use trigger::Clock;
use vcpu::SwitchingVcpu;

/// When machines go over to the other engine.
#[derive(Clone, Debug)]
pub enum Pace {
    Every(Duration),
    /// Whenever it is pulled.
    On(Trigger),
}

/// Two engines as one.
pub struct Switching {
    name: &'static str,
    engines: [Box<dyn Hypervisor>; 2],
    pace: Pace,
}

impl Switching {
    /// Machines begin on the first of `engines`; `name` is what the two are called together.
    pub fn new(name: &'static str, engines: [Box<dyn Hypervisor>; 2], pace: Pace) -> Self {
        Self { name, engines, pace }
    }
}

impl std::fmt::Debug for Switching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switching").field("name", &self.name).field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Hypervisor for Switching {
    /// What both have.
    fn capabilities(&self) -> Capabilities {
        let [first, second] = self.engines.each_ref().map(|engine| engine.capabilities());
        let both = |contract: &&str| second.contracts.contains(contract);
        Capabilities {
            name: self.name,
            max_vcpus: first.max_vcpus.min(second.max_vcpus),
            contracts: first.contracts.into_iter().filter(both).collect(),
        }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        let [first, second] = &self.engines;
        let vms = [first.create_vm(config.clone())?, second.create_vm(config.clone())?];
        let meeting = Arc::new(Meeting::new(vms, config.vcpus));
        let clock = match &self.pace {
            Pace::Every(period) => Some(Clock::start(&meeting, *period)?),
            Pace::On(trigger) => {
                trigger.add(&meeting);
                None
            }
        };
        Ok(Arc::new(SwitchingVm { meeting, _clock: clock }))
    }
}

struct SwitchingVm {
    meeting: Arc<Meeting>,
    /// Ends with the machine.
    _clock: Option<Clock>,
}

impl Vm for SwitchingVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        let [first, second] = self.meeting.vms();
        let engines = [first.create_vcpu(id)?, second.create_vcpu(id)?];
        Ok(Box::new(SwitchingVcpu::new(id, engines, Arc::clone(&self.meeting))))
    }

    fn signal_msi(&self, msi: Msi) {
        self.meeting.signal(msi);
    }

    /// A pin's level is no part of a CPU's state, so both engines know it.
    fn set_ext_int(&self, level: bool) {
        self.meeting.vms().iter().for_each(|vm| vm.set_ext_int(level));
    }

    fn log_writes(&self, on: bool) -> Result<(), HvError> {
        self.meeting.vms().iter().try_for_each(|vm| vm.log_writes(on))
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        let [first, second] = self.meeting.vms();
        let mut dirty = first.take_dirty()?;
        dirty.add(&second.take_dirty()?);
        Ok(dirty)
    }
}
