//! IA32_APIC_BASE and the MSR interface.

use super::*;

const BASE: u64 = 0xfee0_0000;
const BSP: u64 = 1 << 8;
const EXTD: u64 = 1 << 10;
const EN: u64 = 1 << 11;

fn set_base(lapic: &mut Lapic, value: u64) -> Result<Action, Exception> {
    lapic.msr_write(msr::APIC_BASE, value, at(0))
}

fn wrmsr(lapic: &mut Lapic, register: u32, value: u64) -> Result<Action, Exception> {
    lapic.msr_write(0x800 + register, value, at(0))
}

fn rdmsr(lapic: &mut Lapic, register: u32) -> Result<u64, Exception> {
    lapic.msr_read(0x800 + register, at(0))
}

#[test]
fn modes_change_in_the_order_of_the_manual() {
    let mut lapic = enabled(0);
    assert_eq!(lapic.msr_read(msr::APIC_BASE, at(0)), Ok(BASE | EN | BSP));
    assert_eq!(set_base(&mut lapic, BASE | EXTD), Err(GP), "xAPIC to the illegal mode");
    assert_eq!(set_base(&mut lapic, BASE | EN | EXTD | BSP), Ok(Action::None));
    assert_eq!(set_base(&mut lapic, BASE | EN | BSP), Err(GP), "x2APIC to xAPIC");
    assert_eq!(set_base(&mut lapic, BASE | EXTD), Err(GP), "x2APIC to the illegal mode");
    assert_eq!(set_base(&mut lapic, BASE | BSP), Ok(Action::None));
    assert!(!lapic.is_enabled());
    assert_eq!(set_base(&mut lapic, BASE | EN | EXTD), Err(GP), "disabled to x2APIC");
    assert_eq!(set_base(&mut lapic, BASE | EN | BSP), Ok(Action::None));
    assert_eq!(read(&mut lapic, number::SVR), 0xff, "as after reset");
    assert_eq!(set_base(&mut lapic, BASE | EN | 1), Err(GP), "a reserved bit");
    assert_eq!(set_base(&mut lapic, 1 << 40 | EN), Err(GP), "beyond the physical address width");
}

#[test]
fn the_page_is_where_the_base_says_in_xapic_mode_only() {
    let mut lapic = enabled(1);
    assert_eq!(lapic.mmio_offset(0xfee0_0020), Some(0x20));
    assert_eq!(lapic.mmio_offset(0xfee0_1000), None);
    assert_eq!(lapic.mmio_offset(0xfedf_ffff), None);
    set_base(&mut lapic, 0x8000_0000 | EN).unwrap();
    assert_eq!((lapic.mmio_offset(0xfee0_0020), lapic.mmio_offset(0x8000_0ff0)), (None, Some(0xff0)));
    set_base(&mut lapic, 0x8000_0000 | EN | EXTD).unwrap();
    assert_eq!(lapic.mmio_offset(0x8000_0020), None);
}

#[test]
fn registers_are_msrs_only_in_x2apic_mode() {
    assert_eq!(rdmsr(&mut enabled(0), number::ID), Err(GP));
    assert_eq!(wrmsr(&mut enabled(0), number::TPR, 0), Err(GP));
    let mut lapic = x2apic(0x123);
    assert_eq!(rdmsr(&mut lapic, number::ID), Ok(0x123));
    assert_eq!(rdmsr(&mut lapic, number::LDR), Ok(0x0012_0008));
    assert_eq!(rdmsr(&mut lapic, number::SVR), Ok(0x1ff), "kept across the switch");
    assert_eq!(rdmsr(&mut lapic, number::VERSION), Ok(0x5_0014));
}

