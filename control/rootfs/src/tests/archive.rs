//! From a file system back to a layer.

use super::made::{Made, Tar, make};
use crate::tar::{Archive, Entry, Kind};
use crate::tree::Time;
use crate::{FileSystem, Limits, RootfsError, Unattended, Watch};
use motu_disk::{Disk, Format, OpenOptions};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use tar::EntryType;

fn open(image: &Path) -> Box<dyn Disk> {
    motu_disk::open(image, &OpenOptions { format: Some(Format::Raw), read_only: true }).unwrap()
}

fn archive_within(image: &Path, limits: &Limits) -> Result<Vec<u8>, RootfsError> {
    let disk = open(image);
    let (archived, bytes) = FileSystem::open(disk.as_ref())?.archive(Vec::new(), limits, &Unattended)?;
    assert_eq!(archived.entries as usize, entries(&bytes).len());
    Ok(bytes)
}

pub(crate) fn archived(made: &Made) -> Vec<u8> {
    archive_within(&made.image, &Limits::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Entries with their data.
fn entries(archive: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut archive = Archive::new(archive);
    let mut all = Vec::new();
    while let Some(entry) = archive.next().unwrap() {
        let mut data = vec![0; entry.size as usize];
        let mut filled = 0;
        while filled < data.len() {
            filled += archive.read_data(&mut data[filled..]).unwrap();
        }
        all.push((entry, data));
    }
    all
}

#[test]
fn everything_comes_back() {
    let long = format!("{}/{}", "d".repeat(60), "f".repeat(60));
    let acl = [&2u32.to_le_bytes()[..], &[1, 0, 7, 0, 255, 255, 255, 255], &[2, 0, 4, 0, 0xe8, 3, 0, 0]].concat();
    let mut ping = Tar::header(EntryType::Regular, 4);
    ping.set_mode(0o4755);
    ping.set_uid(70_000);
    let mut device = Tar::header(EntryType::Block, 0);
    device.set_device_major(259).unwrap();
    device.set_device_minor(300).unwrap();
    let layer = Tar::new()
        .folder("./")
        .pax(&[("mtime", b"-1.25"), ("SCHILY.xattr.security.capability", &[1; 20]), ("SCHILY.xattr.user.x", &[2; 300])])
        .entry(ping, "a/ping", "", b"ping")
        .hard_link("b", "a/ping")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &acl), ("uid", b"3000000000")])
        .folder("a/acl/")
        .pax(&[("path", long.as_bytes())])
        .file("x", &[9; 100_000])
        .symlink("fast", "a/ping")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("slow", "x")
        .entry(device, "dev", "", b"")
        .entry(Tar::header(EntryType::Fifo, 0), "fifo", "", b"")
        .file("sparse", &[vec![0; 300_000], vec![1], vec![0; 5000]].concat())
        .end();
    let made = make(&[&layer]);
    let bytes = archived(&made);
    let all = entries(&bytes);
    let names: Vec<_> = all.iter().map(|(entry, _)| String::from_utf8_lossy(&entry.path).into_owned()).collect();
    let folder = format!("{}/", "d".repeat(60));
    let expected = ["./", "a/", "a/acl/", "a/ping", "b", &folder, &long, "dev", "fast", "fifo", "slow", "sparse"];
    assert_eq!(names, expected);
    let find = |name: &str| all.iter().find(|(entry, _)| entry.path == name.as_bytes()).unwrap();
    let (ping, data) = find("a/ping");
    assert_eq!((ping.mode, ping.uid, ping.gid, data.as_slice()), (0o4755, 70_000, 0, &b"ping"[..]));
    assert_eq!(ping.mtime, Time { seconds: -2, nanos: 750_000_000 });
    let attribute = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    assert_eq!(ping.xattrs, [attribute("security.capability", &[1; 20]), attribute("user.x", &[2; 300])]);
    let (b, _) = find("b");
    assert_eq!((b.kind, b.target.as_slice()), (Kind::HardLink, &b"a/ping"[..]));
    let (acl_folder, _) = find("a/acl/");
    assert_eq!(acl_folder.xattrs, [attribute("system.posix_acl_access", &acl)]);
    assert_eq!(acl_folder.uid, 3_000_000_000);
    assert_eq!(find(&long).1, [9; 100_000]);
    assert_eq!(find("slow").0.target, long.as_bytes());
    assert_eq!(find("fast").0.target, b"a/ping");
    assert_eq!((find("dev").0.kind, find("dev").0.device), (Kind::BlockDevice, (259, 300)));
    assert_eq!(find("fifo").0.kind, Kind::Fifo);
    assert_eq!(find("sparse").1.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 1);
    assert_eq!(find("sparse").1.len(), 305_001);
    // What was written is a layer of the same tree.
    assert!(archived(&make(&[&bytes])) == bytes);
    // Another program reads it, too.
    let mut other = tar::Archive::new(bytes.as_slice());
    let theirs = other.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned());
    assert!(theirs.eq(all.iter().map(|(entry, _)| entry.path.clone())));
}

