use super::*;
use motu_x86::Gpa;

/// Kind, formatted area and strings of every structure, walked as an operating system does.
fn walk(mut table: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
    let mut found = Vec::new();
    while let [kind, len, ..] = *table {
        let (formatted, behind) = table.split_at(usize::from(len));
        let end = behind.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings = behind[..end].split(|byte| *byte == 0).filter(|s| !s.is_empty());
        let strings = strings.map(|s| String::from_utf8(s.to_vec()).unwrap()).collect();
        found.push((kind, formatted.to_vec(), strings));
        table = &behind[end + 2..];
    }
    found
}

fn of_kind(found: &[(u8, Vec<u8>, Vec<String>)], kind: u8) -> Vec<&Vec<u8>> {
    found.iter().filter(|(k, ..)| *k == kind).map(|(_, formatted, _)| formatted).collect()
}

#[test]
fn the_entry_point_leads_to_the_structures() {
    let ram = GuestRam::new(2 << 20).unwrap();
    write(&ram, &BoardTables::default()).unwrap();
    let mut entry = [0; 24];
    ram.read(Gpa(layout::SMBIOS_TABLES), &mut entry).unwrap();
    assert!(entry.starts_with(b"_SM3_"));
    assert_eq!(entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(usize::from(entry[6]), entry.len());
    let len = u32::from_le_bytes(entry[12..16].try_into().unwrap());
    let address = u64::from_le_bytes(entry[16..24].try_into().unwrap());
    let mut table = vec![0; len as usize];
    ram.read(Gpa(address), &mut table).unwrap();
    let kinds: Vec<u8> = walk(&table).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 32, 127]);
}

#[test]
fn structures_have_the_lengths_of_version_3_0() {
    let found = walk(&structures(&BoardTables::default(), 512 << 20));
    let lengths: Vec<usize> = found.iter().map(|(_, formatted, _)| formatted.len()).collect();
    assert_eq!(lengths, [0x18, 0x1b, 0x16, 0x30, 0x17, 0x28, 0x1f, 0x0b, 0x04]);
    for (_, formatted, _) in &found {
        assert_eq!(usize::from(formatted[1]), formatted.len());
    }
    let mut handles: Vec<_> = found.iter().map(|(_, formatted, _)| [formatted[2], formatted[3]]).collect();
    handles.sort();
    handles.dedup();
    assert_eq!(handles.len(), found.len(), "handles differ");
}

#[test]
fn the_system_is_motus() {
    let board = BoardTables { uuid: std::array::from_fn(|n| n as u8), cpus: 3, ..BoardTables::default() };
    let found = walk(&structures(&board, 512 << 20));
    let (_, system, strings) = &found[1];
    assert_eq!(strings[..2], ["motu", "motu virtual machine"]);
    assert_eq!(system[8..24], [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
    let processor = of_kind(&found, 4)[0];
    assert_eq!((processor[0x23], processor[0x24], processor[0x25]), (3, 3, 3));
}

#[test]
fn memory_is_told_as_it_lies() {
    let small = walk(&structures(&BoardTables::default(), 512 << 20));
    assert_eq!(of_kind(&small, 17)[0][0x0c..0x0e], 512u16.to_le_bytes());
    let range = of_kind(&small, 19)[0];
    assert_eq!(range[4..12], [0, 0, 0, 0, 0xff, 0xff, 0x07, 0]);

    let large = walk(&structures(&BoardTables::default(), 64 << 30));
    let device = of_kind(&large, 17)[0];
    assert_eq!(device[0x0c..0x0e], [0xff, 0x7f]);
    assert_eq!(device[0x1c..0x20], (64u32 << 10).to_le_bytes());
    let ranges = of_kind(&large, 19);
    assert_eq!(ranges.len(), 2);
    assert_eq!(ranges[1][4..8], (4u32 << 20).to_le_bytes());

    let huge = walk(&structures(&BoardTables::default(), 8 << 40));
    assert_eq!(of_kind(&huge, 16)[0][7..11], 0x8000_0000u32.to_le_bytes());
    let high = of_kind(&huge, 19)[1];
    assert_eq!(high[4..8], [0xff; 4]);
    assert_eq!(high[0x0f..0x17], (4u64 << 30).to_le_bytes());
    assert_eq!(high[0x17..0x1f], ((8u64 << 40) + (1 << 30) - 1).to_le_bytes());
}