#[test]
fn what_is_reserved_faults() {
    let mut lapic = x2apic(0);
    for register in [number::EOI, number::DFR, number::ICR_HIGH, number::SELF_IPI, number::APR, 0x2f, 0x00, 0xff] {
        assert_eq!(rdmsr(&mut lapic, register), Err(GP), "read {register:#x}");
    }
    for register in [
        number::ID,
        number::VERSION,
        number::PPR,
        number::LDR,
        number::DFR,
        number::ISR,
        number::TMR,
        number::IRR,
        number::ICR_HIGH,
        number::CURRENT_COUNT,
        0x2f,
        0x40,
    ] {
        assert_eq!(wrmsr(&mut lapic, register, 0), Err(GP), "write {register:#x}");
    }
    for (register, value) in [
        (number::EOI, 1),
        (number::ESR, 1),
        (number::TPR, 0x100),
        (number::SVR, 1 << 12),
        (number::LVT, 1 << 19),
        (number::LVT, 1 << 8),
        (number::LVT, 1 << 32),
        (0x35, 1 << 11),
        (number::DIVIDE, 4),
        (number::INITIAL_COUNT, 1 << 32),
        (number::SELF_IPI, 0x100),
        (number::ICR_LOW, 1 << 13),
        (number::ICR_LOW, 1 << 20),
    ] {
        assert_eq!(wrmsr(&mut lapic, register, value), Err(GP), "write {value:#x} to {register:#x}");
    }
}

#[test]
fn commands_have_wide_destinations() {
    let mut lapic = x2apic(5);
    let send = |destination| Ok(Action::Send(fixed(destination, 0x41)));
    assert_eq!(wrmsr(&mut lapic, number::ICR_LOW, 0x123 << 32 | 0x41), send(Destination::Physical(0x123)));
    assert_eq!(rdmsr(&mut lapic, number::ICR_LOW), Ok(0x123 << 32 | 0x41));
    assert_eq!(wrmsr(&mut lapic, number::ICR_LOW, 0xff << 32 | 0x41), send(Destination::Physical(0xff)));
    assert_eq!(wrmsr(&mut lapic, number::ICR_LOW, 0xffff_ffff << 32 | 0x41), send(Destination::All));
    assert_eq!(wrmsr(&mut lapic, number::ICR_LOW, 0x21 << 32 | 0x841), send(Destination::Logical(0x21)));
    assert_eq!(wrmsr(&mut lapic, number::SELF_IPI, 0x52), Ok(Action::None));
    assert_eq!(lapic.acknowledge(), 0x52);
    assert_eq!(wrmsr(&mut lapic, number::EOI, 0), Ok(Action::None));
}

#[test]
fn logical_destinations_are_clusters_of_sixteen() {
    let lapic = x2apic(0x12);
    assert!(lapic.is_destination(Destination::Logical(0x0001_0004)));
    assert!(!lapic.is_destination(Destination::Logical(0x0001_0008)));
    assert!(!lapic.is_destination(Destination::Logical(0x0000_0004)));
    assert!(lapic.is_destination(Destination::Logical(u32::MAX)));
}

#[test]
fn init_keeps_the_mode_and_the_id() {
    let mut lapic = x2apic(7);
    wrmsr(&mut lapic, number::TPR, 0x20).unwrap();
    lapic.accept(0x40, Trigger::Edge);
    lapic.init();
    assert_eq!((rdmsr(&mut lapic, number::TPR), rdmsr(&mut lapic, number::ID)), (Ok(0), Ok(7)));
    assert_eq!(rdmsr(&mut lapic, number::IRR + 2), Ok(0));
    lapic.reset();
    assert_eq!(rdmsr(&mut lapic, number::ID), Err(GP), "reset goes back to xAPIC mode");
}

#[test]
fn every_register_has_a_name() {
    for register in 0..0x100 {
        let named = X2APIC_NAMES.iter().any(|&(first, last, _)| (first..=last).contains(&register));
        let there = rdmsr(&mut x2apic(0), register).is_ok() || wrmsr(&mut x2apic(0), register, 0).is_ok();
        assert_eq!(named, there, "{register:#x}");
    }
}
