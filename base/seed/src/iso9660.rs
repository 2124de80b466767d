//! An ISO 9660 file system of a few files in one folder (ECMA-119, 4th edition), with their own names and modes by Rock Ridge (SUSP and
//! RRIP, version 1.09).
//!
//! ```text
//!   sector 0..16   nothing     16   primary volume descriptor   17   end of the descriptors
//!   18, 19         path tables, the least significant byte first, and the most
//!   20             the folder   21..   files, each from a sector of its own on
//! ```

/// Bytes of a sector, which is a logical block too (ECMA-119, 6.1.2).
const SECTOR: usize = 2048;
/// Where what lies, in sectors.
const PATHS_LITTLE: u32 = 18;
const PATHS_BIG: u32 = 19;
const FOLDER: u32 = 20;
const FILES: u32 = 21;
/// Bytes of a path table with one folder in it (9.4).
const PATHS_LEN: u32 = 10;
/// Modes of the folder and of files: they may hold secrets.
const FOLDER_MODE: u32 = 0o040_500;
const FILE_MODE: u32 = 0o100_400;

/// 1 January 1970 (9.1.5): nobody asks when. Linux makes another year of seven zeros, which stand for none.
const TIME: [u8; 7] = [70, 1, 1, 0, 0, 0, 0];

/// The file system. What it is made of decides its bytes: it knows no time.
///
/// The names are of letters, digits and `-`, at most 27 bytes long, sorted, and at most a dozen: one sector has their records.
pub(crate) fn image(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut folder = record(&[0], Extent { at: FOLDER, len: SECTOR as u32 }, true, &folder_itself());
    folder.extend(record(&[1], Extent { at: FOLDER, len: SECTOR as u32 }, true, &mode(FOLDER_MODE, 2)));
    let mut at = FILES;
    for (name, data) in files {
        let extent = Extent { at, len: data.len() as u32 };
        folder.extend(record(&identifier(name), extent, false, &[mode(FILE_MODE, 1), own_name(name)].concat()));
        at += data.len().div_ceil(SECTOR) as u32;
    }
    let mut image = vec![0; 16 * SECTOR];
    let end = [&[255], &b"CD001\x01"[..]].concat();
    let [little, big] = paths();
    for sector in [&descriptor(label, at), &end, &little, &big, &folder] {
        push(&mut image, sector);
    }
    files.iter().for_each(|(_, data)| push(&mut image, data));
    image
}

/// Appends data, and zeros up to a whole sector.
fn push(image: &mut Vec<u8>, data: &[u8]) {
    image.extend_from_slice(data);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
}

/// The primary volume descriptor (8.4).
fn descriptor(label: &str, sectors: u32) -> Vec<u8> {
    let root = record(&[0], Extent { at: FOLDER, len: SECTOR as u32 }, true, &[]);
    let parts: [&[u8]; 16] = [
        b"\x01CD001\x01\0",
        &text("", 32),
        // A label in small letters is none of the standard's, and what cloud-init looks for.
        &text(label, 32),
        &[0; 8],
        &both32(sectors),
        &[0; 32],
        // One volume, the first of a set, and its blocks' bytes.
        &[both16(1), both16(1), both16(SECTOR as u16)].concat(),
        &both32(PATHS_LEN),
        &[PATHS_LITTLE.to_le_bytes(), [0; 4], PATHS_BIG.to_be_bytes(), [0; 4]].concat(),
        &root,
        // Who made what: nobody says.
        &text("", 4 * 128 + 3 * 37),
        // Four times when: digits of zero are none (8.4.26.1).
        &[&[b'0'; 16][..], &[0]].concat().repeat(4),
        // The version of records and path tables.
        &[1],
        &[0],
        &[0; 512],
        &[0; 653],
    ];
    parts.concat()
}

/// The path tables (9.4): of the folder alone, which is its own parent.
fn paths() -> [Vec<u8>; 2] {
    let table = |at: [u8; 4], parent: [u8; 2]| [&[1, 0][..], &at, &parent, &[0, 0]].concat();
    [table(FOLDER.to_le_bytes(), 1_u16.to_le_bytes()), table(FOLDER.to_be_bytes(), 1_u16.to_be_bytes())]
}

/// Where a file's bytes lie.
#[derive(Clone, Copy)]
struct Extent {
    /// In sectors.
    at: u32,
    /// In bytes.
    len: u32,
}

/// A record of the folder (9.1) with what Rock Ridge has to say.
fn record(identifier: &[u8], extent: Extent, is_folder: bool, system_use: &[u8]) -> Vec<u8> {
    let flags = if is_folder { 2 } else { 0 };
    let mut rest = [&[0][..], &both32(extent.at), &both32(extent.len), &TIME, &[flags, 0, 0], &both16(1)].concat();
    rest.push(identifier.len() as u8);
    rest.extend_from_slice(identifier);
    pad(&mut rest);
    rest.extend_from_slice(system_use);
    pad(&mut rest);
    [&[1 + rest.len() as u8], rest.as_slice()].concat()
}

/// Fills up a record without its first byte, which is its length, to an even number of bytes.
fn pad(rest: &mut Vec<u8>) {
    if rest.len().is_multiple_of(2) {
        rest.push(0);
    }
}

/// A name as those read it who do not know Rock Ridge: capital letters, digits and `_`, no extension, version 1 (7.5).
fn identifier(name: &str) -> Vec<u8> {
    let letter = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() } else { b'_' };
    name.bytes().map(letter).chain(*b".;1").collect()
}

/// What the folder says of itself: that the sharing protocol is in use (SUSP 5.3), by what (5.5), and its mode.
fn folder_itself() -> Vec<u8> {
    [&b"SP\x07\x01\xbe\xef\0"[..], &mode(FOLDER_MODE, 2), b"ER\x12\x01\x0a\0\0\x01RRIP_1991A"].concat()
}

/// Mode, links, and root's user and group (RRIP 4.1.1).
fn mode(mode: u32, links: u32) -> Vec<u8> {
    [&b"PX\x24\x01"[..], &both32(mode), &both32(links), &both32(0), &both32(0)].concat()
}

/// The name as it is (RRIP 4.1.4).
fn own_name(name: &str) -> Vec<u8> {
    [&b"NM"[..], &[5 + name.len() as u8, 1, 0], name.as_bytes()].concat()
}

/// A text and spaces behind it (7.4).
fn text(text: &str, len: usize) -> Vec<u8> {
    text.bytes().chain(std::iter::repeat(b' ')).take(len).collect()
}

/// A number in both orders of bytes (7.2.3, 7.3.3).
fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

fn both32(number: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}
