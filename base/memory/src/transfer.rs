//! Between a file and guest RAM, without a copy on the way (preadv(2), pwritev(2)).

use crate::Mmap;
use motu_x86::Gpa;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Pieces of one system call at most (IOV_MAX).
const MOST: usize = 1024;

/// A piece of guest RAM: where, and how many bytes.
pub type Piece = (Gpa, usize);

/// Reads from `offset` of `file` on into the pieces, one after the other. Code that was decoded from them is told of.
///
/// # Errors
/// The host's, the file ends before, or a piece does not lie in RAM; some may have been read then.
pub fn read_file(memory: &Mmap, pieces: impl IntoIterator<Item = Piece>, file: &File, offset: u64) -> io::Result<()> {
    transfer(memory, pieces, offset, |vectors, at| {
        // SAFETY: the vectors are `count` descriptions of memory that is mapped while `memory` is borrowed. It is the
        // guest's: any thread may write to it at any time, and nothing in Rust refers to it.
        unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count(vectors), at) }
    })
}

/// The same as far as it needs no waiting, as the host has it in its page cache: how many bytes were read; `None` if the file's file
/// system does not tell.
///
/// # Errors
/// As [`read_file`], but for the file's end.
pub fn read_cached(
    memory: &Mmap,
    pieces: impl IntoIterator<Item = Piece>,
    file: &File,
    offset: u64,
) -> io::Result<Option<usize>> {
    let mut read = 0;
    let moved = transfer(memory, pieces, offset, |vectors, at| {
        // SAFETY: as in `read_file`.
        let moved = unsafe { libc::preadv2(file.as_raw_fd(), vectors.as_ptr(), count(vectors), at, libc::RWF_NOWAIT) };
        read += usize::try_from(moved).unwrap_or(0);
        moved
    });
    match moved {
        // The rest would have to be waited for.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(read)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        other => other.map(|()| Some(read)),
    }
}

/// Writes the pieces to `file` from `offset` on.
///
/// # Errors
/// The host's, or a piece does not lie in RAM; some may have been written then.
pub fn write_file(memory: &Mmap, pieces: impl IntoIterator<Item = Piece>, file: &File, offset: u64) -> io::Result<()> {
    transfer(memory, pieces, offset, |vectors, at| {
        // SAFETY: as above; it is only read.
        unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count(vectors), at) }
    })
}

fn count(vectors: &[libc::iovec]) -> libc::c_int {
    vectors.len().min(MOST) as libc::c_int
}

