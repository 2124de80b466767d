//! Files that the guest has open, and their content.

use crate::answer::{Answer, Asked};
use crate::limit::Limit;
use crate::wire::Reply;
use crate::{Inner, MAX_DATA};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::HashMap;

/// Files and folders that are open, by the handles that the guest has.
#[derive(Debug)]
pub struct Handles {
    open: HashMap<u64, OwnedFd>,
    last: u64,
    pub limit: Limit,
}

impl Handles {
    pub fn new(limit: Limit) -> Self {
        Self { open: HashMap::new(), last: 0, limit }
    }

    /// A handle for a file or folder.
    ///
    /// # Errors
    /// ENFILE: the guest has as many open as it may.
    pub fn add(&mut self, file: OwnedFd) -> Result<u64, Errno> {
        let file = self.limit.keep(file)?;
        self.last = self.last.checked_add(1).ok_or(Errno::NFILE)?;
        self.open.insert(self.last, file);
        Ok(self.last)
    }

    pub fn file(&self, handle: u64) -> Option<BorrowedFd<'_>> {
        self.open.get(&handle).map(AsFd::as_fd)
    }

    pub fn get(&self, handle: u64) -> Result<BorrowedFd<'_>, Errno> {
        self.file(handle).ok_or(Errno::BADF)
    }

    pub fn close(&mut self, handle: u64) {
        self.open.remove(&handle);
    }

    pub fn clear(&mut self) {
        self.open.clear();
    }
}

/// What of a guest's open flags counts on the host: the guest's kernel has done the rest.
pub fn content_flags(flags: u32) -> OFlags {
    let kept = OFlags::ACCMODE | OFlags::APPEND | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    OFlags::from_bits_truncate(flags) & kept
}

/// `struct fuse_open_out`
pub fn put_open(reply: &mut Reply, handle: u64) {
    reply.u64(handle).u32(0).u32(0);
}

/// `SEEK_DATA` and `SEEK_HOLE`: others the guest's kernel does itself.
const DATA: u32 = 3;
const HOLE: u32 = 4;

impl Inner {
    pub fn open_file(&mut self, asked: &mut Asked<'_>) -> Answer {
        let (flags, _open_flags) = (asked.body.u32()?, asked.body.u32()?);
        let wanted = content_flags(flags);
        if wanted.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            self.check_writable()?;
        }
        let mut reply = Reply::default();
        put_open(&mut reply, self.open_node(asked.header.node, wanted)?);
        Ok(reply)
    }

    /// A handle for a plain file's content.
    pub fn open_node(&mut self, id: u64, wanted: OFlags) -> Result<u64, Errno> {
        if FileType::from_raw_mode(self.nodes.get(id)?.stat()?.st_mode) == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        self.handles.add(self.nodes.open(id, wanted | OFlags::NONBLOCK)?)
    }

    pub fn release(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.handles.close(asked.body.u64()?);
        Ok(Reply::default())
    }

    pub fn read(&mut self, asked: &mut Asked<'_>) -> Answer {
        let (handle, offset, size) = (asked.body.u64()?, asked.body.u64()?, asked.body.u32()?);
        let file = self.handles.get(handle)?;
        let mut data = vec![0; (size as usize).min(MAX_DATA).min(asked.room)];
        let mut done = 0;
        while let Some(room) = data.get_mut(done..).filter(|room| !room.is_empty()) {
            match rustix::io::pread(file, room, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        data.truncate(done);
        Ok(Reply(data))
    }

    pub fn write(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (handle, offset, size) = (asked.body.u64()?, asked.body.u64()?, asked.body.u32()?);
        // Flags, the lock's owner, the open flags.
        asked.body.skip(16)?;
        let _padding = asked.body.u32()?;
        let data = asked.body.bytes(size as usize)?;
        let file = self.handles.get(handle)?;
        let mut done = 0;
        while let Some(left) = data.get(done..).filter(|left| !left.is_empty()) {
            match rustix::io::pwrite(file, left, offset.saturating_add(done as u64)) {
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                // The guest is told of what was written, and asks again for the rest.
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(written(done))
    }

    pub fn sync(&mut self, asked: &mut Asked<'_>) -> Answer {
        let (handle, flags) = (asked.body.u64()?, asked.body.u32()?);
        let file = self.handles.get(handle)?;
        let only_data = flags & 1 != 0;
        if only_data { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }?;
        Ok(Reply::default())
    }

    pub fn seek(&mut self, asked: &mut Asked<'_>) -> Answer {
        let (handle, offset, whence) = (asked.body.u64()?, asked.body.u64()?, asked.body.u32()?);
        let to = match whence {
            DATA => SeekFrom::Data(offset),
            HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let mut reply = Reply::default();
        reply.u64(rustix::fs::seek(self.handles.get(handle)?, to)?);
        Ok(reply)
    }

    pub fn allocate(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (handle, offset, len) = (asked.body.u64()?, asked.body.u64()?, asked.body.u64()?);
        let mode = FallocateFlags::from_bits(asked.body.u32()?).ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(self.handles.get(handle)?, mode, offset, len)?;
        Ok(Reply::default())
    }

    pub fn copy_range(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (from, mut from_offset) = (asked.body.u64()?, asked.body.u64()?);
        let _node = asked.body.u64()?;
        let (to, mut to_offset, len) = (asked.body.u64()?, asked.body.u64()?, asked.body.u64()?);
        let (from, to) = (self.handles.get(from)?, self.handles.get(to)?);
        // So that others have their turn.
        let len = usize::try_from(len).unwrap_or(MAX_COPY).min(MAX_COPY);
        let done = rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len)?;
        Ok(written(done))
    }
}

/// Bytes that the host copies at once at most.
const MAX_COPY: usize = 64 << 20;

/// `struct fuse_write_out`
fn written(bytes: usize) -> Reply {
    let mut reply = Reply::default();
    reply.u32(bytes as u32).u32(0);
    reply
}
