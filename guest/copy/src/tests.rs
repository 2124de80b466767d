use crate::stream::{Item, Meta, put, put_bytes};
use crate::{CopyError, Packed, Rights, Target, Unpacked, pack, unpack};
use proptest::prelude::*;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

fn packed(path: &Path, follow: bool) -> (Vec<u8>, Packed, Vec<String>) {
    let (mut stream, mut left_out) = (Vec::new(), Vec::new());
    let packed = pack(path, follow, &mut stream, &mut |error| left_out.push(error.to_string())).unwrap();
    (stream, packed, left_out)
}

fn unpacked(stream: &[u8], path: &Path, name: &str, contents: bool) -> Result<Unpacked, CopyError> {
    unpack(stream, &Target { path, name: OsStr::new(name), contents, rights: Rights::Bits }, &mut |_| {})
}

/// Everything below a folder: path, mode, size, time, content or target.
fn listing(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let shown = path.file_name().unwrap().to_string_lossy().into_owned();
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().to_string_lossy().into_owned()
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap();
            let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
            format!("{} bytes, {sum:x}", bytes.len())
        } else {
            lines.extend(listing(&path).into_iter().map(|line| format!("{shown}/{line}")));
            String::new()
        };
        let size = if meta.is_file() { meta.size() } else { 0 };
        lines.push(format!("{shown} {:o} {size} {}.{} {content}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
    }
    lines.sort();
    lines
}

fn tree() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let at = |name: &str| tree.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/file"), "content").unwrap();
    fs::write(at("a/b/empty"), "").unwrap();
    fs::write(at("a/big"), vec![7; 200_000]).unwrap();
    fs::set_permissions(at("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../nowhere", at("a/link")).unwrap();
    symlink("/etc/passwd", at("a/b/away")).unwrap();
    fs::hard_link(at("a/file"), at("a/b/twin")).unwrap();
    fs::hard_link(at("a/file"), at("z")).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::open(at("a/file")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(at("a/b/c"), fs::Permissions::from_mode(0o500)).unwrap();
    File::open(at("a/b/c")).unwrap().set_modified(old).unwrap();
    File::open(at("a/b")).unwrap().set_modified(old).unwrap();
    tree
}

#[test]
fn a_tree_arrives_as_it_was() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let (stream, packed, left_out) = packed(from.path(), false);
    assert_eq!((packed.left_out, left_out), (0, Vec::new()));
    let done = unpacked(&stream, to.path(), "copy", false).unwrap();
    assert_eq!(done.bytes, 200_007);
    let copy = to.path().join("copy");
    assert_eq!(listing(&copy), listing(from.path()));
    let inode = |name: &str| copy.join(name).metadata().unwrap().ino();
    assert_eq!((inode("a/file"), inode("a/file")), (inode("a/b/twin"), inode("z")));
    // Once more over itself: everything is replaced.
    unpacked(&stream, to.path(), "copy", false).unwrap();
    assert_eq!(listing(&copy), listing(from.path()));
    assert_eq!((inode("a/file"), inode("a/file")), (inode("a/b/twin"), inode("z")));
}

#[test]
fn a_copy_goes_where_dockers_does() {
    let from = tree();
    let (folder, ..) = packed(&from.path().join("a/b"), false);
    let (file, ..) = packed(&from.path().join("a/file"), false);
    let (link, ..) = packed(&from.path().join("a/link"), false);
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let go = |stream: &[u8], to: &str, contents| unpacked(stream, &at(to), "name", contents);
    let words = |error: CopyError| error.to_string();

    go(&file, "new", false).unwrap();
    assert_eq!(fs::read_to_string(at("new")).unwrap(), "content");
    assert!(words(go(&file, "none/", false).unwrap_err()).contains("there is no folder"));
    assert!(words(go(&file, "none/new", false).unwrap_err()).contains("there is no folder"));
    go(&folder, "made", false).unwrap();
    assert!(at("made/empty").exists(), "a folder that is not there is made of the copied one");
    go(&folder, "made", false).unwrap();
    assert!(at("made/name/empty").exists(), "into one that is there it is copied");
    go(&folder, "made", true).unwrap();
    fs::remove_dir_all(at("made/name")).unwrap();
    go(&file, "made", false).unwrap();
    assert_eq!(fs::read_to_string(at("made/name")).unwrap(), "content");
    assert!(words(go(&folder, "made", false).unwrap_err()).contains("a folder in the place of"));
    assert!(words(go(&folder, "new", false).unwrap_err()).contains("which is a file"));
    fs::remove_file(at("made/name")).unwrap();
    fs::create_dir(at("made/name")).unwrap();
    assert!(words(go(&file, "made", false).unwrap_err()).contains("which is a folder"));
    // What is no file does not become one.
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (to, contents) in [("socket", false), ("socket", true)] {
        assert!(words(go(&file, to, contents).unwrap_err()).contains("which is a socket"));
    }
    fs::rename(at("socket"), at("made/x")).unwrap();
    let error = unpacked(&file, &at("made"), "x", false).unwrap_err().to_string();
    assert!(error.contains("which is a socket"), "{error}");
    // A link that was named is followed; one in a copied folder is not.
    symlink("made", at("linked")).unwrap();
    go(&folder, "linked", true).unwrap();
    assert!(at("linked").is_symlink());
    go(&link, "copied-link", false).unwrap();
    assert_eq!(fs::read_link(at("copied-link")).unwrap(), Path::new("../nowhere"));
    let (followed, ..) = packed(&at("linked"), true);
    go(&followed, "real", false).unwrap();
    assert!(at("real/empty").exists());
}

