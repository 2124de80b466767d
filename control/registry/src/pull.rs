//! From a source to an image.

use crate::client::Client;
use crate::config::ImageConfig;
use crate::fetch;
use crate::local;
use crate::manifest::{self, Descriptor, Document, Manifest, choose, platforms};
use crate::retry::check;
use crate::{BlobSink, Credentials, Reference, RegistryError, Source};
use motu_store::{Digest, Watch};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// The platform of the images that motu runs.
pub(crate) const PLATFORM: &str = "linux/amd64";
/// Indexes in indexes at most.
const MAX_DEPTH: usize = 4;
/// How often it is seen whether the work is still wanted while a registry is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How images are fetched.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who one is.
    pub credentials: Credentials,
    /// Layers that are fetched at once.
    pub at_once: usize,
    /// The wait before something is tried for the second time; it doubles with each try.
    pub pause: Duration,
    /// How long a registry may say nothing.
    pub idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let (pause, idle) = (Duration::from_millis(500), Duration::from_secs(60));
        Options { credentials: Credentials::none(), at_once: 3, pause, idle }
    }
}

/// An image whose layers are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciImage {
    /// A name that suits it: the reference's, or the one that a layout or archive gives it.
    pub name: Option<String>,
    /// The digest of its manifest; of its configuration where there is no manifest, as in archives of Docker's.
    pub digest: Digest,
    /// What it says of itself.
    pub config: ImageConfig,
    /// What its file system is made of, the lowest first.
    pub layers: Vec<Layer>,
}

/// A layer's file, verified: a tar archive, plain or packed with gzip or zstd, as its first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its bytes as they lie there.
    pub digest: Digest,
    /// Its digest when it is unpacked; see [`Verified`](crate::Verified).
    pub diff_id: Digest,
    /// What it was said to be; empty where nothing was said.
    pub media_type: String,
    /// The file that it lies in.
    pub path: PathBuf,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

impl Layer {
    /// Its bytes, still packed.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub fn open(&self) -> Result<io::Take<File>, RegistryError> {
        let opened = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            Ok(file.take(self.size))
        });
        opened.map_err(RegistryError::io("read", &self.path))
    }
}

/// Brings an image. Layers from a registry go to `sink`, or are there already; those of layouts and archives stay where they are
/// and are verified there.
///
/// # Errors
/// Any of [`RegistryError`]. Nothing is kept then but layers that came whole, and the parts of others that the next try goes on from.
pub fn pull(
    source: &Source,
    sink: &dyn BlobSink,
    options: &Options,
    watch: Watch<'_>,
) -> Result<OciImage, RegistryError> {
    let result = match source {
        Source::Registry(reference) => from_registry(reference, sink, options, watch),
        Source::Layout(place) => local::layout(place, watch),
        Source::OciArchive(place) => local::oci_archive(place, watch),
        Source::DockerArchive(place) => local::docker_archive(place, watch),
    };
    // What was stopped ends in whatever error.
    check(watch.cancel)?;
    result
}

fn from_registry(
    reference: &Reference,
    sink: &dyn BlobSink,
    options: &Options,
    watch: Watch<'_>,
) -> Result<OciImage, RegistryError> {
    let client = Client::new(reference, options, watch.cancel)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // A thread that waits for the registry sees nothing else.
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if watch.cancel.load(Ordering::Relaxed) {
                    return client.stopper().shutdown();
                }
                thread::park_timeout(LOOK);
            }
        });
        let _end = End { over: &over, watcher: watcher.thread().clone() };
        watch.progress.start(&format!("asking {} for {}", reference.host(), reference.repository()), None);
        let found = find(&client, reference);
        watch.progress.finish();
        let Found { digest, documents, config, manifest } = found?;
        let paths = fetch::layers(&client, sink, &manifest.layers, options.at_once, watch)?;
        // So that the image can be given away as it came.
        documents.iter().try_for_each(|document| sink.keep_document(document))?;
        let pairs = manifest.layers.into_iter().zip(&config.diff_ids).zip(paths);
        let layers = pairs.map(|((layer, diff_id), path)| layer_at(layer, *diff_id, path, 0)).collect();
        let name = match reference.tag() {
            Some(tag) => format!("{}:{tag}", reference.familiar_name()),
            None => reference.familiar_name(),
        };
        Ok(OciImage { name: Some(name), digest, config, layers })
    })
}

pub(crate) fn layer_at(layer: Descriptor, diff_id: Digest, path: PathBuf, offset: u64) -> Layer {
    Layer { digest: layer.digest, diff_id, media_type: layer.media_type, path, offset, size: layer.size }
}

/// Ends the thread that watches, however its work ends.
struct End<'a> {
    over: &'a AtomicBool,
    watcher: Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.watcher.unpark();
    }
}

