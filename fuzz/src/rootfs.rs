//! Layers: tar archives that are anything but what they should be, and what becomes of them.
//!
//! A header of tar has a checksum, which chance does not find: the input says what entries are like, and they are written
//! with right checksums. An input that begins with an odd byte is an archive as it is.

use crate::disk;
use ext4_view::{Ext4, Ext4Read, PathBuf};
use motu_disk::Disk;
use motu_rootfs::{Builder, Compression, Layer, Limits, Options, PackageData, Unattended};
use std::error::Error;
use std::fmt::Write as _;

const SIZE: u64 = 16 << 20;
const LIMITS: Limits = Limits { entries: 200, bytes: 1 << 20, metadata: 64 << 10 };
/// Entries of a file system that are looked at.
const MOST: usize = 1000;

/// # Panics
/// What was made cannot be read.
pub fn run(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let layers = if first & 1 == 1 { vec![rest.to_vec()] } else { written(rest) };
    let disk = disk::memory(SIZE);
    let mut builder =
        Builder::new(&*disk, &Options { limits: LIMITS, ..Options::default() }).expect("the size will do");
    let conffiles = [b"a".to_vec()].into();
    for (layer, number) in layers.iter().zip(0u8..) {
        let compression = Compression::None;
        let applied = if first & 2 == 2 && number == 1 {
            let package = PackageData { name: "package", compression, conffiles: &conffiles };
            builder.apply_package(&package, layer.as_slice(), &Unattended).map(drop)
        } else {
            builder.apply(&Layer { name: "layer", compression }, layer.as_slice(), &Unattended)
        };
        if let Err(error) = applied {
            let said = error.to_string();
            assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
            return;
        }
    }
    if builder.finish().is_ok() {
        walk(disk);
    }
}

/// Reads every name, and every file, by somebody else's code.
fn walk(disk: Box<dyn Disk>) {
    let ext4 = Ext4::load(Box::new(OnDisk(disk))).expect("it is a file system");
    let mut rest = vec![PathBuf::new("/")];
    let mut seen = 0;
    while let Some(folder) = rest.pop() {
        for entry in ext4.read_dir(&folder).expect("a folder is read") {
            let entry = entry.expect("an entry is read");
            let name = entry.file_name();
            seen += 1;
            if name == "." || name == ".." || seen > MOST {
                continue;
            }
            // Deeper than a path can be said, it is there all the same.
            let Ok(metadata) = ext4.symlink_metadata(&entry.path()) else { continue };
            if metadata.is_dir() {
                rest.push(entry.path());
            } else if metadata.file_type().is_regular_file() {
                let data = ext4.read(&entry.path()).expect("a file is read");
                assert_eq!(data.len() as u64, metadata.len());
            }
        }
    }
}

struct OnDisk(Box<dyn Disk>);

impl Ext4Read for OnDisk {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let first = start / 512 * 512;
        let skip = (start - first) as usize;
        let mut sectors = vec![0; (skip + into.len()).next_multiple_of(512)];
        self.0.read(first, &mut sectors)?;
        into.copy_from_slice(&sectors[skip..skip + into.len()]);
        Ok(())
    }
}

/// Takes an input apart.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.byte()) % (most + 1);
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Layers as the input describes them.
fn written(input: &[u8]) -> Vec<Vec<u8>> {
    const KINDS: &[u8] = b"0123456xgLK5500S7Q";
    let mut input = Input(input);
    let mut layers = vec![Vec::new()];
    while !input.0.is_empty() {
        let kind = input.byte();
        if kind == 0xff {
            layers.push(Vec::new());
            continue;
        }
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        let (name, target) = (input.bytes(40), input.bytes(30));
        let (mode, magic) = (input.byte(), input.byte());
        let mut data = input.bytes(200).to_vec();
        if kind == b'x' && magic & 1 == 0 {
            data = record(input.byte(), &data);
        }
        let said = if magic & 0x80 == 0 { data.len() as u64 } else { u64::from(mode) << (magic & 0x1f) };
        if let Some(layer) = layers.last_mut() {
            layer.extend(header(kind, [name, target], said, (mode, magic)));
            layer.extend(&data);
            layer.resize(layer.len().next_multiple_of(512), 0);
        }
    }
    layers
}

/// A record of an extended header with a right length.
fn record(which: u8, value: &[u8]) -> Vec<u8> {
    const KEYWORDS: [&str; 8] = [
        "path",
        "linkpath",
        "size",
        "mtime",
        "uid",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.system.posix_acl_access",
        "GNU.sparse.x",
    ];
    let rest = [b" ", KEYWORDS[usize::from(which) % KEYWORDS.len()].as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn header(kind: u8, [name, target]: [&[u8]; 2], size: u64, (mode, magic): (u8, u8)) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |value: u64, digits: usize| {
        let mut text = String::new();
        _ = write!(text, "{value:0digits$o}");
        text
    };
    put(0, name);
    put(100, octal(u64::from(mode) * 16, 7).as_bytes());
    put(124, octal(size, 11).as_bytes());
    put(136, octal(u64::from(mode) << 20, 11).as_bytes());
    put(157, target);
    put(257, if magic & 2 == 0 { b"ustar\0" } else { b"ustar " });
    put(329, octal(u64::from(mode), 7).as_bytes());
    put(337, octal(u64::from(magic), 7).as_bytes());
    block[156] = kind;
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(octal(sum, 7).as_bytes());
    block
}
