//! Configuration space (virtio 1.2, 5.2.4): what the disk is, and how large requests may be.

use crate::device::read_space;
use motu_disk::{Disk, SECTOR};

/// Sectors that one segment of a discard or of a write of zeros has at most: 1 GiB, so that a request ends some time.
pub const MAX_RANGE_SECTORS: u32 = (1 << 30) / SECTOR as u32;
/// Segments of a discard at most.
pub const MAX_DISCARDS: u32 = 64;
/// Of a write of zeros: where the host cannot make holes they are written, and a reset waits for that.
pub const MAX_ZEROES: u32 = 1;

mod at {
    pub const CAPACITY: usize = 0;
    pub const SEG_MAX: usize = 12;
    pub const BLK_SIZE: usize = 20;
    pub const PHYSICAL_BLOCK_EXP: usize = 24;
    pub const OPT_IO_SIZE: usize = 28;
    pub const WRITEBACK: usize = 32;
    pub const NUM_QUEUES: usize = 34;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const MAX_DISCARD_SEG: usize = 40;
    pub const DISCARD_ALIGNMENT: usize = 44;
    pub const MAX_ZEROES_SECTORS: usize = 48;
    pub const MAX_ZEROES_SEG: usize = 52;
    pub const ZEROES_MAY_UNMAP: usize = 56;
}

/// What the guest wants to write at once if it can, in logical blocks: 1 MiB.
const OPTIMAL_BLOCKS: u32 = (1 << 20) / SECTOR as u32;
/// What the host keeps files in.
const PHYSICAL_BLOCK: u32 = 4096;

/// The space's bytes.
#[derive(Debug)]
pub struct Config([u8; Self::LEN as usize]);

impl Config {
    /// Up to `unused1`; there is no secure erase.
    pub const LEN: u64 = 60;

    pub fn new(disk: &dyn Disk, queues: u16, queue_size: u16) -> Self {
        let mut bytes = [0; Self::LEN as usize];
        let mut put = |at: usize, value: &[u8]| put(&mut bytes, at, value);
        // A chain has a header and a status, too.
        put(at::SEG_MAX, &u32::from(queue_size - 2).to_le_bytes());
        put(at::BLK_SIZE, &(SECTOR as u32).to_le_bytes());
        put(at::PHYSICAL_BLOCK_EXP, &[(PHYSICAL_BLOCK / SECTOR as u32).trailing_zeros() as u8]);
        put(at::OPT_IO_SIZE, &OPTIMAL_BLOCKS.to_le_bytes());
        put(at::WRITEBACK, &[1]);
        put(at::NUM_QUEUES, &queues.to_le_bytes());
        if !disk.is_read_only() {
            put(at::MAX_DISCARD_SECTORS, &MAX_RANGE_SECTORS.to_le_bytes());
            put(at::MAX_DISCARD_SEG, &MAX_DISCARDS.to_le_bytes());
            put(at::DISCARD_ALIGNMENT, &(disk.granularity() / SECTOR as u32).to_le_bytes());
            put(at::MAX_ZEROES_SECTORS, &MAX_RANGE_SECTORS.to_le_bytes());
            put(at::MAX_ZEROES_SEG, &MAX_ZEROES.to_le_bytes());
            put(at::ZEROES_MAY_UNMAP, &[1]);
        }
        let mut config = Self(bytes);
        config.set_size(disk.size());
        config
    }

    /// The disk has this size, in bytes.
    pub fn set_size(&mut self, size: u64) {
        put(&mut self.0, at::CAPACITY, &(size / SECTOR).to_le_bytes());
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.0, offset, data);
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}
