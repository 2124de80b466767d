//! Names in folders: making, moving and removing them.

use crate::Inner;
use crate::answer::{Answer, Asked};
use crate::attributes::{allowed_mode, entry, put_entry};
use crate::files::{content_flags, put_open};
use crate::nodes::owner;
use crate::wire::Reply;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
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
    /// Whether something may be made in a folder for who asks: nobody is no owner.
    fn check_maker(&self, asked: &Asked<'_>) -> Result<(), Errno> {
        self.check_writable()?;
        owner(Some(asked.header.uid), Some(asked.header.gid)).map(drop)
    }

    /// Tells of what was just made in a folder, when it is whose it should be.
    fn tell_made(&mut self, asked: &Asked<'_>, name: &CStr, kind: FileType, mode: Option<Mode>) -> Answer {
        let (node, _) = self.nodes.look_up(asked.header.node, name)?;
        let made = self.hand_over(asked, node, kind, mode);
        if made.is_err() {
            // The guest does not hear of it.
            self.nodes.forget(node, 1);
        }
        Ok(entry(node, &made?))
    }

    /// What was just made becomes who asked for it, and has the mode that was asked for: motu's own umask is not the guest's.
    pub fn hand_over(&self, asked: &Asked<'_>, node: u64, kind: FileType, mode: Option<Mode>) -> Result<Stat, Errno> {
        let made = self.nodes.get(node)?;
        let stat = made.stat()?;
        // Whoever on the host may write to the folder, too, may have given the name to another file: that is not the guest's.
        if FileType::from_raw_mode(stat.st_mode) != kind || kind != FileType::Directory && stat.st_nlink != 1 {
            return Err(Errno::STALE);
        }
        self.give(asked, made.fd())?;
        if let Some(mode) = mode.map(|mode| mode.as_raw_mode() & PERMISSIONS | stat.st_mode & !PERMISSIONS)
            && mode != stat.st_mode
        {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            where_possible(rustix::fs::chmodat(self.nodes.links(), made.magic_link(), mode, AtFlags::empty()))?;
        }
        made.stat()
    }

    /// As root, what was made becomes who asked for it.
    fn give(&self, asked: &Asked<'_>, made: BorrowedFd<'_>) -> Result<(), Errno> {
        if !self.is_root {
            return Ok(());
        }
        let inherits = self.nodes.get(asked.header.node)?.stat()?.st_mode & SET_GID != 0;
        let (uid, gid) = owner(Some(asked.header.uid), (!inherits).then_some(asked.header.gid))?;
        where_possible(rustix::fs::chownat(made, c"", uid, gid, AtFlags::EMPTY_PATH))
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
        self.check_maker(asked)?;
        let name = asked.name()?;
        let target = asked.body.text()?;
        if target.len() >= MAX_TARGET {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::symlinkat(target, self.folder(asked)?, &name)?;
        self.tell_made(asked, &name, FileType::Symlink, None)
    }

    /// Plain files, named pipes and sockets. A device of the host's is not for a guest to name.
    pub fn make_node(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_maker(asked)?;
        let (mode, _device) = (asked.body.u32()?, asked.body.u32()?);
        let (_umask, _padding) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.name()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        let mode = allowed_mode(mode, kind);
        rustix::fs::mknodat(self.folder(asked)?, &name, kind, mode, 0)?;
        self.tell_made(asked, &name, kind, Some(mode))
    }

    pub fn make_folder(&mut self, asked: &mut Asked<'_>) -> Answer {
        self.check_maker(asked)?;
        let (mode, _umask) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.name()?;
        let mode = allowed_mode(mode, FileType::Directory);
        rustix::fs::mkdirat(self.folder(asked)?, &name, mode)?;
        self.tell_made(asked, &name, FileType::Directory, Some(mode))
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
        self.check_maker(asked)?;
        let (flags, mode) = (asked.body.u32()?, asked.body.u32()?);
        let (_umask, _open_flags) = (asked.body.u32()?, asked.body.u32()?);
        let name = asked.name()?;
        let (mode, wanted) = (allowed_mode(mode, FileType::RegularFile), content_flags(flags));
        let how = wanted | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (node, stat, handle) = match rustix::fs::openat(self.folder(asked)?, &name, how, mode) {
            Err(Errno::EXIST) if flags & OFlags::EXCL.bits() == 0 => self.open_present(asked, &name, wanted)?,
            file => {
                let file = file?;
                self.give(asked, file.as_fd())?;
                where_possible(rustix::fs::fchmod(&file, mode))?;
                let handle = self.handles.add(file)?;
                let told = self.handles.get(handle).and_then(|file| self.nodes.of_open(file));
                if told.is_err() {
                    self.handles.close(handle);
                }
                let (node, stat) = told?;
                (node, stat, handle)
            }
        };
        let mut reply = Reply::default();
        put_entry(&mut reply, node, &stat);
        put_open(&mut reply, handle);
        Ok(reply)
    }

    /// Opens what has the name already. It may be anything, and opening some devices does something: it is looked at first.
    fn open_present(&mut self, asked: &Asked<'_>, name: &CStr, wanted: OFlags) -> Result<(u64, Stat, u64), Errno> {
        let (node, _) = self.nodes.look_up(asked.header.node, name)?;
        let opened = self.open_node(node, wanted).and_then(|handle| Ok((node, self.nodes.get(node)?.stat()?, handle)));
        if opened.is_err() {
            self.nodes.forget(node, 1);
        }
        opened
    }
}

/// Owners and modes of what was just made, as far as they can be had: some file systems have none, some hosts keep them from root, and some
/// containers do not know the user. It stays motu's there, as all does without root.
fn where_possible(changed: Result<(), Errno>) -> Result<(), Errno> {
    match changed {
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
