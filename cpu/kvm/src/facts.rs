//! What a host's KVM can do, and what a CPU contract needs beyond that.

use kvm_bindings::{
    KVM_CAP_DEBUGREGS, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IRQ_ROUTING, KVM_CAP_SIGNAL_MSI, KVM_CAP_SPLIT_IRQCHIP,
    KVM_CAP_TSC_CONTROL, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_VCPU_EVENTS, KVM_CAP_X86_APIC_BUS_CYCLES_NS,
    KVM_CAP_X86_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_XCRS, KVM_CAP_XSAVE, KVM_MAX_CPUID_ENTRIES,
    kvm_cpuid_entry2, kvm_msr_entry,
};
use kvm_ioctls::Kvm;
use motu_x86::contract::{Contract, CpuidResult, Feature, Provider, TSC_HZ};
use motu_x86::msr;

/// An extension of KVM's API.
#[derive(Debug, PartialEq, Eq)]
pub struct Extension {
    /// As linux/kvm.h has it, without `KVM_CAP_`.
    pub name: &'static str,
    number: u32,
    /// The kernel that brought it.
    pub since: &'static str,
    pub purpose: &'static str,
    /// Without it there is no kvm engine; without any other one, some contracts cannot be kept.
    pub required: bool,
}

impl Extension {
    pub(crate) fn is_in(&self, kvm: &Kvm) -> bool {
        kvm.check_extension_raw(self.number.into()) > 0
    }
}

const fn required(name: &'static str, number: u32, since: &'static str, purpose: &'static str) -> Extension {
    Extension { name, number, since, purpose, required: true }
}

const fn wanted(name: &'static str, number: u32, since: &'static str, purpose: &'static str) -> Extension {
    Extension { name, number, since, purpose, required: false }
}

const SCALING: Extension =
    wanted("TSC_CONTROL", KVM_CAP_TSC_CONTROL, "2.6.39", "the contract's TSC frequency (a CPU with TSC scaling)");
