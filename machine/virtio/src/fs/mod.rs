//! The file system device, virtio-fs (virtio 1.2, 5.11): a folder of the host, by the FUSE protocol.
//!
//! A request is a FUSE message, and what may be written the room for its reply. Forgets and interrupts come by a queue of high priority;
//! one thread serves both queues. There is no shared memory window: the guest reads into its own page cache.

#[cfg(test)]
mod tests;

use crate::device::{Activation, DeviceType, Progress, VirtioDevice, read_space};
use crate::queue::Malformed;
use crate::worker::{Request, Serve, Staff, Workers};
use motu_share::{MAX_MESSAGE, Share};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a tag at most (5.11.4).
pub const TAG_LEN: usize = 36;
/// Configuration: the tag and the number of request queues.
const CONFIG_LEN: usize = TAG_LEN + 4;
/// The queue of high priority, and one for requests. Linux has requests of so many pages as fit into the queue beside their headers: 1 MiB is 256
/// of them (fs/fuse/virtio_fs.c, `virtio_fs_get_tree`).
const QUEUES: [u16; 2] = [128, 512];
/// Nothing is done at rest.
const NEVER: Duration = Duration::from_secs(3600);

/// The device.
pub struct FileSystem {
    config: [u8; CONFIG_LEN],
    share: Arc<Share>,
    workers: Workers,
}

impl FileSystem {
    /// A guest mounts it by its `tag`, which is cut off behind [`TAG_LEN`] bytes; `name` is what its thread is called.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new(tag: &str, share: Share, name: &str) -> io::Result<Self> {
        let share = Arc::new(share);
        let mut config = [0; CONFIG_LEN];
        let queues = 1u32.to_le_bytes();
        config.iter_mut().zip(tag.bytes().take(TAG_LEN)).for_each(|(to, from)| *to = from);
        config.iter_mut().skip(TAG_LEN).zip(queues).for_each(|(to, from)| *to = from);
        let staff = Staff { name, count: 1, rests_after: NEVER };
        let server: Arc<dyn Serve> = Arc::new(Server(Arc::clone(&share)));
        Ok(Self { config, share, workers: Workers::start(server, &staff)? })
    }
}

/// What answers messages.
#[derive(Debug)]
struct Server(Arc<Share>);

impl Serve for Server {
    fn serve(&self, request: &Request<'_>, message: &mut Vec<u8>) -> Result<usize, Malformed> {
        let (asked, room) = (&request.chain.readable, &request.chain.writable);
        message.resize(asked.len().min(MAX_MESSAGE), 0);
        asked.read(request.memory, 0, message);
        let reply = self.0.answer(message, room.len().min(MAX_MESSAGE));
        Ok(reply.map_or(0, |reply| room.write(request.memory, 0, &reply)))
    }

    fn rest(&self) {}

    fn end(&self) {
        self.0.reset();
    }
}

impl fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSystem").field("share", &self.share).finish_non_exhaustive()
    }
}

impl VirtioDevice for FileSystem {
    fn device_type(&self) -> DeviceType {
        DeviceType::FileSystem
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn config_len(&self) -> u64 {
        CONFIG_LEN as u64
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config, offset, data);
    }

    /// All of it is read-only.
    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn config_generation(&self) -> u8 {
        0
    }

    fn activate(&mut self, activation: Activation) {
        self.workers.activate(activation);
    }

    fn notify(&mut self, queue: u16) -> Result<Progress, Malformed> {
        self.workers.notify(queue);
        Ok(Progress::Idle)
    }

    fn reset(&mut self) {
        self.workers.quiesce();
        self.share.reset();
    }
}
