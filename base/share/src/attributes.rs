//! What is known of a file: attributes, extended ones, and of the file system it is on.

use crate::Inner;
use crate::answer::{Answer, Asked};
use crate::nodes::owner;
use crate::wire::{Reply, attribute};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use std::ffi::CString;

/// Seconds that names and attributes count for in the guest.
const VALID: u64 = 1;

/// Set-user-ID and set-group-ID.
const BY_OWNER: u32 = 0o6000;

/// Bytes of an extended attribute's value, and of all names, at most (xattr(7)).
const MAX_XATTR: usize = 64 << 10;

/// The extended attributes that anybody may have; others mean something to the host.
const USER: &[u8] = b"user.";

/// The mode that a file of this type gets: set-user-ID programs would run on the host as who runs motu.
pub fn allowed_mode(mode: u32, kind: FileType) -> Mode {
    let kept = if kind == FileType::Directory { mode } else { mode & !BY_OWNER };
    Mode::from_raw_mode(kept & 0o7777)
}

/// `struct fuse_attr`
fn put_attributes(reply: &mut Reply, stat: &Stat) {
    reply.u64(stat.st_ino).u64(stat.st_size as u64).u64(stat.st_blocks as u64);
    reply.u64(stat.st_atime as u64).u64(stat.st_mtime as u64).u64(stat.st_ctime as u64);
    reply.u32(stat.st_atime_nsec as u32).u32(stat.st_mtime_nsec as u32).u32(stat.st_ctime_nsec as u32);
    reply.u32(stat.st_mode).u32(stat.st_nlink as u32).u32(stat.st_uid).u32(stat.st_gid);
    reply.u32(device(stat.st_rdev)).u32(stat.st_blksize as u32).u32(0);
}

