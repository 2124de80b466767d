use super::*;
use crate::{BlobSink, LayerCache, OciImage, Options, Source};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

const FORMATS: [(SaveFormat, &str); 3] = [
    (SaveFormat::Oci, "oci-layout"),
    (SaveFormat::OciArchive, "oci-archive"),
    (SaveFormat::DockerArchive, "docker-archive"),
];

fn name(text: &str) -> ImageName {
    text.parse().expect("a name")
}

/// What is found there, with its layers unpacked.
fn read(cache: &LayerCache, kind: &str, path: &Path) -> (OciImage, Vec<Vec<u8>>) {
    let source: motu_store::Source = format!("{kind}:{}", path.display()).parse().expect("a source");
    let source = Source::new(&source).expect("a source").expect("of an image");
    let image = crate::pull(&source, cache, &Options::default(), Watch::silent()).expect("an image");
    let unpacked = image.layers.iter().map(|layer| {
        let mut bytes = Vec::new();
        layer.open().expect("opened").read_to_end(&mut bytes).expect("read");
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let packed = std::mem::take(&mut bytes);
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).expect("unpacked");
        }
        assert_eq!(Digest::of(&bytes), layer.diff_id);
        bytes
    });
    let unpacked = unpacked.collect();
    (image, unpacked)
}

fn made(format: SaveFormat, name: Option<&ImageName>, layer: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = ImageWriter::create(format, folder.path()).expect("begun");
    let mut packed = writer.layer().expect("a layer");
    packed.write_all(layer).expect("written");
    let config = ImageConfig {
        cmd: vec!["sh".to_owned()],
        env: vec!["A=1".to_owned()],
        user: Some("app".to_owned()),
        workdir: Some("/srv".to_owned()),
        exposed_ports: vec!["80/tcp".to_owned()],
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..ImageConfig::default()
    };
    let created = "2026-01-02T03:04:05Z".parse().expect("a time");
    let path = writer.write_made(packed, (&config, created), name).expect("made");
    (folder, path)
}

#[test]
fn a_layer_that_was_written_is_an_image() {
    let cache = tempfile::tempdir().expect("a folder");
    let cache = LayerCache::open(cache.path()).expect("a cache");
    let layer = vec![7; 100_000];
    for (format, kind) in FORMATS {
        let (folder, path) = made(format, Some(&name("team/app:v1")), &layer);
        let (image, layers) = read(&cache, kind, &path);
        assert_eq!(layers, std::slice::from_ref(&layer));
        let config = &image.config;
        assert_eq!((config.cmd.as_slice(), config.env.as_slice()), (&["sh".to_owned()][..], &["A=1".to_owned()][..]));
        assert_eq!((config.user.as_str(), config.workdir.as_str()), ("app", "/srv"));
        assert_eq!((config.exposed_ports.len(), config.labels.len()), (1, 1));
        assert_eq!(config.created.as_deref(), Some("2026-01-02T03:04:05Z"));
        let expected = if format == SaveFormat::DockerArchive { "team/app:v1" } else { "v1" };
        assert_eq!(image.name.as_deref(), Some(expected));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "nothing else is left");
        let (_again, other) = made(format, Some(&name("team/app:v1")), &layer);
        match format {
            SaveFormat::Oci => assert_eq!(read(&cache, kind, &other).0.digest, image.digest),
            _ => assert!(fs::read(&path).expect("read") == fs::read(&other).expect("read"), "the same bytes"),
        }
        // Without a name it is an image all the same.
        let (_folder, path) = made(format, None, &layer);
        assert_eq!(read(&cache, kind, &path).1, std::slice::from_ref(&layer));
    }
}

/// A cache with an image of two layers, by Docker's media types or the OCI's.
fn kept(cache: &LayerCache, docker: bool) -> Digest {
    let layers: [&[u8]; 2] = [b"the first layer", b"the second layer"];
    let (manifest, config, layer) = match docker {
        true => (
            crate::manifest::DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar",
        ),
        false => (crate::manifest::OCI_MANIFEST, OCI_CONFIG, crate::manifest::OCI_LAYER),
    };
    let described = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{}", Digest::of(bytes)), "size": bytes.len() });
    let diff_ids: Vec<String> = layers.iter().map(|bytes| format!("sha256:{}", Digest::of(bytes))).collect();
    let config_bytes = serde_json::json!({ "healthcheck": "kept", "rootfs": { "diff_ids": diff_ids } }).to_string();
    let described_layers: Vec<_> = layers.iter().map(|bytes| described(layer, bytes)).collect();
    let of_config = described(config, config_bytes.as_bytes());
    let text = serde_json::json!({ "mediaType": manifest, "schemaVersion": 2, "config": of_config, "layers": described_layers });
    let text = text.to_string();
    for bytes in layers.into_iter().chain([text.as_bytes(), config_bytes.as_bytes()]) {
        cache.keep_document(bytes).expect("kept");
    }
    Digest::of(text.as_bytes())
}

#[test]
fn what_was_kept_leaves_as_it_came() {
    let place = tempfile::tempdir().expect("a folder");
    let cache = LayerCache::open(place.path()).expect("a cache");
    for docker in [false, true] {
        let digest = kept(&cache, docker);
        for (format, kind) in FORMATS {
            let folder = tempfile::tempdir().expect("a folder");
            let writer = ImageWriter::create(format, folder.path()).expect("begun");
            let image = cache.image(digest).expect("looked").expect("whole");
            let path = writer.write_kept(image, Some(&name("app")), Watch::silent()).expect("written");
            let (image, layers) = read(&cache, kind, &path);
            assert_eq!(layers, [b"the first layer".to_vec(), b"the second layer".to_vec()]);
            if format != SaveFormat::DockerArchive {
                assert_eq!(image.digest == digest, !docker, "Docker's words become the OCI's");
                assert!(image.layers.iter().all(|layer| layer.media_type == crate::manifest::OCI_LAYER));
            }
        }
    }
}

#[test]
fn a_layer_that_was_damaged_goes_nowhere() {
    let place = tempfile::tempdir().expect("a folder");
    let cache = LayerCache::open(place.path()).expect("a cache");
    let digest = kept(&cache, false);
    fs::write(cache.place(Digest::of(b"the first layer")), "the first loyer").expect("damaged");
    let write = |cancel: &AtomicBool| {
        let folder = tempfile::tempdir().expect("a folder");
        let image = cache.image(digest).expect("looked").expect("as far as can be seen");
        let writer = ImageWriter::create(SaveFormat::Oci, folder.path()).expect("begun");
        writer.write_kept(image, None, Watch { cancel, ..Watch::silent() }).expect_err("refused")
    };
    let error = write(&AtomicBool::new(false)).to_string();
    assert!(error.contains("the layer sha256:") && error.contains("tampered"), "{error}");
    assert!(matches!(write(&AtomicBool::new(true)), RegistryError::Cancelled));
}
