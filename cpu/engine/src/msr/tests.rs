use super::table::find;
use super::*;
use crate::mmu::{Mmu, RamMap};
use crate::native::NativeCache;
use crate::smp::Processors;
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::contract::{Contract, MISC_ENABLE_RESET};
use motu_x86::flags::{cr0, efer, misc_enable};
use motu_x86::{Exception, msr};
use proptest::prelude::*;

const GP: Exception = Exception::with_code(Exception::GP, 0);
/// The lowest address that is not canonical.
const HOLE: u64 = 1 << 47;

fn cpu_of(contract: &str) -> Cpu {
    let ram = RamMap::new(GuestRam::new(PAGE_SIZE).unwrap());
    let contract = Contract::by_name(contract).unwrap();
    let mut cpu = Cpu::new(0, Processors::new(1).into(), contract, Mmu::new(ram).unwrap(), NativeCache::new().unwrap());
    cpu.msrs.misc_enable = MISC_ENABLE_RESET;
    cpu
}

fn cpu() -> Cpu {
    cpu_of("v3-2026")
}

fn read(cpu: &mut Cpu, number: u32) -> Result<u64, Exception> {
    cpu.read_msr(number).map_err(|_| cpu.fault)
}

fn write(cpu: &mut Cpu, number: u32, value: u64) -> Result<(), Exception> {
    cpu.write_msr(number, value).map_err(|_| cpu.fault)
}

/// Writes each value and reads it back.
fn keeps(cpu: &mut Cpu, number: u32, values: &[u64]) {
    for &value in values {
        assert_eq!(write(cpu, number, value), Ok(()), "{number:#x} <- {value:#x}");
        assert_eq!(read(cpu, number), Ok(value), "{number:#x}");
    }
}

/// Each value is #GP(0) and changes nothing.
fn refuses(cpu: &mut Cpu, number: u32, values: &[u64]) {
    let before = read(cpu, number);
    for &value in values {
        assert_eq!(write(cpu, number, value), Err(GP), "{number:#x} <- {value:#x}");
    }
    assert_eq!(read(cpu, number), before, "{number:#x}");
}

#[test]
fn the_table_is_in_order_and_apart_from_what_is_fixed() {
    assert!(STATE.iter().all(|row| row.first <= row.last));
    assert!(STATE.is_sorted_by(|a, b| a.last < b.first));
    for fixed in Contract::FIXED_MSRS {
        assert!(STATE.iter().all(|row| fixed.number < row.first || fixed.number > row.last), "{}", fixed.name);
    }
    let max = Contract::by_name("max-2026").unwrap();
    for row in STATE {
        let found = find(max, row.last);
        assert_eq!(found.map(|found| found.name), Some(row.name));
    }
}

#[test]
fn there_are_no_others() {
    // Performance counters, RAPL, CPUID faulting, error banks, XSS, L1D flush, KVM's and Hyper-V's.
    for number in [0xc1, 0x186, 0x38f, 0x606, 0x140, 0x400, 0x401, 0xda0, 0x10b, 0x4b56_4d00, 0x4000_0000, u32::MAX] {
        assert_eq!(read(&mut cpu(), number), Err(GP), "{number:#x}");
        assert_eq!(write(&mut cpu(), number, 0), Err(GP), "{number:#x}");
    }
    // MTRRs past the eighth pair, between the fixed ranges and past them.
    for number in [0x210, 0x251, 0x25a, 0x267, 0x270, 0x276, 0x278] {
        assert_eq!(read(&mut cpu(), number), Err(GP), "{number:#x}");
    }
}

#[test]
fn what_is_fixed_faults_or_forgets() {
    let mut cpu = cpu();
    for fixed in Contract::FIXED_MSRS {
        let expected = if fixed.write == FixedWrite::Fault { Err(GP) } else { Ok(()) };
        assert_eq!(write(&mut cpu, fixed.number, u64::MAX), expected, "{}", fixed.name);
        assert_eq!(read(&mut cpu, fixed.number), Ok(fixed.value), "{}", fixed.name);
    }
}

#[test]
fn commands_cannot_be_read() {
    let mut cpu = cpu();
    assert_eq!(read(&mut cpu, msr::PRED_CMD), Err(GP));
    assert_eq!((write(&mut cpu, msr::PRED_CMD, 1), write(&mut cpu, msr::PRED_CMD, 2)), (Ok(()), Err(GP)));
    assert_eq!(read(&mut cpu, msr::BIOS_UPDT_TRIG), Err(GP));
    assert_eq!(write(&mut cpu, msr::BIOS_UPDT_TRIG, u64::MAX), Ok(()));
}

