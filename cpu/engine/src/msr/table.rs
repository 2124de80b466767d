//! The MSRs that hold state, and those that only take commands.

use super::rule::Rule;
use crate::cpu::{Cpu, Faulting, alert, seg};
use motu_x86::contract::{Contract, Feature};
use motu_x86::flags::{debugctl, efer, misc_enable};
use motu_x86::msr;

type Read = fn(&mut Cpu, u32) -> Faulting<u64>;
type Write = fn(&mut Cpu, u32, u64) -> Faulting<()>;

/// An MSR, or several in a row that are alike.
#[derive(Clone, Copy, Debug)]
pub struct Msr {
    pub first: u32,
    pub last: u32,
    /// As the SDM calls it.
    pub name: &'static str,
    /// What a contract must have; without it any access is #GP(0).
    pub needs: Option<Feature>,
    /// `None`: RDMSR is #GP(0).
    pub(super) read: Option<Read>,
    /// Which values WRMSR takes.
    pub rule: Rule,
    /// `None`: WRMSR is #GP(0).
    pub(super) write: Option<Write>,
}

impl Msr {
    const fn new(number: u32, name: &'static str, rule: Rule, read: Read, write: Write) -> Self {
        Self { first: number, last: number, name, needs: None, read: Some(read), rule, write: Some(write) }
    }

    /// Takes a command that has nothing to do here.
    const fn command(number: u32, name: &'static str, rule: Rule) -> Self {
        Self { first: number, last: number, name, needs: None, read: None, rule, write: Some(|_, _, _| Ok(())) }
    }

    const fn to(mut self, last: u32) -> Self {
        self.last = last;
        self
    }

    const fn needs(mut self, feature: Feature) -> Self {
        self.needs = Some(feature);
        self
    }

    pub fn is_readable(&self) -> bool {
        self.read.is_some()
    }

    pub fn is_writable(&self) -> bool {
        self.write.is_some()
    }
}

/// The MSR `number` of a contract, if it is in [`STATE`].
pub(super) fn find(contract: &Contract, number: u32) -> Option<&'static Msr> {
    let index = STATE.partition_point(|msr| msr.last < number);
    STATE.get(index).filter(|msr| msr.first <= number && msr.needs.is_none_or(|feature| contract.has(feature)))
}

/// A field of [`motu_x86::Msrs`] that is just kept.
macro_rules! kept {
    ($number:expr, $name:literal, $rule:expr, $field:ident) => {
        Msr::new(
            $number,
            $name,
            $rule,
            |cpu, _| Ok(u64::from(cpu.msrs.$field)),
            |cpu, _, value| {
                cpu.msrs.$field = value as _;
                Ok(())
            },
        )
    };
}

const fn apic(number: u32, name: &'static str) -> Msr {
    Msr::new(number, name, Rule::Apic, Cpu::read_apic_msr, Cpu::write_apic_msr)
}

const fn mtrr(number: u32, name: &'static str, rule: Rule) -> Msr {
    Msr::new(number, name, rule, read_mtrr, write_mtrr).needs(Feature::Mtrr)
}

const fn mtrr_base(number: u32, name: &'static str) -> Msr {
    mtrr(number, name, Rule::MtrrVariable { mask: false })
}

const fn mtrr_mask(number: u32, name: &'static str) -> Msr {
    mtrr(number, name, Rule::MtrrVariable { mask: true })
}