/// Where small documents are had from.
pub(crate) trait Origin {
    /// A manifest or an index.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError>;
    /// An image's configuration, which has as many bytes as the descriptor says.
    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError>;
}

/// An image without its layers.
pub(crate) struct Found {
    pub(crate) digest: Digest,
    /// Its manifest and its configuration, as they came.
    pub(crate) documents: [Vec<u8>; 2],
    pub(crate) config: ImageConfig,
    pub(crate) manifest: Manifest,
}

fn find(client: &Client<'_>, reference: &Reference) -> Result<Found, RegistryError> {
    let wanted = reference.wanted();
    let Some(document) = client.manifest(&wanted)? else { return Err(no_manifest(client, reference)) };
    let digest = Digest::of(&document.bytes);
    if let Some(asked) = reference.digest().filter(|asked| *asked != digest) {
        let what = format!("the manifest sha256:{asked}");
        return Err(RegistryError::Tampered { what, problem: format!("its digest is sha256:{digest}") });
    }
    resolve(client, &reference.to_string(), document.bytes, document.media_type.as_deref())
}

/// The error for a tag or digest that is not there, with what there is.
fn no_manifest(client: &Client<'_>, reference: &Reference) -> RegistryError {
    match reference.digest() {
        Some(digest) => client.none(&format!("manifest sha256:{digest}"), String::new()),
        None => {
            let tag = reference.tag().unwrap_or_default();
            let tags = client.tags();
            if tags.is_empty() {
                let (host, repository) = (reference.host().to_owned(), reference.repository().to_owned());
                return RegistryError::NoImage { host, repository, said: String::new() };
            }
            client.none(&format!("tag {tag:?}"), local::suggest(tag, &tags, "tags"))
        }
    }
}

/// Goes from a manifest or index to the image for our platform.
pub(crate) fn resolve(
    origin: &dyn Origin,
    image: &str,
    mut bytes: Vec<u8>,
    media_type: Option<&str>,
) -> Result<Found, RegistryError> {
    let mut media_type = media_type.map(str::to_owned);
    for _ in 0..MAX_DEPTH {
        match manifest::parse(&bytes, media_type.as_deref())
            .map_err(|problem| RegistryError::document(image, problem))?
        {
            Document::Manifest(manifest) => {
                return with_config(origin, image, manifest, bytes);
            }
            Document::Index(index) => {
                let entry = choose(&index).ok_or_else(|| other_platform(image, platforms(&index)))?;
                bytes = checked(origin.document(entry)?, entry, "the manifest")?;
                media_type = Some(entry.media_type.clone());
            }
        }
    }
    Err(RegistryError::document(image, format!("has indexes in indexes, more than {MAX_DEPTH} deep")))
}

fn with_config(
    origin: &dyn Origin,
    image: &str,
    manifest: Manifest,
    document: Vec<u8>,
) -> Result<Found, RegistryError> {
    let bytes = checked(origin.config(&manifest.config)?, &manifest.config, "the configuration")?;
    let config = read_config(image, &bytes)?;
    let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
    if layers != diff_ids {
        let problem = format!("has {layers} layers, and its configuration tells of {diff_ids}");
        return Err(RegistryError::document(image, problem));
    }
    Ok(Found { digest: Digest::of(&document), documents: [document, bytes], config, manifest })
}

/// An image's configuration, if it is for our platform.
pub(crate) fn read_config(image: &str, bytes: &[u8]) -> Result<ImageConfig, RegistryError> {
    let what = format!("the configuration of {image}");
    let config = ImageConfig::parse(bytes).map_err(|problem| RegistryError::document(&what, problem))?;
    config.other_platform().map_or(Ok(config), |there| Err(other_platform(image, there)))
}

fn other_platform(image: &str, there: String) -> RegistryError {
    RegistryError::Platform { image: image.to_owned(), wanted: PLATFORM.to_owned(), there }
}

/// Bytes, if they are those that the descriptor means.
pub(crate) fn checked(bytes: Vec<u8>, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, RegistryError> {
    let found = Digest::of(&bytes);
    if found == descriptor.digest && bytes.len() as u64 == descriptor.size {
        return Ok(bytes);
    }
    let problem = if found == descriptor.digest {
        format!("it has {} bytes, and {} were announced", bytes.len(), descriptor.size)
    } else {
        format!("its digest is sha256:{found}")
    };
    Err(RegistryError::Tampered { what: format!("{what} sha256:{}", descriptor.digest), problem })
}

impl Origin for Client<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let which = format!("sha256:{}", descriptor.digest);
        let document = self.manifest(&which)?;
        document.map(|document| document.bytes).ok_or_else(|| self.none(&format!("manifest {which}"), String::new()))
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let none = || self.none(&format!("configuration sha256:{}", descriptor.digest), String::new());
        self.small_blob(descriptor.digest)?.ok_or_else(none)
    }
}
