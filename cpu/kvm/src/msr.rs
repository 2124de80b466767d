//! MSRs: those that the kernel keeps, and those that motu answers for.
//!
//! The kernel lets a guest reach only what [`filter`] opens; every other access is an exit that [`OwnMsrs`] answers, so
//! that a guest finds the MSRs of its contract and no others. (Those of the x2APIC cannot be filtered; API, 4.97.)

use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};
use motu_x86::contract::{Contract, Feature, FixedWrite, MISC_ENABLE_RESET};
use motu_x86::flags::{debugctl, misc_enable};
use motu_x86::{CpuState, Msrs, msr};

/// MSRs that hold state in the kernel, and are reached by it alone.
const KERNEL: &[u32] = &[
    msr::TSC_ADJUST,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::PAT,
    msr::MTRR_DEF_TYPE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::FMASK,
    msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
];

/// As [`KERNEL`], but part of other state: segments, EFER, the local APIC, time.
const ELSEWHERE: &[u32] = &[msr::TSC, msr::APIC_BASE, msr::TSC_DEADLINE, msr::EFER, msr::FS_BASE, msr::GS_BASE];

/// Registers of the fixed MTRRs, in the order of [`Msrs::mtrr_fixed`].
fn fixed_mtrrs() -> impl Iterator<Item = u32> {
    [msr::MTRR_FIX64K, msr::MTRR_FIX16K_80000, msr::MTRR_FIX16K_A0000]
        .into_iter()
        .chain((0..8).map(|n| msr::MTRR_FIX4K_C0000 + n))
}

fn variable_mtrrs() -> impl Iterator<Item = u32> {
    (0..16).map(|n| msr::MTRR_PHYSBASE0 + n)
}

/// Every MSR of [`Msrs`] that the kernel keeps; with IA32_SPEC_CTRL if it keeps that, too.
pub fn kernel_msrs(spec_ctrl: bool) -> Vec<u32> {
    let spec_ctrl = spec_ctrl.then_some(msr::SPEC_CTRL);
    KERNEL.iter().copied().chain(fixed_mtrrs()).chain(variable_mtrrs()).chain(spec_ctrl).collect()
}

/// Reads an MSR of [`kernel_msrs`] from a state.
pub fn get(state: &Msrs, number: u32) -> u64 {
    let mut copy = state.clone();
    slot(&mut copy, number).map_or(u64::from(state.tsc_aux), |slot| *slot)
}

/// Puts it into a state.
pub fn set(state: &mut Msrs, number: u32, value: u64) {
    match slot(state, number) {
        Some(slot) => *slot = value,
        None => state.tsc_aux = value as u32,
    }
}

/// Where a state has it; none for IA32_TSC_AUX, which has 32 bits.
fn slot(state: &mut Msrs, number: u32) -> Option<&mut u64> {
    let variable = number.wrapping_sub(msr::MTRR_PHYSBASE0);
    if let Some((base, mask)) = state.mtrr_variable.get_mut((variable / 2) as usize) {
        return Some(if variable.is_multiple_of(2) { base } else { mask });
    }
    if let Some(index) = fixed_mtrrs().position(|fixed| fixed == number) {
        return state.mtrr_fixed.get_mut(index);
    }
    Some(match number {
        msr::TSC_ADJUST => &mut state.tsc_adjust,
        msr::SPEC_CTRL => &mut state.spec_ctrl,
        msr::SYSENTER_CS => &mut state.sysenter_cs,
        msr::SYSENTER_ESP => &mut state.sysenter_esp,
        msr::SYSENTER_EIP => &mut state.sysenter_eip,
        msr::PAT => &mut state.pat,
        msr::MTRR_DEF_TYPE => &mut state.mtrr_def_type,
        msr::STAR => &mut state.star,
        msr::LSTAR => &mut state.lstar,
        msr::CSTAR => &mut state.cstar,
        msr::FMASK => &mut state.fmask,
        msr::KERNEL_GS_BASE => &mut state.kernel_gs_base,
        _ => return None,
    })
}

