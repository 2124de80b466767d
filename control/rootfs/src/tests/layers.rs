//! The image specification's rules, and what files have.

use super::made::{Made, Tar, make};
use crate::{Builder, Compression, Layer, Options, PackageData, Unattended};
use std::io::Write;
use tar::EntryType;

fn names(made: &Made, path: &str) -> Vec<String> {
    made.names(path).into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

#[test]
fn no_layer_makes_an_empty_root() {
    let made = make(&[]);
    assert_eq!(names(&made, "/"), ["lost+found"]);
    assert_eq!(made.metadata("/").mode() & 0o7777, 0o755);
}

#[test]
fn files_are_what_the_layer_says() {
    let big: Vec<u8> = (0..3_000_000u32).flat_map(|at| (at as u8).to_le_bytes()).collect();
    let mut header = Tar::header(EntryType::Regular, 5);
    header.set_mode(0o4750);
    header.set_uid(70_000);
    header.set_gid(5);
    let long = "l".repeat(59);
    let made = make(&[&Tar::new()
        .entry(header, "bin/su", "", b"hello")
        .file("big", &big)
        .file("empty", b"")
        .symlink("fast", &long)
        .symlink("slow", &format!("{long}{}", "m".repeat(40)))
        .hard_link("also", "bin/su")
        .folder("folder/")
        .end()]);
    let su = made.metadata("/bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.len()), (0o4750, 70_000, 5, 5));
    assert_eq!(made.read("/also"), b"hello");
    assert_eq!(made.read("/big"), big);
    assert_eq!(made.read("/empty"), b"");
    assert_eq!(made.link("/fast"), long.as_bytes());
    assert_eq!(made.link("/slow").len(), 99);
    assert!(made.metadata("/folder").is_dir() && made.metadata("/bin").is_dir(), "the second is implied");
    assert_eq!(made.report.entries, 7);
}

#[test]
fn the_same_layers_make_the_same_bytes() {
    let layer = Tar::new().file("a", b"1").folder("b").symlink("c", "a").end();
    assert!(make(&[&layer]).bytes() == make(&[&layer]).bytes());
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = Tar::new().file("a/one", b"1").file("a/two", b"2").file("b/three", b"3").file("c", b"4").end();
    let upper = Tar::new()
        .file("a/two", b"new")
        .file("a/.wh.one", b"")
        .file("a/.wh.two", b"")
        .file("b/.wh..wh..opq", b"")
        .file("b/four", b"4")
        .file(".wh.c", b"")
        .file(".wh.never", b"")
        .file(".wh..wh.plnk", b"")
        .end();
    let made = make(&[&lower, &upper]);
    assert_eq!(names(&made, "/"), ["a", "b", "lost+found"]);
    assert_eq!(names(&made, "/a"), ["two"]);
    assert_eq!(made.read("/a/two"), b"new", "it is of the same layer, though its whiteout came later");
    assert_eq!(names(&made, "/b"), ["four"]);
}

#[test]
fn an_opaque_folder_keeps_what_came_before_it_in_its_layer() {
    let lower = Tar::new().file("d/old/x", b"").file("d/both/old", b"").end();
    let upper = Tar::new().file("d/both/new", b"").file("d/top", b"").file("d/.wh..wh..opq", b"").end();
    let made = make(&[&lower, &upper]);
    assert_eq!(names(&made, "/d"), ["both", "top"]);
    assert_eq!(names(&made, "/d/both"), ["new"]);
    // The same said of the folder by its name.
    let upper = Tar::new().file("d/both/new", b"").file(".wh.d", b"").end();
    let made = make(&[&lower, &upper]);
    assert_eq!(names(&made, "/d"), ["both"]);
}

#[test]
fn lost_and_found_may_be_the_layers_own() {
    let mut header = Tar::header(EntryType::Directory, 0);
    header.set_mode(0o711);
    let made =
        make(&[&Tar::new().file("a", b"").entry(header, "lost+found", "", b"").file("lost+found/x", b"1").end()]);
    assert_eq!(made.read("/lost+found/x"), b"1");
    assert_eq!(made.metadata("/lost+found").mode() & 0o7777, 0o711);
    assert_eq!(make(&[&Tar::new().file("lost+found", b"2").end()]).read("/lost+found"), b"2");
}

#[test]
fn kinds_replace_each_other() {
    let lower = Tar::new().file("file", b"1").file("folder/x", b"2").symlink("link", "folder").end();
    let upper = Tar::new().folder("file").file("folder", b"3").folder("link").end();
    let made = make(&[&lower, &upper]);
    assert!(made.metadata("/file").is_dir());
    assert_eq!(made.read("/folder"), b"3");
    assert!(made.metadata("/link").is_dir());
}

#[test]
fn a_folder_again_keeps_what_is_in_it() {
    let lower = Tar::new().folder("d").file("d/x", b"1").end();
    let mut header = Tar::header(EntryType::Directory, 0);
    header.set_mode(0o1777);
    let made = make(&[&lower, &Tar::new().entry(header, "d", "", b"").end()]);
    assert_eq!(made.read("/d/x"), b"1");
    assert_eq!(made.metadata("/d").mode() & 0o7777, 0o1777);
}

#[test]
fn names_below_a_symbolic_link_go_where_it_leads() {
    let lower = Tar::new().folder("usr/bin").symlink("bin", "usr/bin").symlink("lib", "/usr/lib64").end();
    let made = make(&[&lower, &Tar::new().file("bin/sh", b"sh").file("lib/c.so", b"c").end()]);
    assert_eq!(made.read("/usr/bin/sh"), b"sh");
    assert_eq!(made.read("/usr/lib64/c.so"), b"c", "the folder that the link names is made");
    assert_eq!(made.link("/bin"), b"usr/bin");
}

#[test]
fn space_of_what_is_replaced_is_used_again() {
    let data = vec![7; 8 << 20];
    let layer = Tar::new().file("data", &data).end();
    let layers: Vec<&[u8]> = (0..20).map(|_| layer.as_slice()).collect();
    let made = make(&layers);
    assert_eq!(made.read("/data"), data, "160 MiB in layers fit into 64");
}

#[test]
fn every_compression_is_read() {
    let plain = Tar::new().file("a", &[3; 100_000]).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[..512]).unwrap();
    let mut gzip = gzip.finish().unwrap();
    let mut more = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    more.write_all(&plain[512..]).unwrap();
    gzip.extend(more.finish().unwrap());
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let mut zstd = ruzstd::encoding::compress_to_vec(&plain[..512], level);
    // A frame that is to be skipped, as `zstd --content-size` tools put in between (RFC 8878, 3.1.2).
    zstd.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    zstd.extend(ruzstd::encoding::compress_to_vec(&plain[512..], level));
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&plain).unwrap();
    let xz = xz.finish().unwrap();
    for layer in [plain, gzip, zstd, xz] {
        assert_eq!(make(&[&layer]).read("/a"), [3; 100_000]);
    }
}

