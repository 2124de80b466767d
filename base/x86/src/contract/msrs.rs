//! MSRs that a contract fixes (SDM vol. 4, chapter 2).
//!
//! Everything that is neither here nor state of the engine is #GP, as on hardware. What Linux and
//! Windows read on this model without expecting a fault is listed, so that they find no
//! "unchecked MSR access".

use super::{Contract, Feature, TSC_HZ};
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
pub const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12;

/// MSRs without a name in [`msr`]: nothing but this table speaks of them.
mod unnamed {
    pub const P5_MC_ADDR: u32 = 0x0;
    pub const P5_MC_TYPE: u32 = 0x1;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const SMI_COUNT: u32 = 0x34;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const PERF_STATUS: u32 = 0x198;
    pub const PERF_CTL: u32 = 0x199;
    pub const CLOCK_MODULATION: u32 = 0x19a;
    pub const THERM_INTERRUPT: u32 = 0x19b;
    pub const THERM_STATUS: u32 = 0x19c;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const POWER_CTL: u32 = 0x1fc;
    pub const UNCORE_RATIO_LIMIT: u32 = 0x620;
}
use unnamed::*;

/// MSRs that a guest may read without asking CPUID first and that say nothing here.
const ZERO: [u32; 12] = [
    P5_MC_ADDR,
    P5_MC_TYPE,
    EBL_CR_POWERON,
    msr::MCG_STATUS,
    SMI_COUNT,
    PERF_CTL,
    CLOCK_MODULATION,
    THERM_INTERRUPT,
    THERM_STATUS,
    DEBUGCTL,
    POWER_CTL,
    UNCORE_RATIO_LIMIT,
];

/// What WRMSR does to an MSR that a contract fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// Nothing changes.
    Ignored,
    /// #GP(0).
    Fault,
    /// Not this table's: the engine has the state, or there is no such MSR.
    Unknown,
}

impl Contract {
    /// The value of an MSR that never changes; `None` for those that hold state or do not exist.
    pub fn msr_fixed(&self, msr: u32) -> Option<u64> {
        match msr {
            msr::ARCH_CAPABILITIES => Some(ARCH_CAPABILITIES),
            msr::MTRRCAP => Some(MTRRCAP),
            msr::MCG_CAP => Some(MCG_CAP),
            msr::PLATFORM_ID => Some(0),
            msr::BIOS_SIGN_ID => Some(MICROCODE),
            msr::FEATURE_CONTROL => Some(FEATURE_CONTROL_LOCKED),
            PLATFORM_INFO => Some(PLATFORM_RATIOS),
            PERF_STATUS => Some(RATIO << 8),
            _ => ZERO.contains(&msr).then_some(0),
        }
    }

    /// What WRMSR does to an MSR of [`Contract::msr_fixed`], and to those that only take commands.
    pub fn msr_write(&self, msr: u32, value: u64) -> MsrWrite {
        match msr {
            // IBPB: bit 0, the rest is reserved.
            msr::PRED_CMD if value & !1 == 0 => MsrWrite::Ignored,
            msr::PRED_CMD => MsrWrite::Fault,
            // Microcode updates are for the host; zero is written before reading the revision.
            msr::BIOS_UPDT_TRIG | msr::BIOS_SIGN_ID => MsrWrite::Ignored,
            _ if ZERO.contains(&msr) => MsrWrite::Ignored,
            _ if self.msr_fixed(msr).is_some() => MsrWrite::Fault,
            _ => MsrWrite::Unknown,
        }
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
