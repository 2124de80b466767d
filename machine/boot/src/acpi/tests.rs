use super::*;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn board(cpus: u32) -> BoardTables {
    BoardTables { cpus, ..BoardTables::default() }
}

fn table<'a>(tables: &'a Tables, signature: &[u8]) -> (u64, &'a [u8]) {
    let found = tables.placed.iter().find(|(_, content)| content.starts_with(signature));
    found.map(|(at, content)| (*at, content.as_slice())).unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn lengths_and_checksums_hold() {
    for cpus in [1, 2, 64, BoardTables::MAX_CPUS] {
        let tables = Tables::new(&board(cpus));
        for signature in [b"XSDT", b"FACP", b"APIC", b"DSDT"] {
            let (_, content) = table(&tables, signature);
            assert_eq!(u32_at(content, 4) as usize, content.len());
            assert_eq!(sum(content), 0, "{cpus} CPUs, {}", String::from_utf8_lossy(signature));
        }
        let (at, rsdp) = table(&tables, b"RSD PTR ");
        assert_eq!((at, sum(&rsdp[..20]), sum(rsdp)), (RSDP, 0, 0));
        let (facs, content) = table(&tables, b"FACS");
        assert_eq!((facs % 64, content.len()), (0, 64));
    }
}

#[test]
fn tables_lie_apart_in_their_area() {
    let tables = Tables::new(&board(BoardTables::MAX_CPUS));
    for pair in tables.placed.windows(2) {
        assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
    }
    let (last, content) = tables.placed.last().unwrap();
    assert!(last + content.len() as u64 <= layout::SMBIOS_TABLES);
}

#[test]
fn pointers_lead_to_the_tables() {
    let tables = Tables::new(&board(3));
    let (xsdt, xsdt_bytes) = table(&tables, b"XSDT");
    assert_eq!(u64_at(table(&tables, b"RSD PTR ").1, 24), xsdt);
    let (fadt, fadt_bytes) = table(&tables, b"FACP");
    assert_eq!(u64_at(xsdt_bytes, 36), fadt);
    assert_eq!(u64_at(xsdt_bytes, 44), table(&tables, b"APIC").0);
    assert_eq!(u64::from(u32_at(fadt_bytes, 36)), table(&tables, b"FACS").0);
    let dsdt = table(&tables, b"DSDT").0;
    assert_eq!((u64::from(u32_at(fadt_bytes, 40)), u64_at(fadt_bytes, 140)), (dsdt, dsdt));
}

/// Offsets of ACPI 6.5, table 5.9.
#[test]
fn the_fadt_has_the_boards_registers() {
    let tables = Tables::new(&board(1));
    let (_, fadt) = table(&tables, b"FACP");
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9);
    assert_eq!((u32_at(fadt, 48), fadt[52], fadt[53]), (0, 0, 0), "always in ACPI mode");
    assert_eq!((u32_at(fadt, 56), u32_at(fadt, 64), u32_at(fadt, 76)), (0x600, 0x604, 0x608));
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!(fadt[108], 0x32);
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b111);
    let flags = u32_at(fadt, 112);
    assert_eq!((flags >> 10 & 1, flags >> 20 & 1), (1, 0), "reset register, not hardware-reduced");
    assert_eq!((fadt[116], u64_at(fadt, 120), fadt[128]), (1, 0xcf9, 6));
    assert_eq!((fadt[148], fadt[149], u64_at(fadt, 152)), (1, 32, 0x600));
    assert_eq!((fadt[172], fadt[173], u64_at(fadt, 176)), (1, 16, 0x604));
    assert_eq!((fadt[208], fadt[209], u64_at(fadt, 212)), (1, 32, 0x608));
}

#[test]
fn the_madt_names_every_interrupt_controller() {
    let tables = Tables::new(&board(3));
    let (_, madt) = table(&tables, b"APIC");
    assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xfee0_0000, 1));
    let mut rest = &madt[44..];
    let mut found = Vec::new();
    while let [kind, len, ..] = rest {
        let (entry, behind) = rest.split_at(usize::from(*len));
        found.push((*kind, entry[2..].to_vec()));
        rest = behind;
    }
    assert!(rest.is_empty());
    let processors: Vec<_> = found.iter().filter(|(kind, _)| *kind == 0).map(|(_, e)| e.clone()).collect();
    assert_eq!(processors, [[0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [2, 2, 1, 0, 0, 0]]);
    let others: Vec<_> = found.into_iter().filter(|(kind, _)| *kind != 0).collect();
    assert_eq!(
        others,
        [
            (1, vec![3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]),
            (2, vec![0, 0, 2, 0, 0, 0, 0, 0]),
            (2, vec![0, 9, 9, 0, 0, 0, 0x0d, 0]),
            (4, vec![0xff, 0, 0, 1]),
        ]
    );
}

#[test]
fn the_routing_table_asks_the_board() {
    let board = BoardTables { pci_slots: 2, intx_gsi: |slot, pin| 100 + u32::from(slot * 4 + pin), ..board(1) };
    let tables = Tables::new(&board);
    let (_, dsdt) = table(&tables, b"DSDT");
    // Package of 4: DWord 0x0001ffff, pin 2, source 0, GSI 106.
    let wanted = [0x12, 0x0c, 0x04, 0x0c, 0xff, 0xff, 0x01, 0x00, 0x0a, 0x02, 0x00, 0x0a, 106];
    assert!(dsdt.windows(wanted.len()).any(|window| window == wanted));
    let packages = dsdt.windows(2).filter(|window| *window == [0x0a, 107]).count();
    assert_eq!(packages, 1, "slot 1, pin D and no slot beyond");
}

#[test]
fn soft_off_has_the_boards_sleep_type() {
    let tables = Tables::new(&board(1));
    let (_, dsdt) = table(&tables, b"DSDT");
    let wanted = b"\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00";
    assert!(dsdt.windows(wanted.len()).any(|window| window == wanted));
}
