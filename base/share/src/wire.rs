//! Messages of the FUSE protocol, version 7.31 (include/uapi/linux/fuse.h): little-endian fields without a gap.

use rustix::io::Errno;

/// The version that is spoken; a newer kernel speaks it, too.
pub const MAJOR: u32 = 7;
pub const MINOR: u32 = 31;

/// Bytes of `struct fuse_out_header`.
pub const OUT_HEADER: usize = 16;

/// The root folder's node.
pub const ROOT: u64 = 1;

/// `enum fuse_opcode`.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
}

/// What both sides can do (`FUSE_INIT`).
pub mod capability {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
}

/// Which fields of a `FUSE_SETATTR` count.
pub mod attribute {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// A message's header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

impl Header {
    /// Of a message that has one; its length field is not asked, the transport knows.
    pub fn read(message: &[u8]) -> Option<(Self, Body<'_>)> {
        let mut body = Body(message);
        let _len = body.u32().ok()?;
        let opcode = body.u32().ok()?;
        let unique = body.u64().ok()?;
        let node = body.u64().ok()?;
        let (uid, gid) = (body.u32().ok()?, body.u32().ok()?);
        // The process, and lengths of extensions that nobody has agreed on.
        body.skip(8).ok()?;
        Some((Self { opcode, unique, node, uid, gid }, body))
    }
}

/// What is left of a message. A message that ends too early is an invalid one: EINVAL.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = tail;
        Ok(head)
    }

    pub fn skip(&mut self, len: usize) -> Result<(), Errno> {
        self.take(len).map(drop)
    }

    pub fn u32(&mut self) -> Result<u32, Errno> {
        let bytes = self.take(4)?.try_into().map_err(|_| Errno::INVAL)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn u64(&mut self) -> Result<u64, Errno> {
        let bytes = self.take(8)?.try_into().map_err(|_| Errno::INVAL)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A string up to its end, which is a zero byte.
    pub fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Errno::INVAL)?;
        let text = self.take(end)?;
        self.skip(1)?;
        Ok(text)
    }

    /// A name in a folder: what cannot be one, or leads elsewhere, is refused.
    pub fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.text()?;
        if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Errno::INVAL);
        }
        if name.len() > LONGEST_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(name)
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        self.take(len)
    }
}

/// Bytes of a name: NAME_MAX.
const LONGEST_NAME: usize = 255;

/// A reply's body.
#[derive(Debug, Default)]
pub struct Reply(pub Vec<u8>);

impl Reply {
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The whole message: with its header, and with an error no body.
    pub fn finish(result: Result<Self, Errno>, unique: u64) -> Vec<u8> {
        let (error, body) = match result {
            Ok(reply) => (0, reply.0),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut message = Self(Vec::with_capacity(OUT_HEADER + body.len()));
        message.u32((OUT_HEADER + body.len()) as u32).u32(error as u32).u64(unique).bytes(&body);
        message.0
    }
}