#[test]
fn links_on_the_way_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "mine").unwrap();
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("in")).unwrap();
    fs::write(from.path().join("in/file"), "theirs").unwrap();
    fs::write(from.path().join("in/other"), "theirs").unwrap();
    let (stream, ..) = packed(from.path(), false);
    let to = tempfile::tempdir().unwrap();
    symlink(outside.path(), to.path().join("in")).unwrap();
    let error = unpacked(&stream, to.path(), "x", true).unwrap_err().to_string();
    assert!(error.contains("a folder in the place of") && error.contains("a symbolic link"), "{error}");
    fs::remove_file(to.path().join("in")).unwrap();
    fs::create_dir(to.path().join("in")).unwrap();
    symlink(outside.path().join("file"), to.path().join("in/file")).unwrap();
    symlink(outside.path().join("new"), to.path().join("in/other")).unwrap();
    unpacked(&stream, to.path(), "x", true).unwrap();
    assert!(!to.path().join("in/file").is_symlink(), "the link itself was replaced");
    assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "mine");
    assert!(!outside.path().join("new").exists());
}

#[test]
fn holes_stay_holes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"middle", 1 << 29).unwrap();
    let (stream, ..) = packed(&path, false);
    assert!(stream.len() < 1 << 20, "{} bytes", stream.len());
    unpacked(&stream, to.path(), "copy", false).unwrap();
    let copy = File::open(to.path().join("copy")).unwrap();
    let meta = copy.metadata().unwrap();
    assert!(meta.len() == 1 << 30 && meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let mut middle = [0; 8];
    copy.read_exact_at(&mut middle, (1 << 29) - 1).unwrap();
    assert_eq!(&middle, b"\0middle\0");
}

#[test]
fn a_file_that_does_not_say_its_size_has_one() {
    let place = tempfile::tempdir().unwrap();
    let (stream, ..) = packed(Path::new("/proc/version"), false);
    unpacked(&stream, &place.path().join("version"), "x", false).unwrap();
    assert!(fs::read_to_string(place.path().join("version")).unwrap().contains("Linux"));
}

#[test]
fn what_is_no_file_is_left_out_and_told() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
    let (stream, packed, left_out) = packed(from.path(), false);
    assert_eq!(packed.left_out, 1);
    assert!(left_out[0].contains("socket is a socket"), "{left_out:?}");
    let to = tempfile::tempdir().unwrap();
    unpacked(&stream, to.path(), "copy", false).unwrap();
    assert!(to.path().join("copy/file").exists() && !to.path().join("copy/socket").exists());
    let error = pack(Path::new("/dev/null"), false, &mut Vec::new(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("/dev/null is a device"), "{error}");
    let error = pack(Path::new("/no/such"), false, &mut Vec::new(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("/no/such") && error.contains("No such file"), "{error}");
}

const META: Meta = Meta { mode: 0o644, uid: 0, gid: 0, seconds: 0, nanos: 0 };

fn stream(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Bytes(length) => put_bytes(&mut out, &vec![b'x'; *length]).unwrap(),
            item => put(&mut out, item).unwrap(),
        }
    }
    out
}

fn folder(name: &str) -> Item {
    Item::Folder { name: name.into(), meta: META }
}

fn file(name: &str, number: u64) -> Item {
    Item::File { name: name.into(), meta: META, number }
}

fn link(name: &str, number: u64) -> Item {
    Item::Link { name: name.into(), number }
}

fn symbolic(name: &str, target: &str) -> Item {
    Item::Symlink { name: name.into(), meta: META, target: target.into() }
}

