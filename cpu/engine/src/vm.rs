//! The software engine as `motu-hv` sees it.

use crate::mmu::RamMap;
use crate::options::Options;
use crate::translate::Workspace;
use crate::vcpu::SoftVcpu;
use motu_hv::{Capabilities, HvError, Hypervisor, Kick, Msi, Vcpu, Vm, VmConfig};
use motu_x86::contract::{Contract, CpuidResult};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// CPUs of one machine at most.
const MAX_VCPUS: u32 = 1;

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

impl Hypervisor for SoftHypervisor {
    fn capabilities(&self) -> Capabilities {
        let contracts = Contract::ALL.iter().filter(|c| missing(c).is_empty()).map(Contract::name).collect();
        Capabilities { name: "soft", max_vcpus: MAX_VCPUS, contracts }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
            return Err(HvError::TooManyVcpus { engine: "soft", asked: config.vcpus, max: MAX_VCPUS });
        }
        let name = config.contract;
        let unknown =
            || HvError::Contract { name: name.into(), missing: "a definition: there is no such contract".into() };
        let contract = Contract::by_name(name).ok_or_else(unknown)?;
        let lacking = missing(contract);
        if !lacking.is_empty() {
            return Err(HvError::Contract { name: name.into(), missing: lacking.join(", ") });
        }
        Ok(Arc::new(SoftVm { config, contract, options: self.options.clone(), mailbox: Arc::default() }))
    }
}

struct SoftVm {
    config: VmConfig,
    contract: &'static Contract,
    options: Options,
    mailbox: Arc<Mailbox>,
}

impl Vm for SoftVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        if id >= self.config.vcpus {
            return Err(HvError::TooManyVcpus { engine: "soft", asked: id + 1, max: self.config.vcpus });
        }
        let ram = RamMap::new(self.config.ram.clone());
        let mailbox = Arc::clone(&self.mailbox);
        let vcpu = SoftVcpu::new(id, self.config.vcpus, self.contract, ram, mailbox, &self.options)?;
        Ok(Box::new(vcpu))
    }

    fn signal_msi(&self, msi: Msi) {
        self.mailbox.put(|post| post.messages.push(msi));
    }

    fn set_ext_int(&self, level: bool) {
        self.mailbox.put(|post| post.ext_int = Some(level));
    }
}

/// What other threads have for a vCPU, and how they reach it, running or halted.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// There is something in `post`: read between blocks.
    flag: AtomicBool,
    post: Mutex<Post>,
    arrived: Condvar,
    /// What tells translated code to leave.
    workspace: OnceLock<Arc<Workspace>>,
}

/// Everything that arrived since the vCPU last looked.
#[derive(Debug, Default)]
pub struct Post {
    pub kicked: bool,
    pub messages: Vec<Msi>,
    pub ext_int: Option<bool>,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Post)) {
        change(&mut self.lock());
        self.ring();
        self.arrived.notify_all();
    }

    /// Makes the vCPU look up, with nothing to say.
    pub fn ring(&self) {
        self.flag.store(true, Ordering::Release);
        if let Some(workspace) = self.workspace.get() {
            workspace.disturb();
        }
    }

    /// Whose translated code is to leave for what is posted.
    pub fn belongs_to(&self, workspace: &Arc<Workspace>) {
        // A mailbox has one vCPU.
        let _ = self.workspace.set(Arc::clone(workspace));
    }

    /// Lets translated code run until the next post. What has been posted before is there for [`Mailbox::take`].
    pub fn settle(&self) {
        if let Some(workspace) = self.workspace.get() {
            workspace.settle();
        }
    }

    /// Whether [`Mailbox::take`] has anything to give.
    #[inline(always)]
    pub fn has_post(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    pub fn take(&self) -> Post {
        let mut post = self.lock();
        self.flag.store(false, Ordering::Release);
        std::mem::take(&mut *post)
    }

    /// Sleeps until there is post, or for `limit`.
    pub fn wait(&self, limit: Option<Duration>) {
        let guard = self.lock();
        if self.has_post() {
            return;
        }
        match limit {
            Some(limit) => drop(self.arrived.wait_timeout(guard, limit)),
            None => drop(self.arrived.wait(guard)),
        }
    }
}

impl Kick for Mailbox {
    fn kick(&self) {
        self.put(|post| post.kicked = true);
    }
}
