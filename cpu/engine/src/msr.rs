//! RDMSR and WRMSR (Intel SDM vol. 4).

use crate::cpu::{Cpu, Faulting, seg};
use crate::mmu::is_canonical;
use motu_x86::contract::MsrWrite;
use motu_x86::flags::{cr0, efer};
use motu_x86::msr;

/// Memory types that MTRRs and PAT know: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB; PAT also 7 UC-.
const fn is_memory_type(kind: u8, pat: bool) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6) || (pat && kind == 7)
}

/// Bits of IA32_MISC_ENABLE that software may change: fast strings, limit CPUID, XD disable are fixed.
const MISC_ENABLE_WRITABLE: u64 = 1 << 0 | 1 << 16 | 1 << 18 | 1 << 22;

impl Cpu {
    pub fn read_msr(&mut self, number: u32) -> Faulting<u64> {
        if let Some(value) = self.contract.msr_fixed(number) {
            return Ok(value);
        }
        let m = &self.msrs;
        Ok(match number {
            msr::TSC => self.tsc(),
            msr::TSC_ADJUST => m.tsc_adjust,
            msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                return self.read_apic_msr(number);
            }
            msr::SPEC_CTRL => m.spec_ctrl,
            msr::SYSENTER_CS => m.sysenter_cs,
            msr::SYSENTER_ESP => m.sysenter_esp,
            msr::SYSENTER_EIP => m.sysenter_eip,
            msr::MCG_STATUS => 0,
            msr::MISC_ENABLE => m.misc_enable,
            msr::PAT => m.pat,
            msr::MTRR_DEF_TYPE => m.mtrr_def_type,
            msr::EFER => m.efer,
            msr::STAR => m.star,
            msr::LSTAR => m.lstar,
            msr::CSTAR => m.cstar,
            msr::FMASK => m.fmask,
            msr::FS_BASE => self.segments[seg::FS].base,
            msr::GS_BASE => self.segments[seg::GS].base,
            msr::KERNEL_GS_BASE => m.kernel_gs_base,
            msr::TSC_AUX => m.tsc_aux.into(),
            _ => match self.mtrr(number) {
                Some(value) => *value,
                None => return self.general_protection(0),
            },
        })
    }

    pub fn write_msr(&mut self, number: u32, value: u64) -> Faulting<()> {
        match self.contract.msr_write(number, value) {
            MsrWrite::Ignored => return Ok(()),
            MsrWrite::Fault => return self.general_protection(0),
            MsrWrite::Unknown => {}
        }
        let canonical = is_canonical(value);
        let valid = match number {
            msr::LSTAR | msr::CSTAR | msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE => canonical,
            msr::SYSENTER_ESP | msr::SYSENTER_EIP => canonical,
            msr::TSC_AUX | msr::SYSENTER_CS | msr::FMASK => value >> 32 == 0,
            msr::SPEC_CTRL => value & !self.contract.spec_ctrl_allowed() == 0,
            msr::PAT => value.to_le_bytes().iter().all(|&kind| is_memory_type(kind, true)),
            msr::MTRR_DEF_TYPE => value & !0xcff == 0 && is_memory_type(value as u8, false),
            msr::EFER => self.efer_is_valid(value),
            _ => true,
        };
        if !valid {
            return self.general_protection(0);
        }
        match number {
            msr::TSC => {
                let before = self.tsc();
                let change = value.wrapping_sub(before);
                self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(change);
                self.tsc_offset = self.tsc_offset.wrapping_add(change);
            }
            msr::TSC_ADJUST => {
                let change = value.wrapping_sub(self.msrs.tsc_adjust);
                self.msrs.tsc_adjust = value;
                self.tsc_offset = self.tsc_offset.wrapping_add(change);
            }
            msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                return self.write_apic_msr(number, value);
            }
            msr::SPEC_CTRL => self.msrs.spec_ctrl = value,
            msr::SYSENTER_CS => self.msrs.sysenter_cs = value,
            msr::SYSENTER_ESP => self.msrs.sysenter_esp = value,
            msr::SYSENTER_EIP => self.msrs.sysenter_eip = value,
            msr::MCG_STATUS if value == 0 => {}
            msr::MISC_ENABLE => {
                let kept = self.msrs.misc_enable & !MISC_ENABLE_WRITABLE;
                self.msrs.misc_enable = kept | (value & MISC_ENABLE_WRITABLE);
            }
            msr::PAT => self.msrs.pat = value,
            msr::MTRR_DEF_TYPE => self.msrs.mtrr_def_type = value,
            msr::EFER => {
                self.msrs.efer = (value & !efer::LMA) | (self.msrs.efer & efer::LMA);
                self.mode_changed();
            }
            msr::STAR => self.msrs.star = value,
            msr::LSTAR => self.msrs.lstar = value,
            msr::CSTAR => self.msrs.cstar = value,
            msr::FMASK => self.msrs.fmask = value,
            msr::FS_BASE => self.set_segment_base(seg::FS, value),
            msr::GS_BASE => self.set_segment_base(seg::GS, value),
            msr::KERNEL_GS_BASE => self.msrs.kernel_gs_base = value,
            msr::TSC_AUX => self.msrs.tsc_aux = value as u32,
            _ => match self.mtrr(number) {
                Some(register) => *register = value,
                None => return self.general_protection(0),
            },
        }
        Ok(())
    }

    /// Reserved bits are zero, and LME does not change while paging is on.
    fn efer_is_valid(&self, value: u64) -> bool {
        let changes_lme = (value ^ self.msrs.efer) & efer::LME != 0;
        value & !self.contract.efer_allowed() == 0 && !(changes_lme && self.cr0 & cr0::PG != 0)
    }

    /// The fixed and variable MTRRs: they are kept, and memory is write-back whatever they say.
    fn mtrr(&mut self, number: u32) -> Option<&mut u64> {
        let variable = number.wrapping_sub(msr::MTRR_PHYSBASE0);
        if let Some((base, mask)) = self.msrs.mtrr_variable.get_mut((variable / 2) as usize) {
            return Some(if variable.is_multiple_of(2) { base } else { mask });
        }
        let index = match number {
            msr::MTRR_FIX64K => 0,
            msr::MTRR_FIX16K_80000 => 1,
            msr::MTRR_FIX16K_A0000 => 2,
            _ => 3 + number.checked_sub(msr::MTRR_FIX4K_C0000)? as usize,
        };
        self.msrs.mtrr_fixed.get_mut(index)
    }
}
