//! Flat binaries at an address.

use super::*;
use crate::layout::{ACPI_TABLES, SMBIOS_TABLES};

fn start(ram: &GuestRam, mode: FlatMode, address: u64, bytes: Vec<u8>) -> Result<CpuState, BootError> {
    load(ram, &BootSource { flat: Some(Flat { address, mode }), ..source(bytes) }, &BoardTables::default())
}

#[test]
fn a_boot_sector_starts_in_segment_0_of_real_mode() {
    let ram = ram(16);
    let mut sector = vec![0x90; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let state = start(&ram, FlatMode::Real, 0x7c00, sector.clone()).unwrap();
    assert_eq!(read(&ram, 0x7c00, 512), sector);
    let segments = state.segments;
    assert_eq!((segments.cs.selector, state.rip, state.gpr[4]), (0, 0x7c00, 0x7000));
    for segment in [segments.cs, segments.ds, segments.es, segments.ss, segments.fs, segments.gs] {
        assert_eq!((segment.selector, segment.base, segment.limit), (0, 0, 0xffff));
    }
    assert_eq!((segments.cs.attributes, segments.ss.attributes), (0x9b, 0x93));
    assert_eq!((state.cr0, state.cr4, state.msrs.efer, state.rflags), (0x10, 0, 0, 2));
    assert_eq!((state.idtr.base, state.idtr.limit), (0, 0x3ff));
}

#[test]
fn above_64_kib_real_mode_starts_where_the_segment_begins() {
    let ram = ram(16);
    let state = start(&ram, FlatMode::Real, 0x8_1230, vec![0xf4]).unwrap();
    let cs = state.segments.cs;
    assert_eq!((cs.selector, cs.base, cs.limit, state.rip), (0x8123, 0x8_1230, 0xffff, 0));
    assert_eq!(state.segments.ds.selector, 0);
    assert_eq!(start(&ram, FlatMode::Real, 0xffff, vec![0xf4]).unwrap().rip, 0xffff);
    for address in [0x1_0001, 0x10_0000, 0x20_0000] {
        let refused = start(&ram, FlatMode::Real, address, vec![0xf4]);
        assert!(matches!(refused, Err(BootError::FlatRealEntry { .. })), "{address:#x}");
    }
}

#[test]
fn protected_and_long_mode_start_at_the_address() {
    let ram = ram(16);
    let state = start(&ram, FlatMode::Protected, 0x7c00, vec![0xf4; 3]).unwrap();
    assert_eq!((state.rip, state.gpr[4], state.cr0 & 0x8000_0001), (0x7c00, 0x7000, 1));
    assert_eq!(state.segments.cs, motu_x86::Segment::flat_code(0x10, false));
    let state = start(&ram, FlatMode::Long, 0x20_0001, vec![0xf4; 3]).unwrap();
    assert_eq!((state.rip, state.msrs.efer), (0x20_0001, 0x500));
    assert_eq!(read(&ram, 0x20_0001, 3), [0xf4; 3]);
    assert_eq!(FlatMode::default(), FlatMode::Protected);
}

#[test]
fn a_file_of_a_known_format_is_flat_too_if_it_has_to_be() {
    let ram = ram(64);
    let bytes = BzImageSpec::default().build();
    start(&ram, FlatMode::Protected, 0x20_0000, bytes.clone()).unwrap();
    assert_eq!(read(&ram, 0x20_0000, bytes.len()), bytes);
    let gzip = b"\x1f\x8b\x08\0".to_vec();
    start(&ram, FlatMode::Protected, 0x20_0000, gzip.clone()).unwrap();
    assert_eq!(read(&ram, 0x20_0000, 4), gzip);
}

#[test]
fn tables_give_way_to_the_binary() {
    let fresh = || ram(4);
    let is_there = |ram: &GuestRam, at: u64, magic: &[u8]| read(ram, at, magic.len()) == magic;
    let firmware = |ram: &GuestRam| {
        let bda = is_there(ram, 0x413, &[0x7f, 2]);
        (bda, is_there(ram, ACPI_TABLES, b"RSD PTR "), is_there(ram, SMBIOS_TABLES, b"_SM3_"))
    };
    let with = |address: u64, len: usize| {
        let ram = fresh();
        start(&ram, FlatMode::Real, address, vec![0xcc; len]).unwrap();
        assert_eq!(read(&ram, address, len), vec![0xcc; len], "{address:#x}");
        firmware(&ram)
    };
    assert_eq!(with(0x7c00, 512), (true, true, true));
    assert_eq!(with(0, 0x500), (false, true, true));
    assert_eq!(with(0xe_0000, 16), (true, false, true));
    assert_eq!(with(0xf_fff0, 16), (true, true, false));
    assert_eq!(with(0xf_ff00, 256), (true, true, false));
    assert_eq!(with(0, 1 << 20), (false, false, false));
}

#[test]
fn what_the_mode_needs_stays() {
    let ram = ram(16);
    let refused = |mode, address, len| start(&ram, mode, address, vec![0xcc; len]).unwrap_err().to_string();
    let text = refused(FlatMode::Protected, 0, 0x501);
    assert!(text.contains("0x0 to 0x501") && text.contains("GDT"), "{text}");
    assert!(refused(FlatMode::Long, 0x8000, 0x1001).contains("page tables"));
    start(&ram, FlatMode::Protected, 0x8000, vec![0xcc; 0x8000]).unwrap();
    start(&ram, FlatMode::Long, 0xf000, vec![0xcc; 0x1000]).unwrap();
}

#[test]
fn binaries_that_do_not_fit_or_get_more_than_they_take() {
    let ram = ram(16);
    start(&ram, FlatMode::Protected, 16 * MIB - 16, vec![0; 16]).unwrap();
    for (address, len) in [(16 * MIB - 16, 17), (16 * MIB, 1), (u64::MAX, 1), (u64::MAX - 4, 16), (HIGH_RAM_START, 1)] {
        let text = start(&ram, FlatMode::Protected, address, vec![0; len]).unwrap_err().to_string();
        assert!(text.contains("ends at 0x1000000"), "{text}");
    }
    let flat = Some(Flat { address: 0x7c00, mode: FlatMode::Real });
    let given = |source: BootSource| load(&ram, &source, &BoardTables::default()).unwrap_err().to_string();
    assert!(given(BootSource { flat, modules: initrd(vec![1]), ..source(vec![1]) }).contains("initrd"));
    assert!(given(BootSource { flat, cmdline: "quiet".into(), ..source(vec![1]) }).contains("command line"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_address_panics(address in any::<u64>(), low in any::<bool>(), mode in 0usize..3, len in 1usize..0x2000) {
        let ram = ram(4);
        let address = if low { address % (5 * MIB) } else { address };
        let mode = [FlatMode::Real, FlatMode::Protected, FlatMode::Long][mode];
        if start(&ram, mode, address, vec![0xcc; len]).is_ok() {
            prop_assert_eq!(read(&ram, address, len), vec![0xcc; len]);
        }
    }
}