/// A device's number as the protocol has it (`new_encode_dev` of Linux).
fn device(number: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// `struct fuse_entry_out`: a node that the guest is told of.
pub fn put_entry(reply: &mut Reply, node: u64, stat: &Stat) {
    reply.u64(node).u64(0).u64(VALID).u64(VALID).u32(0).u32(0);
    put_attributes(reply, stat);
}

fn attributes(stat: &Stat) -> Reply {
    let mut reply = Reply::default();
    reply.u64(VALID).u32(0).u32(0);
    put_attributes(&mut reply, stat);
    reply
}

impl Inner {
    pub fn look_up(&mut self, asked: &mut Asked<'_>) -> Answer {
        let name = asked.name()?;
        let (node, stat) = self.nodes.look_up(asked.header.node, &name)?;
        Ok(entry(node, &stat))
    }

    pub fn get_attributes(&mut self, asked: &mut Asked<'_>) -> Answer {
        Ok(attributes(&self.nodes.get(asked.header.node)?.stat()?))
    }

    pub fn set_attributes(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (valid, _padding) = (asked.body.u32()?, asked.body.u32()?);
        let (handle, size, _owner) = (asked.body.u64()?, asked.body.u64()?, asked.body.u64()?);
        let (atime, mtime, _ctime) = (asked.body.u64()?, asked.body.u64()?, asked.body.u64()?);
        let (atime_nsec, mtime_nsec, _ctime_nsec) = (asked.body.u32()?, asked.body.u32()?, asked.body.u32()?);
        let mode = asked.body.u32()?;
        let _unused = asked.body.u32()?;
        let (uid, gid) = (asked.body.u32()?, asked.body.u32()?);
        let has = |field| valid & field != 0;
        let id = asked.header.node;
        let node = self.nodes.get(id)?;
        let (links, link) = (self.nodes.links(), node.magic_link());
        let kind = FileType::from_raw_mode(node.stat()?.st_mode);
        if kind == FileType::Symlink && valid & (attribute::MODE | attribute::SIZE) != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        if has(attribute::UID) || has(attribute::GID) {
            let (uid, gid) = owner(has(attribute::UID).then_some(uid), has(attribute::GID).then_some(gid))?;
            rustix::fs::chownat(node.fd(), c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if has(attribute::MODE) {
            rustix::fs::chmodat(links, &link, allowed_mode(mode, kind), AtFlags::empty())?;
        }
        if has(attribute::SIZE) {
            match self.handles.file(handle).filter(|_| has(attribute::FH)) {
                Some(file) => rustix::fs::ftruncate(file, size)?,
                None => rustix::fs::ftruncate(self.nodes.open(id, OFlags::WRONLY | OFlags::NONBLOCK)?, size)?,
            }
        }
        if has(attribute::ATIME | attribute::MTIME) {
            let time = |set, now, seconds: u64, nanos: u32| Timespec {
                tv_sec: seconds as i64,
                tv_nsec: if has(now) {
                    UTIME_NOW
                } else if has(set) {
                    i64::from(nanos)
                } else {
                    UTIME_OMIT
                },
            };
            let times = Timestamps {
                last_access: time(attribute::ATIME, attribute::ATIME_NOW, atime, atime_nsec),
                last_modification: time(attribute::MTIME, attribute::MTIME_NOW, mtime, mtime_nsec),
            };
            rustix::fs::utimensat(links, &link, &times, AtFlags::empty())?;
        }
        self.get_attributes(asked)
    }

    pub fn statfs(&mut self, asked: &mut Asked<'_>) -> Answer {
        let disk = rustix::fs::fstatvfs(self.nodes.get(asked.header.node)?.fd())?;
        let mut reply = Reply::default();
        reply.u64(disk.f_blocks).u64(disk.f_bfree).u64(disk.f_bavail).u64(disk.f_files).u64(disk.f_ffree);
        reply.u32(disk.f_bsize as u32).u32(disk.f_namemax as u32).u32(disk.f_frsize as u32).u32(0);
        reply.bytes(&[0; 24]);
        Ok(reply)
    }

    /// The guest's kernel has looked at modes and owners; this is for what only the host knows.
    pub fn access(&mut self, asked: &mut Asked<'_>) -> Answer {
        let wanted = rustix::fs::Access::from_bits_truncate(asked.body.u32()?);
        if wanted.contains(rustix::fs::Access::WRITE_OK) {
            self.check_writable()?;
        }
        let link = self.nodes.get(asked.header.node)?.magic_link();
        rustix::fs::accessat(self.nodes.links(), link, wanted, AtFlags::EACCESS)?;
        Ok(Reply::default())
    }

    /// A path that leads to the node for calls that take nothing else. Not for symbolic links, which have no such attributes.
    fn xattr_path(&self, id: u64) -> Result<CString, Errno> {
        let node = self.nodes.get(id)?;
        if FileType::from_raw_mode(node.stat()?.st_mode) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let path = [b"/proc/self/fd/".as_slice(), node.magic_link().to_bytes()].concat();
        CString::new(path).map_err(|_| Errno::INVAL)
    }

    pub fn get_xattr(&mut self, asked: &mut Asked<'_>) -> Answer {
        let (size, _padding) = (asked.body.u32()?, asked.body.u32()?);
        let name = xattr_name(asked)?;
        let path = self.xattr_path(asked.header.node)?;
        let mut value = vec![0; MAX_XATTR];
        let len = rustix::fs::getxattr(&path, &name, &mut value[..])?;
        sized(value.get(..len).unwrap_or_default(), size)
    }

    pub fn list_xattrs(&mut self, asked: &mut Asked<'_>) -> Answer {
        let size = asked.body.u32()?;
        let path = match self.xattr_path(asked.header.node) {
            Err(Errno::OPNOTSUPP) => return sized(&[], size),
            path => path?,
        };
        let mut names = vec![0u8; MAX_XATTR];
        let len = rustix::fs::listxattr(&path, &mut names[..])?;
        let names = names.get(..len).unwrap_or_default().split_inclusive(|&byte| byte == 0);
        sized(&names.filter(|name| name.starts_with(USER)).collect::<Vec<_>>().concat(), size)
    }

    pub fn set_xattr(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (size, flags) = (asked.body.u32()?, asked.body.u32()?);
        let name = xattr_name(asked)?;
        let value = asked.body.bytes(usize::try_from(size).map_err(|_| Errno::INVAL)?)?;
        let path = self.xattr_path(asked.header.node)?;
        rustix::fs::setxattr(&path, &name, value, XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?)?;
        Ok(Reply::default())
    }

    pub fn remove_xattr(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let name = xattr_name(asked)?;
        rustix::fs::removexattr(&self.xattr_path(asked.header.node)?, &name)?;
        Ok(Reply::default())
    }
}

/// The reply that tells of one node.
pub fn entry(node: u64, stat: &Stat) -> Reply {
    let mut reply = Reply::default();
    put_entry(&mut reply, node, stat);
    reply
}

fn xattr_name(asked: &mut Asked<'_>) -> Result<CString, Errno> {
    let name = asked.body.text()?;
    if !name.starts_with(USER) {
        return Err(Errno::OPNOTSUPP);
    }
    CString::new(name).map_err(|_| Errno::INVAL)
}

/// `data` for who has room for `size` bytes of it; how much it is for who asks with none.
fn sized(data: &[u8], size: u32) -> Answer {
    let mut reply = Reply::default();
    match size as usize {
        0 => reply.u32(data.len() as u32).u32(0),
        room if room < data.len() => return Err(Errno::RANGE),
        _ => reply.bytes(data),
    };
    Ok(reply)
}
