//! From a file's name to a disk.

use crate::disk::{Disk, MAX_SIZE, SECTOR};
use crate::{DiskError, Format, Raw, qcow2};
use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// How a disk is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// What the person says it is; `None` leaves it to its name and content, as far as that is safe.
    pub format: Option<Format>,
    pub read_only: bool,
}

/// Opens a disk, and locks it.
///
/// # Errors
/// What is wrong with it; nothing was written then.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Disk>, DiskError> {
    let file = open_file(path, options.read_only)?;
    let format = match options.format {
        Some(format) => format,
        None => Format::guess(path, &first_bytes(&file, path)?, options.read_only)?,
    };
    match format {
        Format::Raw => Ok(Box::new(Raw::new(file, path, options.read_only)?)),
        Format::Qcow2 => Ok(Box::new(qcow2::Qcow2::new(file, path, options.read_only)?)),
    }
}

/// Opens a layer of a disk that somebody keeps in layers, to be read only: what it has not is the one's below. A qcow2 image's own
/// word of a backing file is not followed.
///
/// # Errors
/// What is wrong with it; a raw layer cannot be over another.
pub fn open_layer(path: &Path, format: Format, below: Option<Box<dyn Disk>>) -> Result<Box<dyn Disk>, DiskError> {
    let file = open_file(path, true)?;
    match (format, below) {
        (Format::Raw, None) => Ok(Box::new(Raw::new(file, path, true)?)),
        (Format::Raw, Some(_)) => Err(DiskError::RawOver(path.to_owned())),
        (Format::Qcow2, below) => Ok(Box::new(qcow2::Qcow2::with_backing(file, path, true, |_| Ok(below))?)),
    }
}

/// Makes a new qcow2 image that is to be a layer over `below`, with none of its word in it, and opens it to be written.
///
/// # Errors
/// There is such a file, or the host's.
pub fn create_layer(path: &Path, below: Box<dyn Disk>) -> Result<Box<dyn Disk>, DiskError> {
    create(path, Some(Format::Qcow2), below.size())?;
    let file = open_file(path, false)?;
    Ok(Box::new(qcow2::Qcow2::with_backing(file, path, false, |_| Ok(Some(below)))?))
}

/// Makes a new, empty disk of `size` bytes that takes no space yet: whole or not at all.
///
/// # Errors
/// The size is none, nobody said the format, there is such a file, or the host's.
pub fn create(path: &Path, format: Option<Format>, size: u64) -> Result<(), DiskError> {
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SECTOR) {
        return Err(DiskError::NewSize(size));
    }
    let format = format.or_else(|| Format::by_name(path)).ok_or_else(|| DiskError::UnsaidNew(path.to_owned()))?;
    make(path, |file| match format {
        Format::Raw => file.set_len(size),
        Format::Qcow2 => qcow2::create(file, size),
    })
}

/// Makes a file of what `fill` writes into it: whole and lasting, or not at all.
pub(crate) fn make(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<(), DiskError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || DiskError::io("making", path);
    let new = tempfile::Builder::new().prefix(".motu-disk-").tempfile_in(folder).map_err(|error| {
        let (path, folder) = (path.to_owned(), folder.to_owned());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => DiskError::NoFolder { path, folder },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                DiskError::FolderPermission { path, folder }
            }
            _ => failed()(error),
        }
    })?;
    fill(new.as_file()).and_then(|()| new.as_file().sync_all()).map_err(failed())?;
    new.persist_noclobber(path).map_err(|error| failed()(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed())
}

/// Opens what may be a disk.
pub(crate) fn open_file(path: &Path, read_only: bool) -> Result<File, DiskError> {
    let metadata = std::fs::metadata(path).map_err(|error| not_opened(path, read_only, error))?;
    check_kind(path, metadata.file_type())?;
    // A FIFO in its place would not hold us up.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options()
        .read(true)
        .write(!read_only)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(|error| not_opened(path, read_only, error))?;
    // It may have been replaced since.
    let opened = file.metadata().map_err(DiskError::io("opening", path))?;
    check_kind(path, opened.file_type())?;
    Ok(file)
}

fn check_kind(path: &Path, kind: FileType) -> Result<(), DiskError> {
    if kind.is_dir() {
        return Err(DiskError::Folder(path.to_owned()));
    }
    if kind.is_file() || kind.is_block_device() { Ok(()) } else { Err(DiskError::NoDisk(path.to_owned())) }
}

fn not_opened(path: &Path, read_only: bool, error: io::Error) -> DiskError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => DiskError::NotFound(path),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DiskError::Permission { write: !read_only && File::open(&path).is_ok(), path }
        }
        _ => DiskError::Io { doing: "opening", path, source: error },
    }
}

/// What the file begins with, as far as it reaches.
fn first_bytes(file: &File, path: &Path) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; 8];
    let read = file.read_at(&mut bytes, 0).map_err(DiskError::io("reading", path))?;
    bytes.truncate(read);
    Ok(bytes)
}
