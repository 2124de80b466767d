//! qcow2 images: headers, tables and refcounts that are anything but what they should be.

use motu_disk::{Disk, Format, OpenOptions, SECTOR};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes of the disk that are read and written, at its start and its end.
const REACH: u64 = 1 << 20;
/// Bytes at once.
const PART: u64 = 64 << 10;

/// The input is the image.
///
/// # Panics
/// The host has no memory for a file.
pub fn qcow2(bytes: &[u8]) {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(bytes, 0).expect("a file in memory is written");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for read_only in [true, false] {
        let options = OpenOptions { format: Some(Format::Qcow2), read_only };
        match motu_disk::open(path.as_ref(), &options) {
            Ok(disk) => work(&*disk),
            // The sentence is made for every error.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// A raw disk in memory.
///
/// # Panics
/// The host has no memory for a file.
pub fn memory(size: u64) -> Box<dyn Disk> {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.set_len(size).expect("a file in memory grows");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let options = OpenOptions { format: Some(Format::Raw), read_only: false };
    motu_disk::open(path.as_ref(), &options).expect("a file in memory is a disk")
}

/// What a guest may do to a disk; that it fails is its own business.
fn work(disk: &dyn Disk) {
    let size = disk.size();
    let mut data = vec![0; PART as usize];
    let ends = [0, size.saturating_sub(REACH).next_multiple_of(SECTOR)];
    for start in ends {
        for offset in (start..size.min(start + REACH)).step_by(PART as usize) {
            let len = PART.min(size - offset);
            let Some(part) = data.get_mut(..len as usize) else { continue };
            _ = disk.read(offset, part);
        }
        if disk.is_read_only() {
            continue;
        }
        let len = (5 * SECTOR).min(size - start);
        _ = disk.write(start, &data[..len as usize]);
        _ = disk.write_zeroes(start, PART.min(size - start), true);
        _ = disk.flush();
        _ = disk.discard(start, REACH.min(size - start));
        _ = disk.write(start, &data[..len as usize]);
    }
}
