//! Which values WRMSR takes.

use crate::cpu::Cpu;
use crate::mmu::is_canonical;
use motu_x86::contract::Contract;
use motu_x86::flags::{cr0, debugctl, efer, misc_enable};
use std::fmt;

/// What a value has to be; any other is #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Any,
    /// A canonical address.
    Canonical,
    /// Bits 63 to 32 are zero.
    Low32,
    /// Only these bits may be one.
    Bits(u64),
    /// IA32_SPEC_CTRL: the bits that CPUID tells of.
    SpecCtrl,
    /// Eight memory types, UC- among them (SDM vol. 3, 12.12.2).
    Pat,
    /// IA32_MTRR_DEF_TYPE (SDM vol. 3, 12.11.2.1).
    MtrrDefault,
    /// Eight memory types (SDM vol. 3, 12.11.2.2).
    MtrrFixed,
    /// IA32_MTRR_PHYSBASEn and PHYSMASKn by turns (SDM vol. 3, 12.11.2.3).
    MtrrVariable {
        mask: bool,
    },
    /// No reserved bit, and LME stays while CR0.PG is set (SDM vol. 3, 2.2.1).
    Efer,
    /// The read-only bits for BTS and PEBS stay, and reserved bits are zero (SDM vol. 4, table 2-2).
    MiscEnable,
    /// No bit but LBR and BTF (SDM vol. 3, 17.4.1).
    DebugControl,
    /// The local APIC has rules of its own (SDM vol. 3, 11.12).
    Apic,
}

/// IA32_MTRR_DEF_TYPE: the type, fixed ranges enabled, MTRRs enabled.
const MTRR_DEFAULT_BITS: u64 = 0xff | 1 << 10 | 1 << 11;
/// IA32_MTRR_PHYSMASKn: the range is valid.
const MTRR_VALID: u64 = 1 << 11;

/// Memory types that MTRRs know: UC, WC, WT, WP, WB (SDM vol. 3, table 12-8).
const fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// Bits of an address from 4 KiB up to MAXPHYADDR.
fn page_bits(contract: &Contract) -> u64 {
    (1 << contract.physical_address_bits()) - 0x1000
}

impl Rule {
    pub fn allows(self, cpu: &Cpu, value: u64) -> bool {
        let only = |bits: u64| value & !bits == 0;
        match self {
            Self::Any | Self::Apic => true,
            Self::Canonical => is_canonical(value),
            Self::Low32 => value >> 32 == 0,
            Self::Bits(bits) => only(bits),
            Self::SpecCtrl => only(cpu.contract.spec_ctrl_allowed()),
            Self::Pat => value.to_le_bytes().iter().all(|&kind| is_mtrr_type(kind) || kind == 7),
            Self::MtrrDefault => only(MTRR_DEFAULT_BITS) && is_mtrr_type(value as u8),
            Self::MtrrFixed => value.to_le_bytes().iter().all(|&kind| is_mtrr_type(kind)),
            Self::MtrrVariable { mask: false } => only(page_bits(cpu.contract) | 0xff) && is_mtrr_type(value as u8),
            Self::MtrrVariable { mask: true } => only(page_bits(cpu.contract) | MTRR_VALID),
            Self::Efer => {
                let hidden = if cpu.msrs.misc_enable & misc_enable::XD_DISABLE != 0 { efer::NXE } else { 0 };
                let changes_lme = (value ^ cpu.msrs.efer) & efer::LME != 0;
                only(cpu.contract.efer_allowed() & !hidden) && !(changes_lme && cpu.cr0 & cr0::PG != 0)
            }
            Self::MiscEnable => misc_enable::written(cpu.msrs.misc_enable, value).is_some(),
            Self::DebugControl => only(debugctl::LBR | debugctl::BTF),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any value",
            Self::Canonical => "a canonical address",
            Self::Low32 => "bits 63:32 zero",
            Self::Bits(0) => "zero",
            Self::Bits(bits) => return write!(f, "bits {bits:#x} only"),
            Self::SpecCtrl => "IBRS, STIBP, BHI_DIS_S only",
            Self::Pat => "eight of the types 0, 1, 4 to 7",
            Self::MtrrDefault => "a type 0, 1, 4, 5, 6; FE and E; other bits zero",
            Self::MtrrFixed => "eight of the types 0, 1, 4, 5, 6",
            Self::MtrrVariable { mask: false } => "a type 0, 1, 4, 5, 6; bits 11:8 and above MAXPHYADDR zero",
            Self::MtrrVariable { mask: true } => "bits 10:0 and above MAXPHYADDR zero",
            Self::Efer => "SCE, LME, LMA, NXE only; LME stays while CR0.PG is set",
            Self::MiscEnable => "reserved bits zero; bits 11 and 12 stay; bits 7 and 18 are ignored",
            Self::DebugControl => "LBR and BTF only",
            Self::Apic => "as the local APIC's state allows",
        })
    }
}