#[test]
fn names_and_attributes_beyond_ustar() {
    let deep = format!("{}/{}", "d".repeat(120), "f".repeat(255));
    let made = make(&[&Tar::new()
        .pax(&[
            ("path", deep.as_bytes()),
            ("mtime", b"5000000000.25"),
            ("uid", b"3000000000"),
            ("SCHILY.xattr.security.capability", &[1; 20]),
            ("SCHILY.xattr.user.large", &[b'x'; 2000]),
        ])
        .file("short", b"x")
        .end()]);
    let path = format!("/{deep}");
    assert_eq!(made.read(&path), b"x");
    assert_eq!(made.metadata(&path).uid(), 3_000_000_000);
}

#[test]
fn a_folder_of_many_names_has_an_index() {
    let mut layer = Tar::new();
    for number in 0..5000 {
        layer = layer.file(&format!("many/a name that is not short {number}"), b"");
    }
    let made = make(&[&layer.end()]);
    assert_eq!(names(&made, "/many").len(), 5000);
    for number in [0, 1, 777, 4999] {
        assert!(made.exists(&format!("/many/a name that is not short {number}")), "found by its hash");
    }
    assert!(!made.exists("/many/a name that is not there"));
}

#[test]
fn packages_are_unpacked_as_dpkg_does() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("root.raw");
    motu_disk::create(&image, None, 64 << 20).unwrap();
    let disk = motu_disk::open(&image, &motu_disk::OpenOptions::default()).unwrap();
    let mut builder = Builder::new(&*disk, &Options::default()).unwrap();
    let links = Tar::new().folder("usr/bin").symlink("bin", "usr/bin").end();
    let layer = Layer { name: "links", compression: Compression::None };
    builder.apply(&layer, links.as_slice(), &Unattended).unwrap();
    let data = Tar::new()
        .folder("./")
        .folder("./bin/")
        .file("./bin/sh", b"sh")
        .file("./bin/.wh.sh", b"no whiteout")
        .file("./etc/a.conf", b"a")
        .end();
    let conffiles = [b"etc/a.conf".to_vec()].into();
    let package = PackageData { name: "dash", compression: Compression::None, conffiles: &conffiles };
    let names = builder.apply_package(&package, data.as_slice(), &Unattended).unwrap();
    assert_eq!(names, [&b"./"[..], b"./bin/", b"./bin/sh", b"./bin/.wh.sh", b"./etc/a.conf"]);
    builder.finish().unwrap();
    drop(disk);
    let made = Made::open(folder, image);
    assert_eq!(made.link("/bin"), b"usr/bin", "the folder in the package is the link's");
    assert_eq!(made.read("/usr/bin/sh"), b"sh");
    assert_eq!(made.read("/etc/a.conf.dpkg-new"), b"a");
    assert!(!made.exists("/etc/a.conf"));
}