#[test]
fn addresses_have_to_be_canonical() {
    let all =
        [msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::LSTAR, msr::CSTAR, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE];
    for number in all {
        let mut cpu = cpu();
        keeps(&mut cpu, number, &[0, HOLE - 1, !HOLE + 1, u64::MAX]);
        refuses(&mut cpu, number, &[HOLE, 1 << 63, !HOLE]);
    }
}

#[test]
fn halves_that_are_not_there() {
    let mut cpu = cpu();
    for number in [msr::FMASK, msr::TSC_AUX] {
        keeps(&mut cpu, number, &[0, 0xffff_ffff]);
        refuses(&mut cpu, number, &[1 << 32, 1 << 63]);
    }
    assert_eq!(write(&mut cpu, msr::SYSENTER_CS, u64::MAX), Ok(()), "unused, not reserved");
    assert_eq!(read(&mut cpu, msr::SYSENTER_CS), Ok(0xffff_ffff));
    keeps(&mut cpu, msr::STAR, &[u64::MAX, 0]);
}

#[test]
fn speculation_control_has_what_cpuid_tells() {
    let mut cpu = cpu();
    keeps(&mut cpu, msr::SPEC_CTRL, &[0x403, 1, 0]);
    // SSBD, RRSBA_DIS_U.
    refuses(&mut cpu, msr::SPEC_CTRL, &[1 << 2, 1 << 5, 1 << 63]);
}

#[test]
fn there_is_no_supervisor_component_of_xsave() {
    let mut cpu = cpu_of("max-2026");
    keeps(&mut cpu, msr::XSS, &[0]);
    refuses(&mut cpu, msr::XSS, &[1, 1 << 8, 1 << 63]);
}

#[test]
fn memory_types_of_the_pat() {
    let mut cpu = cpu();
    keeps(&mut cpu, msr::PAT, &[0x0007_0406_0007_0406, 0x0105_0406_0007_0406]);
    refuses(&mut cpu, msr::PAT, &[2, 3 << 56, 8 << 8, 0x80]);
}

#[test]
fn memory_types_and_ranges_of_the_mtrrs() {
    let mut cpu = cpu();
    keeps(&mut cpu, msr::MTRR_DEF_TYPE, &[0xc06, 0x800, 1]);
    refuses(&mut cpu, msr::MTRR_DEF_TYPE, &[2, 7, 1 << 8, 1 << 9, 1 << 12, 1 << 63]);
    for number in [0x250, 0x258, 0x259, 0x268, 0x26f] {
        keeps(&mut cpu, number, &[0x0606_0606_0606_0606, 0x0504_0100_0000_0000]);
        refuses(&mut cpu, number, &[2, 7 << 56, 0x10]);
    }
    for number in [0x200, 0x20e] {
        keeps(&mut cpu, number, &[0xff_ffff_f006, 0]);
        refuses(&mut cpu, number, &[2, 7, 1 << 8, 1 << 11, 1 << 40]);
    }
    for number in [0x201, 0x20f] {
        keeps(&mut cpu, number, &[0xff_ffff_f800, 0]);
        refuses(&mut cpu, number, &[1, 1 << 10, 1 << 40, 1 << 63]);
    }
}

#[test]
fn each_mtrr_is_a_register_of_its_own() {
    let mut cpu = cpu();
    let all = (0x200..0x210).step_by(2).chain([0x250, 0x258, 0x259]).chain(0x268..0x270);
    for (value, number) in [0, 1, 4, 5, 6].into_iter().cycle().zip(all.clone()) {
        write(&mut cpu, number, value).unwrap();
    }
    for (value, number) in [0, 1, 4, 5, 6].into_iter().cycle().zip(all) {
        assert_eq!(read(&mut cpu, number), Ok(value), "{number:#x}");
    }
}

