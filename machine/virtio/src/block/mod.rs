//! The block device, virtio-blk (virtio 1.2, 5.2): a disk of 512-byte sectors.
//!
//! Requests that are under way together may be done in any order (`worker.rs`); a flush covers what was given back before it was made
//! available (5.2.6.2).

mod config;
mod failures;
mod handle;
mod request;
#[cfg(test)]
pub(crate) mod tests;

use crate::device::{Activation, DeviceType, Progress, VirtioDevice};
use crate::queue::Malformed;
use crate::worker::{self, Serve, Staff, Workers};
use config::Config;
pub use failures::DiskFailures;
use failures::is_guests;
pub use handle::DiskHandle;
use handle::Shown;
use motu_disk::Disk;
use request::{PART, Request};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Queues at most: the guest's driver takes one for each of its CPUs.
pub const MAX_QUEUES: u16 = 16;
/// Entries of a queue.
const QUEUE_SIZE: u16 = 256;
/// Bytes of a serial number (virtio 1.2, 5.2.6: `VIRTIO_BLK_T_GET_ID`).
pub const SERIAL_LEN: usize = 20;

/// Feature bits (virtio 1.2, 5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// What a block device is made from.
#[derive(Debug)]
pub struct BlockSpec {
    pub disk: Box<dyn Disk>,
    /// What the guest finds as its serial number: at most [`SERIAL_LEN`] bytes, the rest is cut off.
    pub serial: String,
    /// 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Host threads that work on the queues, at least 1.
    pub workers: u16,
    /// What the threads are called, and the disk in messages.
    pub name: String,
    /// Takes note of what the host cannot do.
    pub failures: Arc<DiskFailures>,
    /// A disk that has had nothing to do for so long is flushed, though nobody asked: a guest's `sync` writes some things
    /// after its last flush, and the host may be ended at any time.
    pub quiet_after: Duration,
}

/// The device.
pub struct Block {
    target: Arc<Target>,
    features: u64,
    queue_sizes: Vec<u16>,
    workers: Workers,
}

impl Block {
    /// # Errors
    /// The host gives no thread.
    pub fn new(spec: BlockSpec) -> io::Result<Self> {
        let queues = spec.queues.clamp(1, MAX_QUEUES);
        let always = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY | feature::MQ;
        let by_kind = if spec.disk.is_read_only() { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
        let mut serial = [0; SERIAL_LEN];
        for (to, from) in serial.iter_mut().zip(spec.serial.bytes()) {
            *to = from;
        }
        let config = Config::new(&*spec.disk, queues, QUEUE_SIZE);
        let target = Arc::new(Target {
            disk: spec.disk,
            serial,
            name: spec.name.clone(),
            failures: spec.failures,
            shown: Shown::new(config),
            never_tells: false.into(),
        });
        let server: Arc<dyn Serve> = Arc::<Target>::clone(&target);
        let staff = Staff { name: &spec.name, count: spec.workers, rests_after: spec.quiet_after };
        Ok(Self {
            target,
            features: always | by_kind,
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            workers: Workers::start(server, &staff)?,
        })
    }

    /// The host's way to the disk.
    pub fn handle(&self) -> DiskHandle {
        DiskHandle(Arc::downgrade(&self.target))
    }
}

/// What requests are about.
#[derive(Debug)]
struct Target {
    disk: Box<dyn Disk>,
    serial: [u8; SERIAL_LEN],
    name: String,
    failures: Arc<DiskFailures>,
    shown: Shown,
    /// The host does not say what it has in its page cache of the disk's file.
    never_tells: AtomicBool,
}

impl Target {
    fn failed(&self, doing: &str, error: &io::Error) {
        if is_guests(error) {
            tracing::debug!("{doing} {}: {error}", self.name);
        } else {
            self.failures.add(&self.name, doing, error);
        }
    }

    /// Makes the disk last though no request asks for it.
    fn flush_unasked(&self) {
        if let Err(error) = self.disk.flush() {
            self.failed("flushing", &error);
        }
    }
}

impl Serve for Target {
    fn serve(&self, request: &worker::Request<'_>, buffer: &mut Vec<u8>) -> Result<usize, Malformed> {
        buffer.resize(PART, 0);
        Ok(Request::parse(request)?.run(request, self, buffer))
    }

    fn rest(&self) {
        self.flush_unasked();
    }

    /// What the guest did not flush is not lost when the machine ends in peace.
    fn end(&self) {
        self.flush_unasked();
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("target", &self.target).finish_non_exhaustive()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u64 {
        Config::LEN
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.target.shown.read(offset, data);
    }

    /// All of it is read-only, as the write cache cannot be switched.
    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn config_generation(&self) -> u8 {
        self.target.shown.generation()
    }

    fn activate(&mut self, activation: Activation) {
        let interrupt = activation.interrupt.clone();
        self.workers.activate(activation);
        self.target.shown.activate(interrupt);
    }

    fn notify(&mut self, queue: u16) -> Result<Progress, Malformed> {
        self.workers.notify(queue);
        Ok(Progress::Idle)
    }

    fn reset(&mut self) {
        self.workers.quiesce();
        self.target.shown.reset();
    }
}