#[test]
fn a_hostile_stream_stays_inside_and_is_told() {
    let cases: Vec<(Vec<Item>, &str)> = vec![
        (vec![folder(""), folder("..")], "no part of a path"),
        (vec![folder(""), file("../x", 0)], "no part of a path"),
        (vec![folder(""), file("/etc/x", 0)], "no part of a path"),
        (vec![folder(""), file("", 0)], "no part of a path"),
        (vec![folder(""), file("a\0b", 0)], "zero byte"),
        (vec![folder("x")], "where none belongs"),
        (vec![Item::Up], "no beginning"),
        (vec![Item::End], "no beginning"),
        (vec![link("", 1)], "no beginning"),
        (vec![folder(""), link("x", 9)], "did not come"),
        (vec![folder(""), Item::Bytes(3)], "a piece of no file"),
        (vec![folder(""), Item::EndOfFile], "a piece of no file"),
        (vec![folder(""), file("f", 0), folder("d")], "without an end"),
        (vec![folder(""), file("f", 0), Item::Hole(u64::MAX)], "without an end"),
        (vec![folder(""), symbolic("s", "/outside"), folder("s")], "a symbolic link"),
        (vec![folder(""), symbolic("s", "")], "a link to nothing"),
        (vec![folder(""), folder("d"), file("d", 0)], "nothing more"),
        (vec![folder(""), Item::Up, folder("again")], "more than one tree"),
        (vec![folder(""), file("f", 0), Item::EndOfFile], "nothing more"),
    ];
    for (items, says) in cases {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("to")).unwrap();
        let error = unpacked(&stream(&items), &place.path().join("to"), "copy", false).unwrap_err().to_string();
        assert!(error.contains(says), "{items:?}: {error}");
        let beside: Vec<OsString> =
            fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(beside, ["to"], "{items:?}");
    }
}

#[test]
fn a_file_that_broke_off_is_not_there() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("old"), "old").unwrap();
    let cut = stream(&[file("", 0), Item::Bytes(1000), Item::Bytes(1000)]);
    let error = unpacked(&cut, &place.path().join("old"), "x", false).unwrap_err().to_string();
    assert!(error.contains("broke off"), "{error}");
    assert!(unpacked(&cut, &place.path().join("new"), "x", false).is_err());
    assert_eq!(fs::read_to_string(place.path().join("old")).unwrap(), "old");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn depth_and_rights_have_bounds() {
    let place = tempfile::tempdir().unwrap();
    let deep: Vec<Item> = std::iter::once(folder("")).chain(std::iter::repeat_with(|| folder("d")).take(500)).collect();
    let error = unpacked(&stream(&deep), place.path(), "copy", false).unwrap_err().to_string();
    assert!(error.contains("400 deep"), "{error}");
    let special = Item::File { name: "".into(), meta: Meta { mode: 0o6755, ..META }, number: 0 };
    let bytes = stream(&[special, Item::EndOfFile, Item::End]);
    let path = place.path().join("special");
    let target = Target { path: &path, name: OsStr::new("x"), contents: false, rights: Rights::Plain };
    unpack(bytes.as_slice(), &target, &mut |_| {}).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o755);
}

fn item() -> impl Strategy<Value = Item> {
    let name = || prop_oneof!["[ab]", Just("..".to_owned()), Just(String::new()), "[a/]{1,3}"];
    prop_oneof![
        name().prop_map(|name| folder(&name)),
        (name(), 0..3u64).prop_map(|(name, number)| file(&name, number)),
        (0..100usize).prop_map(Item::Bytes),
        (0..100u64).prop_map(Item::Hole),
        Just(Item::EndOfFile),
        Just(Item::Up),
        Just(Item::End),
        (name(), "[ab/.]{0,4}").prop_map(|(name, target)| symbolic(&name, &target)),
        (name(), 0..3u64).prop_map(|(name, number)| link(&name, number)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_items_stay_inside(items in proptest::collection::vec(item(), 0..30), garbage in proptest::collection::vec(any::<u8>(), 0..50)) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("to")).unwrap();
        let bytes = [stream(&[folder("")]), stream(&items), garbage].concat();
        let _ = unpacked(&bytes, &place.path().join("to"), "copy", true);
        let beside: Vec<OsString> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(beside, ["to"]);
    }

    #[test]
    fn content_arrives(pieces in proptest::collection::vec((0..70_000usize, 0..70_000u64), 0..4), name in "[^/\0]{1,40}") {
        prop_assume!(name != "." && name != "..");
        let from = tempfile::tempdir().unwrap();
        let path = from.path().join(OsStr::from_bytes(name.as_bytes()));
        let file = File::create(&path).unwrap();
        let mut at = 0;
        for (data, hole) in pieces {
            file.write_all_at(&vec![b'x'; data], at).unwrap();
            at += data as u64 + hole;
            file.set_len(at).unwrap();
        }
        let (stream, ..) = packed(from.path(), false);
        let to = tempfile::tempdir().unwrap();
        unpacked(&stream, to.path(), "copy", false).unwrap();
        prop_assert_eq!(listing(&to.path().join("copy")), listing(from.path()));
    }
}
