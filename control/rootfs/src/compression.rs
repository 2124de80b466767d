//! Layers as they come: plain, gzip, zstd or xz.

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// Bytes that are read of a layer at once.
const BUFFER: usize = 256 << 10;

/// Memory that xz may use, in KiB: `xz -9` needs 65 MiB (xz(1)).
const XZ_KIB: u32 = 256 << 10;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all: a tar archive as it is.
    None,
    /// RFC 1952, in any number of members.
    Gzip,
    /// RFC 8878, in any number of frames.
    Zstd,
    /// The .xz format, in any number of streams; layers of OCI images are none, Debian's packages are.
    Xz,
}

impl Compression {
    /// Of a layer's media type by its suffix (OCI image specification, "Layer Media Types", and Docker's): `None` if it says nothing that
    /// is known.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let kind = media_type.rsplit('/').next().unwrap_or_default();
        Some(match kind.rsplit(['+', '.']).next() {
            Some("gzip") => Self::Gzip,
            Some("zstd") => Self::Zstd,
            Some("tar") => Self::None,
            _ => return None,
        })
    }

    /// Of data that begins with these bytes, 6 of which are enough.
    pub fn of_magic(first: &[u8]) -> Self {
        const MAGICS: [(&[u8], Compression); 3] = [
            (&[0x1f, 0x8b], Compression::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
        ];
        MAGICS.iter().find(|(magic, _)| first.starts_with(magic)).map_or(Self::None, |(_, kind)| *kind)
    }

    /// What is packed in `packed`.
    pub fn unpack<'a>(self, packed: impl Read + 'a) -> Box<dyn Read + 'a> {
        let packed = BufReader::with_capacity(BUFFER, packed);
        match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(Frames { packed, decoder: FrameDecoder::new(), begun: false }),
            Self::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_KIB)),
        }
    }
}

/// The frames of a zstd stream, one after the other. The window is bounded by the decoder's own limit, 128 MiB.
struct Frames<R> {
    packed: R,
    decoder: FrameDecoder,
    begun: bool,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame that has data; `false` if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.packed.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let mut skipped = self.packed.by_ref().take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.begun && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.begun && !self.decoder.is_finished() {
                let blocks = self.decoder.decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBlocks(1));
                blocks.map_err(io::Error::other)?;
            } else {
                self.begun = self.begin()?;
                if !self.begun {
                    return Ok(0);
                }
            }
        }
    }
}
