//! One request (virtio 1.2, 5.2.6): a header, data or ranges, and a status byte at the end.

use super::config::{MAX_DISCARDS, MAX_RANGE_SECTORS, MAX_ZEROES};
use super::failures::READING;
use super::{Target, feature};
use crate::queue::{Chain, Malformed};
use crate::worker;
use motu_disk::SECTOR;
use motu_memory::Mmap;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

/// Bytes read or written at once where they pass through memory of motu's own: as much as stays in a CPU's cache on its way.
pub const PART: usize = 128 << 10;
const HEADER_LEN: usize = 16;
const RANGE_LEN: usize = 16;
/// Of a range: the space may be given back.
const UNMAP: u32 = 1;

/// Types of requests.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// The status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// A request that its driver made whole.
#[derive(Debug)]
pub struct Request<'a> {
    kind: u32,
    sector: u64,
    chain: &'a Chain,
    memory: &'a Mmap,
    /// Of the driver's data, behind the header.
    data_out: usize,
    /// For the driver's data, before the status.
    data_in: usize,
}

/// A range of a discard or a write of zeros.
#[derive(Clone, Copy, Debug)]
struct Range {
    offset: u64,
    len: u64,
    flags: u32,
}

impl<'a> Request<'a> {
    /// # Errors
    /// There is no room for a header or for a status.
    pub fn parse(asked: &'a worker::Request<'_>) -> Result<Self, Malformed> {
        let (chain, memory) = (&asked.chain, asked.memory);
        let too_short = Malformed::TooShort { queue: asked.queue, head: chain.head };
        let mut header = [0; HEADER_LEN];
        let data_out = chain.readable.len().checked_sub(HEADER_LEN).ok_or(too_short)?;
        let data_in = chain.writable.len().checked_sub(1).ok_or(too_short)?;
        chain.readable.read(memory, 0, &mut header);
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        Ok(Self { kind, sector: u64::from_le_bytes(sector), chain, memory, data_out, data_in })
    }

    /// Does it; how many bytes were written for the driver. `buffer` is of [`PART`] bytes.
    pub fn run(&self, asked: &worker::Request<'_>, target: &Target, buffer: &mut [u8]) -> usize {
        // A driver that does not know of flushes takes what was given back for safe (5.2.6.2).
        let write_through = asked.features & feature::FLUSH == 0;
        let (memory, mut done) = (self.memory, 0);
        let status = match self.work(asked, target, buffer, &mut done) {
            Ok(Status::Ok) if write_through && self.writes() => {
                asked.waits();
                target.disk.flush().map(|()| Status::Ok)
            }
            other => other,
        };
        let status = status.unwrap_or_else(|error| {
            target.failed(self.doing(), &error);
            Status::IoError
        });
        // The status is in the last byte, though what comes before it may not be filled (5.2.6); only what was written
        // from the start on counts (2.7.8.2).
        self.chain.writable.write(memory, self.data_in, &[status as u8]);
        if done == self.data_in { done + 1 } else { done }
    }

