//! The engine and its machines as `motu-hv` sees them.

use crate::backing::Backing;
use crate::dirty::Log;
use crate::facts::Facts;
use crate::host::failed;
use crate::kick::{self, Door};
use crate::memory::{self, Slots};
use crate::msi::{Delivery, Levels, PINS, kernel_message};
use crate::state::Components;
use crate::time::HostTsc;
use crate::vcpu::KvmVcpu;
use crate::{cpuid, msr};
use kvm_bindings::{
    CpuId, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API,
    KVM_CAP_X86_APIC_BUS_CYCLES_NS, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER,
    KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VmFd};
use motu_hv::{Capabilities, HvError, Hypervisor, Msi, Vcpu, Vm, VmConfig};
use motu_memory::DirtyPages;
use motu_x86::Nanos;
use motu_x86::contract::{APIC_TIMER_HZ, Contract, TSC_HZ};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// CPUs of one machine at most, if the host's KVM runs so many.
const MAX_VCPUS: u32 = 64;
/// Pages that Intel's processors need for real-address mode (API, 4.35 and 4.40): no RAM and no device of any board is
/// there. QEMU has them in the same place.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TSS: usize = 0xfeff_d000;
/// KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST: no processor of a contract has directed EOI.
const NO_DIRECTED_EOI: u64 = 1 << 3;

/// The engine on /dev/kvm; see [`crate::open`].
#[derive(Debug)]
pub struct KvmHypervisor {
    kvm: Kvm,
    backing: OnceLock<Backing>,
    facts: OnceLock<Facts>,
    /// Written pages are told of by rings, if the kernel has them.
    rings: bool,
}

impl KvmHypervisor {
    pub(crate) fn new(kvm: Kvm) -> Self {
        Self { kvm, backing: OnceLock::new(), facts: OnceLock::new(), rings: true }
    }

    /// The kernel tells of written pages by bitmaps, as one without dirty rings (before Linux 5.11) does.
    #[must_use]
    pub fn without_dirty_rings(self) -> Self {
        Self { rings: false, ..self }
    }

    /// Whether hardware runs the guests. The first call takes some milliseconds at most.
    pub fn backing(&self) -> &Backing {
        self.backing.get_or_init(|| Backing::find(&self.kvm))
    }

    /// Whether the host's KVM has the extension.
    pub fn has(&self, extension: &crate::Extension) -> bool {
        extension.is_in(&self.kvm)
    }

    fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| {
            let tsc_khz = || self.kvm.create_vm()?.create_vcpu(0)?.get_tsc_khz();
            Facts::of(&self.kvm, tsc_khz().unwrap_or(0)).unwrap_or_default()
        })
    }

    /// What `contract` has that guests would not have here, in words; empty if it is kept.
    pub fn differences(&self, contract: &Contract) -> Vec<String> {
        self.facts().differences(contract)
    }

    /// Bits of IA32_ARCH_CAPABILITIES by which `contract` denies a weakness that this host does not deny.
    pub fn exposed(&self, contract: &Contract) -> u64 {
        self.facts().exposed(contract)
    }

    fn max_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).map_or(MAX_VCPUS, |max| max.min(MAX_VCPUS))
    }

    /// Whether machines of `contract` are made here. What emulates its guests does so without hardware's help, whatever it
    /// says that it supports: there it is tried.
    fn takes(&self, contract: &Contract) -> bool {
        matches!(self.backing(), Backing::Emulated(_)) || self.differences(contract).is_empty()
    }
}

