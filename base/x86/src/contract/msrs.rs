//! MSRs that a contract fixes (SDM vol. 4, chapter 2).
//!
//! Everything that is neither here nor state of the engine is #GP, as on hardware. What Linux and
//! Windows read on this model without expecting a fault is listed, so that they find no
//! "unchecked MSR access".

use super::{Contract, Feature, TSC_HZ};
use crate::flags::misc_enable;
use crate::msr;

/// Bits of IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2; Intel, "CPUID Enumeration and
/// Architectural MSRs").
mod arch {
    /// Not open to rogue data cache load (Meltdown).
    pub const RDCL_NO: u64 = 1 << 0;
    /// Enhanced IBRS.
    pub const IBRS_ALL: u64 = 1 << 1;
    pub const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub const SSB_NO: u64 = 1 << 4;
    pub const MDS_NO: u64 = 1 << 5;
    pub const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    pub const TAA_NO: u64 = 1 << 8;
    pub const SBDR_SSDP_NO: u64 = 1 << 13;
    pub const FBSDP_NO: u64 = 1 << 14;
    pub const PSDP_NO: u64 = 1 << 15;
    pub const BHI_NO: u64 = 1 << 20;
    pub const PBRSB_NO: u64 = 1 << 24;
    pub const GDS_NO: u64 = 1 << 26;
    pub const RFDS_NO: u64 = 1 << 27;
    pub const ITS_NO: u64 = 1 << 62;
}

const ARCH_CAPABILITIES: u64 = arch::RDCL_NO
    | arch::IBRS_ALL
    | arch::SKIP_L1DFL_VMENTRY
    | arch::SSB_NO
    | arch::MDS_NO
    | arch::IF_PSCHANGE_MC_NO
    | arch::TAA_NO
    | arch::SBDR_SSDP_NO
    | arch::FBSDP_NO
    | arch::PSDP_NO
    | arch::BHI_NO
    | arch::PBRSB_NO
    | arch::GDS_NO
    | arch::RFDS_NO
    | arch::ITS_NO;

/// Eight variable ranges, the fixed ranges, write-combining (SDM vol. 3, 12.11.1).
const MTRRCAP: u64 = 8 | 1 << 8 | 1 << 10;

/// No error-reporting banks: nothing here can break.
const MCG_CAP: u64 = 0;

/// The revision other clouds show a guest: newer than any that a kernel distrusts.
const MICROCODE: u64 = 0xffff_ffff << 32;

/// Locked, with VMX and SMX off (SDM vol. 4, table 2-2).
const FEATURE_CONTROL_LOCKED: u64 = 1;

/// Multiples of 100 MHz.
const RATIO: u64 = TSC_HZ / 100_000_000;
/// Maximum non-turbo ratio at bits 8 to 15, maximum efficiency ratio at 40 to 47.
const PLATFORM_RATIOS: u64 = RATIO << 8 | RATIO << 40;

/// IA32_MISC_ENABLE at reset: fast strings, and neither BTS nor PEBS. Every other bit reads zero.
pub const MISC_ENABLE_RESET: u64 =
    misc_enable::FAST_STRINGS | misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;

/// An MSR that reads the same for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedMsr {
    pub number: u32,
    /// As the SDM calls it.
    pub name: &'static str,
    pub value: u64,
    pub write: FixedWrite,
}

/// What WRMSR does to a [`FixedMsr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedWrite {
    /// Nothing changes.
    Ignored,
    /// #GP(0).
    Fault,
}

const fn read_only(number: u32, name: &'static str, value: u64) -> FixedMsr {
    FixedMsr { number, name, value, write: FixedWrite::Fault }
}

/// Takes writes and forgets them.
const fn idle(number: u32, name: &'static str, value: u64) -> FixedMsr {
    FixedMsr { number, name, value, write: FixedWrite::Ignored }
}

/// In the order of numbers. Those that read zero are what a guest may read without asking CPUID first.
const FIXED: &[FixedMsr] = &[
    idle(0x00, "IA32_P5_MC_ADDR", 0),
    idle(0x01, "IA32_P5_MC_TYPE", 0),
    read_only(msr::PLATFORM_ID, "IA32_PLATFORM_ID", 0),
    idle(0x2a, "MSR_EBL_CR_POWERON", 0),
    read_only(0x34, "MSR_SMI_COUNT", 0),
    read_only(msr::FEATURE_CONTROL, "IA32_FEATURE_CONTROL", FEATURE_CONTROL_LOCKED),
    // Zero is written before the revision is read.
    idle(msr::BIOS_SIGN_ID, "IA32_BIOS_SIGN_ID", MICROCODE),
    read_only(0xce, "MSR_PLATFORM_INFO", PLATFORM_RATIOS),
    read_only(msr::MTRRCAP, "IA32_MTRRCAP", MTRRCAP),
    read_only(msr::ARCH_CAPABILITIES, "IA32_ARCH_CAPABILITIES", ARCH_CAPABILITIES),
    read_only(msr::MCG_CAP, "IA32_MCG_CAP", MCG_CAP),
    read_only(0x198, "IA32_PERF_STATUS", RATIO << 8),
    idle(0x199, "IA32_PERF_CTL", 0),
    idle(0x19a, "IA32_CLOCK_MODULATION", 0),
    idle(0x19b, "IA32_THERM_INTERRUPT", 0),
    idle(0x19c, "IA32_THERM_STATUS", 0),
    idle(0x1fc, "MSR_POWER_CTL", 0),
    idle(0x620, "MSR_UNCORE_RATIO_LIMIT", 0),
];

impl Contract {
    /// Every MSR that no guest can change.
    pub const FIXED_MSRS: &'static [FixedMsr] = FIXED;

    /// The MSR `number`, if it is one that never changes; `None` for those that hold state or do not exist.
    pub fn fixed_msr(&self, number: u32) -> Option<&'static FixedMsr> {
        FIXED.binary_search_by_key(&number, |fixed| fixed.number).ok().and_then(|index| FIXED.get(index))
    }

    /// Bits of IA32_SPEC_CTRL that may be one: IBRS; STIBP, which is accepted and without effect
    /// where CPUID has IBRS but not STIBP; and BHI_DIS_S.
    pub fn spec_ctrl_allowed(&self) -> u64 {
        const IBRS: u64 = 1 << 0;
        const STIBP: u64 = 1 << 1;
        const BHI_DIS_S: u64 = 1 << 10;
        let optional = [(Feature::SpecCtrl, IBRS | STIBP), (Feature::BhiCtrl, BHI_DIS_S)];
        optional.iter().filter(|(feature, _)| self.has(*feature)).map(|(_, bits)| bits).sum()
    }
}
