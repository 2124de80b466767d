//! Images whose documents and layers are kept as they came, to be given away as they are.

use crate::config::ImageConfig;
use crate::manifest::{Descriptor, Document, MAX_DOCUMENT, Manifest, parse};
use crate::{BlobSink, LayerCache, RegistryError};
use motu_store::Digest;
use std::fs::File;
use std::io::{self, Read};

/// An image of a [`LayerCache`], with its files open: they can be read also if somebody deletes them.
#[derive(Debug)]
pub struct KeptImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) parsed: Manifest,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<KeptLayer>,
}

#[derive(Debug)]
pub(crate) struct KeptLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) file: File,
}

impl KeptImage {
    /// Bytes of all layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.descriptor.size))
    }

    /// Digests of its layers, as they are packed.
    pub fn layers(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.descriptor.digest).collect()
    }
}

impl LayerCache {
    /// The image with this manifest, if all of it is still there.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn image(&self, manifest: Digest) -> Result<Option<KeptImage>, RegistryError> {
        let Some(bytes) = self.document(manifest)? else { return Ok(None) };
        // What was kept was understood before.
        let Ok(Document::Manifest(parsed)) = parse(&bytes, None) else { return Ok(None) };
        let Some(config) = self.document(parsed.config.digest)? else { return Ok(None) };
        let is_whole = ImageConfig::parse(&config).is_ok_and(|config| config.diff_ids.len() == parsed.layers.len());
        let mut layers = Vec::new();
        for descriptor in &parsed.layers {
            let Some(path) = self.find(descriptor.digest, descriptor.size)? else { return Ok(None) };
            match File::open(&path) {
                Ok(file) => layers.push(KeptLayer { descriptor: descriptor.clone(), file }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(RegistryError::io("read", &path)(error)),
            }
        }
        Ok(is_whole.then_some(KeptImage { manifest: bytes, parsed, config, layers }))
    }

    /// A document's bytes; `None` if they are not there, or not those that they were.
    fn document(&self, digest: Digest) -> Result<Option<Vec<u8>>, RegistryError> {
        let path = self.place(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RegistryError::io("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(RegistryError::io("read", &path))?;
        Ok((Digest::of(&bytes) == digest).then_some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_image_is_kept_while_all_of_it_is() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        let layer = b"a layer";
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, Digest::of(b"unpacked"));
        let described = |kind: &str, bytes: &[u8]| {
            let (digest, size) = (Digest::of(bytes), bytes.len());
            format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#)
        };
        let (of_config, of_layer) = (described("config.v1+json", config.as_bytes()), described("layer.v1.tar", layer));
        let manifest = format!(r#"{{"schemaVersion":2,"config":{of_config},"layers":[{of_layer}]}}"#);
        let all: [&[u8]; 3] = [manifest.as_bytes(), config.as_bytes(), layer];
        let digest = Digest::of(manifest.as_bytes());
        for bytes in all {
            assert!(cache.image(digest).expect("looked").is_none(), "something is missing");
            cache.keep_document(bytes).expect("kept");
        }
        let image = cache.image(digest).expect("looked").expect("whole");
        assert_eq!((image.bytes(), image.config), (7, config.clone().into_bytes()));
        for bytes in all {
            let path = cache.place(Digest::of(bytes));
            fs::write(&path, "x").expect("damaged");
            assert!(cache.image(digest).expect("looked").is_none(), "something is damaged");
            drop(fs::remove_file(&path));
            cache.keep_document(bytes).expect("kept again");
        }
        assert!(cache.image(digest).expect("looked").is_some());
    }
}
