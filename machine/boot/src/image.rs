//! A kernel or a file that comes with it: bytes that are read where and when they are needed, never slurped.

use crate::error::{BootError, Role};
use motu_memory::GuestRam;
use motu_x86::Gpa;
use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

/// Bytes copied at once from a file to guest memory.
const COPY_CHUNK: usize = 256 << 10;

/// A named kernel, initrd or module.
#[derive(Debug)]
pub struct Image {
    role: Role,
    name: String,
    content: Content,
    size: u64,
}

#[derive(Debug)]
enum Content {
    File(File),
    Bytes(Vec<u8>),
}

impl Image {
    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    /// It is not there, not readable, not a regular file, or empty.
    pub fn open(role: Role, path: &Path) -> Result<Self, BootError> {
        let name = path.display().to_string();
        let open_error = |source| BootError::Open { role, name: name.clone(), source };
        // Opening a FIFO would wait for its writer: look before opening.
        let metadata = std::fs::metadata(path).map_err(open_error)?;
        require_regular(role, &name, metadata.file_type())?;
        let file = File::open(path).map_err(open_error)?;
        Self::from_file(role, &name, file)
    }

    /// Takes a file that is open for reading already, under the `name` that errors shall show.
    ///
    /// # Errors
    /// It is not a regular file, or empty.
    pub fn from_file(role: Role, name: &str, file: File) -> Result<Self, BootError> {
        let name = name.to_owned();
        let metadata = file.metadata().map_err(|source| BootError::Open { role, name: name.clone(), source })?;
        require_regular(role, &name, metadata.file_type())?;
        Self::new(role, name, Content::File(file), metadata.len())
    }

    /// Takes bytes that are in memory already, under the `name` that errors shall show.
    ///
    /// # Errors
    /// `bytes` is empty.
    pub fn from_bytes(role: Role, name: &str, bytes: Vec<u8>) -> Result<Self, BootError> {
        let size = bytes.len() as u64;
        Self::new(role, name.to_owned(), Content::Bytes(bytes), size)
    }

    fn new(role: Role, name: String, content: Content, size: u64) -> Result<Self, BootError> {
        if size == 0 {
            return Err(BootError::Empty { role, name });
        }
        Ok(Self { role, name, content, size })
    }

    /// Other content under the same name.
    pub(crate) fn with_bytes(&self, bytes: Vec<u8>) -> Result<Self, BootError> {
        Self::from_bytes(self.role, &self.name, bytes)
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// As errors show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In bytes; never zero. What the file had when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes, at most `max` of them.
    pub(crate) fn head(&self, max: usize) -> Result<Vec<u8>, BootError> {
        let mut head = vec![0; usize::try_from(self.size).map_or(max, |len| len.min(max))];
        self.read_at(0, &mut head)?;
        Ok(head)
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BootError> {
        let bytes = buffer.len();
        let read = match &self.content {
            Content::File(file) => file.read_exact_at(buffer, offset),
            Content::Bytes(all) => slice_at(all, offset, bytes).map(|slice| buffer.copy_from_slice(slice)),
        };
        read.map_err(|source| BootError::Read { role: self.role, name: self.name.clone(), offset, bytes, source })
    }

    /// Copies `len` bytes from `offset` on to guest memory at `to`.
    pub(crate) fn copy_to(&self, ram: &GuestRam, to: u64, offset: u64, len: u64) -> Result<(), BootError> {
        let mut buffer = vec![0; usize::try_from(len).map_or(COPY_CHUNK, |len| len.min(COPY_CHUNK))];
        let mut done = 0;
        while done < len {
            let count = usize::try_from(len - done).map_or(buffer.len(), |left| left.min(buffer.len()));
            let chunk = &mut buffer[..count];
            self.read_at(offset.saturating_add(done), chunk)?;
            let what = match self.role {
                Role::Kernel => "kernel in guest memory",
                Role::Initrd => "initrd in guest memory",
                Role::Module => "module in guest memory",
            };
            ram.write(Gpa(to.saturating_add(done)), chunk).map_err(|source| BootError::Memory { what, source })?;
            done += count as u64;
        }
        Ok(())
    }
}

fn slice_at(all: &[u8], offset: u64, len: usize) -> io::Result<&[u8]> {
    usize::try_from(offset)
        .ok()
        .and_then(|start| all.get(start..start.checked_add(len)?))
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn require_regular(role: Role, name: &str, kind: FileType) -> Result<(), BootError> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(BootError::NotAFile { role, name: name.to_owned(), what })
}
