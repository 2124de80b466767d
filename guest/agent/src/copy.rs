//! Files to and from the host, by a process of their own.

use motu_copy::{Rights, Target, pack, unpack};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter};
use std::path::Path;

/// Bytes that are read or written at once.
const BUFFER: usize = 128 * 1024;

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the host asks for a copy in words that this agent does not know")
}

/// Sends what is at a path: the path, and `follow` or `asis`.
pub fn send(arguments: &[OsString]) -> io::Result<()> {
    let [path, follow] = arguments else { return Err(wrong()) };
    let mut to = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let packed = pack(Path::new(path), follow == "follow", &mut to, &mut |error| eprintln!("{error}"));
    match packed.map_err(io::Error::other)?.left_out {
        0 => Ok(()),
        1 => Err(io::Error::other("one of them was left out")),
        count => Err(io::Error::other(format!("{count} of them were left out"))),
    }
}

/// Makes what comes: the path, its name in a folder, `whole` or `contents`, and `owners` or `bits`.
pub fn receive(arguments: &[OsString]) -> io::Result<()> {
    let [path, name, contents, rights] = arguments else { return Err(wrong()) };
    let target = Target {
        path: Path::new(path),
        name: OsStr::new(name),
        contents: contents == "contents",
        rights: if rights == "owners" { Rights::All } else { Rights::Bits },
    };
    let from = BufReader::with_capacity(BUFFER, io::stdin().lock());
    unpack(from, &target, &mut |_| {}).map_err(io::Error::other)?;
    Ok(())
}