#[test]
fn what_a_layer_cannot_have_is_said() {
    let whiteout = Tar::new().file("a/file", b"").end();
    let made = make(&[&whiteout]);
    // Names as they are, without a meaning: as a package's.
    let none = std::collections::BTreeSet::new();
    let image = made.image.with_file_name("other.raw");
    motu_disk::create(&image, Some(Format::Raw), 16 << 20).unwrap();
    let disk = motu_disk::open(&image, &OpenOptions { format: Some(Format::Raw), read_only: false }).unwrap();
    let mut builder = crate::Builder::new(disk.as_ref(), &crate::Options::default()).unwrap();
    let data = crate::PackageData { name: "x", compression: crate::Compression::None, conffiles: &none };
    builder.apply_package(&data, Tar::new().file("d/.wh.x", b"").end().as_slice(), &Unattended).unwrap();
    builder.finish().unwrap();
    drop(disk);
    let said = |limits: Limits, image: &Path| archive_within(image, &limits).unwrap_err().to_string();
    let usual = Limits::default();
    assert!(said(usual, &image).contains("\"/d/.wh.x\" cannot go into a layer"));
    let made = make(&[&Tar::new().file("a", &[1; 5000]).file("d/x", b"").file("d/y", b"").end()]);
    assert!(
        said(Limits { entries: 3, ..usual }, &made.image)
            .contains("\"/d\" cannot go into a layer: there are more than 3")
    );
    assert!(said(Limits { bytes: 4999, ..usual }, &made.image).contains("\"/a\""));
    assert!(said(Limits { metadata: 1, ..usual }, &made.image).contains("names and attributes"));
    assert!(said(Limits { entries: 2, ..usual }, &made.image).contains("more than 2 names"));
}

#[test]
fn who_wants_it_no_more_is_heard() {
    struct Enough;
    impl Watch for Enough {
        fn advance(&self, _: u64) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let made = make(&[]);
    let disk = open(&made.image);
    let ended = FileSystem::open(disk.as_ref()).unwrap().archive(Vec::new(), &Limits::default(), &Enough);
    assert!(matches!(ended, Err(RootfsError::Cancelled)));
}

#[test]
fn what_is_no_file_system_is_said() {
    let made = make(&[&Tar::new().file("a", b"1").end()]);
    let whole = fs::read(&made.image).unwrap();
    let changed = made.image.with_file_name("changed.raw");
    for (at, bytes, words) in [
        (0x438, &[0, 0][..], "it is no ext4 file system"),
        (0x460, &[0x46 | 0x80, 2], "was not unmounted"),
        (0x460, &[0xc2, 0x82], "the feature inline_data"),
        (0x463, &[0x80], "the feature 0x"),
        (0x418, &[9], "blocks of 2^19 bytes"),
        (0x404, &[255; 4], "and the disk"),
        (0x420, &[0; 4], "have no blocks"),
        (0x458, &[3, 1], "inodes of 259 bytes"),
        (0x4fe, &[0, 0], "group descriptors of 0 bytes"),
        // Where the first inodes are.
        (0x1008, &[255; 4], "it is damaged"),
    ] {
        let mut image = whole.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&changed, image).unwrap();
        let error = archive_within(&changed, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{at:#x}: {error}");
    }
    fs::write(&changed, [0; 1024]).unwrap();
    assert!(archive_within(&changed, &Limits::default()).unwrap_err().to_string().contains("too small"));
}

/// File systems that mke2fs makes of a folder, as it has made them for thirty years.
#[test]
fn what_others_have_made_is_read() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("many")).unwrap();
    (0..600).for_each(|number| fs::write(tree.join(format!("many/{number:060}")), number.to_string()).unwrap());
    // Beyond what an inode, a block of numbers and a block of those name, in blocks of 1 KiB: 12, 256 and 65536.
    let large: Vec<u8> = (0..600 << 8).flat_map(|number: u32| number.to_le_bytes()).collect();
    fs::write(tree.join("large"), &large).unwrap();
    let holes = fs::File::create(tree.join("holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"end", 70 << 20).unwrap();
    symlink("t".repeat(200), tree.join("slow")).unwrap();
    symlink("fast", tree.join("fast")).unwrap();
    fs::hard_link(tree.join("large"), tree.join("more")).unwrap();
    let image = place.path().join("image");
    for options in [
        &["-t", "ext2", "-b", "1024"][..],
        &["-t", "ext3", "-b", "2048", "-I", "128"],
        &["-t", "ext4"],
        &["-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum,^resize_inode,meta_bg"],
        &["-t", "ext4", "-O", "^has_journal,sparse_super2,casefold"],
    ] {
        drop(fs::remove_file(&image));
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-d"]).arg(&tree).args(options).arg(&image).arg("128M");
        mke2fs.env("PATH", format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        let Ok(status) = mke2fs.status() else {
            println!("SKIPPED: there is no mke2fs (Debian's e2fsprogs)");
            return;
        };
        assert!(status.success(), "{options:?}");
        let all =
            entries(&archive_within(&image, &Limits::default()).unwrap_or_else(|error| panic!("{options:?}: {error}")));
        assert_eq!(all.len(), 2 + 600 + 5, "{options:?}");
        for (entry, data) in &all {
            let path = tree.join(std::str::from_utf8(&entry.path).unwrap());
            let there = path.symlink_metadata().unwrap();
            assert_eq!(u32::from(entry.mode), there.mode() & 0o7777, "{options:?}: {path:?}");
            match entry.kind {
                Kind::File => assert!(*data == fs::read(&path).unwrap(), "{options:?}: {path:?}"),
                Kind::Symlink => assert_eq!(entry.target, fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes()),
                Kind::HardLink => assert_eq!(entry.target, b"large"),
                _ => assert!(there.is_dir()),
            }
        }
    }
}
