//! Layers that want out of the tree, or more than there is.

use super::made::{Tar, make, make_within, refused};
use crate::{Limits, RootfsError};
use tar::EntryType;

fn within(limits: Limits, layers: &[&[u8]]) -> String {
    match make_within(limits, 64, layers) {
        Ok(_) => panic!("it was made"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn no_name_leads_out_of_the_tree() {
    let made = make(&[&Tar::new()
        .file("../../up", b"1")
        .file("/absolute", b"2")
        .file("a/b/../../c/../d", b"3")
        .symlink("out", "/etc")
        .file("out/passwd", b"4")
        .symlink("higher", "../../..")
        .file("higher/top", b"5")
        .symlink("self", "self")
        .end()]);
    for (path, data) in [("/up", b"1"), ("/absolute", b"2"), ("/d", b"3"), ("/etc/passwd", b"4"), ("/top", b"5")] {
        assert_eq!(made.read(path), data, "{path}");
    }
    assert!(made.exists("/a/b") && made.exists("/c"), "what a name leads through is there");
}

#[test]
fn links_that_cannot_be_are_said() {
    for (layer, problem) in [
        (Tar::new().symlink("a", "a").file("a/x", b""), "more than 40 symbolic links"),
        (Tar::new().hard_link("a", "b"), "layer 1 has \"a\", a hard link to \"b\", which is not there"),
        (Tar::new().hard_link("a", "../../etc/shadow"), "which is not there"),
        (Tar::new().folder("d").hard_link("a", "d"), "a hard link to the folder"),
        (Tar::new().file("f", b"").file("f/x", b""), "lies below \"f\", and that is no folder"),
        (Tar::new().symlink("s", ""), "its target is empty"),
        (Tar::new().file("..", b""), "whose name is that of a folder"),
        (Tar::new().file(".wh..", b""), "a whiteout of nothing"),
        (Tar::new().pax(&[("path", &[b'x'; 300])]).file("x", b""), "a name of 300 bytes in it; 255"),
        (Tar::new().pax(&[("path", &[b'/'; 5000])]).file("x", b""), "a name of 5000 bytes; 4095"),
        (Tar::new().pax(&[("path", b"a\0b")]).file("x", b""), "NUL"),
        (Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("x", b""), "without --sparse"),
        (Tar::new().pax(&[("SCHILY.xattr.user.x", &[1; 5000])]).file("x", b""), "at most can be"),
        (Tar::new().pax(&[("size", b"-5")]).file("x", b""), "cannot be read"),
        (Tar::new().entry(Tar::header(EntryType::new(b'Q'), 0), "x", "", b""), "'Q'"),
    ] {
        let said = refused(&[&layer.end()]);
        assert!(said.contains(problem), "{said}");
        assert!(!said.contains('\n'), "one line");
    }
}

#[test]
fn devices_are_only_nodes() {
    let mut header = Tar::header(EntryType::Block, 0);
    header.set_device_major(8).unwrap();
    header.set_device_minor(0).unwrap();
    let made = make(&[&Tar::new().entry(header, "sda", "", b"").end()]);
    assert!(made.metadata("/sda").file_type().is_block_dev());
    let mut header = Tar::header(EntryType::Char, 0);
    header.set_device_major(5000).unwrap();
    header.set_device_minor(0).unwrap();
    assert!(refused(&[&Tar::new().entry(header, "x", "", b"").end()]).contains("the device 5000:0"));
}

#[test]
fn a_link_to_what_replaces_its_folder_stays() {
    let made = make(&[&Tar::new().file("a/b", b"1").hard_link("a", "a/b").end()]);
    assert_eq!(made.read("/a"), b"1");
}

#[test]
fn what_is_too_much_is_refused() {
    let usual = Limits::default();
    let layer = Tar::new().file("a", b"").file("b", b"").file("c", b"").end();
    assert!(
        within(Limits { entries: 2, ..usual }, &[&layer]).contains("refused at \"c\": the image has more than 2 files")
    );
    let said = within(Limits { entries: 5, ..usual }, &[&layer, &layer]);
    assert!(said.contains("layer 2"), "all layers count together: {said}");
    // One name of many folders, which no entry is for.
    let path = [b"d/".repeat(200), b"x".to_vec()].concat();
    let deep = Tar::new().pax(&[("path", &path)]).file("x", b"").end();
    assert!(
        within(Limits { entries: 100, ..usual }, &[&deep]).contains("the image has more than 100 files and folders")
    );
    let long = Tar::new().symlink("a", &"x".repeat(100)).end();
    assert!(within(Limits { metadata: 50, ..usual }, &[&long]).contains("names and attributes"));
    let zeros = Tar::new().file("bomb", &vec![0; 4 << 20]).end();
    assert!(
        within(Limits { bytes: 3 << 20, ..usual }, &[&zeros])
            .contains("refused at \"bomb\": the image has more than 3 MiB")
    );
    // Behind the end of the archive, where no entry is.
    let more = [Tar::new().file("a", b"").end(), vec![0; 4 << 20]].concat();
    assert!(within(Limits { bytes: 3 << 20, ..usual }, &[&more]).contains("more than 3 MiB"));
    let huge = Tar::new().file("huge", &vec![1; 80 << 20]).end();
    assert!(refused(&[&huge]).contains("need more than the 64 MiB"));
}

#[test]
fn a_size_that_is_only_said_takes_nothing() {
    let header = Tar::header(EntryType::Regular, 0);
    let layer = Tar::new().pax(&[("size", b"9000000000000000000")]).entry(header, "x", "", b"").end();
    assert!(refused(&[&layer]).contains("need more than"));
    let header = Tar::header(EntryType::GNULongName, 1 << 40);
    assert!(refused(&[&Tar::new().entry(header, "x", "", b"").end()]).contains("an extended header of"));
}

#[test]
fn damaged_archives_are_said_to_be() {
    let whole = Tar::new().file("a", &[1; 5000]).end();
    assert!(refused(&[&whole[..3000]]).contains("layer 1 is no whole tar archive: it ends in the middle of an entry"));
    assert!(refused(&[&whole[..300]]).contains("in the middle of a header"));
    // What is left out here is nothing: umoci writes such layers.
    assert_eq!(make(&[&whole[..512 + 5000]]).read("/a"), [1; 5000]);
    assert!(refused(&[b"this is not a tar archive".repeat(100).as_slice()]).contains("at byte 0"));
    let mut flipped = whole.clone();
    flipped[0] ^= 1;
    assert!(refused(&[&flipped]).contains("wrong checksum"));
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 7, 7, 7, 7];
    assert!(refused(&[&gzip]).contains("cannot read the layer layer 1"), "{}", refused(&[&gzip]));
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff];
    assert!(refused(&[&zstd]).contains("layer 1"));
}

#[test]
fn a_disk_that_is_too_small_is_said() {
    assert!(matches!(make_within(Limits::default(), 8, &[]), Err(RootfsError::Size(size)) if size == 8 << 20));
}
