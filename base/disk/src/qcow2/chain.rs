//! A qcow2 image's backing files, and theirs.
//!
//! Their names are the image's word, and whatever they name is shown to a guest. So they are followed only to files in the
//! folder of the image that the person named, or below it, links resolved; a format must be said; and a chain has
//! an end.

use super::Qcow2;
use super::header::{BackingName, Header, MAX_CLUSTER, Problem};
use crate::open::open_file;
use crate::{Disk, DiskError, Format, Raw};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Backing files of an image at most, the whole chain's.
pub const MAX_DEPTH: usize = 16;

/// What identifies a file on this host: device and inode.
type FileId = (u64, u64);

/// A chain as far as it is followed.
struct Chain {
    /// Canonical; nothing outside is opened.
    folder: PathBuf,
    seen: Vec<FileId>,
}

/// Reads an image's header.
///
/// # Errors
/// It cannot be used.
pub fn read_header(file: &File, path: &Path) -> Result<Header, DiskError> {
    let mut bytes = Vec::new();
    At(file, 0).take(MAX_CLUSTER).read_to_end(&mut bytes).map_err(DiskError::io("reading", path))?;
    Header::parse(&bytes).map_err(|problem| match problem {
        Problem::NotQcow2(problem) => DiskError::NotQcow2 { path: path.to_owned(), problem },
        Problem::Unusable(problem) => DiskError::Qcow2 { path: path.to_owned(), problem },
    })
}

/// Opens the backing file of the image `file`, which a person named as `path`.
///
/// # Errors
/// It is not to be followed, or cannot be opened.
pub fn open_backing(file: &File, path: &Path, header: &Header) -> Result<Option<Box<dyn Disk>>, DiskError> {
    let Some(backing) = &header.backing else { return Ok(None) };
    let canonical = path.canonicalize().map_err(DiskError::io("resolving", path))?;
    let folder = canonical.parent().unwrap_or(Path::new("/")).to_owned();
    let mut chain = Chain { folder, seen: vec![id(file, path)?] };
    chain.open(&canonical, backing).map(Some)
}

fn id(file: &File, path: &Path) -> Result<FileId, DiskError> {
    let metadata = file.metadata().map_err(DiskError::io("reading", path))?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Chain {
    /// Opens what the image at `path`, a canonical one, names.
    fn open(&mut self, path: &Path, backing: &BackingName) -> Result<Box<dyn Disk>, DiskError> {
        let refused = |problem: &str| DiskError::Backing {
            path: path.to_owned(),
            name: backing.name.clone(),
            problem: problem.to_owned(),
        };
        let format = match backing.format.as_deref() {
            Some("raw") => Format::Raw,
            Some("qcow2") => Format::Qcow2,
            Some(_) => return Err(refused("whose format is neither raw nor qcow2 (qemu-img rebase -u -F)")),
            None => return Err(refused("and does not say its format; say it (qemu-img rebase -u -F)")),
        };
        let plain = backing.name.strip_prefix("file:").unwrap_or(&backing.name);
        if plain.split('/').next().is_some_and(|start| start.contains(':')) {
            return Err(refused("which is no file's name; only files are followed"));
        }
        let named = path.parent().unwrap_or(Path::new("/")).join(plain);
        let target = match named.canonicalize() {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(refused("which does not exist")),
            Err(error) => return Err(refused(&format!("which cannot be found: {error}"))),
        };
        if !target.starts_with(&self.folder) {
            return Err(refused(&format!(
                "which is not in the image's folder {}; put it there (qemu-img rebase -u)",
                self.folder.display()
            )));
        }
        let file = open_file(&target, true)?;
        let id = id(&file, &target)?;
        if self.seen.contains(&id) {
            return Err(refused("which leads back to itself; it has no end"));
        }
        if self.seen.len() > MAX_DEPTH {
            return Err(refused(&format!("after {MAX_DEPTH} others; that is the most (qemu-img convert)")));
        }
        self.seen.push(id);
        match format {
            Format::Raw => Ok(Box::new(Raw::new(file, &target, true)?)),
            Format::Qcow2 => {
                let backing = |header: &Header| {
                    let name = header.backing.as_ref();
                    name.map(|name| self.open(&target, name)).transpose()
                };
                Ok(Box::new(Qcow2::with_backing(file, &target, true, backing)?))
            }
        }
    }
}

/// Reads a file from a place on, without moving its position.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}
