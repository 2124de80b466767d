//! Items, and their bytes.

use crate::{CopyError, PIECE};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest name in bytes (limits.h: NAME_MAX), and longest target of a link (PATH_MAX).
const LONGEST_NAME: usize = 255;
const LONGEST_TARGET: usize = 4096;

/// Who owns something, what they may do with it, and when it was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The twelve bits of chmod(2).
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Since 1970.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Folder {
        name: OsString,
        meta: Meta,
    },
    Up,
    File {
        name: OsString,
        meta: Meta,
        number: u64,
    },
    /// Bytes of the last file; they are in the reader's buffer.
    Bytes(usize),
    Hole(u64),
    EndOfFile,
    Symlink {
        name: OsString,
        meta: Meta,
        target: OsString,
    },
    Link {
        name: OsString,
        number: u64,
    },
    End,
}

fn put_text(out: &mut Vec<u8>, text: &OsStr) {
    // Names and targets come from the kernel, which has none that are longer.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes().iter().take(length.into()));
}

fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    out.extend(meta.mode.to_le_bytes());
    out.extend(meta.uid.to_le_bytes());
    out.extend(meta.gid.to_le_bytes());
    out.extend(meta.seconds.to_le_bytes());
    out.extend(meta.nanos.to_le_bytes());
}

/// Writes an item that has no bytes of a file.
pub fn put(to: &mut impl Write, item: &Item) -> Result<(), CopyError> {
    let mut out = Vec::new();
    match item {
        Item::Folder { name, meta } => {
            out.push(b'd');
            put_text(&mut out, name);
            put_meta(&mut out, meta);
        }
        Item::Up => out.push(b'u'),
        Item::File { name, meta, number } => {
            out.push(b'f');
            put_text(&mut out, name);
            put_meta(&mut out, meta);
            out.extend(number.to_le_bytes());
        }
        Item::Bytes(length) => {
            out.push(b'b');
            out.extend(u32::try_from(*length).unwrap_or(u32::MAX).to_le_bytes());
        }
        Item::Hole(length) => {
            out.push(b'h');
            out.extend(length.to_le_bytes());
        }
        Item::EndOfFile => out.push(b'e'),
        Item::Symlink { name, meta, target } => {
            out.push(b's');
            put_text(&mut out, name);
            put_meta(&mut out, meta);
            put_text(&mut out, target);
        }
        Item::Link { name, number } => {
            out.push(b'l');
            put_text(&mut out, name);
            out.extend(number.to_le_bytes());
        }
        Item::End => out.push(b'z'),
    }
    to.write_all(&out).map_err(CopyError::Broken)
}

/// Writes bytes of the last file, [`PIECE`] at most.
pub fn put_bytes(to: &mut impl Write, bytes: &[u8]) -> Result<(), CopyError> {
    put(to, &Item::Bytes(bytes.len()))?;
    to.write_all(bytes).map_err(CopyError::Broken)
}

/// Reads items. Nothing is believed: a name is one part of a path, a length has its bound.
pub struct Items<R> {
    from: R,
    /// The bytes of the last [`Item::Bytes`].
    pub bytes: Vec<u8>,
    /// No item has been read yet: its name is empty.
    first: bool,
}

impl<R: Read> Items<R> {
    pub fn new(from: R) -> Self {
        Self { from, bytes: Vec::new(), first: true }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CopyError> {
        let mut array = [0; N];
        self.from.read_exact(&mut array).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => CopyError::Stream("nothing more"),
            _ => CopyError::Broken(error),
        })?;
        Ok(array)
    }

    fn text(&mut self, longest: usize) -> Result<OsString, CopyError> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > longest {
            return Err(CopyError::Stream("a name that is too long"));
        }
        let mut text = vec![0; length];
        self.from.read_exact(&mut text).map_err(CopyError::Broken)?;
        if text.contains(&0) {
            return Err(CopyError::Stream("a name with a zero byte"));
        }
        Ok(OsString::from_vec(text))
    }

    fn name(&mut self) -> Result<OsString, CopyError> {
        let name = self.text(LONGEST_NAME)?;
        if std::mem::take(&mut self.first) {
            return if name.is_empty() { Ok(name) } else { Err(CopyError::Stream("a name where none belongs")) };
        }
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(CopyError::Stream("a name that is no part of a path"));
        }
        Ok(name)
    }

    fn meta(&mut self) -> Result<Meta, CopyError> {
        let meta = Meta {
            mode: u16::from_le_bytes(self.array()?) & 0o7777,
            uid: u32::from_le_bytes(self.array()?),
            gid: u32::from_le_bytes(self.array()?),
            seconds: i64::from_le_bytes(self.array()?),
            nanos: u32::from_le_bytes(self.array()?),
        };
        if meta.nanos >= 1_000_000_000 { Err(CopyError::Stream("a time that is none")) } else { Ok(meta) }
    }

    /// The next item.
    pub fn next_item(&mut self) -> Result<Item, CopyError> {
        let [kind] = self.array()?;
        Ok(match kind {
            b'd' => Item::Folder { name: self.name()?, meta: self.meta()? },
            b'u' => Item::Up,
            b'f' => Item::File { name: self.name()?, meta: self.meta()?, number: u64::from_le_bytes(self.array()?) },
            b'b' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                if length > PIECE {
                    return Err(CopyError::Stream("a piece that is too long"));
                }
                self.bytes.resize(length, 0);
                self.from.read_exact(&mut self.bytes).map_err(CopyError::Broken)?;
                Item::Bytes(length)
            }
            b'h' => Item::Hole(u64::from_le_bytes(self.array()?)),
            b'e' => Item::EndOfFile,
            b's' => {
                let (name, meta, target) = (self.name()?, self.meta()?, self.text(LONGEST_TARGET)?);
                if target.is_empty() {
                    return Err(CopyError::Stream("a link to nothing"));
                }
                Item::Symlink { name, meta, target }
            }
            b'l' => Item::Link { name: self.name()?, number: u64::from_le_bytes(self.array()?) },
            b'z' => Item::End,
            _ => return Err(CopyError::Stream("what is no file")),
        })
    }
}
