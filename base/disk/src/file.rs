//! An image's file: what lies behind its end are zeros.
//!
//! In tests it can keep a record of what reached it and when it was synced, for a power cut to be tried.

use crate::{disk, raw};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes what was written to a file last.
///
/// The host tells of writes that it lost once and then forgets them (fsync(2)), so what would succeed after an error
/// would promise too much: after one, all fail. Somebody else than the guest may have been told of it.
#[derive(Debug, Default)]
pub struct Syncs {
    lost: AtomicBool,
}

impl Syncs {
    /// # Errors
    /// The one of `sync`; later, that there was one.
    pub fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(io::Error::other("the host could not write something earlier, which is lost"));
        }
        sync().inspect_err(|_| self.lost.store(true, Ordering::SeqCst))
    }
}

#[derive(Debug)]
pub struct ImageFile {
    file: File,
    syncs: Syncs,
    failed: AtomicBool,
    #[cfg(test)]
    pub record: crate::tests::Record,
}

impl ImageFile {
    pub fn new(file: File) -> Self {
        Self {
            file,
            syncs: Syncs::default(),
            failed: AtomicBool::default(),
            #[cfg(test)]
            record: crate::tests::Record::of_this_thread(),
        }
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.record.add(crate::tests::Op::Len(len));
        self.file.set_len(len)
    }

    pub fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            match self.file.read_at(rest, at) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(read) => {
                    at += read as u64;
                    rest = rest.get_mut(read..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// `len` is bounded by the caller.
    pub fn read_vec(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.record.add(crate::tests::Op::Write(offset, data.to_vec()));
        self.noted(self.file.write_all_at(data, offset))
    }

    /// Whether somebody was told already that not all is written.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn noted(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
    }

    pub fn sync(&self) -> io::Result<()> {
        self.noted(self.syncs.run(|| self.file.sync_data()))?;
        #[cfg(test)]
        self.record.add(crate::tests::Op::Sync);
        Ok(())
    }

    /// Has these bytes read as zeros; they give their space back where the host can.
    pub fn clear(&self, offset: u64, len: u64) -> io::Result<()> {
        if raw::punch(&self.file, offset, len)? {
            #[cfg(test)]
            self.record.add(crate::tests::Op::Write(offset, vec![0; usize::try_from(len).unwrap_or(0)]));
            return Ok(());
        }
        disk::write_zeros(offset, len, |at, zeros| self.write(at, zeros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_write_was_lost_nothing_is_said_to_last() {
        let syncs = Syncs::default();
        syncs.run(|| Ok(())).unwrap();
        let full = syncs.run(|| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(syncs.run(|| Ok(())).is_err(), "the host has forgotten it");
    }
}
