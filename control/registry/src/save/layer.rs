//! A layer that is written: packed with gzip, and hashed before and behind that.

use super::documents::Blob;
use crate::RegistryError;
use crate::digest::finish;
use crate::manifest::OCI_LAYER;
use flate2::Compression;
use flate2::write::GzEncoder;
use motu_store::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Takes the bytes of a tar archive.
pub struct LayerWriter {
    path: PathBuf,
    unpacked: Sha256,
    packer: GzEncoder<Packed>,
}

/// A layer that was written and synced.
pub(super) struct MadeLayer {
    pub(super) path: PathBuf,
    pub(super) blob: Blob,
    pub(super) diff_id: Digest,
}

struct Packed {
    file: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("LayerWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LayerWriter {
    pub(super) fn create(path: &Path) -> Result<Self, RegistryError> {
        let file = File::create_new(path).map_err(RegistryError::io("write", path))?;
        let packed = Packed { file: BufWriter::with_capacity(1 << 18, file), hasher: Sha256::new(), bytes: 0 };
        // Its header says neither a time nor a name.
        let packer = GzEncoder::new(packed, Compression::default());
        Ok(Self { path: path.to_owned(), unpacked: Sha256::new(), packer })
    }

    pub(super) fn finish(self) -> Result<MadeLayer, RegistryError> {
        let Self { path, unpacked, packer } = self;
        let ended = packer.finish().and_then(|mut packed| {
            packed.file.flush()?;
            packed.file.get_ref().sync_all()?;
            Ok(packed)
        });
        let packed = ended.map_err(RegistryError::io("write", &path))?;
        let blob = Blob::new(&format!("{OCI_LAYER}+gzip"), finish(packed.hasher), packed.bytes);
        Ok(MadeLayer { path, blob, diff_id: finish(unpacked) })
    }
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.packer.write(bytes)?;
        self.unpacked.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packer.flush()
    }
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
