//! The files of a folder, or of a tar archive where they lie in it.

use super::cut_short;
use crate::RegistryError;
use crate::manifest::{MAX_DOCUMENT, printable};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header, PaxExtensions};

/// Entries of an archive at most: one for each layer, and some.
const MAX_ENTRIES: usize = 100_000;
/// Links that are followed one after the other at most.
const MAX_LINKS: usize = 8;
/// Bytes of an extended header that are looked at.
const MAX_EXTENDED: u64 = 64 << 10;
const BLOCK: u64 = 512;

/// Files by their names, relative to a layout's root.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder,
    Archive(HashMap<String, Entry>),
}

#[derive(Debug)]
enum Entry {
    File { offset: u64, size: u64 },
    Link(String),
}

/// Where a file's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Located {
    pub(super) fn open(&self) -> io::Result<impl Read + use<>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.size))
    }

    /// All of it, if that is not too much.
    pub(super) fn read(&self) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let read = self.open().and_then(|file| file.take(MAX_DOCUMENT).read_to_end(&mut bytes));
        read.map_err(RegistryError::io("read", &self.path))?;
        if bytes.len() as u64 == self.size { Ok(bytes) } else { Err(cut_short(&self.path)) }
    }
}

impl Files {
    pub(super) fn folder(path: &Path) -> Result<Self, RegistryError> {
        let metadata = path.metadata().map_err(RegistryError::io("read", path))?;
        if !metadata.is_dir() {
            let problem = "is no folder; oci-archive: and docker-archive: take files".to_owned();
            return Err(RegistryError::Layout { path: path.to_owned(), problem });
        }
        Ok(Files { path: path.to_owned(), kind: Kind::Folder })
    }

    pub(super) fn archive(path: &Path) -> Result<Self, RegistryError> {
        let wrong = |problem: String| RegistryError::Layout { path: path.to_owned(), problem };
        let file = File::open(path).map_err(RegistryError::io("read", path))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(wrong("is a folder; oci-layout: takes folders".to_owned()));
        }
        match index(BufReader::new(file)) {
            Ok(entries) => Ok(Files { path: path.to_owned(), kind: Kind::Archive(entries) }),
            Err(Broken::Io(error)) => Err(RegistryError::io("read", path)(error)),
            Err(Broken::Problem(problem)) => Err(wrong(problem)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file's bytes lie; `None` if there is no such file.
    pub(super) fn find(&self, name: &str) -> Result<Option<Located>, RegistryError> {
        match &self.kind {
            Kind::Folder => {
                let path = self.path.join(name);
                match path.metadata() {
                    Ok(metadata) if metadata.is_file() => Ok(Some(Located { path, offset: 0, size: metadata.len() })),
                    Ok(_) => Ok(None),
                    Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                        Ok(None)
                    }
                    Err(error) => Err(RegistryError::io("read", &path)(error)),
                }
            }
            Kind::Archive(entries) => {
                Ok(find(entries, name).map(|(offset, size)| Located { path: self.path.clone(), offset, size }))
            }
        }
    }

    /// A small file's bytes; `None` if there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let Some(located) = self.find(name)? else { return Ok(None) };
        if located.size > MAX_DOCUMENT {
            let what = format!("{} of {}", printable(name, 100), self.path.display());
            let problem = format!("has {} bytes; {MAX_DOCUMENT} are allowed", located.size);
            return Err(RegistryError::document(&what, problem));
        }
        located.read().map(Some)
    }
}

/// A file of an archive, by links in it as Docker wrote them for layers that two images share.
fn find(entries: &HashMap<String, Entry>, name: &str) -> Option<(u64, u64)> {
    let mut name = normal(name)?;
    for _ in 0..MAX_LINKS {
        match entries.get(&name)? {
            Entry::File { offset, size } => return Some((*offset, *size)),
            Entry::Link(target) => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                name = normal(&format!("{folder}/{target}"))?;
            }
        }
    }
    None
}

/// A name without `.` and `..`; `None` if it leads out.
fn normal(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

enum Broken {
    Io(io::Error),
    Problem(String),
}

/// What lies where in an archive. Only headers are read (POSIX pax, "ustar Interchange Format"): the names that layouts and Docker use
/// fit into them, and of extended headers only sizes count, which do not fit from 8 GiB on.
fn index(mut archive: impl Read + Seek) -> Result<HashMap<String, Entry>, Broken> {
    let end = archive.seek(SeekFrom::End(0)).map_err(Broken::Io)?;
    archive.rewind().map_err(Broken::Io)?;
    let mut entries = HashMap::new();
    let mut at = 0u64;
    let mut header = Header::new_old();
    let mut stated = None;
    // Two empty blocks end an archive; its end does, too.
    while at.saturating_add(BLOCK) <= end {
        archive.seek(SeekFrom::Start(at)).map_err(Broken::Io)?;
        archive.read_exact(header.as_mut_bytes()).map_err(Broken::Io)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            break;
        }
        let mut size = size_of(&header).ok_or_else(|| Broken::Problem(no_archive(&header, at)))?;
        if header.entry_type().is_pax_local_extensions() {
            stated = stated_size(&mut archive, size).map_err(Broken::Io)?;
        } else if let Some(stated) = stated.take().filter(|_| size_counts(header.entry_type())) {
            size = stated;
        }
        let offset = at + BLOCK;
        let next = size.checked_next_multiple_of(BLOCK).and_then(|size| offset.checked_add(size));
        let Some(next) = next.filter(|_| offset.checked_add(size).is_some_and(|last| last <= end)) else {
            return Err(Broken::Problem("is damaged: it ends too early".to_owned()));
        };
        if entries.len() >= MAX_ENTRIES {
            return Err(Broken::Problem(format!("has more than {MAX_ENTRIES} entries")));
        }
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let entry = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => Some(Entry::File { offset, size }),
            EntryType::Symlink => {
                header.link_name_bytes().map(|target| Entry::Link(String::from_utf8_lossy(&target).into_owned()))
            }
            _ => None,
        };
        if let (Some(name), Some(entry)) = (normal(&name), entry) {
            entries.insert(name, entry);
        }
        at = next;
    }
    if entries.is_empty() {
        return Err(Broken::Problem("is no tar archive with anything in it".to_owned()));
    }
    Ok(entries)
}