impl Hypervisor for KvmHypervisor {
    fn capabilities(&self) -> Capabilities {
        let contracts = Contract::ALL.iter().filter(|contract| self.takes(contract)).map(Contract::name).collect();
        Capabilities { name: "kvm", max_vcpus: self.max_vcpus(), contracts }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        let max = self.max_vcpus();
        if config.vcpus == 0 || config.vcpus > max {
            return Err(HvError::TooManyVcpus { engine: "kvm", asked: config.vcpus, max });
        }
        let name = config.contract;
        let lacking = |missing| HvError::Contract { name: name.into(), missing };
        let contract =
            Contract::by_name(name).ok_or_else(|| lacking("a definition: there is no such contract".into()))?;
        if !self.takes(contract) {
            return Err(lacking(self.differences(contract).join(", ")));
        }
        kick::install_handler()
            .map_err(|source| HvError::Host { doing: "handling the kick's signal".into(), source })?;
        let facts = self.facts();
        let spec_ctrl = facts.keeps_spec_ctrl();
        let exposed = facts.exposed(contract);
        if exposed != 0 && *self.backing() == Backing::Hardware {
            // The contract says that they are not there, so the guest does nothing against them.
            tracing::warn!(
                "this host does not deny weaknesses that {name} denies (IA32_ARCH_CAPABILITIES {exposed:#x})"
            );
        }
        let fd = self.kvm.create_vm().map_err(failed("making a virtual machine in KVM"))?;
        prepare(&fd, facts)?;
        msr::filter(&fd, contract, spec_ctrl).map_err(failed("filtering MSRs"))?;
        let is_hardware = *self.backing() == Backing::Hardware;
        let log = Log::new(&fd, self.rings);
        let slots = Slots::new(&fd, config.ram, memory::has_shadow_pages(is_hardware), log)?;
        let shared = Arc::new(Shared {
            fd,
            slots,
            ext_int: ExtInt::default(),
            host_tsc: HostTsc::default(),
            levels: Mutex::default(),
            messages: Mutex::default(),
            boot_processor: OnceLock::new(),
        });
        let components = Components::new(contract, facts.xcr0());
        let (vcpus, scales_tsc) = (config.vcpus, facts.tsc_scaling);
        let setup = Setup { contract, vcpus, spec_ctrl, scales_tsc, components, watches: is_hardware };
        Ok(Arc::new(KvmVm { shared, setup }))
    }
}

/// Enables what motu builds on.
fn prepare(fd: &VmFd, facts: &Facts) -> Result<(), HvError> {
    let enable = |cap, argument| {
        let mut cap = kvm_enable_cap { cap, ..Default::default() };
        cap.args[0] = argument;
        fd.enable_cap(&cap)
    };
    fd.set_identity_map_address(IDENTITY_MAP).map_err(failed("placing KVM's identity map"))?;
    fd.set_tss_address(TSS).map_err(failed("placing KVM's task state segment"))?;
    enable(KVM_CAP_SPLIT_IRQCHIP, u64::from(PINS)).map_err(failed("splitting KVM's interrupt controllers"))?;
    if facts.apic_bus_cycles {
        enable(KVM_CAP_X86_APIC_BUS_CYCLES_NS, Nanos::PER_SECOND / APIC_TIMER_HZ)
            .map_err(failed("setting the APIC timer's frequency"))?;
    }
    let x2apic = u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
    // Older kernels lack the last flag, and the oldest all.
    if enable(KVM_CAP_X2APIC_API, x2apic | NO_DIRECTED_EOI).is_err() && enable(KVM_CAP_X2APIC_API, x2apic).is_err() {
        tracing::debug!("the host's KVM keeps its own x2APIC IDs");
    }
    // So that what KVM cannot emulate is an exit in ring 3, too, and no #UD (Linux 5.14).
    if enable(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1).is_err() {
        tracing::debug!("the host's KVM answers user programs with #UD for what it cannot emulate");
    }
    enable(KVM_CAP_X86_USER_SPACE_MSR, u64::from(KVM_MSR_EXIT_REASON_FILTER)).map_err(failed("taking over MSRs"))
}

/// What the CPUs of a machine are made with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub contract: &'static Contract,
    pub vcpus: u32,
    /// The kernel keeps IA32_SPEC_CTRL.
    pub spec_ctrl: bool,
    pub scales_tsc: bool,
    pub components: Components,
    /// Data breakpoints of the host's debugger hit.
    pub watches: bool,
}

