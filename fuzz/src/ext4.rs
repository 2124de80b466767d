//! A file system whose bytes are anything: what becomes of it when it is to be a layer.
//!
//! A whole file system is more than an input has room for: the input changes one that is in order. Four bytes change one: which
//! block, where in it, and what is there then.

use crate::disk;
use motu_rootfs::{Builder, Compression, FileSystem, Layer, Limits, Options, Unattended};
use std::io;
use std::sync::OnceLock;

const SIZE: u64 = 16 << 20;
const BLOCK: usize = 4096;
const LIMITS: Limits = Limits { entries: 200, bytes: 1 << 20, metadata: 64 << 10 };

/// Blocks that are not zeros, and where they lie.
type Blocks = Vec<(u64, Vec<u8>)>;

/// # Panics
/// An error has no sentence.
pub fn run(bytes: &[u8]) {
    static WHOLE: OnceLock<Blocks> = OnceLock::new();
    let mut blocks = WHOLE.get_or_init(whole).clone();
    let count = blocks.len();
    for change in bytes.chunks_exact(4) {
        let [block, high, low, byte] = [change[0], change[1], change[2], change[3]].map(usize::from);
        blocks[block % count].1[(high << 8 | low) % BLOCK] = byte as u8;
    }
    let disk = disk::memory(SIZE);
    for (at, data) in &blocks {
        disk.write(*at, data).expect("a file in memory is written");
    }
    let archived = FileSystem::open(&*disk).and_then(|files| files.archive(io::sink(), &LIMITS, &Unattended));
    if let Err(error) = archived {
        let said = error.to_string();
        assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
    }
}

/// Folders, files of several extents, links, devices and attributes.
fn whole() -> Blocks {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, target: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_device_major(8).and_then(|()| header.set_device_minor(1)).expect("small numbers");
        let records = [("mtime", &b"1700000000.5"[..]), ("SCHILY.xattr.user.name", &[7; 200])];
        tar.append_pax_extensions(records).expect("written to memory");
        let added = match target {
            "" => tar.append_data(&mut header, name, data),
            _ => tar.append_link(&mut header, name, target),
        };
        added.expect("written to memory");
    };
    use tar::EntryType as Kind;
    add(Kind::Directory, "folder/", "", b"");
    add(Kind::Regular, "folder/file", "", &[1; 3 * BLOCK]);
    add(Kind::Regular, "folder/other", "", b"short");
    add(Kind::Link, "hard", "folder/file", b"");
    add(Kind::Symlink, "fast", "folder/other", b"");
    add(Kind::Symlink, "slow", &"s".repeat(90), b"");
    add(Kind::Block, "device", "", b"");
    add(Kind::Fifo, "fifo", "", b"");
    let layer = tar.into_inner().expect("written to memory");
    let disk = disk::memory(SIZE);
    let mut builder = Builder::new(&*disk, &Options::default()).expect("the size will do");
    let applied =
        builder.apply(&Layer { name: "layer", compression: Compression::None }, layer.as_slice(), &Unattended);
    applied.and_then(|()| builder.finish()).expect("a layer that is in order");
    let blocks = (0..SIZE).step_by(BLOCK).map(|at| {
        let mut data = vec![0; BLOCK];
        disk.read(at, &mut data).expect("a file in memory is read");
        (at, data)
    });
    blocks.filter(|(_, data)| data.iter().any(|byte| *byte != 0)).collect()
}
