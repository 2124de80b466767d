//! From bytes as they arrive to whole messages.

use crate::{MAX_FRAME, Message, ProtoError};
use std::marker::PhantomData;

/// Cuts a byte stream into messages of one direction.
///
/// It holds at most one unfinished frame beside what the last [`Decoder::feed`] brought, so a caller
/// that takes all messages after each feed bounds its memory by [`MAX_FRAME`] and its read size.
/// After an error the stream has no beginnings of frames any more: every later call repeats it.
#[derive(Debug)]
pub struct Decoder<M> {
    buffer: Vec<u8>,
    /// Where the first frame that has not been handed out begins.
    start: usize,
    broken: Option<ProtoError>,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Decoder { buffer: Vec::new(), start: 0, broken: None, message: PhantomData }
    }
}

impl<M: Message> Decoder<M> {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that arrived. A broken stream's bytes are dropped.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// The [`ProtoError`] of the first frame that is no message; the stream ends there.
    pub fn next_message(&mut self) -> Result<Option<M>, ProtoError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let next = self.cut();
        if let Err(error) = &next {
            self.broken = Some(error.clone());
            self.buffer = Vec::new();
            self.start = 0;
        }
        next
    }

    fn cut(&mut self) -> Result<Option<M>, ProtoError> {
        let Some((header, rest)) = self.buffer.get(self.start..).and_then(|rest| rest.split_first_chunk::<4>()) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(ProtoError::FrameLength(length as u64));
        }
        let Some((kind, body)) = rest.get(..length).and_then(|frame| frame.split_first()) else {
            return Ok(None);
        };
        let message = M::decode(*kind, body)?;
        self.start = self.start.saturating_add(length).saturating_add(4);
        Ok(Some(message))
    }
}
