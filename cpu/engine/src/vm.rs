//! The software engine as `motu-hv` sees it.

use crate::lapic::Message;
use crate::options::{Options, Translate};
use crate::smp::Processors;
use crate::vcpu::SoftVcpu;
use motu_hv::{Capabilities, HvError, Hypervisor, Msi, Vcpu, Vm, VmConfig};
use motu_memory::{DirtyPages, MAX_HOLDERS};
use motu_x86::contract::{Contract, CpuidResult};
use std::sync::Arc;

/// CPUs of one machine at most.
const MAX_VCPUS: u32 = MAX_HOLDERS;
/// The processor that the 8259 pair's line leads to.
const BOOTSTRAP: u32 = 0;

/// The engine that needs nothing of the host but x86-64 user mode.
#[derive(Debug, Default)]
pub struct SoftHypervisor {
    options: Options,
}

impl SoftHypervisor {
    pub fn new(options: Options) -> Self {
        Self { options }
    }
}

/// What the host's CPU lacks for a contract, in words; empty if nothing.
fn missing(contract: &Contract) -> Vec<String> {
    contract.missing_on(host_cpuid, host_xcr0()).iter().map(|feature| format!("{feature:?}")).collect()
}

fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let found = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

/// XCR0 of the host; zero where its kernel does not use XSAVE.
fn host_xcr0() -> u64 {
    if host_cpuid(1, 0).ecx & 1 << 27 == 0 {
        return 0;
    }
    // SAFETY: CPUID says that XGETBV exists and is enabled.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

impl SoftHypervisor {
    /// The engine's name, and how many CPUs it runs at most: in lock-step what a second one writes to memory meanwhile would be a
    /// difference between two runs of one block.
    fn limit(&self) -> (&'static str, u32) {
        match self.options.translate {
            Translate::Lockstep => ("soft,translate=lockstep", 1),
            _ => ("soft", MAX_VCPUS),
        }
    }
}

impl Hypervisor for SoftHypervisor {
    fn capabilities(&self) -> Capabilities {
        let contracts = Contract::ALL.iter().filter(|c| missing(c).is_empty()).map(Contract::name).collect();
        let (name, max_vcpus) = self.limit();
        Capabilities { name, max_vcpus, contracts }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        let (engine, max) = self.limit();
        if config.vcpus == 0 || config.vcpus > max {
            return Err(HvError::TooManyVcpus { engine, asked: config.vcpus, max });
        }
        let name = config.contract;
        let unknown =
            || HvError::Contract { name: name.into(), missing: "a definition: there is no such contract".into() };
        let contract = Contract::by_name(name).ok_or_else(unknown)?;
        let lacking = missing(contract);
        if !lacking.is_empty() {
            return Err(HvError::Contract { name: name.into(), missing: lacking.join(", ") });
        }
        let processors = Arc::new(Processors::new(config.vcpus));
        Ok(Arc::new(SoftVm { config, contract, options: self.options.clone(), processors }))
    }
}

struct SoftVm {
    config: VmConfig,
    contract: &'static Contract,
    options: Options,
    processors: Arc<Processors>,
}

impl Vm for SoftVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        if id >= self.config.vcpus {
            return Err(HvError::TooManyVcpus { engine: "soft", asked: id + 1, max: self.config.vcpus });
        }
        let processors = Arc::clone(&self.processors);
        let vcpu = SoftVcpu::new(id, self.contract, self.config.ram.clone(), processors, &self.options)?;
        Ok(Box::new(vcpu))
    }

    fn signal_msi(&self, msi: Msi) {
        if let Some(message) = Message::from_msi(msi) {
            self.processors.send(self.processors.destinations(&message), message);
        }
    }

    fn set_ext_int(&self, level: bool) {
        self.processors.mailbox(BOOTSTRAP).set_ext_int(level);
    }

    fn log_writes(&self, on: bool) -> Result<(), HvError> {
        self.config.ram.log_writes(on);
        if on {
            self.processors.withdraw_writes();
        }
        Ok(())
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        // First, so that a CPU that writes meanwhile notes it again.
        self.processors.withdraw_writes();
        Ok(self.config.ram.take_written())
    }
}
