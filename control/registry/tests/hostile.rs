//! Layouts and archives that are anything but what they should be: documents that lead from one to the next by right digests, and
//! say whatever chance has them say.

mod support;

use motu_registry::{LayerCache, Source};
use motu_store::{Digest, Watch};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::sync::OnceLock;
use support::*;
use tempfile::TempDir;

/// What the documents of images are made of.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "0",
    "-1",
    "18446744073709551615",
    "1e999",
    "\"\\u001b[31m\"",
    "\"\\u0000\"",
    "{}",
    "[]",
    "\"../../../etc/passwd\"",
    "\"manifests\":[],",
    "\"layers\":[],",
    "\"config\":{},",
    "\"config\":null,",
    "\"mediaType\":\"x\",",
    "\"schemaVersion\":1,",
    "\"platform\":{\"os\":\"linux\"},",
    "\"size\":4194305,",
    "\"digest\":\"sha512:00\",",
    "\"Env\":[\"\"],",
    "\"User\":\"\\n\",",
    "\"WorkingDir\":\"..\",",
    "\"rootfs\":{\"type\":\"x\"},",
    "\"diff_ids\":[],",
    "amd64",
    "arm64",
    "\u{1b}]0;x\u{7}",
];

/// Words put in, and stretches taken out, at places between 0 and the end.
type Changes = Vec<(Index, usize, &'static str)>;

fn changes() -> impl Strategy<Value = Changes> {
    prop::collection::vec((any::<Index>(), 0usize..20, select(WORDS)), 0..4)
}

fn change(bytes: &[u8], changes: &Changes) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, count, word) in changes {
        let at = at.index(bytes.len() + 1);
        let end = (at + count).min(bytes.len());
        bytes.splice(at..end, word.bytes());
    }
    bytes
}

fn cache() -> &'static LayerCache {
    static CACHE: OnceLock<(TempDir, LayerCache)> = OnceLock::new();
    let make = || {
        let folder = TempDir::new().expect("a folder");
        let cache = LayerCache::open(folder.path()).expect("a cache");
        (folder, cache)
    };
    &CACHE.get_or_init(make).1
}

/// Reads an archive as both kinds. Whatever is in it, there is an image whose layers lie in it, or one sentence.
fn read(archive: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), archive).expect("written");
    for kind in ["oci-archive", "docker-archive"] {
        let source: Source = source(&format!("{kind}:{}", file.path().display()));
        match motu_registry::pull(&source, cache(), &options(), Watch::silent()) {
            Ok(image) => assert!(image.layers.iter().all(|layer| layer.offset + layer.size <= archive.len() as u64)),
            Err(error) => {
                let error = error.to_string();
                assert!(!error.is_empty() && error.len() < 2000 && !error.contains(char::is_control), "{error:?}");
            }
        }
    }
}

fn layout(index: &[u8], blobs: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = blobs.iter().map(|blob| format!("blobs/sha256/{}", Digest::of(blob))).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(blobs.iter().copied()).collect();
    files.extend([("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()), ("index.json", index)]);
    tar(&files)
}

fn index_of(manifest: &[u8]) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(OCI_MANIFEST, manifest, ""))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_index_is_an_image_or_one_sentence(changes in changes()) {
        let image = Image::new(1, 100);
        let index = change(index_of(&image.manifest).as_bytes(), &changes);
        read(&layout(&index, &[&image.manifest, &image.config, &image.layers[0]]));
    }

    #[test]
    fn any_manifest_is_an_image_or_one_sentence(changes in changes()) {
        let image = Image::new(1, 100);
        let manifest = change(&image.manifest, &changes);
        read(&layout(index_of(&manifest).as_bytes(), &[&manifest, &image.config, &image.layers[0]]));
    }

    #[test]
    fn any_configuration_is_an_image_or_one_sentence(changes in changes()) {
        let image = Image::new(1, 100);
        let image = Image::with(change(&image.config, &changes), image.layers);
        read(&layout(index_of(&image.manifest).as_bytes(), &[&image.manifest, &image.config, &image.layers[0]]));
    }

    #[test]
    fn any_archive_of_dockers_is_an_image_or_one_sentence(list in changes(), config in changes(), bytes in changes()) {
        let plain = tar(&[("file", b"x")]);
        let image = Image::of(std::slice::from_ref(&plain), r#""architecture":"amd64","os":"linux""#);
        let text = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l/layer.tar"]}]"#;
        let (list, config) = (change(text, &list), change(&image.config, &config));
        let archive = tar(&[("manifest.json", &list), ("c.json", &config), ("l/layer.tar", &plain)]);
        read(&archive);
        read(&change(&archive, &bytes));
    }
}

#[test]
fn a_long_word_makes_no_long_sentence() {
    let long = "x".repeat(1 << 20);
    for config in [
        format!(r#"{{"rootfs":"{long}"}}"#),
        format!(r#"{{"rootfs":{{"diff_ids":["sha256:{long}"]}}}}"#),
        format!(r#"{{"rootfs":{{}},"config":{{"WorkingDir":"{long}"}}}}"#),
    ] {
        let image = Image::with(config.into_bytes(), Vec::new());
        read(&layout(index_of(&image.manifest).as_bytes(), &[&image.manifest, &image.config]));
    }
}

#[test]
fn names_in_archives_of_dockers_are_shown_as_text() {
    let list = br#"[{"Config":"\u001b[31m","Layers":[]}]"#;
    read(&tar(&[("manifest.json", list), ("\u{1b}[31m", &vec![b' '; (4 << 20) + 1])]));
    let layers = vec![r#""l""#; 513].join(",");
    let diff_ids = vec![format!(r#""sha256:{}""#, Digest::of(b"")); 513].join(",");
    let list = format!(r#"[{{"Config":"c.json","Layers":[{layers}]}}]"#);
    let config = format!(r#"{{"rootfs":{{"diff_ids":[{diff_ids}]}}}}"#);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), tar(&[("manifest.json", list.as_bytes()), ("c.json", config.as_bytes()), ("l", b"")]))
        .expect("written");
    let error = refusal(&source(&format!("docker-archive:{}", file.path().display())));
    assert!(error.contains("has 513 layers; 512 are allowed"), "{error}");
}

#[test]
fn without_changes_they_are_images() {
    let image = Image::new(1, 100);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let index = index_of(&image.manifest);
    std::fs::write(file.path(), layout(index.as_bytes(), &[&image.manifest, &image.config, &image.layers[0]]))
        .expect("written");
    let source = source(&format!("oci-archive:{}", file.path().display()));
    assert_same(&motu_registry::pull(&source, cache(), &options(), Watch::silent()).expect("an image"), &image);
}
