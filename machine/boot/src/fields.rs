//! Numbers in the bytes of a file.

/// Bytes with little-endian numbers in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub fn u16_at(self, at: usize) -> Option<u16> {
        self.array_at(at).map(u16::from_le_bytes)
    }

    pub fn u32_at(self, at: usize) -> Option<u32> {
        self.array_at(at).map(u32::from_le_bytes)
    }

    pub fn u64_at(self, at: usize) -> Option<u64> {
        self.array_at(at).map(u64::from_le_bytes)
    }

    fn array_at<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }
}
