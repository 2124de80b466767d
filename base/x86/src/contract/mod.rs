//! CPU contracts: what CPUID, the MSRs and the TSC look like to a guest, by name.
//!
//! A contract is fixed for ever once released: a snapshot names its contract, and a host either
//! keeps all of it or refuses. Nothing of the host's own CPU shows through, so a guest sees the
//! same processor on every host and under every engine. docs/adr/0002 has the reasons.

mod cpuid;
mod feature;
mod msrs;

#[cfg(test)]
mod tests;

pub use cpuid::{CpuidInputs, CpuidResult, LEAVES, Leaf};
pub use feature::{Feature, Place, Provider, Register};
pub use msrs::{FixedMsr, FixedWrite, MISC_ENABLE_RESET};

use crate::flags::{cr4, efer, xcr0};
use feature::FeatureSet;

/// Frequency of the guest's TSC: it counts nanoseconds.
pub const TSC_HZ: u64 = 1_000_000_000;

/// Frequency of the core crystal clock (CPUID leaf 0x15).
pub const CRYSTAL_HZ: u64 = 25_000_000;

/// Frequency of the APIC timer before its divider: where CPUID leaf 0x15 tells the crystal's
/// frequency, that is what the timer counts (SDM vol. 3, 11.5.4).
pub const APIC_TIMER_HZ: u64 = CRYSTAL_HZ;

/// A named processor.
#[derive(Debug)]
pub struct Contract {
    name: &'static str,
    /// At most 47 bytes.
    brand: &'static str,
    /// Family, model and stepping as CPUID tells them.
    signature: u32,
    features: FeatureSet,
    xcr0: u64,
}

/// Family 6, model 0x1a, stepping 5: Nehalem-EP.
const NEHALEM: u32 = 0x0001_06a5;
/// Family 6, model 0x3f, stepping 2: Haswell-EP.
const HASWELL: u32 = 0x0003_06f2;

/// What every contract has: x86-64-v2 of the psABI, and the system features of a processor that
/// needs none of the mitigations for speculative execution.
const V2: FeatureSet = FeatureSet::of(&[
    Feature::Fpu,
    Feature::Vme,
    Feature::De,
    Feature::Pse,
    Feature::Tsc,
    Feature::Msr,
    Feature::Pae,
    Feature::Mce,
    Feature::Cx8,
    Feature::Apic,
    Feature::Sep,
    Feature::Mtrr,
    Feature::Pge,
    Feature::Mca,
    Feature::Cmov,
    Feature::Pat,
    Feature::Pse36,
    Feature::Clflush,
    Feature::Mmx,
    Feature::Fxsr,
    Feature::Sse,
    Feature::Sse2,
    Feature::SelfSnoop,
    Feature::Sse3,
    Feature::Ssse3,
    Feature::Cx16,
    Feature::Sse4_1,
    Feature::Sse4_2,
    Feature::X2apic,
    Feature::Popcnt,
    Feature::TscDeadline,
    Feature::Xsave,
    Feature::Rdrand,
    Feature::Hypervisor,
    Feature::Fsgsbase,
    Feature::TscAdjust,
    Feature::FdpExceptionOnly,
    Feature::Smep,
    Feature::Erms,
    Feature::FcsFdsDeprecated,
    Feature::Fsrm,
    Feature::SpecCtrl,
    Feature::ArchCapabilities,
    Feature::BhiCtrl,
    Feature::Lahf64,
    Feature::Prefetchw,
    Feature::Syscall,
    Feature::Nx,
    Feature::Pdpe1gb,
    Feature::Rdtscp,
    Feature::LongMode,
    Feature::InvariantTsc,
]);

/// x86-64-v3 of the psABI, and the AES instructions that every such processor has.
const V3: FeatureSet = V2.union(FeatureSet::of(&[
    Feature::Pclmul,
    Feature::Fma,
    Feature::Movbe,
    Feature::Aes,
    Feature::Avx,
    Feature::F16c,
    Feature::Bmi1,
    Feature::Avx2,
    Feature::Bmi2,
    Feature::Lzcnt,
]));

