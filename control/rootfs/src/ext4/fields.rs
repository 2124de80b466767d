//! Structures on the disk: numbers at their places, little-endian.

/// Bytes that numbers are put into. What does not fit is not written: all places are constants of this crate.
pub(crate) struct Fields<'a>(pub(crate) &'a mut [u8]);

impl Fields<'_> {
    pub(crate) fn bytes(&mut self, at: usize, value: &[u8]) {
        let place = at.checked_add(value.len()).and_then(|end| self.0.get_mut(at..end));
        debug_assert!(place.is_some(), "{} bytes at {at} of {}", value.len(), self.0.len());
        if let Some(place) = place {
            place.copy_from_slice(value);
        }
    }

    pub(crate) fn u8(&mut self, at: usize, value: u8) {
        self.bytes(at, &[value]);
    }

    pub(crate) fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    /// The lower half at `low`, the upper one at `high`.
    pub(crate) fn split_u32(&mut self, (low, high): (usize, usize), value: u32) {
        self.u16(low, value as u16);
        self.u16(high, (value >> 16) as u16);
    }

    /// The lower half at `low`, the upper one at `high`.
    pub(crate) fn split_u64(&mut self, (low, high): (usize, usize), value: u64) {
        self.u32(low, value as u32);
        self.u32(high, (value >> 32) as u32);
    }
}

/// Bytes that numbers are taken from. What lies beyond their end is zeros: all places are constants of this crate, or were compared with
/// the length before.
#[derive(Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a [u8]);

impl View<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        let [byte] = self.array(at);
        byte
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// The lower half at `low`, the upper one at `high`.
    pub(crate) fn split_u32(&self, (low, high): (usize, usize)) -> u32 {
        u32::from(self.u16(low)) | u32::from(self.u16(high)) << 16
    }

    /// The lower half at `low`, the upper one at `high`.
    pub(crate) fn split_u64(&self, (low, high): (usize, usize)) -> u64 {
        u64::from(self.u32(low)) | u64::from(self.u32(high)) << 32
    }
}
