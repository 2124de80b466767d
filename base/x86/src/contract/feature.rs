//! CPUID feature flags: where each is told, and who must be able to do it.

use super::cpuid::CpuidResult;

/// The output register of CPUID that holds a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Who carries a feature out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Instructions that the software engine runs as the host's own: the host's CPU must have them.
    Host,
    /// Something that the software engine does itself; only hardware virtualization needs it of the host.
    Engine,
    /// A promise about speed or about an absence, which needs nothing of the host.
    Hint,
}

/// Where CPUID tells a flag, and who carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub leaf: u32,
    pub subleaf: u32,
    pub register: Register,
    pub bit: u32,
    pub provider: Provider,
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident: $leaf:literal $(/ $subleaf:literal)? $register:ident $bit:literal $provider:ident,)*) => {
        /// A flag of CPUID (SDM vol. 2, CPUID).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Feature { $($(#[$doc])* $name,)* }

        impl Feature {
            /// Every feature that a contract can speak of, in the order of leaf and bit.
            pub const ALL: &'static [Feature] = &[$(Feature::$name,)*];

            /// Where CPUID tells the feature.
            pub const fn place(self) -> Place {
                match self {
                    $(Feature::$name => Place {
                        leaf: $leaf,
                        subleaf: 0 $(+ $subleaf)?,
                        register: Register::$register,
                        bit: $bit,
                        provider: Provider::$provider,
                    },)*
                }
            }
        }
    };
}

features! {
    Fpu: 0x1 Edx 0 Host,
    /// Virtual-8086 mode extensions: CR4.VME and CR4.PVI.
    Vme: 0x1 Edx 1 Engine,
    /// Debugging extensions: CR4.DE.
    De: 0x1 Edx 2 Engine,
    /// 4 MiB pages in 32-bit paging.
    Pse: 0x1 Edx 3 Engine,
    Tsc: 0x1 Edx 4 Engine,
    /// RDMSR and WRMSR.
    Msr: 0x1 Edx 5 Engine,
    Pae: 0x1 Edx 6 Engine,
    /// Machine-check exception.
    Mce: 0x1 Edx 7 Engine,
    /// CMPXCHG8B.
    Cx8: 0x1 Edx 8 Host,
    Apic: 0x1 Edx 9 Engine,
    /// SYSENTER and SYSEXIT.
    Sep: 0x1 Edx 11 Engine,
    Mtrr: 0x1 Edx 12 Engine,
    /// Global pages.
    Pge: 0x1 Edx 13 Engine,
    /// Machine-check architecture.
    Mca: 0x1 Edx 14 Engine,
    Cmov: 0x1 Edx 15 Host,
    Pat: 0x1 Edx 16 Engine,
    Pse36: 0x1 Edx 17 Engine,
    Clflush: 0x1 Edx 19 Engine,
    Mmx: 0x1 Edx 23 Host,
    Fxsr: 0x1 Edx 24 Engine,
    Sse: 0x1 Edx 25 Host,
    Sse2: 0x1 Edx 26 Host,
    /// Self-snoop: changing a memory type needs no cache flush.
    SelfSnoop: 0x1 Edx 27 Hint,
    Sse3: 0x1 Ecx 0 Host,
    Pclmul: 0x1 Ecx 1 Host,
    /// MONITOR and MWAIT.
    Monitor: 0x1 Ecx 3 Engine,
    Vmx: 0x1 Ecx 5 Engine,
    Ssse3: 0x1 Ecx 9 Host,
    Fma: 0x1 Ecx 12 Host,
    /// CMPXCHG16B.
    Cx16: 0x1 Ecx 13 Host,
    /// Process-context identifiers: CR4.PCIDE.
    Pcid: 0x1 Ecx 17 Engine,
    Sse4_1: 0x1 Ecx 19 Host,
    Sse4_2: 0x1 Ecx 20 Host,
    X2apic: 0x1 Ecx 21 Engine,
    Movbe: 0x1 Ecx 22 Host,
    Popcnt: 0x1 Ecx 23 Host,
    TscDeadline: 0x1 Ecx 24 Engine,
    Aes: 0x1 Ecx 25 Host,
    /// XSAVE, XRSTOR, XGETBV and XSETBV.
    Xsave: 0x1 Ecx 26 Engine,
    Avx: 0x1 Ecx 28 Host,
    F16c: 0x1 Ecx 29 Host,
    Rdrand: 0x1 Ecx 30 Engine,
    /// A hypervisor is present.
    Hypervisor: 0x1 Ecx 31 Hint,
    Fsgsbase: 0x7 Ebx 0 Engine,
    /// The IA32_TSC_ADJUST MSR.
    TscAdjust: 0x7 Ebx 1 Engine,
    Bmi1: 0x7 Ebx 3 Host,
    Hle: 0x7 Ebx 4 Engine,
    Avx2: 0x7 Ebx 5 Host,
    /// The x87 data pointer is written only when an unmasked exception is pending.
    FdpExceptionOnly: 0x7 Ebx 6 Hint,
    Smep: 0x7 Ebx 7 Engine,
    Bmi2: 0x7 Ebx 8 Host,
    /// REP MOVSB and REP STOSB are fast.
    Erms: 0x7 Ebx 9 Hint,
    Invpcid: 0x7 Ebx 10 Engine,
    Rtm: 0x7 Ebx 11 Engine,
    /// The x87 code and data selectors are saved as zero.
    FcsFdsDeprecated: 0x7 Ebx 13 Hint,
    Mpx: 0x7 Ebx 14 Engine,
    Avx512f: 0x7 Ebx 16 Host,
    Rdseed: 0x7 Ebx 18 Engine,
    Adx: 0x7 Ebx 19 Host,
    /// Supervisor-mode access prevention: CR4.SMAP, CLAC and STAC.
    Smap: 0x7 Ebx 20 Engine,
    Clflushopt: 0x7 Ebx 23 Engine,
    Clwb: 0x7 Ebx 24 Engine,
    Sha: 0x7 Ebx 29 Host,
    /// User-mode instruction prevention: CR4.UMIP.
    Umip: 0x7 Ecx 2 Engine,
    /// Protection keys for user pages: CR4.PKE, RDPKRU and WRPKRU.
    Pku: 0x7 Ecx 3 Engine,
    Gfni: 0x7 Ecx 8 Host,
    Vaes: 0x7 Ecx 9 Host,
    Vpclmulqdq: 0x7 Ecx 10 Host,
    La57: 0x7 Ecx 16 Engine,
    Rdpid: 0x7 Ecx 22 Engine,
    /// REP MOVSB is fast for short copies too.
    Fsrm: 0x7 Edx 4 Hint,
    /// IA32_SPEC_CTRL with IBRS, and IA32_PRED_CMD with IBPB.
    SpecCtrl: 0x7 Edx 26 Engine,
    /// STIBP in IA32_SPEC_CTRL.
    Stibp: 0x7 Edx 27 Engine,
    ArchCapabilities: 0x7 Edx 29 Engine,
    /// SSBD in IA32_SPEC_CTRL.
    Ssbd: 0x7 Edx 31 Engine,
    /// BHI_DIS_S in IA32_SPEC_CTRL: branch history does not reach the supervisor.
    BhiCtrl: 0x7 / 2 Edx 4 Engine,
    Xsaveopt: 0xd / 1 Eax 0 Engine,
    /// XSAVEC and the compacted form of XRSTOR.
    Xsavec: 0xd / 1 Eax 1 Engine,
    /// XGETBV with ECX = 1.
    XgetbvInUse: 0xd / 1 Eax 2 Engine,
    /// XSAVES, XRSTORS and IA32_XSS.
    Xsaves: 0xd / 1 Eax 3 Engine,
    /// LAHF and SAHF in 64-bit mode.
    Lahf64: 0x8000_0001 Ecx 0 Host,
    Lzcnt: 0x8000_0001 Ecx 5 Host,
    Prefetchw: 0x8000_0001 Ecx 8 Hint,
    Syscall: 0x8000_0001 Edx 11 Engine,
    Nx: 0x8000_0001 Edx 20 Engine,
    /// 1 GiB pages.
    Pdpe1gb: 0x8000_0001 Edx 26 Engine,
    Rdtscp: 0x8000_0001 Edx 27 Engine,
    /// Intel 64: long mode.
    LongMode: 0x8000_0001 Edx 29 Engine,
    InvariantTsc: 0x8000_0007 Edx 8 Engine,
}

