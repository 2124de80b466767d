//! New images.

use super::header::{MAGIC, at, extension, l1_entries};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// QEMU's own choice.
const CLUSTER_BITS: u32 = 16;
const REFCOUNT_ORDER: u32 = 4;
const HEADER_LEN: u32 = 104;

/// Makes an image of `size` bytes, at most [`crate::MAX_SIZE`], in an empty file: header, refcount table, one block of
/// refcounts, first-level table.
pub(crate) fn create(file: &File, size: u64) -> io::Result<()> {
    create_with(file, size, CLUSTER_BITS, None)
}

/// The same with clusters of other sizes, and a backing file's name and format.
pub(crate) fn create_with(file: &File, size: u64, cluster_bits: u32, backing: Option<(&str, &str)>) -> io::Result<()> {
    let cluster = 1u64 << cluster_bits;
    let l1_size = l1_entries(size, cluster_bits);
    let l1_clusters = (l1_size * 8).div_ceil(cluster);
    let used = 3 + l1_clusters;
    if used * 2 > cluster {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the clusters are too small for the disk"));
    }
    let mut header = vec![0; HEADER_LEN as usize];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = header.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    };
    put(0, &MAGIC);
    put(at::VERSION, &3u32.to_be_bytes());
    put(at::CLUSTER_BITS, &cluster_bits.to_be_bytes());
    put(at::SIZE, &size.to_be_bytes());
    put(at::L1_SIZE, &u32::try_from(l1_size).unwrap_or(u32::MAX).to_be_bytes());
    put(at::L1_OFFSET, &(3 * cluster).to_be_bytes());
    put(at::REFCOUNT_OFFSET, &cluster.to_be_bytes());
    put(at::REFCOUNT_CLUSTERS, &1u32.to_be_bytes());
    put(at::REFCOUNT_ORDER, &REFCOUNT_ORDER.to_be_bytes());
    put(at::HEADER_LEN, &HEADER_LEN.to_be_bytes());
    if let Some((name, format)) = backing {
        let start = HEADER_LEN as usize + 16 + format.len().next_multiple_of(8);
        put(at::BACKING_OFFSET, &(start as u64).to_be_bytes());
        put(at::BACKING_SIZE, &u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        header.extend(extension::BACKING_FORMAT.to_be_bytes());
        header.extend(u32::try_from(format.len()).unwrap_or(0).to_be_bytes());
        header.extend(format.as_bytes());
        header.resize(start, 0);
        header.extend(name.as_bytes());
    }
    file.set_len(used * cluster)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(&(2 * cluster).to_be_bytes(), cluster)?;
    let refcounts: Vec<u8> = (0..used).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write_all_at(&refcounts, 2 * cluster)?;
    file.sync_all()
}