/// All that the software engine can do: for guests that are to meet it, among them tests of the engine.
const MAX: FeatureSet = V3.union(FeatureSet::of(&[
    Feature::Pcid,
    Feature::Invpcid,
    Feature::Rdseed,
    Feature::Adx,
    Feature::Smap,
    Feature::Clflushopt,
    Feature::Clwb,
    Feature::Sha,
    Feature::Umip,
    Feature::Pku,
    Feature::Rdpid,
    Feature::Xsaveopt,
    Feature::Xsavec,
    Feature::XgetbvInUse,
    Feature::Xsaves,
]));

static ALL: [Contract; 3] = [
    Contract {
        name: "v3-2026",
        brand: "motu v3-2026 virtual CPU",
        signature: HASWELL,
        features: V3,
        xcr0: xcr0::X87 | xcr0::SSE | xcr0::AVX,
    },
    Contract {
        name: "v2-2026",
        brand: "motu v2-2026 virtual CPU",
        signature: NEHALEM,
        features: V2,
        xcr0: xcr0::X87 | xcr0::SSE,
    },
    Contract {
        name: "max-2026",
        brand: "motu max-2026 virtual CPU",
        signature: HASWELL,
        features: MAX,
        xcr0: xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::PKRU,
    },
];

impl Contract {
    /// Every contract, in the order of preference: the first that a host can keep is the default. What is
    /// for those who ask for it comes last.
    pub const ALL: &'static [Contract] = &ALL;

    pub fn by_name(name: &str) -> Option<&'static Contract> {
        Self::ALL.iter().find(|contract| contract.name == name)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a guest sees the feature. An instruction of a feature it does not see is #UD.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(feature)
    }

    /// What CPUID writes for EAX = `leaf` and ECX = `subleaf`.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, at: &CpuidInputs) -> CpuidResult {
        cpuid::cpuid(self, leaf, subleaf, at)
    }

    /// What the host's CPU lacks of the instructions that the software engine runs natively.
    /// `host` is the host's CPUID by leaf and sub-leaf; `host_xcr0` is what XGETBV(0) returns
    /// there, or 0 where CR4.OSXSAVE is off.
    pub fn missing_on(&self, host: impl Fn(u32, u32) -> CpuidResult, host_xcr0: u64) -> Vec<Feature> {
        let ymm = xcr0::SSE | xcr0::AVX;
        let usable = |feature| match feature {
            Feature::Avx | Feature::Avx2 | Feature::Fma | Feature::F16c => host_xcr0 & ymm == ymm,
            _ => true,
        };
        let native = self.features.iter().filter(|feature| feature.provider() == Provider::Host);
        native.filter(|&feature| !(usable(feature) && feature.is_in(&host))).collect()
    }

    /// Bits of XCR0 that XSETBV accepts; x87 must be one.
    pub fn xcr0_mask(&self) -> u64 {
        self.xcr0
    }

    /// Bits of CR4 that may be one; any other is #GP.
    pub fn cr4_allowed(&self) -> u64 {
        let base =
            cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::MCE | cr4::PGE | cr4::PCE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        let optional = [
            (Feature::Vme, cr4::VME | cr4::PVI),
            (Feature::Umip, cr4::UMIP),
            (Feature::La57, cr4::LA57),
            (Feature::Fsgsbase, cr4::FSGSBASE),
            (Feature::Pcid, cr4::PCIDE),
            (Feature::Xsave, cr4::OSXSAVE),
            (Feature::Smep, cr4::SMEP),
            (Feature::Smap, cr4::SMAP),
            (Feature::Pku, cr4::PKE),
        ];
        optional.iter().filter(|(feature, _)| self.has(*feature)).fold(base, |bits, (_, bit)| bits | bit)
    }

    /// Bits of IA32_EFER that may be one; any other is #GP. LMA follows LME and CR0.PG.
    pub fn efer_allowed(&self) -> u64 {
        efer::SCE | efer::LME | efer::LMA | efer::NXE
    }

    /// MAXPHYADDR. 1 TiB of guest-physical space is what every server host of either vendor can map.
    pub fn physical_address_bits(&self) -> u32 {
        40
    }

    /// Width of a canonical address.
    pub fn linear_address_bits(&self) -> u32 {
        48
    }
}