/// In the order of numbers.
pub static STATE: &[Msr] = &[
    Msr::new(msr::TSC, "IA32_TIME_STAMP_COUNTER", Rule::Any, |cpu, _| Ok(cpu.tsc()), write_tsc),
    apic(msr::APIC_BASE, "IA32_APIC_BASE").needs(Feature::Apic),
    Msr::new(msr::TSC_ADJUST, "IA32_TSC_ADJUST", Rule::Any, |cpu, _| Ok(cpu.msrs.tsc_adjust), write_tsc_adjust)
        .needs(Feature::TscAdjust),
    kept!(msr::SPEC_CTRL, "IA32_SPEC_CTRL", Rule::SpecCtrl, spec_ctrl).needs(Feature::SpecCtrl),
    // IBPB.
    Msr::command(msr::PRED_CMD, "IA32_PRED_CMD", Rule::Bits(1)).needs(Feature::SpecCtrl),
    // Microcode updates are for the host.
    Msr::command(msr::BIOS_UPDT_TRIG, "IA32_BIOS_UPDT_TRIG", Rule::Any),
    // Bits 63 to 32 are not used, rather than reserved (SDM vol. 4, table 2-2).
    Msr::new(
        msr::SYSENTER_CS,
        "IA32_SYSENTER_CS",
        Rule::Any,
        |cpu, _| Ok(cpu.msrs.sysenter_cs),
        |cpu, _, value| {
            cpu.msrs.sysenter_cs = value & 0xffff_ffff;
            Ok(())
        },
    )
    .needs(Feature::Sep),
    kept!(msr::SYSENTER_ESP, "IA32_SYSENTER_ESP", Rule::Canonical, sysenter_esp).needs(Feature::Sep),
    kept!(msr::SYSENTER_EIP, "IA32_SYSENTER_EIP", Rule::Canonical, sysenter_eip).needs(Feature::Sep),
    // RIPV, EIPV and MCIP.
    kept!(msr::MCG_STATUS, "IA32_MCG_STATUS", Rule::Bits(7), mcg_status).needs(Feature::Mca),
    Msr::new(
        msr::MISC_ENABLE,
        "IA32_MISC_ENABLE",
        Rule::MiscEnable,
        |cpu, _| Ok(cpu.msrs.misc_enable),
        |cpu, _, value| {
            cpu.msrs.misc_enable = misc_enable::written(cpu.msrs.misc_enable, value).unwrap_or(cpu.msrs.misc_enable);
            Ok(())
        },
    ),
    Msr::new(
        msr::DEBUGCTL,
        "IA32_DEBUGCTL",
        Rule::DebugControl,
        |cpu, _| Ok(cpu.msrs.debugctl),
        // There are no branch records, so recording them does not come on.
        |cpu, _, value| {
            cpu.msrs.debugctl = value & debugctl::BTF;
            Ok(())
        },
    ),
    mtrr_base(msr::MTRR_PHYSBASE0, "IA32_MTRR_PHYSBASE0"),
    mtrr_mask(0x201, "IA32_MTRR_PHYSMASK0"),
    mtrr_base(0x202, "IA32_MTRR_PHYSBASE1"),
    mtrr_mask(0x203, "IA32_MTRR_PHYSMASK1"),
    mtrr_base(0x204, "IA32_MTRR_PHYSBASE2"),
    mtrr_mask(0x205, "IA32_MTRR_PHYSMASK2"),
    mtrr_base(0x206, "IA32_MTRR_PHYSBASE3"),
    mtrr_mask(0x207, "IA32_MTRR_PHYSMASK3"),
    mtrr_base(0x208, "IA32_MTRR_PHYSBASE4"),
    mtrr_mask(0x209, "IA32_MTRR_PHYSMASK4"),
    mtrr_base(0x20a, "IA32_MTRR_PHYSBASE5"),
    mtrr_mask(0x20b, "IA32_MTRR_PHYSMASK5"),
    mtrr_base(0x20c, "IA32_MTRR_PHYSBASE6"),
    mtrr_mask(0x20d, "IA32_MTRR_PHYSMASK6"),
    mtrr_base(0x20e, "IA32_MTRR_PHYSBASE7"),
    mtrr_mask(0x20f, "IA32_MTRR_PHYSMASK7"),
    mtrr(msr::MTRR_FIX64K, "IA32_MTRR_FIX64K_00000", Rule::MtrrFixed),
    mtrr(msr::MTRR_FIX16K_80000, "IA32_MTRR_FIX16K_80000", Rule::MtrrFixed),
    mtrr(msr::MTRR_FIX16K_A0000, "IA32_MTRR_FIX16K_A0000", Rule::MtrrFixed),
    mtrr(msr::MTRR_FIX4K_C0000, "IA32_MTRR_FIX4K_C0000 to F8000", Rule::MtrrFixed).to(0x26f),
    kept!(msr::PAT, "IA32_PAT", Rule::Pat, pat).needs(Feature::Pat),
    kept!(msr::MTRR_DEF_TYPE, "IA32_MTRR_DEF_TYPE", Rule::MtrrDefault, mtrr_def_type).needs(Feature::Mtrr),
    apic(msr::TSC_DEADLINE, "IA32_TSC_DEADLINE").needs(Feature::TscDeadline),
    apic(msr::X2APIC_FIRST, "x2APIC registers").to(msr::X2APIC_LAST).needs(Feature::X2apic),
    // There is no supervisor component.
    Msr::new(msr::XSS, "IA32_XSS", Rule::Bits(0), |_, _| Ok(0), |_, _, _| Ok(())).needs(Feature::Xsaves),
    Msr::new(msr::EFER, "IA32_EFER", Rule::Efer, |cpu, _| Ok(cpu.msrs.efer), write_efer).needs(Feature::LongMode),
    kept!(msr::STAR, "IA32_STAR", Rule::Any, star).needs(Feature::Syscall),
    kept!(msr::LSTAR, "IA32_LSTAR", Rule::Canonical, lstar).needs(Feature::Syscall),
    kept!(msr::CSTAR, "IA32_CSTAR", Rule::Canonical, cstar).needs(Feature::Syscall),
    kept!(msr::FMASK, "IA32_FMASK", Rule::Low32, fmask).needs(Feature::Syscall),
    Msr::new(
        msr::FS_BASE,
        "IA32_FS_BASE",
        Rule::Canonical,
        |cpu, _| Ok(cpu.segments[seg::FS].base),
        |cpu, _, value| {
            cpu.set_segment_base(seg::FS, value);
            Ok(())
        },
    )
    .needs(Feature::LongMode),
    Msr::new(
        msr::GS_BASE,
        "IA32_GS_BASE",
        Rule::Canonical,
        |cpu, _| Ok(cpu.segments[seg::GS].base),
        |cpu, _, value| {
            cpu.set_segment_base(seg::GS, value);
            Ok(())
        },
    )
    .needs(Feature::LongMode),
    kept!(msr::KERNEL_GS_BASE, "IA32_KERNEL_GS_BASE", Rule::Canonical, kernel_gs_base).needs(Feature::LongMode),
    kept!(msr::TSC_AUX, "IA32_TSC_AUX", Rule::Low32, tsc_aux).needs(Feature::Rdtscp),
];