    /// For messages.
    fn doing(&self) -> &'static str {
        match self.kind {
            kind::IN => READING,
            kind::FLUSH => "flushing",
            kind::DISCARD => "discarding sectors of",
            _ => "writing",
        }
    }

    fn writes(&self) -> bool {
        matches!(self.kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES)
    }

    fn work(
        &self,
        asked: &worker::Request<'_>,
        target: &Target,
        buffer: &mut [u8],
        done: &mut usize,
    ) -> io::Result<Status> {
        if matches!(self.kind, kind::FLUSH | kind::DISCARD | kind::WRITE_ZEROES) {
            asked.waits();
        }
        let (disk, memory) = (&*target.disk, self.memory);
        match self.kind {
            kind::IN => {
                let start = self.place(target, self.data_in)?;
                if let Some(file) = disk.file() {
                    let there = self.fill_cached(target, file, start)?;
                    if there.is_some_and(|there| there < self.data_in) {
                        asked.waits();
                    }
                    let there = there.unwrap_or(0);
                    if there < self.data_in {
                        let rest = (there, self.data_in - there);
                        self.chain.writable.fill(memory, rest, file, start + there as u64)?;
                    }
                    *done = self.data_in;
                    return Ok(Status::Ok);
                }
                while *done < self.data_in {
                    let part = buffer.len().min(self.data_in - *done);
                    let Some(data) = buffer.get_mut(..part) else { break };
                    disk.read(start + *done as u64, data)?;
                    self.chain.writable.write(memory, *done, data);
                    *done += part;
                }
                Ok(Status::Ok)
            }
            kind::OUT => {
                let start = self.place(target, self.data_out)?;
                if let Some(file) = disk.file().filter(|_| !disk.is_read_only()) {
                    self.chain.readable.store(memory, (HEADER_LEN, self.data_out), file, start)?;
                    return Ok(Status::Ok);
                }
                let mut at = 0;
                while at < self.data_out {
                    let part = buffer.len().min(self.data_out - at);
                    let Some(data) = buffer.get_mut(..part) else { break };
                    self.chain.readable.read(memory, HEADER_LEN + at, data);
                    disk.write(start + at as u64, data)?;
                    at += part;
                }
                Ok(Status::Ok)
            }
            kind::FLUSH => disk.flush().map(|()| Status::Ok),
            kind::GET_ID => {
                *done =
                    self.chain.writable.write(memory, 0, target.serial.get(..self.data_in).unwrap_or(&target.serial));
                Ok(Status::Ok)
            }
            kind::DISCARD | kind::WRITE_ZEROES if disk.is_read_only() => Ok(Status::IoError),
            kind::DISCARD => self.each_range((MAX_DISCARDS, 0), |range| disk.discard(range.offset, range.len)),
            kind::WRITE_ZEROES => self.each_range((MAX_ZEROES, UNMAP), |range| {
                disk.write_zeroes(range.offset, range.len, range.flags & UNMAP != 0)
            }),
            _ => Ok(Status::Unsupported),
        }
    }

    /// Reads what the host has at hand: how many bytes; `None` if it does not tell.
    fn fill_cached(&self, target: &Target, file: &File, start: u64) -> io::Result<Option<usize>> {
        if target.never_tells.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let there = self.chain.writable.fill_cached(self.memory, self.data_in, file, start)?;
        target.never_tells.store(there.is_none(), Ordering::Relaxed);
        Ok(there)
    }

    /// Where data of `len` bytes begins on the disk.
    fn place(&self, target: &Target, len: usize) -> io::Result<u64> {
        let start = self.sector.checked_mul(SECTOR).filter(|start| {
            let end = start.checked_add(len as u64);
            end.is_some_and(|end| end <= target.disk.size()) && (len as u64).is_multiple_of(SECTOR)
        });
        start.ok_or_else(|| outside(self.sector, len as u64))
    }

    /// Has `work` done for each range of at most `most`, after all were checked for `flags` that are allowed (5.2.6.2).
    fn each_range(&self, (most, flags): (u32, u32), work: impl Fn(Range) -> io::Result<()>) -> io::Result<Status> {
        let count = self.data_out / RANGE_LEN;
        if !self.data_out.is_multiple_of(RANGE_LEN) || count == 0 || count > most as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("ranges of {} bytes", self.data_out)));
        }
        let ranges: Vec<Range> = (0..count).map(|n| self.range(n)).collect::<io::Result<_>>()?;
        if ranges.iter().any(|range| range.flags & !flags != 0) {
            return Ok(Status::Unsupported);
        }
        ranges.into_iter().try_for_each(work).map(|()| Status::Ok)
    }

    fn range(&self, n: usize) -> io::Result<Range> {
        let mut bytes = [0; RANGE_LEN];
        self.chain.readable.read(self.memory, HEADER_LEN + n * RANGE_LEN, &mut bytes);
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let offset = sector.checked_mul(SECTOR).filter(|_| sectors <= MAX_RANGE_SECTORS);
        let offset = offset.ok_or_else(|| outside(sector, u64::from(sectors) * SECTOR))?;
        Ok(Range { offset, len: u64::from(sectors) * SECTOR, flags: u32::from_le_bytes(flags) })
    }
}

fn outside(sector: u64, len: u64) -> io::Error {
    let what = format!("{len} bytes from sector {sector} on are not whole sectors of the disk");
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
