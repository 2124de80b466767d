//! Chunks: four bytes that say what, four that say how long, and as many bytes. All numbers are
//! little-endian.

use super::FormatError;

/// Bytes that are read from front to back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    pub id: [u8; 4],
    pub data: Reader<'a>,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next chunk; `None` at the end.
    pub fn chunk(&mut self) -> Result<Option<Chunk<'a>>, FormatError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let id = self.array("a chunk's head")?;
        let len = self.u32("a chunk's head")?;
        let data = self.take(len as usize, "a chunk")?;
        Ok(Some(Chunk { id, data: Self(data) }))
    }

    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(FormatError::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FormatError::Short(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u16(&mut self, what: &'static str) -> Result<u16, FormatError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }
}
