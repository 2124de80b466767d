//! Which message is answered how.

use crate::wire::{Body, Header, MAJOR, MINOR, OUT_HEADER, Reply, capability, op};
use crate::{Inner, MAX_DATA};
use rustix::io::Errno;

/// Bytes of a page, which the kernel counts requests in.
const PAGE: usize = 4096;

/// Requests that the kernel sends without waiting for others, and from how many on it calls that much.
const BACKGROUND: (u16, u16) = (64, 48);

/// A message, and how much its answer may have.
pub struct Asked<'a> {
    pub header: Header,
    pub body: Body<'a>,
    /// Bytes for the reply's body.
    pub room: usize,
}

/// What a message gets: a body, or an error.
pub type Answer = Result<Reply, Errno>;

impl Inner {
    pub fn answer(&mut self, message: &[u8], room: usize) -> Option<Vec<u8>> {
        let (header, body) = Header::read(message)?;
        let mut asked = Asked { header, body, room: room.saturating_sub(OUT_HEADER) };
        let unique = header.unique;
        let answer = match header.opcode {
            op::FORGET => {
                self.forget(&mut asked);
                return None;
            }
            op::BATCH_FORGET => {
                self.forget_many(&mut asked);
                return None;
            }
            // All that is under way is done soon.
            op::INTERRUPT => return None,
            _ => self.dispatch(&mut asked),
        };
        let answer = answer.and_then(|reply| if reply.0.len() > asked.room { Err(Errno::INVAL) } else { Ok(reply) });
        (room >= OUT_HEADER).then(|| Reply::finish(answer, unique))
    }

    fn dispatch(&mut self, asked: &mut Asked<'_>) -> Answer {
        match asked.header.opcode {
            op::INIT => self.init(asked),
            op::DESTROY => {
                self.clear();
                Ok(Reply::default())
            }
            op::LOOKUP => self.look_up(asked),
            op::GETATTR => self.get_attributes(asked),
            op::SETATTR => self.set_attributes(asked),
            op::STATFS => self.statfs(asked),
            op::ACCESS => self.access(asked),
            op::GETXATTR => self.get_xattr(asked),
            op::LISTXATTR => self.list_xattrs(asked),
            op::SETXATTR => self.set_xattr(asked),
            op::REMOVEXATTR => self.remove_xattr(asked),
            op::READLINK => self.read_link(asked),
            op::SYMLINK => self.make_symlink(asked),
            op::MKNOD => self.make_node(asked),
            op::MKDIR => self.make_folder(asked),
            op::UNLINK => self.unlink(asked, false),
            op::RMDIR => self.unlink(asked, true),
            op::RENAME => self.rename(asked, false),
            op::RENAME2 => self.rename(asked, true),
            op::LINK => self.link(asked),
            op::CREATE => self.create(asked),
            op::OPEN => self.open_file(asked),
            op::READ => self.read(asked),
            op::WRITE => self.write(asked),
            // What was written is the host's at once.
            op::FLUSH => Ok(Reply::default()),
            op::FSYNC | op::FSYNCDIR => self.sync(asked),
            op::RELEASE | op::RELEASEDIR => self.release(asked),
            op::LSEEK => self.seek(asked),
            op::FALLOCATE => self.allocate(asked),
            op::COPY_FILE_RANGE => self.copy_range(asked),
            op::OPENDIR => self.open_folder(asked),
            op::READDIR => self.read_folder(asked, false),
            op::READDIRPLUS => self.read_folder(asked, true),
            _ => Err(Errno::NOSYS),
        }
    }

    fn init(&mut self, asked: &mut Asked<'_>) -> Answer {
        let (major, _minor) = (asked.body.u32()?, asked.body.u32()?);
        let (read_ahead, offered) = (asked.body.u32()?, asked.body.u32()?);
        let mut reply = Reply::default();
        reply.u32(MAJOR).u32(MINOR);
        if major != MAJOR {
            // It asks again, for that version.
            return if major < MAJOR { Err(Errno::PROTO) } else { Ok(reply) };
        }
        self.clear();
        let wanted = capability::ASYNC_READ
            | capability::ATOMIC_O_TRUNC
            | capability::BIG_WRITES
            | capability::AUTO_INVAL_DATA
            | capability::DO_READDIRPLUS
            | capability::READDIRPLUS_AUTO
            | capability::PARALLEL_DIROPS
            | capability::MAX_PAGES;
        reply.u32(read_ahead.min(MAX_DATA as u32)).u32(offered & wanted);
        reply.u16(BACKGROUND.0).u16(BACKGROUND.1).u32(MAX_DATA as u32);
        // Times are in nanoseconds.
        reply.u32(1).u16((MAX_DATA / PAGE) as u16).u16(0);
        reply.bytes(&[0; 32]);
        Ok(reply)
    }

    fn forget(&mut self, asked: &mut Asked<'_>) {
        if let Ok(times) = asked.body.u64() {
            self.nodes.forget(asked.header.node, times);
        }
    }

    fn forget_many(&mut self, asked: &mut Asked<'_>) {
        let Ok(count) = asked.body.u32() else { return };
        let _padding = asked.body.u32();
        for _ in 0..count {
            let (Ok(node), Ok(times)) = (asked.body.u64(), asked.body.u64()) else { return };
            self.nodes.forget(node, times);
        }
    }

    /// Forgets what the guest knew.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.handles.clear();
    }

    /// Where nothing may be changed.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }
}