fn transfer(
    memory: &Mmap,
    pieces: impl IntoIterator<Item = Piece>,
    offset: u64,
    call: impl FnMut(&[libc::iovec], libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut slices = Vec::new();
    let mut vectors: Vec<libc::iovec> = Vec::new();
    for (address, len) in pieces {
        let slice = memory.get_slice(GuestAddress(address.0), len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let base = slice.ptr_guard_mut().as_ptr();
        // Pages that lie one after the other are one piece.
        match vectors.last_mut() {
            Some(last) if last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == base => last.iov_len += len,
            _ => vectors.push(libc::iovec { iov_base: base.cast(), iov_len: len }),
        }
        slices.push(slice);
    }
    let moved = move_all(&mut vectors, offset, call);
    // Also what a call that failed later has written.
    slices.iter().for_each(|slice: &VolatileSlice<'_, _>| slice.bitmap().mark_dirty(0, slice.len()));
    moved
}

fn move_all(
    vectors: &mut [libc::iovec],
    offset: u64,
    mut call: impl FnMut(&[libc::iovec], libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let (mut rest, mut at) = (vectors, offset);
    loop {
        while rest.first().is_some_and(|vector| vector.iov_len == 0) {
            rest = rest.get_mut(1..).unwrap_or_default();
        }
        if rest.is_empty() {
            return Ok(());
        }
        let place = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut moved = match call(rest, place) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved if moved > 0 => moved as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
        };
        at += moved as u64;
        for vector in rest.iter_mut() {
            let part = moved.min(vector.iov_len);
            vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(part).cast();
            vector.iov_len -= part;
            moved -= part;
            if moved == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CodeWrite, GuestRam, Listener, PAGE_SIZE};
    use std::io::{Read, Write};
    use std::sync::Arc;

    /// A file with these bytes.
    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn pieces_are_filled_and_stored_in_order() {
        let ram = GuestRam::new(16 * PAGE_SIZE).unwrap();
        let bytes: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let source = file(&bytes);
        // Two that follow each other, a gap, an empty one, one before.
        let pieces = [(Gpa(4096), 100), (Gpa(4196), 4000), (Gpa(30_000), 0), (Gpa(40_000), 5), (Gpa(10), 1000)];
        read_file(ram.mmap(), pieces, &source, 7).unwrap();
        let mut got = vec![0; 4100];
        ram.read(Gpa(4096), &mut got).unwrap();
        assert_eq!(got, bytes[7..4107]);
        let mut got = vec![0; 1000];
        ram.read(Gpa(10), &mut got).unwrap();
        assert_eq!(got, bytes[4112..5112]);
        let mut target = file(&[9; 3]);
        write_file(ram.mmap(), pieces, &target, 3).unwrap();
        let mut stored = Vec::new();
        std::io::Seek::rewind(&mut target).unwrap();
        target.read_to_end(&mut stored).unwrap();
        assert_eq!(stored, [&[9; 3], &bytes[7..5112]].concat());
    }

    #[test]
    fn more_pieces_than_one_call_takes() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let bytes: Vec<u8> = (0..3000u32 * 8).map(|n| (n / 8) as u8).collect();
        // Each second word, so that none follow each other.
        read_file(ram.mmap(), (0..3000).map(|n| (Gpa(n * 16), 8)), &file(&bytes), 0).unwrap();
        let mut got = vec![0; 16 * 3000];
        ram.read(Gpa(0), &mut got).unwrap();
        assert!(got.chunks(16).enumerate().all(|(n, word)| word[..8] == [n as u8; 8] && word[8..] == [0; 8]));
    }

    #[test]
    fn what_is_cached_is_read_and_the_rest_can_be() {
        let ram = GuestRam::new(16 * PAGE_SIZE).unwrap();
        let bytes: Vec<u8> = (0..9000u32).map(|n| (n % 251) as u8).collect();
        let source = file(&bytes);
        let pieces = [(Gpa(100), 4000), (Gpa(20_000), 3000)];
        // How much of it the host has at hand is the host's.
        let read = read_cached(ram.mmap(), pieces, &source, 500).unwrap().unwrap_or(0);
        assert!(read <= 7000);
        let mut got = vec![0; 4000];
        ram.read(Gpa(100), &mut got).unwrap();
        assert_eq!(got[..read.min(4000)], bytes[500..500 + read.min(4000)]);
        let last = read_cached(ram.mmap(), [(Gpa(0), 100)], &source, 8950).unwrap();
        assert!(last.unwrap_or(0) <= 50, "the file ends there");
        let outside = read_cached(ram.mmap(), [(Gpa(u64::MAX), 1)], &source, 0);
        assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let ram = GuestRam::new(4 * PAGE_SIZE).unwrap();
        let source = file(&[1; 100]);
        let kind =
            |pieces: &[Piece], offset| read_file(ram.mmap(), pieces.to_vec(), &source, offset).unwrap_err().kind();
        assert_eq!(kind(&[(Gpa(0), 101)], 0), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&[(Gpa(4 * PAGE_SIZE - 1), 2)], 0), io::ErrorKind::InvalidInput);
        assert_eq!(kind(&[(Gpa(u64::MAX), 1)], 0), io::ErrorKind::InvalidInput);
        assert_eq!(kind(&[(Gpa(0), 1)], u64::MAX), io::ErrorKind::InvalidInput);
        read_file(ram.mmap(), [], &source, 0).unwrap();
    }

    #[test]
    fn code_that_is_read_over_is_told_of() {
        let ram = GuestRam::new(16 * PAGE_SIZE).unwrap();
        let tracker = ram.regions().next().unwrap().tracker;
        let (told, heard) = std::sync::mpsc::channel();
        let listener: Listener = Arc::new(move |write| told.send(write).unwrap());
        tracker.listen(&listener);
        tracker.hold(3, 1);
        read_file(ram.mmap(), [(Gpa(3 * PAGE_SIZE + 8), 8)], &file(&[0; 8]), 0).unwrap();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [CodeWrite { page: 3, first: 8, last: 15, holders: 2 }]);
    }
}
