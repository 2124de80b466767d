use super::*;
use proptest::prelude::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":3{more}}}"#)
}

fn manifest(config: &str, layer: &str) -> String {
    let (config, layer) = (descriptor(config, ""), descriptor(layer, ""));
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#)
}

#[test]
fn manifests_of_both_kinds_are_read() {
    for (config, layer) in [
        (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar"),
        (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip"),
        (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        let Ok(Document::Manifest(manifest)) = parse(manifest(config, layer).as_bytes(), None) else {
            panic!("{layer} is a layer");
        };
        assert_eq!(manifest.config.media_type, config);
        assert_eq!((manifest.layers[0].media_type.as_str(), manifest.layers[0].size), (layer, 3));
    }
}

#[test]
fn the_platform_is_chosen() {
    let entry = |os: &str, architecture: &str, variant: Option<&str>| {
        let variant = variant.map_or(String::new(), |variant| format!(r#","variant":"{variant}""#));
        let platform = format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}"#);
        descriptor(OCI_MANIFEST, &platform)
    };
    let index = |entries: &[String]| {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match parse(text.as_bytes(), Some(OCI_INDEX)) {
            Ok(Document::Index(index)) => index,
            other => panic!("{text}: {other:?}"),
        }
    };
    let all = index(&[
        entry("linux", "arm64", Some("v8")),
        entry("linux", "amd64", Some("v3")),
        entry("linux", "amd64", None),
        entry("unknown", "unknown", None),
    ]);
    assert_eq!(choose(&all), all.get(2));
    let newer = index(&[entry("linux", "amd64", Some("v3")), entry("linux", "amd64", Some("v2"))]);
    assert_eq!(choose(&newer), newer.get(1));
    let others = index(&[
        entry("linux", "arm64", Some("v8")),
        entry("windows", "amd64", None),
        entry("unknown", "unknown", None),
    ]);
    assert_eq!(choose(&others), None);
    assert_eq!(platforms(&others), "linux/arm64/v8, windows/amd64");
    let unsaid = index(&[descriptor(OCI_MANIFEST, "")]);
    assert_eq!(choose(&unsaid), unsaid.first());
    assert_eq!(platforms(&[]), "nothing");
}

#[test]
fn what_is_no_image_is_said() {
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let both = format!(r#"{{"manifests":[],"config":{},"layers":[]}}"#, descriptor(OCI_CONFIG, ""));
    let many = vec![descriptor(layer, ""); MAX_LAYERS + 1].join(",");
    let many = format!(r#"{{"config":{},"layers":[{many}]}}"#, descriptor(OCI_CONFIG, ""));
    for (text, declared, problem) in [
        ("nonsense".to_owned(), None, "is no manifest or index"),
        ("{}".to_owned(), None, "is neither a manifest"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), None, "schema 1"),
        (both, None, "is neither a manifest"),
        (manifest("application/vnd.cncf.helm.config.v1+json", layer), None, "is no container image"),
        (manifest(OCI_CONFIG, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), None, "Windows"),
        (manifest(OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), None, "+encrypted"),
        (manifest(OCI_CONFIG, layer), Some(OCI_INDEX), "is neither a manifest"),
        (format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#), Some(OCI_MANIFEST), "is announced as"),
        (r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}"#.to_owned(), None, "no container image"),
        (many, None, "has 513 layers; 512 are allowed"),
        (manifest(OCI_CONFIG, layer).replace("\"size\":3", "\"size\":-3"), None, "is no manifest"),
        (manifest(OCI_CONFIG, layer).replace("\"size\":3", "\"size\":99999999"), None, "bytes; 4194304 are allowed"),
        (manifest(OCI_CONFIG, layer).replace(HEX, "../../etc/passwd"), None, "is no SHA-256"),
    ] {
        let error = parse(text.as_bytes(), declared).expect_err(&text);
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn what_others_wrote_is_shown_as_text() {
    assert_eq!(printable("a\u{1b}[31mb\nc", 80), "a [31mb c");
    assert_eq!(printable("abcdef", 3), "abc");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, None);
    }

    #[test]
    fn no_change_of_a_manifest_panics(at in 0usize..400, byte in any::<u8>()) {
        let mut text = manifest(OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip").into_bytes();
        if let Some(place) = text.get_mut(at) {
            *place = byte;
        }
        if let Ok(Document::Index(index)) = parse(&text, None) {
            let _ = (choose(&index), platforms(&index));
        }
    }
}