/// The 8259 pair's side of the boot processor.
#[derive(Debug, Default)]
pub struct ExtInt {
    level: AtomicBool,
    /// An interrupt by message (the I/O APIC's virtual wire) waits.
    message: AtomicBool,
}

impl ExtInt {
    pub fn is_pending(&self) -> bool {
        self.level.load(Ordering::SeqCst) || self.message.load(Ordering::SeqCst)
    }

    pub fn has_message(&self) -> bool {
        self.message.load(Ordering::SeqCst)
    }

    pub fn set_message(&self, waits: bool) {
        self.message.store(waits, Ordering::SeqCst);
    }

    /// The vector is about to be asked for.
    pub fn acknowledge(&self) {
        self.set_message(false);
    }
}

/// What a machine shares with its CPUs.
#[derive(Debug)]
pub struct Shared {
    pub fd: VmFd,
    /// Unmapped after `fd` is closed.
    pub slots: Slots,
    pub ext_int: ExtInt,
    pub host_tsc: HostTsc,
    levels: Mutex<Levels>,
    /// Held while a message is sent, and while a local APIC is replaced by a changed copy of itself.
    pub messages: Mutex<()>,
    boot_processor: OnceLock<Arc<Door>>,
}

impl Shared {
    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel is to tell of the end of a level-triggered interrupt.
    pub fn watch_end_of(&self, msi: Msi) {
        let mut levels = self.levels();
        if let Some(routes) = levels.note(msi)
            && let Err(error) = self.fd.set_gsi_routing(&routes)
        {
            tracing::error!("KVM refuses the routes of level-triggered interrupts: {error}");
        }
    }
}

struct KvmVm {
    shared: Arc<Shared>,
    setup: Setup,
}

impl KvmVm {
    fn ring_boot_processor(&self) {
        if let Some(door) = self.shared.boot_processor.get() {
            door.ring();
        }
    }
}

impl Vm for KvmVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        if id >= self.setup.vcpus {
            return Err(HvError::TooManyVcpus { engine: "kvm", asked: id + 1, max: self.setup.vcpus });
        }
        let fd = self.shared.fd.create_vcpu(id.into()).map_err(failed(format!("making virtual CPU {id} in KVM")))?;
        let cpuid = CpuId::from_entries(&cpuid::entries(self.setup.contract, id, self.setup.vcpus))
            .map_err(|_| HvError::State("CPUID has too many leaves for KVM".into()))?;
        fd.set_cpuid2(&cpuid).map_err(failed("setting CPUID"))?;
        if self.setup.scales_tsc {
            fd.set_tsc_khz((TSC_HZ / 1000) as u32).map_err(failed("setting the TSC's frequency"))?;
        }
        self.shared.slots.add_vcpu(&fd)?;
        let vcpu = KvmVcpu::new(id, fd, Arc::clone(&self.shared), self.setup)?;
        if id == 0 {
            self.shared.boot_processor.get_or_init(|| vcpu.door());
        }
        Ok(Box::new(vcpu))
    }

    fn signal_msi(&self, msi: Msi) {
        match Delivery::of(msi) {
            Delivery::Nobody => {}
            Delivery::ExtInt => {
                self.shared.ext_int.set_message(true);
                self.ring_boot_processor();
            }
            Delivery::Kernel { level_triggered } => {
                if level_triggered {
                    self.shared.watch_end_of(msi);
                }
                let _sending = self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner);
                // A processor that takes no interrupts is no error, and there is no other that a message can make.
                let _ = self.shared.fd.signal_msi(kernel_message(msi));
            }
        }
    }

    fn log_writes(&self, on: bool) -> Result<(), HvError> {
        self.shared.slots.log_writes(&self.shared.fd, on)
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        self.shared.slots.take_dirty(&self.shared.fd)
    }

    fn set_ext_int(&self, level: bool) {
        let was = self.shared.ext_int.level.swap(level, Ordering::SeqCst);
        if level && !was {
            self.ring_boot_processor();
        }
    }
}
