//! An engine whose CPUs ask for a switch every few instructions.

use motu_hv::{Capabilities, HvError, Hypervisor, Msi, RecentInstruction, TracedEvent, Tracer, Vcpu, Vm, VmConfig};
use motu_memory::DirtyPages;
use motu_switch::Trigger;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers by chance, from a seed (Marsaglia's xorshift).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 1 to `most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most + 1
    }
}

/// `engine`, whose CPUs pull `trigger` each time behind 1 to `most` instructions.
pub struct Restless<E> {
    pub engine: E,
    pub trigger: Trigger,
    pub seed: Arc<AtomicU64>,
    pub most: u64,
    /// So many times at these distances, which then double, and so on for eight times as many.
    pub often: u64,
}

impl<E: Hypervisor> Hypervisor for Restless<E> {
    fn capabilities(&self) -> Capabilities {
        self.engine.capabilities()
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(RestlessVm {
            vm: self.engine.create_vm(config)?,
            trigger: self.trigger.clone(),
            seed,
            most: self.most,
            often: self.often,
        }))
    }
}

struct RestlessVm {
    vm: Arc<dyn Vm>,
    trigger: Trigger,
    seed: u64,
    most: u64,
    often: u64,
}

impl Vm for RestlessVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        let mut vcpu = self.vm.create_vcpu(id)?;
        let chance = Chance::new(self.seed << 8 | u64::from(id));
        let tracer =
            Counting { chance, most: self.most, often: self.often, left: 1, pulls: 0, trigger: self.trigger.clone() };
        vcpu.set_tracer(Some(Box::new(tracer)));
        Ok(vcpu)
    }

    fn signal_msi(&self, msi: Msi) {
        self.vm.signal_msi(msi);
    }

    fn set_ext_int(&self, level: bool) {
        self.vm.set_ext_int(level);
    }

    fn log_writes(&self, on: bool) -> Result<(), HvError> {
        self.vm.log_writes(on)
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        self.vm.take_dirty()
    }
}

struct Counting {
    chance: Chance,
    most: u64,
    often: u64,
    left: u64,
    pulls: u64,
    trigger: Trigger,
}

impl Tracer for Counting {
    /// A guest that runs long is not to run for ever: at some time it goes on without being watched.
    fn wants_instructions(&self) -> bool {
        self.pulls / 8 < self.often
    }

    fn instruction(&mut self, _: &RecentInstruction) {
        self.left -= 1;
        if self.left == 0 {
            self.pulls += 1;
            self.left = self.chance.up_to(self.most << (self.pulls / self.often).min(32));
            self.trigger.pull();
        }
    }

    fn event(&mut self, _: &TracedEvent) {}
}
