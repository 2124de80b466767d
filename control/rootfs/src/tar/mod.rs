//! tar archives as they are read once from the beginning to the end: ustar, PAX and GNU's long names (POSIX.1-2017, pax,
//! "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format").
//!
//! The bounds are ours: a name has 4095 bytes, an extended header [`MOST_EXTENDED`].

mod header;
mod pax;

use crate::tree::Time;
use header::Header;
use std::io::{self, Read};

/// Bytes of a header, and what everything is padded to.
const BLOCK: usize = 512;

/// Bytes of an extended header: room for a full set of extended attributes.
const MOST_EXTENDED: u64 = 256 << 10;

/// Bytes of a path, without the NUL (Linux's PATH_MAX).
pub(crate) const LONGEST_PATH: usize = 4095;

/// Most extended headers before one entry.
const MOST_HEADERS: u32 = 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Bytes of data that follow; only files have any.
    pub(crate) size: u64,
    /// Of a hard or symbolic link.
    pub(crate) target: Vec<u8>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Extended attributes: name and value.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why an archive cannot be read on.
#[derive(Debug)]
pub(crate) enum TarError {
    /// Its reader failed.
    Read(io::Error),
    /// It is not tar, or damaged.
    Archive(String),
    /// An entry, by its name, cannot be taken.
    Entry { path: Vec<u8>, problem: String },
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Archive("it ends in the middle of an entry".to_owned())
        } else {
            Self::Read(error)
        }
    }
}

/// An archive that is being read.
pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes from the beginning on.
    at: u64,
    /// Of the current entry's data, and of its padding.
    left: u64,
    padding: u64,
    global: pax::Records,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, at: 0, left: 0, padding: 0, global: pax::Records::default() }
    }

    /// How many bytes of the archive were read.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// The next entry; what was not read of the last one's data is skipped. `None` at the end, to which the reader is read then.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip()?;
        let mut extended = pax::Records::default();
        for _ in 0..=MOST_HEADERS {
            let Some(header) = self.header()? else {
                return if extended == pax::Records::default() {
                    self.drain()?;
                    Ok(None)
                } else {
                    Err(TarError::Archive("it ends behind an extended header".to_owned()))
                };
            };
            match header.kind {
                b'x' | b'X' => {
                    pax::read(&self.extension(&header)?, &mut extended).map_err(|problem| header.refuse(problem))?
                }
                b'g' => {
                    let data = self.extension(&header)?;
                    self.global.read_global(&data).map_err(|problem| header.refuse(problem))?;
                }
                b'L' => extended.path = Some(until_nul(self.extension(&header)?)),
                b'K' => extended.target = Some(until_nul(self.extension(&header)?)),
                // A volume's label (GNU) names no file.
                b'V' => self.skip_data(header.size)?,
                _ => return self.entry(header, extended).map(Some),
            }
        }
        Err(TarError::Archive(format!(
            "more than {MOST_HEADERS} extended headers before one entry, at byte {}",
            self.at
        )))
    }

    /// Reads some of the current entry's data; 0 bytes at its end only.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = loop {
            match self.reader.read(buffer.get_mut(..most).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.left = self.left.saturating_sub(read as u64);
        self.at += read as u64;
        Ok(read)
    }

    /// The next header, not looking at what it means; `None` at the end of the archive: a block of zeros, or nothing more.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    return Err(TarError::Archive(format!("it ends in the middle of a header, at byte {}", self.at)));
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let at = self.at;
        self.at += BLOCK as u64;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        Header::parse(&block).map(Some).map_err(|problem| TarError::Archive(format!("{problem}, at byte {at}")))
    }

    /// The data of an extended header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        if header.size > MOST_EXTENDED {
            return Err(header
                .refuse(format!("an extended header of {} bytes; {MOST_EXTENDED} at most are taken", header.size)));
        }
        let mut data = Vec::new();
        self.reader.by_ref().take(header.size).read_to_end(&mut data)?;
        self.at += data.len() as u64;
        if (data.len() as u64) < header.size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.skip_data(padding(header.size))?;
        Ok(data)
    }

    fn entry(&mut self, header: Header, mut extended: pax::Records) -> Result<Entry, TarError> {
        extended.add_missing(&self.global);
        let path = extended.path.unwrap_or_else(|| header.path.clone());
        let refuse = |problem: String| TarError::Entry { path: path.clone(), problem };
        if extended.sparse || header.kind == b'S' {
            return Err(refuse("a sparse file; make the archive without --sparse".to_owned()));
        }
        let kind = match header.kind {
            // Archives older than ustar mark folders by their names.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(refuse(format!("an entry of the type {:?}, which is not known", char::from(other)))),
        };
        let size = extended.size.unwrap_or(header.size);
        // What is said to follow other entries is skipped, as all programs do; it does not follow links and devices.
        let follows = if matches!(kind, Kind::File | Kind::Directory) { size } else { 0 };
        self.left = follows;
        self.padding = padding(follows);
        let target = extended.target.unwrap_or(header.target);
        for (what, name) in [("a name", &path), ("a target", &target)] {
            if name.len() > LONGEST_PATH {
                return Err(refuse(format!("{what} of {} bytes; {LONGEST_PATH} at most are taken", name.len())));
            }
            if name.contains(&0) {
                return Err(refuse(format!("{what} with a NUL byte in it")));
            }
        }
        if target.is_empty() && matches!(kind, Kind::HardLink | Kind::Symlink) {
            return Err(refuse("a link to nothing: its target is empty".to_owned()));
        }
        let number = |what, in_header, in_pax: Option<u32>| match (in_pax, u32::try_from(in_header)) {
            (Some(number), _) | (None, Ok(number)) => Ok(number),
            _ => Err(refuse(format!("with the {what} {in_header}; {} is the largest there is", u32::MAX))),
        };
        Ok(Entry {
            kind,
            mode: header.mode,
            uid: number("owner", header.uid, extended.uid)?,
            gid: number("group", header.gid, extended.gid)?,
            mtime: extended.mtime.unwrap_or(Time { seconds: header.mtime, nanos: 0 }),
            size: if kind == Kind::File { size } else { 0 },
            target,
            device: header.device,
            xattrs: extended.xattrs.into_iter().collect(),
            path,
        })
    }

    /// Skips what was not read of the current entry.
    fn skip(&mut self) -> Result<(), TarError> {
        let (rest, padding) = (self.left, self.padding);
        (self.left, self.padding) = (0, 0);
        self.skip_data(rest)?;
        // umoci leaves out the last padding, and the archive's end; Go's readers take that, so there are such images.
        self.at = self.at.saturating_add(io::copy(&mut self.reader.by_ref().take(padding), &mut io::sink())?);
        Ok(())
    }

    fn skip_data(&mut self, bytes: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink())?;
        self.at = self.at.saturating_add(skipped);
        if skipped < bytes { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
    }

    /// Reads what lies behind the end of the archive, so that a digest of all of it can be taken, and damage is found.
    fn drain(&mut self) -> Result<(), TarError> {
        self.at = self.at.saturating_add(io::copy(&mut self.reader, &mut io::sink())?);
        Ok(())
    }
}

fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