/// Sets which MSRs a guest reaches without an exit.
///
/// # Errors
/// The kernel refuses the filter.
pub fn filter(vm: &VmFd, contract: &Contract, spec_ctrl: bool) -> Result<(), kvm_ioctls::Error> {
    let mut open = kernel_msrs(spec_ctrl);
    open.extend(ELSEWHERE);
    if spec_ctrl {
        open.push(msr::PRED_CMD);
    }
    if contract.has(Feature::Xsaves) {
        open.push(msr::XSS);
    }
    let areas = [(0, 0x300), (msr::TSC_DEADLINE, 1), (msr::XSS, 1), (msr::EFER, 0x100)];
    let bitmaps: Vec<_> = areas.iter().map(|&(base, count)| bitmap(&open, base, count)).collect();
    let ranges: Vec<_> = areas
        .iter()
        .zip(&bitmaps)
        .map(|(&(base, msr_count), bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
}

/// One bit for each of `count` MSRs from `base` on; set where it is open.
fn bitmap(open: &[u32], base: u32, count: u32) -> Vec<u8> {
    let mut bytes = vec![0; count.div_ceil(64) as usize * 8];
    for index in open.iter().filter_map(|number| number.checked_sub(base)).filter(|index| *index < count) {
        if let Some(byte) = bytes.get_mut((index / 8) as usize) {
            *byte |= 1 << (index % 8);
        }
    }
    bytes
}

/// MSRs that hold state here instead of in the kernel.
#[derive(Clone, Debug)]
pub struct OwnMsrs {
    contract: &'static Contract,
    misc_enable: u64,
    mcg_status: u64,
    debugctl: u64,
    /// If it is not the kernel's.
    spec_ctrl: Option<u64>,
}

impl OwnMsrs {
    pub fn new(contract: &'static Contract, kernel_has_spec_ctrl: bool) -> Self {
        let spec_ctrl = (!kernel_has_spec_ctrl).then_some(0);
        Self { contract, misc_enable: MISC_ENABLE_RESET, mcg_status: 0, debugctl: 0, spec_ctrl }
    }

    pub fn save(&self, state: &mut CpuState) {
        state.msrs.misc_enable = self.misc_enable;
        state.msrs.mcg_status = self.mcg_status;
        state.msrs.debugctl = self.debugctl;
        if let Some(value) = self.spec_ctrl {
            state.msrs.spec_ctrl = value;
        }
    }

    pub fn restore(&mut self, state: &CpuState) {
        self.misc_enable = state.msrs.misc_enable;
        self.mcg_status = state.msrs.mcg_status;
        self.debugctl = state.msrs.debugctl;
        if let Some(value) = &mut self.spec_ctrl {
            *value = state.msrs.spec_ctrl;
        }
    }

    /// RDMSR; none is #GP(0).
    pub fn read(&self, number: u32) -> Option<u64> {
        if let Some(fixed) = self.contract.fixed_msr(number) {
            return Some(fixed.value);
        }
        match number {
            msr::MISC_ENABLE => Some(self.misc_enable),
            msr::MCG_STATUS => Some(self.mcg_status),
            msr::DEBUGCTL => Some(self.debugctl),
            msr::SPEC_CTRL => self.spec_ctrl,
            _ => None,
        }
    }

    /// WRMSR; whether it is no #GP(0). The rules are those of SDM vol. 4, table 2-2.
    pub fn write(&mut self, number: u32, value: u64) -> bool {
        if let Some(fixed) = self.contract.fixed_msr(number) {
            return fixed.write == FixedWrite::Ignored;
        }
        let only = |bits: u64| value & !bits == 0;
        match number {
            msr::MISC_ENABLE => self.set_misc_enable(value),
            msr::MCG_STATUS if only(7) => {
                self.mcg_status = value;
                true
            }
            msr::DEBUGCTL if only(debugctl::LBR | debugctl::BTF) => {
                // There are no branch records, so recording them does not come on.
                self.debugctl = value & debugctl::BTF;
                true
            }
            msr::SPEC_CTRL if only(self.contract.spec_ctrl_allowed()) => {
                self.spec_ctrl.as_mut().map(|spec_ctrl| *spec_ctrl = value).is_some()
            }
            // Commands with nothing to do.
            msr::PRED_CMD => only(1) && self.spec_ctrl.is_some() && self.contract.has(Feature::SpecCtrl),
            msr::BIOS_UPDT_TRIG => true,
            _ => false,
        }
    }

    fn set_misc_enable(&mut self, value: u64) -> bool {
        let written = misc_enable::written(self.misc_enable, value);
        self.misc_enable = written.unwrap_or(self.misc_enable);
        written.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(kernel_has_spec_ctrl: bool) -> OwnMsrs {
        OwnMsrs::new(Contract::by_name("v3-2026").unwrap(), kernel_has_spec_ctrl)
    }

    #[test]
    fn every_kept_msr_has_a_place_of_its_own() {
        let mut state = Msrs::default();
        let numbers = kernel_msrs(true);
        for (value, number) in (1..).zip(&numbers) {
            set(&mut state, *number, value);
        }
        for (value, number) in (1..).zip(&numbers) {
            assert_eq!(get(&state, *number), value, "MSR {number:#x}");
        }
    }

    #[test]
    fn the_bitmap_opens_what_is_named_and_no_more() {
        let open = bitmap(&[0x10, 0x17, 0x2ff, 0x300], 0x10, 0x2f0);
        let opened: Vec<_> =
            (0..0x2f0).filter(|i| open[(i / 8) as usize] >> (i % 8) & 1 == 1).map(|i| i + 0x10).collect();
        assert_eq!(opened, [0x10, 0x17, 0x2ff]);
    }

    #[test]
    fn fixed_msrs_are_the_contracts() {
        let mut own = own(true);
        for fixed in Contract::FIXED_MSRS {
            assert_eq!(own.read(fixed.number), Some(fixed.value), "{}", fixed.name);
            assert_eq!(own.write(fixed.number, 0), fixed.write == FixedWrite::Ignored, "{}", fixed.name);
        }
        assert_eq!((own.read(0x4b56_4d00), own.read(0x611)), (None, None), "KVM's clock, RAPL");
        assert!(!own.write(0x4b56_4d01, 1));
    }

    #[test]
    fn reserved_bits_are_refused() {
        let mut own = own(false);
        assert!(own.write(msr::MISC_ENABLE, MISC_ENABLE_RESET | misc_enable::LIMIT_CPUID));
        assert_eq!(own.read(msr::MISC_ENABLE), Some(MISC_ENABLE_RESET | misc_enable::LIMIT_CPUID));
        assert!(!own.write(msr::MISC_ENABLE, 0), "BTS and PEBS stay unavailable");
        assert!(own.write(msr::SPEC_CTRL, 1) && !own.write(msr::SPEC_CTRL, 4));
        assert_eq!(own.read(msr::SPEC_CTRL), Some(1));
        assert!(own.write(msr::DEBUGCTL, 3) && !own.write(msr::DEBUGCTL, 4));
        assert_eq!(own.read(msr::DEBUGCTL), Some(2));
        assert!(!own.write(msr::MCG_STATUS, 8));
        assert!(own.write(msr::PRED_CMD, 1) && !own.write(msr::PRED_CMD, 2));
    }
}