/// An entry's size, if this is a header.
fn size_of(header: &Header) -> Option<u64> {
    let bytes = header.as_bytes();
    // The checksum's own field counts as blanks.
    let sum: u32 =
        bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum().ok()? != sum {
        return None;
    }
    if size_counts(header.entry_type()) { header.entry_size().ok() } else { Some(0) }
}

/// Whether an entry's size is that of data behind it, and not of what it names.
fn size_counts(kind: EntryType) -> bool {
    !matches!(kind, EntryType::Link | EntryType::Symlink | EntryType::Directory)
}

/// What an extended header of so many bytes says of the size of the entry behind it.
fn stated_size(archive: &mut impl Read, bytes: u64) -> io::Result<Option<u64>> {
    let mut data = Vec::new();
    archive.take(bytes.min(MAX_EXTENDED)).read_to_end(&mut data)?;
    let records = PaxExtensions::new(&data).filter_map(Result::ok);
    Ok(records
        .filter(|record| record.key_bytes() == b"size")
        .filter_map(|record| record.value().ok()?.parse().ok())
        .last())
}

fn no_archive(header: &Header, at: u64) -> String {
    const PACKED: [(&[u8], &str, &str); 4] = [
        (&[0x1f, 0x8b], "gzip", "gunzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "unzstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz", "unxz"),
        (b"BZh", "bzip2", "bunzip2"),
    ];
    if at > 0 {
        return format!("is damaged: there is no header at byte {at}");
    }
    match PACKED.iter().find(|(magic, ..)| header.as_bytes().starts_with(magic)) {
        Some((_, with, by)) => format!("is packed with {with}: unpack it with {by} first"),
        None => "is no tar archive".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn archive(entries: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in entries {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).expect("appended");
        }
        for (name, target) in links {
            let mut header = Header::new_ustar();
            header.set_size(0);
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, name, target).expect("appended");
        }
        builder.into_inner().expect("an archive")
    }

    fn entries(bytes: Vec<u8>) -> Result<HashMap<String, Entry>, String> {
        index(Cursor::new(bytes)).map_err(|broken| match broken {
            Broken::Io(error) => error.to_string(),
            Broken::Problem(problem) => problem,
        })
    }

    #[test]
    fn files_are_found_where_they_lie() {
        let bytes =
            archive(&[("./a", b"one"), ("b/c", &[7; 600])], &[("l/c", "../b/c"), ("out", "../../a"), ("x", "x")]);
        let found = entries(bytes.clone()).expect("an archive");
        let (offset, size) = find(&found, "a").expect("a");
        assert_eq!(bytes[offset as usize..][..size as usize], *b"one");
        assert_eq!(find(&found, "b/c").map(|(_, size)| size), Some(600));
        assert_eq!(find(&found, "l/c"), find(&found, "b/c"));
        for name in ["out", "x", "nothing", "../a"] {
            assert_eq!(find(&found, name), None, "{name}");
        }
    }

    #[test]
    fn a_size_may_be_in_an_extended_header() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_ustar();
        header.set_size(0);
        builder.append_pax_extensions([("path", b"x".as_slice()), ("size", b"600")]).expect("appended");
        builder.append_data(&mut header, "a", std::io::empty()).expect("appended");
        let mut bytes = builder.into_inner().expect("an archive");
        // The data, and one entry more, in place of the two blocks at the end.
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(vec![7; 1024]);
        bytes.extend(archive(&[("b", b"two")], &[]));
        let found = entries(bytes).expect("an archive");
        assert_eq!(find(&found, "a").map(|(_, size)| size), Some(600));
        assert_eq!(find(&found, "b").map(|(_, size)| size), Some(3));
    }

    #[test]
    fn what_is_no_archive_is_said() {
        let whole = archive(&[("a", &[1; 2000])], &[]);
        let mut second = archive(&[("a", b"1"), ("b", b"2")], &[]);
        second[1024 + 3] ^= 1;
        for (bytes, problem) in [
            (vec![0; 1024], "with anything in it"),
            (Vec::new(), "with anything in it"),
            (vec![b'x'; 1024], "is no tar archive"),
            ([vec![0x1f, 0x8b], vec![8; 1024]].concat(), "packed with gzip: unpack it with gunzip"),
            (whole[..1500].to_vec(), "ends too early"),
            (second, "no header at byte 1024"),
        ] {
            let error = entries(bytes).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_change_of_an_archive_panics(at in 0usize..2048, byte in any::<u8>()) {
            let mut bytes = archive(&[("a", b"one"), ("b", b"two")], &[]);
            bytes[at] = byte;
            if let Ok(found) = entries(bytes.clone()) {
                for name in ["a", "b"] {
                    if let Some((offset, size)) = find(&found, name) {
                        prop_assert!(offset + size <= bytes.len() as u64);
                    }
                }
            }
        }
    }
}
