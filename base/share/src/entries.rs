//! Names in folders: making, moving and removing them.

use crate::Inner;
use crate::answer::{Answer, Asked};
use crate::attributes::{allowed_mode, entry, put_entry};
use crate::files::{content_flags, put_open};
use crate::nodes::give_to;
use crate::wire::Reply;
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, fstat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// Bytes of a symbolic link's target at most: PATH_MAX.
const MAX_TARGET: usize = 4096;
/// The bits of a mode that a umask takes from.
const PERMISSIONS: u32 = 0o777;
/// Set-group-ID, which a folder hands on with its group.
const SET_GID: u32 = 0o2000;

impl Asked<'_> {
    /// A name in a folder.
    pub fn name(&mut self) -> Result<CString, Errno> {
        CString::new(self.body.name()?).map_err(|_| Errno::INVAL)
    }
}

impl Inner {
    /// What was just made in a folder becomes who asked for it, and has the mode that was asked for: motu's own umask is not the
    /// guest's.
    fn tell_made(&mut self, asked: &Asked<'_>, name: &CStr, mode: Option<Mode>) -> Answer {
        self.give(asked, name)?;
        let (node, mut stat) = self.nodes.look_up(asked.header.node, name)?;
        if let Some(mode) = mode.map(|mode| mode.as_raw_mode() & PERMISSIONS | stat.st_mode & !PERMISSIONS)
            && mode != stat.st_mode
        {
            let made = self.nodes.get(node)?;
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::chmodat(self.nodes.links(), made.magic_link(), mode, AtFlags::empty())?;
            stat = made.stat()?;
        }
        Ok(entry(node, &stat))
    }

    fn give(&self, asked: &Asked<'_>, name: &CStr) -> Result<(), Errno> {
        if !self.is_root {
            return Ok(());
        }
        let folder = self.nodes.get(asked.header.node)?;
        let inherits = folder.stat()?.st_mode & SET_GID != 0;
        give_to(folder.fd(), name, asked.header.uid, (!inherits).then_some(asked.header.gid))
    }

    fn folder(&self, asked: &Asked<'_>) -> Result<BorrowedFd<'_>, Errno> {
        Ok(self.nodes.get(asked.header.node)?.fd())
    }

    pub fn read_link(&mut self, asked: &mut Asked<'_>) -> Answer {
        let target = rustix::fs::readlinkat(self.folder(asked)?, c"", Vec::new())?;
        let mut reply = Reply::default();
        reply.bytes(target.to_bytes());
        Ok(reply)
    }

    pub fn make_symlink(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let name = asked.name()?;
        let target = asked.body.text()?;
        if target.len() >= MAX_TARGET {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::symlinkat(target, self.folder(asked)?, &name)?;
        self.tell_made(asked, &name, None)
    }

    /// Plain files, named pipes and sockets. A device of the host's is not for a guest to name.
    pub fn make_node(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (mode, _device) = (asked.body.u32()?, asked.body.u32()?);
        let (_umask, _padding) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.name()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        let mode = allowed_mode(mode, kind);
        rustix::fs::mknodat(self.folder(asked)?, &name, kind, mode, 0)?;
        self.tell_made(asked, &name, Some(mode))
    }

    pub fn make_folder(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (mode, _umask) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.name()?;
        let mode = allowed_mode(mode, FileType::Directory);
        rustix::fs::mkdirat(self.folder(asked)?, &name, mode)?;
        self.tell_made(asked, &name, Some(mode))
    }

    pub fn unlink(&mut self, asked: &mut Asked<'_>, folder: bool) -> Answer {
        self.check_writable()?;
        let name = asked.name()?;
        let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.folder(asked)?, &name, flags)?;
        Ok(Reply::default())
    }

    pub fn rename(&mut self, asked: &mut Asked<'_>, with_flags: bool) -> Answer {
        self.check_writable()?;
        let to = asked.body.u64()?;
        let flags = match with_flags {
            true => {
                let flags = asked.body.u32()?;
                let _padding = asked.body.u32()?;
                RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?
            }
            false => RenameFlags::empty(),
        };
        // A whiteout is a device.
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (asked.name()?, asked.name()?);
        rustix::fs::renameat_with(self.folder(asked)?, &old, self.nodes.get(to)?.fd(), &new, flags)?;
        Ok(Reply::default())
    }

    pub fn link(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let old = asked.body.u64()?;
        let name = asked.name()?;
        let link = self.nodes.get(old)?.magic_link();
        rustix::fs::linkat(self.nodes.links(), &link, self.folder(asked)?, &name, AtFlags::SYMLINK_FOLLOW)?;
        let (node, stat) = self.nodes.look_up(asked.header.node, &name)?;
        Ok(entry(node, &stat))
    }

    pub fn create(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_writable()?;
        let (flags, mode) = (asked.body.u32()?, asked.body.u32()?);
        let (_umask, _open_flags) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.name()?;
        let (mode, wanted) = (allowed_mode(mode, FileType::RegularFile), content_flags(flags));
        // Another name for what is there already, a pipe for instance, is not waited for.
        let how = wanted | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let folder = self.folder(asked)?;
        let (file, is_new) = match rustix::fs::openat(folder, &name, how | OFlags::EXCL, mode) {
            Err(Errno::EXIST) if flags & OFlags::EXCL.bits() == 0 => {
                (rustix::fs::openat(folder, &name, how - OFlags::CREATE, Mode::empty())?, false)
            }
            file => (file?, true),
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(Errno::NXIO);
        }
        if is_new {
            self.give(asked, &name)?;
            rustix::fs::fchmod(&file, mode)?;
        }
        let (node, stat) = self.nodes.of_open(rustix::fd::AsFd::as_fd(&file))?;
        let mut reply = Reply::default();
        put_entry(&mut reply, node, &stat);
        put_open(&mut reply, self.handles.add_file(file)?);
        Ok(reply)
    }
}