const DEADLINE: Extension =
    wanted("TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER, "3.2", "the APIC timer's deadline");
const BUS_CYCLES: Extension =
    wanted("X86_APIC_BUS_CYCLES_NS", KVM_CAP_X86_APIC_BUS_CYCLES_NS, "6.11", "the contract's APIC timer frequency");

/// What motu uses of KVM, with the kernel that brought it.
pub const EXTENSIONS: &[Extension] = &[
    required("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, "4.5", "a local APIC in the kernel, the rest on motu's board"),
    required("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT, "4.13", "stopping a CPU without losing the request"),
    required("SIGNAL_MSI", KVM_CAP_SIGNAL_MSI, "3.6", "interrupts"),
    required("IRQ_ROUTING", KVM_CAP_IRQ_ROUTING, "2.6.30", "level-triggered interrupts"),
    required("XSAVE", KVM_CAP_XSAVE, "2.6.36", "saving vector registers"),
    required("XCRS", KVM_CAP_XCRS, "2.6.36", "saving XCR0"),
    required("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, "2.6.33", "saving pending events"),
    required("DEBUGREGS", KVM_CAP_DEBUGREGS, "2.6.35", "saving debug registers"),
    required("X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR, "5.10", "the contract's MSRs"),
    required("X86_MSR_FILTER", KVM_CAP_X86_MSR_FILTER, "5.10", "the contract's MSRs"),
    DEADLINE,
    SCALING,
    BUS_CYCLES,
];

/// Relative error of the TSC's frequency that KVM takes for none (its parameter `tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

/// What a contract asks of a host, as one host has it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// KVM_GET_SUPPORTED_CPUID (API, 4.46).
    pub cpuid: Vec<kvm_cpuid_entry2>,
    pub tsc_scaling: bool,
    /// Of the host's TSC; zero where KVM does not know.
    pub tsc_khz: u32,
    pub tsc_deadline: bool,
    /// The APIC timer's frequency can be chosen.
    pub apic_bus_cycles: bool,
    /// IA32_ARCH_CAPABILITIES as KVM would have it by itself.
    pub arch_capabilities: u64,
}

impl Facts {
    /// Of this host; `tsc_khz` is asked of a vCPU.
    pub fn of(kvm: &Kvm, tsc_khz: u32) -> Result<Self, kvm_ioctls::Error> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?.as_slice().to_vec();
        let entry = kvm_msr_entry { index: msr::ARCH_CAPABILITIES, ..Default::default() };
        let arch_capabilities = kvm_bindings::Msrs::from_entries(&[entry]).ok().and_then(|mut entries| {
            let read = kvm.get_msrs(&mut entries).ok()?;
            entries.as_slice().first().filter(|_| read == 1).map(|entry| entry.data)
        });
        Ok(Self {
            cpuid,
            tsc_scaling: SCALING.is_in(kvm),
            tsc_khz,
            tsc_deadline: DEADLINE.is_in(kvm),
            apic_bus_cycles: BUS_CYCLES.is_in(kvm),
            arch_capabilities: arch_capabilities.unwrap_or(0),
        })
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let found = self.cpuid.iter().find(|entry| entry.function == leaf && entry.index == subleaf);
        found.map_or(CpuidResult::default(), |e| CpuidResult { eax: e.eax, ebx: e.ebx, ecx: e.ecx, edx: e.edx })
    }

    pub fn has(&self, feature: Feature) -> bool {
        feature.is_in(|leaf, subleaf| self.cpuid(leaf, subleaf))
    }

    /// Components that the kernel saves and restores.
    pub fn xcr0(&self) -> u64 {
        let told = self.cpuid(0xd, 0);
        u64::from(told.edx) << 32 | u64::from(told.eax)
    }

    /// Whether the kernel keeps IA32_SPEC_CTRL as the contracts have it; else motu does.
    pub fn keeps_spec_ctrl(&self) -> bool {
        self.has(Feature::SpecCtrl) && self.has(Feature::BhiCtrl)
    }

    /// What `contract` has that this host's KVM cannot give a guest, in words; empty if it can be kept.
    pub fn differences(&self, contract: &Contract) -> Vec<String> {
        let mut differences: Vec<String> =
            Feature::ALL.iter().filter(|f| contract.has(**f) && !self.gives(**f)).map(|f| format!("{f:?}")).collect();
        let components = contract.xcr0_mask() & !self.xcr0();
        if components != 0 {
            differences.push(format!("XSAVE components {components:#x}"));
        }
        let bits = self.cpuid(0x8000_0008, 0).eax & 0xff;
        if bits < contract.physical_address_bits() {
            differences.push(format!("{} physical address bits (it has {bits})", contract.physical_address_bits()));
        }
        if !self.tsc_scaling && !self.tsc_matches() {
            let (asked, found) = (TSC_HZ / 1_000_000, self.tsc_khz / 1000);
            differences.push(format!("a TSC of {asked} MHz (it has {found} MHz and no TSC scaling)"));
        }
        if !self.apic_bus_cycles {
            differences.push("an APIC timer of 25 MHz (Linux 6.11)".to_owned());
        }
        differences
    }

    fn tsc_matches(&self) -> bool {
        let (asked, found) = (TSC_HZ / 1000, u64::from(self.tsc_khz));
        asked.abs_diff(found) * 1_000_000 <= asked * TSC_TOLERANCE_PPM
    }

    /// Whether a guest can have the feature here.
    fn gives(&self, feature: Feature) -> bool {
        match feature {
            // MSRs that motu keeps itself where the kernel does not.
            Feature::SpecCtrl | Feature::BhiCtrl | Feature::ArchCapabilities => true,
            // Emulated, and told of by its own extension (API, 4.46).
            Feature::TscDeadline => self.tsc_deadline,
            Feature::Hypervisor => true,
            _ if feature.provider() == Provider::Hint => true,
            _ => self.has(feature),
        }
    }

    /// Weaknesses that `contract` denies and this host does not: bits of IA32_ARCH_CAPABILITIES.
    pub fn exposed(&self, contract: &Contract) -> u64 {
        contract.fixed_msr(msr::ARCH_CAPABILITIES).map_or(0, |fixed| fixed.value & !self.arch_capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> &'static Contract {
        Contract::by_name("v2-2026").unwrap()
    }

    /// A host whose KVM supports everything that CPUID can tell.
    fn generous() -> Facts {
        let entry = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let mut cpuid: Vec<_> = [1, 0x8000_0001, 0x8000_0007, 0x8000_0008].map(|leaf| entry(leaf, 0)).into();
        cpuid.extend([(0, 0), (7, 0), (7, 1), (7, 2), (0xd, 0), (0xd, 1), (0x8000_0000, 0)].map(|(l, s)| entry(l, s)));
        Facts {
            cpuid,
            tsc_scaling: true,
            tsc_khz: 2_000_000,
            tsc_deadline: true,
            apic_bus_cycles: true,
            arch_capabilities: u64::MAX,
        }
    }

    #[test]
    fn a_host_that_can_do_all_keeps_every_contract() {
        for contract in Contract::ALL {
            assert_eq!(generous().differences(contract), [""; 0], "{}", contract.name());
            assert_eq!(generous().exposed(contract), 0);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut facts = generous();
        facts.tsc_scaling = false;
        facts.apic_bus_cycles = false;
        facts.tsc_deadline = false;
        for entry in &mut facts.cpuid {
            match (entry.function, entry.index) {
                // SSE4.2 and BHI_CTRL; the second one is motu's to keep.
                (1, 0) => entry.ecx &= !(1 << 20),
                (7, 2) => entry.edx = 0,
                (0xd, 0) => entry.eax = 1,
                (0x8000_0008, 0) => entry.eax = 0x3027,
                _ => {}
            }
        }
        let expected = [
            "Sse4_2",
            "TscDeadline",
            "XSAVE components 0x2",
            "40 physical address bits (it has 39)",
            "a TSC of 1000 MHz (it has 2000 MHz and no TSC scaling)",
            "an APIC timer of 25 MHz (Linux 6.11)",
        ];
        assert_eq!(facts.differences(contract()), expected);
        assert!(!facts.keeps_spec_ctrl() && generous().keeps_spec_ctrl());
    }

    #[test]
    fn a_tsc_of_the_right_rate_needs_no_scaling() {
        let facts = Facts { tsc_scaling: false, tsc_khz: 1_000_100, ..generous() };
        assert_eq!(facts.differences(contract()), [""; 0]);
    }

    #[test]
    fn what_the_host_is_open_to_is_told() {
        let facts = Facts { arch_capabilities: !1, ..generous() };
        assert_eq!(facts.exposed(contract()), 1, "RDCL_NO");
    }
}
