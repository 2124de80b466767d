//! What the guest knows of the shared tree: a node for each file that it has looked up, until it forgets it.
//!
//! A node has the file itself open, without a right to its content (`O_PATH`), so that it stays the same file whatever happens to
//! names on the host, and no path is ever walked again.

use crate::limit::Limit;
use crate::wire::ROOT;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid, fstat, openat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

/// One file.
#[derive(Debug)]
pub struct Node {
    file: OwnedFd,
    identity: (u64, u64),
    /// How often the guest was told of it, less what it has forgotten.
    lookups: u64,
}

impl Node {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn stat(&self) -> Result<Stat, Errno> {
        fstat(&self.file)
    }

    /// Its name in `/proc/self/fd`, which leads to it and nowhere else.
    pub fn magic_link(&self) -> CString {
        CString::new(self.file.as_raw_fd().to_string()).unwrap_or_default()
    }
}

/// All nodes of a share.
#[derive(Debug)]
pub struct Nodes {
    by_id: HashMap<u64, Node>,
    by_identity: HashMap<(u64, u64), u64>,
    next: u64,
    /// `/proc/self/fd`
    links: OwnedFd,
    pub limit: Limit,
}

/// For what is only to be named.
const NAMED: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Nodes {
    /// Of the tree below a folder. `links` is `/proc/self/fd`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(root: OwnedFd, links: OwnedFd, limit: Limit) -> Result<Self, Errno> {
        let identity = identity(&fstat(&root)?);
        let root = Node { file: root, identity, lookups: u64::MAX };
        Ok(Self {
            by_id: HashMap::from([(ROOT, root)]),
            by_identity: HashMap::from([(identity, ROOT)]),
            next: ROOT + 1,
            links,
            limit,
        })
    }

    pub fn get(&self, id: u64) -> Result<&Node, Errno> {
        self.by_id.get(&id).ok_or(Errno::STALE)
    }

    /// `/proc/self/fd`: with a [`Node::magic_link`] for calls that know no other way to a file which is only named.
    pub fn links(&self) -> BorrowedFd<'_> {
        self.links.as_fd()
    }

    /// Opens a node's content. Only plain files and folders: what else there is on the host is not the guest's to open.
    pub fn open(&self, id: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let node = self.get(id)?;
        match FileType::from_raw_mode(node.stat()?.st_mode) {
            FileType::RegularFile if flags.contains(OFlags::DIRECTORY) => Err(Errno::NOTDIR),
            FileType::RegularFile | FileType::Directory => {
                openat(&self.links, node.magic_link(), flags | OFlags::CLOEXEC, Mode::empty())
            }
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    /// Looks a name up, and counts that the guest was told.
    pub fn look_up(&mut self, folder: u64, name: &CStr) -> Result<(u64, Stat), Errno> {
        let file = openat(self.get(folder)?.fd(), name, NAMED, Mode::empty())?;
        self.add(file)
    }

    /// The same of a file that is open.
    pub fn of_open(&mut self, file: BorrowedFd<'_>) -> Result<(u64, Stat), Errno> {
        let link = file.as_raw_fd().to_string();
        // It is followed once, to the file.
        let named = openat(&self.links, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.add(named)
    }

    fn add(&mut self, file: OwnedFd) -> Result<(u64, Stat), Errno> {
        let file = self.limit.keep(file)?;
        let stat = fstat(&file)?;
        let identity = identity(&stat);
        let id = *self.by_identity.entry(identity).or_insert(self.next);
        if id == self.next {
            self.next += 1;
        }
        let node = self.by_id.entry(id).or_insert(Node { file, identity, lookups: 0 });
        node.lookups = node.lookups.saturating_add(1);
        Ok((id, stat))
    }

    /// The guest forgets a node so many times.
    pub fn forget(&mut self, id: u64, times: u64) {
        let Some(node) = self.by_id.get_mut(&id).filter(|_| id != ROOT) else { return };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups == 0 {
            self.by_identity.remove(&node.identity);
            self.by_id.remove(&id);
        }
    }

    /// All but the root, as if the guest had just begun.
    pub fn clear(&mut self) {
        self.by_id.retain(|&id, _| id == ROOT);
        self.by_identity.retain(|_, &mut id| id == ROOT);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// What a file is told by, while it is open: device and inode.
fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Who is to own a file, as far as it is to change. The highest number is nobody's (chown(2)).
pub fn owner(uid: Option<u32>, gid: Option<u32>) -> Result<(Option<Uid>, Option<Gid>), Errno> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}