impl Feature {
    pub const fn provider(self) -> Provider {
        self.place().provider
    }

    /// Reads the flag from a processor's CPUID.
    pub fn is_in(self, cpuid: impl Fn(u32, u32) -> CpuidResult) -> bool {
        let place = self.place();
        if place.leaf > cpuid(place.leaf & 0x8000_0000, 0).eax {
            return false;
        }
        // Of leaf 7 sub-leaf 0 tells the highest; leaf 0xd has sub-leaf 1 always.
        if place.leaf == 7 && place.subleaf > cpuid(place.leaf, 0).eax {
            return false;
        }
        let result = cpuid(place.leaf, place.subleaf);
        let word = match place.register {
            Register::Eax => result.eax,
            Register::Ebx => result.ebx,
            Register::Ecx => result.ecx,
            Register::Edx => result.edx,
        };
        word >> place.bit & 1 == 1
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FeatureSet(u128);

impl FeatureSet {
    pub(super) const fn of(features: &[Feature]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < features.len() {
            bits |= 1 << features[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    pub(super) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn contains(self, feature: Feature) -> bool {
        self.0 >> feature as u8 & 1 == 1
    }

    /// The highest sub-leaf of `leaf` that holds a flag of this set.
    pub(super) fn last_subleaf(self, leaf: u32) -> u32 {
        let places = self.iter().map(Feature::place).filter(|place| place.leaf == leaf);
        places.map(|place| place.subleaf).max().unwrap_or(0)
    }

    /// A sub-leaf of `leaf` with the flags of this set and nothing else.
    pub(super) fn flags(self, leaf: u32, subleaf: u32) -> CpuidResult {
        let mut result = CpuidResult::default();
        let told_here = |place: &Place| place.leaf == leaf && place.subleaf == subleaf;
        for place in self.iter().map(Feature::place).filter(told_here) {
            let word = match place.register {
                Register::Eax => &mut result.eax,
                Register::Ebx => &mut result.ebx,
                Register::Ecx => &mut result.ecx,
                Register::Edx => &mut result.edx,
            };
            *word |= 1 << place.bit;
        }
        result
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |feature| self.contains(*feature))
    }
}
