//! A disk that is in motu's own memory, to be read only.

use crate::GrowError;
use crate::disk::{self, Disk, SECTOR};
use std::io;

/// Bytes that a guest reads as a disk. There is no file of them.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
}

impl Memory {
    /// The disk has whole sectors: zeros follow the bytes where they end within one.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        Self { bytes }
    }
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn granularity(&self) -> u32 {
        SECTOR as u32
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        disk::check(self, offset, data.len() as u64)?;
        let bytes = usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..)?.get(..data.len()));
        data.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        disk::check_write(self, offset, data.len() as u64)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        disk::check_write(self, offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        disk::check_write(self, offset, len)
    }

    fn grow(&self, _: u64) -> Result<(), GrowError> {
        Err(GrowError::ReadOnly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_bytes_are_read_and_never_written() {
        let disk = Memory::new(vec![7; 513]);
        assert_eq!((disk.size(), disk.is_read_only()), (1024, true));
        let mut data = [1; 512];
        disk.read(512, &mut data).unwrap();
        assert_eq!((data[0], &data[1..]), (7, &[0; 511][..]));
        for (offset, len) in [(1024, 512), (u64::MAX - 511, 512), (1, 512), (0, 511)] {
            let error = disk.read(offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{offset}, {len}");
        }
        let read_only = |done: io::Result<()>| done.unwrap_err().kind() == io::ErrorKind::ReadOnlyFilesystem;
        assert!(read_only(disk.write(0, &[0; 512])));
        assert!(read_only(disk.discard(0, 512)) && read_only(disk.write_zeroes(0, 512, true)));
        assert!(disk.flush().is_ok() && matches!(disk.grow(2048), Err(GrowError::ReadOnly)));
    }
}
