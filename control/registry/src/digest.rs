//! Digests as OCI documents write them (OCI image specification, "Descriptors", "Digests").

use motu_store::Digest;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Bytes that are read at a time.
pub(crate) const CHUNK: usize = 256 << 10;

/// A digest with its algorithm before it.
pub(crate) fn parse_digest(text: &str) -> Result<Digest, String> {
    match text.split_once(':') {
        Some(("sha256", digits)) => short(digits).parse(),
        Some((algorithm, _)) => {
            Err(format!("the digest {:?} is made with {algorithm:?}; motu knows sha256", short(text)))
        }
        None => Err(format!("{:?} is no digest: digests look like sha256:e3b0c4...", short(text))),
    }
}

/// The beginning of a text that somebody else wrote.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// What a hasher was fed.
pub(crate) fn finish(hasher: Sha256) -> Digest {
    Digest::finish(hasher)
}

/// Feeds all that comes to a hasher; returns how many bytes came. Stops when `go_on` says so.
pub(crate) fn feed(
    hasher: &mut Sha256,
    mut source: impl Read,
    mut go_on: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        let count = match source.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(total) };
        hasher.update(bytes);
        total = total.saturating_add(count as u64);
        go_on(count as u64)?;
    }
}

/// A stream that ends well only if it had a certain digest and is read to its end: what is unpacked from a layer, against the
/// `diff_id` of the image's configuration (OCI image specification, "Layer DiffID").
#[derive(Debug)]
pub struct Verified<R> {
    inner: R,
    hasher: Sha256,
    expected: Digest,
    done: bool,
}

impl<R: Read> Verified<R> {
    /// Reads from `inner`, whose bytes should have the digest `expected`.
    pub fn new(inner: R, expected: Digest) -> Self {
        Verified { inner, hasher: Sha256::new(), expected, done: false }
    }

    /// Reads what is left, for readers that stop at an archive's own end mark.
    ///
    /// # Errors
    /// `InvalidData` if the digest is another; what the inner reader says.
    pub fn finish(mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        while self.read(&mut chunk)? > 0 {}
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.done {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count > 0 {
            self.hasher.update(buffer.get(..count).unwrap_or_default());
            return Ok(count);
        }
        let found = finish(std::mem::take(&mut self.hasher));
        if found != self.expected {
            let problem = format!("unpacked, it has the digest {found}, and the image says {}", self.expected);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        self.done = true;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_judged_at_its_end() {
        let right = Digest::of(b"layer");
        Verified::new(&b"layer"[..], right).finish().expect("the right one");
        let mut stream = Verified::new(&b"later"[..], right);
        let mut five = [0; 5];
        stream.read_exact(&mut five).expect("its bytes come");
        let error = stream.finish().expect_err("another digest");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("unpacked, it has the digest"), "{error}");
    }
}
