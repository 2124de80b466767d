//! Writing blocks to the disk, as few large writes as their order allows.

use motu_disk::Disk;
use std::io;

/// Bytes of a block of the file system.
pub(crate) const BLOCK: usize = 4096;

/// Bytes that are written at once, at most, and whole ones of where they can: a qcow2 image has clusters of 64 KiB.
const PIECE: usize = 1 << 20;

/// A place on the disk where bytes follow each other.
pub(crate) struct Output<'d> {
    disk: &'d dyn Disk,
    /// Where `buffer` begins.
    at: u64,
    buffer: Vec<u8>,
    /// How much of `buffer` is to be written.
    filled: usize,
}

impl<'d> Output<'d> {
    pub(crate) fn new(disk: &'d dyn Disk) -> Self {
        Self { disk, at: 0, buffer: vec![0; PIECE], filled: 0 }
    }

    /// Goes to a block. Everything before is whole blocks.
    pub(crate) fn seek(&mut self, block: u64) -> io::Result<()> {
        let at = block.saturating_mul(BLOCK as u64);
        if self.at.saturating_add(self.filled as u64) != at {
            self.flush()?;
            self.at = at;
        }
        Ok(())
    }

    /// Room for the next bytes, at least one; [`Output::advance`] says how many were put there.
    pub(crate) fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.filled >= self.end() {
            self.flush()?;
        }
        let end = self.end();
        Ok(self.buffer.get_mut(self.filled..end).unwrap_or_default())
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.filled = self.filled.saturating_add(bytes).min(self.buffer.len());
    }

    pub(crate) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let room = self.room()?;
            let some = room.len().min(data.len());
            let (now, later) = data.split_at(some);
            room.get_mut(..some).unwrap_or_default().copy_from_slice(now);
            self.advance(some);
            data = later;
        }
        Ok(())
    }

    /// Fills the last block with zeros.
    pub(crate) fn pad(&mut self) -> io::Result<()> {
        let rest = self.filled.next_multiple_of(BLOCK) - self.filled;
        self.write(&[0; BLOCK][..rest.min(BLOCK)])
    }

    /// Writes what is held back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let data = self.buffer.get(..self.filled).unwrap_or_default();
        if !data.is_empty() {
            self.disk.write(self.at, data)?;
        }
        self.at = self.at.saturating_add(self.filled as u64);
        self.filled = 0;
        Ok(())
    }

    /// Where the buffer is written: at its end, or where a whole piece of the disk ends.
    fn end(&self) -> usize {
        PIECE - usize::try_from(self.at % PIECE as u64).unwrap_or(0)
    }
}