/// Moves the TSC by `change`; a deadline that is set may be due now.
fn move_tsc(cpu: &mut Cpu, change: u64) {
    cpu.tsc_offset = cpu.tsc_offset.wrapping_add(change);
    cpu.msrs.tsc_adjust = cpu.msrs.tsc_adjust.wrapping_add(change);
    cpu.set_alert(alert::TIMER, true);
}

/// TSC_ADJUST changes by as much (SDM vol. 3, 18.17.3).
fn write_tsc(cpu: &mut Cpu, _: u32, value: u64) -> Faulting<()> {
    let change = value.wrapping_sub(cpu.tsc());
    move_tsc(cpu, change);
    Ok(())
}

fn write_tsc_adjust(cpu: &mut Cpu, _: u32, value: u64) -> Faulting<()> {
    let change = value.wrapping_sub(cpu.msrs.tsc_adjust);
    move_tsc(cpu, change);
    Ok(())
}

/// LMA is read-only and follows LME and CR0.PG.
fn write_efer(cpu: &mut Cpu, _: u32, value: u64) -> Faulting<()> {
    cpu.msrs.efer = (value & !efer::LMA) | (cpu.msrs.efer & efer::LMA);
    cpu.mode_changed();
    Ok(())
}

fn read_mtrr(cpu: &mut Cpu, number: u32) -> Faulting<u64> {
    match cpu.mtrr(number) {
        Some(value) => Ok(*value),
        None => cpu.general_protection(0),
    }
}

fn write_mtrr(cpu: &mut Cpu, number: u32, value: u64) -> Faulting<()> {
    match cpu.mtrr(number) {
        Some(register) => *register = value,
        None => return cpu.general_protection(0),
    }
    Ok(())
}
