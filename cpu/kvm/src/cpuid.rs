//! A contract's CPUID as KVM_SET_CPUID2 takes it (API, 4.60).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use motu_x86::contract::{Contract, CpuidInputs, LEAVES, MISC_ENABLE_RESET};
use motu_x86::flags::xcr0;

/// Leaves with sub-leaves, by which the kernel tells entries apart.
const INDEXED: [u32; 4] = [4, 7, 0xb, 0xd];

/// What CPU `apic_id` of `cpus` answers. What follows its registers (OSXSAVE, OSPKE, APIC, sizes of XSAVE areas) is the
/// kernel's.
pub fn entries(contract: &Contract, apic_id: u32, cpus: u32) -> Vec<kvm_cpuid_entry2> {
    let inputs =
        CpuidInputs { apic_id, cpus, cr4: 0, misc_enable: MISC_ENABLE_RESET, xcr0: xcr0::X87, apic_enabled: true };
    let entry = |leaf: u32, subleaf: u32| {
        let told = contract.cpuid(leaf, subleaf, &inputs);
        kvm_cpuid_entry2 {
            function: leaf,
            index: subleaf,
            flags: if INDEXED.contains(&leaf) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: told.eax,
            ebx: told.ebx,
            ecx: told.ecx,
            edx: told.edx,
            ..Default::default()
        }
    };
    LEAVES.iter().map(|told| entry(told.leaf, told.subleaf)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_is_there_once() {
        let entries = entries(Contract::by_name("v3-2026").unwrap(), 0, 1);
        let mut keys: Vec<_> = entries.iter().map(|e| (e.function, e.index)).collect();
        keys.dedup();
        assert_eq!(keys.len(), entries.len());
        assert!(entries.len() <= kvm_bindings::KVM_MAX_CPUID_ENTRIES);
        let signature = entries.iter().find(|e| e.function == 1).unwrap();
        assert_eq!(signature.eax, 0x306f2);
        let several: Vec<_> = entries.iter().filter(|e| e.index != 0).collect();
        assert!(several.iter().all(|e| e.flags == KVM_CPUID_FLAG_SIGNIFCANT_INDEX), "{several:?}");
    }
}