#[test]
fn efer_keeps_lma_and_holds_lme_while_paging() {
    let mut cpu = cpu();
    keeps(&mut cpu, msr::EFER, &[efer::SCE | efer::LME | efer::NXE, 0]);
    refuses(&mut cpu, msr::EFER, &[1 << 1, 1 << 12, 1 << 14, 1 << 63]);
    write(&mut cpu, msr::EFER, efer::LMA).unwrap();
    assert_eq!(read(&mut cpu, msr::EFER), Ok(0), "LMA is read-only");
    cpu.cr0 |= cr0::PE | cr0::PG;
    refuses(&mut cpu, msr::EFER, &[efer::LME]);
    keeps(&mut cpu, msr::EFER, &[efer::NXE]);
    cpu.cr0 &= !cr0::PG;
    cpu.msrs.efer = 0;
    write(&mut cpu, msr::MISC_ENABLE, MISC_ENABLE_RESET | misc_enable::XD_DISABLE).unwrap();
    refuses(&mut cpu, msr::EFER, &[efer::NXE]);
}

#[test]
fn misc_enable_has_bits_that_change_stay_and_do_not_exist() {
    let mut cpu = cpu();
    let writable = 1 | 1 << 3 | 1 << 16 | 1 << 22 | 1 << 23 | 1 << 34 | 1 << 38;
    let fixed = 1 << 11 | 1 << 12;
    keeps(&mut cpu, msr::MISC_ENABLE, &[fixed, fixed | writable]);
    refuses(&mut cpu, msr::MISC_ENABLE, &[0, 1 << 11, fixed | 1 << 1, fixed | 1 << 63]);
    write(&mut cpu, msr::MISC_ENABLE, fixed | 1 << 7 | 1 << 18).unwrap();
    assert_eq!(read(&mut cpu, msr::MISC_ENABLE), Ok(fixed), "no performance monitoring, no MONITOR");
}

#[test]
fn machine_check_and_debug_control() {
    let mut cpu = cpu();
    keeps(&mut cpu, msr::MCG_STATUS, &[7, 0]);
    refuses(&mut cpu, msr::MCG_STATUS, &[8, u64::MAX]);
    write(&mut cpu, msr::DEBUGCTL, 3).unwrap();
    assert_eq!(read(&mut cpu, msr::DEBUGCTL), Ok(2), "there are no branch records");
    refuses(&mut cpu, msr::DEBUGCTL, &[4, 1 << 6, 1 << 63]);
}

#[test]
fn the_tsc_and_its_adjustment_move_together() {
    let mut cpu = cpu();
    write(&mut cpu, msr::TSC, 1_000_000).unwrap();
    assert_eq!((read(&mut cpu, msr::TSC), read(&mut cpu, msr::TSC_ADJUST)), (Ok(1_000_000), Ok(1_000_000)));
    write(&mut cpu, msr::TSC_ADJUST, 5).unwrap();
    assert_eq!((read(&mut cpu, msr::TSC), read(&mut cpu, msr::TSC_ADJUST)), (Ok(5), Ok(5)));
    write(&mut cpu, msr::TSC, 0).unwrap();
    assert_eq!(read(&mut cpu, msr::TSC_ADJUST), Ok(0));
}

#[test]
fn the_apic_answers_for_its_own() {
    let mut cpu = cpu();
    assert_eq!(read(&mut cpu, msr::APIC_BASE), Ok(0xfee0_0900));
    assert_eq!(read(&mut cpu, 0x802), Err(GP), "not in x2APIC mode");
    write(&mut cpu, msr::APIC_BASE, 0xfee0_0d00).unwrap();
    assert_eq!(read(&mut cpu, 0x802), Ok(0));
    refuses(&mut cpu, msr::APIC_BASE, &[0xfee0_0900, 1 << 9]);
    write(&mut cpu, msr::TSC_DEADLINE, 5).unwrap();
    assert_eq!(read(&mut cpu, msr::TSC_DEADLINE), Ok(0), "ignored outside its mode");
}

proptest! {
    #[test]
    fn what_is_taken_stays_and_nothing_panics(
        number in prop_oneof![0u32..0x2000, 0xc000_0000u32..0xc000_2000, any::<u32>()],
        value in prop_oneof![any::<u64>(), any::<u32>().prop_map(u64::from), (0u32..64).prop_map(|bit| 1 << bit)],
    ) {
        for contract in Contract::ALL {
            let mut cpu = cpu_of(contract.name());
            let before = read(&mut cpu, number);
            let taken = write(&mut cpu, number, value);
            let after = read(&mut cpu, number);
            if taken.is_err() {
                prop_assert_eq!((taken, before), (Err(GP), after));
            } else if before.is_ok() {
                prop_assert!(after.is_ok());
            }
        }
    }
}
