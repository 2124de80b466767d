//! The encodings of single values, bounded by the frame that they are read from.

use crate::ProtoError;

/// Takes values from the front of one frame's body.
pub(crate) struct Reader<'a> {
    kind: u8,
    length: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(kind: u8, body: &'a [u8]) -> Self {
        Reader { kind, length: body.len().saturating_add(1), rest: body }
    }

    fn too_short(&self) -> ProtoError {
        ProtoError::Body { kind: self.kind, length: self.length }
    }

    pub(crate) fn field(&self, field: &'static str, value: impl Into<u32>) -> ProtoError {
        ProtoError::Field { kind: self.kind, field, value: value.into() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtoError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.too_short())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.too_short())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ProtoError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ProtoError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProtoError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, ProtoError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.field(field, other)),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, ProtoError> {
        let count = self.u32()? as usize;
        self.take(count).map(<[u8]>::to_vec)
    }

    /// Text for people to read: what is not UTF-8 in it is replaced, not refused.
    pub(crate) fn text(&mut self) -> Result<String, ProtoError> {
        let count = self.u32()? as usize;
        self.take(count).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A list whose elements take four bytes or more each, so that its count is bounded by the frame
    /// before anything is allocated.
    pub(crate) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, ProtoError>,
    ) -> Result<Vec<T>, ProtoError> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / 4 {
            return Err(self.too_short());
        }
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(element(self)?);
        }
        Ok(list)
    }

    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T, ProtoError>,
    ) -> Result<Option<T>, ProtoError> {
        if self.bool(field)? { value(self).map(Some) } else { Ok(None) }
    }

    /// All that is left of the frame.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest).to_vec()
    }

    /// Checks that the body has been read to its end.
    pub(crate) fn end(self) -> Result<(), ProtoError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.too_short()) }
    }
}

/// Appends one frame to a buffer; its length is put in when it is finished.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, kind]);
        Writer { out, start }
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A length that has no place in 32 bits is written as the largest one: the frame is then far
    /// above [`crate::MAX_FRAME`] and [`Writer::finish`] refuses it.
    pub(crate) fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// Puts the frame's length in, or takes the frame back when it is too long.
    pub(crate) fn finish(self) -> Result<(), ProtoError> {
        let length = self.out.len().saturating_sub(self.start).saturating_sub(4);
        let header = self.out.get_mut(self.start..).and_then(|frame| frame.first_chunk_mut::<4>());
        match (u32::try_from(length), header) {
            (Ok(short), Some(header)) if length <= crate::MAX_FRAME => {
                *header = short.to_le_bytes();
                Ok(())
            }
            _ => {
                self.out.truncate(self.start);
                Err(ProtoError::FrameLength(length as u64))
            }
        }
    }
}
