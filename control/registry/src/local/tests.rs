use super::*;
use crate::manifest::{Platform, parse};

fn entry(digest: u8, name: Option<&str>, architecture: Option<&str>) -> Descriptor {
    let platform = architecture.map(|architecture| Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    });
    let name = name.map(str::to_owned);
    Descriptor { media_type: String::new(), digest: Digest::of(&[digest]), size: 1, platform, name }
}

#[test]
fn an_image_of_a_layout_is_picked() {
    let (a, b) = (entry(1, Some("a"), None), entry(2, Some("b"), None));
    let both = [a.clone(), b.clone()];
    assert_eq!(pick(&both, Some("b")), Ok(&b));
    assert_eq!(pick(std::slice::from_ref(&a), None), Ok(&a));
    let error = pick(&both, None).expect_err("which?");
    assert!(error.contains("say which one after a colon; there are the images a, b"), "{error}");
    let error = pick(&both, Some("c")).expect_err("none");
    assert!(error.contains("has no image \"c\"; there are the images a, b"), "{error}");
    assert_eq!(pick(&[], None), Err("has no image".to_owned()));
}

#[test]
fn a_layout_may_be_an_index() {
    let all = [entry(1, None, Some("arm64")), entry(2, None, Some("amd64"))];
    assert_eq!(pick(&all, None), Ok(&all[1]));
    let named = [entry(1, Some("a"), Some("arm64")), entry(2, Some("a"), Some("amd64"))];
    assert_eq!(pick(&named, Some("a")), Ok(&named[1]));
    assert_eq!(pick(&named, None), Ok(&named[1]));
    let error = pick(&[entry(1, None, Some("arm64")), entry(2, None, Some("s390x"))], None).expect_err("none for us");
    assert!(error.contains("it has linux/arm64, linux/s390x"), "{error}");
}

#[test]
fn names_that_begin_alike_come_first() {
    let names: Vec<String> = (1..=20).map(|n| format!("3.{n}")).collect();
    let hint = suggest("3.20-slim", &names, "tags");
    assert_eq!(hint, "there are the tags 3.20, 3.2, 3.1, 3.3, 3.4, 3.5, 3.6, 3.7 and 12 more");
    assert_eq!(suggest("x", &[], "tags"), "its images have no names");
}

/// What a folder with these files is found to be.
fn of_folder(files: &[(&str, &str)]) -> String {
    let folder = tempfile::TempDir::new().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    let place = Place(folder.path().to_str().expect("UTF-8").to_owned());
    layout(&place, Watch::silent()).expect_err("no image").to_string()
}

#[test]
fn what_is_no_layout_is_said() {
    let version = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let blob = format!(r#"{{"mediaType":"","digest":"sha256:{}","size":2}}"#, Digest::of(b"{}"));
    let index = format!(r#"{{"manifests":[{blob}]}}"#);
    let place = format!("blobs/sha256/{}", Digest::of(b"{}"));
    assert!(parse(index.as_bytes(), None).is_ok());
    for (files, words) in [
        (vec![], "is no OCI image layout: it has no file oci-layout"),
        (vec![("manifest.json", "[]")], "it looks like docker-archive:"),
        (vec![("oci-layout", "{}")], "has an oci-layout that is none"),
        (vec![("oci-layout", r#"{"imageLayoutVersion":"2.0"}"#)], "version \"2.0\"; motu reads 1.0.0"),
        (vec![version], "has no index.json"),
        (vec![version, ("index.json", "x")], "is no manifest or index"),
        (vec![version, ("index.json", &index)], "which its image needs"),
        (vec![version, ("index.json", &index), (&place, "{}x")], "has 3 bytes, and 2 were announced"),
        (vec![version, ("index.json", &index), (&place, "{ ")], "was tampered with"),
        (vec![version, ("index.json", &index), (&place, "{}")], "is neither a manifest"),
    ] {
        let error = of_folder(&files);
        assert!(error.contains(words), "{error}");
    }
    let error = layout(&Place("/no/such/folder".to_owned()), Watch::silent()).expect_err("nothing").to_string();
    assert!(error.contains("cannot read /no/such/folder: No such file"), "{error}");
    let error = oci_archive(&Place("/".to_owned()), Watch::silent()).expect_err("a folder").to_string();
    assert!(error.contains("is a folder; oci-layout: takes folders"), "{error}");
}
