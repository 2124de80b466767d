//! A shared folder, and messages of a guest's kernel that are anything but what they should be.

use motu_share::Share;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a message's header.
const HEADER: usize = 40;
/// Bytes that a reply may have.
const ROOM: usize = 2048;
/// `FUSE_FALLOCATE`: the one message that could fill the disk of whoever runs this.
const FALLOCATE: u8 = 43;
const OPCODES: u8 = 52;
const NODES: u8 = 6;
const OUTSIDE: &[u8] = b"not for guests";

/// A folder that is deleted with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("motu-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let share = path.join("share");
        fs::create_dir_all(share.join("d")).expect("a folder");
        fs::write(path.join("outside"), OUTSIDE).expect("a file");
        fs::write(share.join("f"), b"data").expect("a file");
        symlink("../outside", share.join("l")).expect("a link");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What a guest may have taken the rights away from is not worth a panic.
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Messages one after the other: what is asked, of which node, the body's length, the body.
///
/// # Panics
/// The host has no folder for temporary files.
pub fn run(mut bytes: &[u8]) {
    let folder = Folder::new();
    let share = Share::open(&folder.0.join("share"), false).expect("a folder can be shared");
    for (node, name) in [(1, &b"d\0"[..]), (1, b"f\0"), (1, b"l\0")] {
        _ = share.answer(&message(1, node, name), ROOM);
    }
    while let [opcode, node, len, rest @ ..] = bytes {
        let (body, left) = rest.split_at(rest.len().min((*len).into()));
        bytes = left;
        let opcode = opcode % OPCODES;
        if opcode == FALLOCATE {
            continue;
        }
        let whole = message(opcode.into(), (node % NODES).into(), body);
        let cut = if node & 0x80 == 0 { whole.len() } else { usize::from(*len).min(whole.len()) };
        if let Some(reply) = share.answer(&whole[..cut], ROOM) {
            assert!((16..=ROOM).contains(&reply.len()));
        }
    }
    assert_eq!(fs::read(folder.0.join("outside")).ok().as_deref(), Some(OUTSIDE));
    assert_eq!(fs::read_dir(&folder.0).map(Iterator::count).ok(), Some(2));
}

fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER + body.len()) as u32).to_le_bytes().to_vec();
    message.extend(opcode.to_le_bytes());
    message.extend(7u64.to_le_bytes());
    message.extend(node.to_le_bytes());
    message.resize(HEADER, 0);
    message.extend(body);
    message
}
