//! What is no disk, or one that is not to be used: one sentence that says what would be right.

use super::{BASE_ID, Kind, Place, SIZE, backed};
use crate::qcow2::chain::MAX_DEPTH;
use crate::{Disk, DiskError, Format, MAX_SIZE, OpenOptions, Overlay, SECTOR, create, open};
use std::path::Path;

const WRITE: OpenOptions = OpenOptions { format: None, read_only: false };

fn says(result: Result<impl std::fmt::Debug, DiskError>, expected: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(expected) && !error.contains('\n'), "{error}\n  lacks: {expected}");
}

#[test]
fn what_is_no_disk_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = |name: &str, len: u64| {
        std::fs::File::create(at(name)).unwrap().set_len(len).unwrap();
        at(name)
    };
    says(open(&at("none"), &WRITE), "name a file that exists");
    says(open(folder.path(), &WRITE), "is a folder");
    says(open(Path::new("/dev/null"), &WRITE), "neither a file nor a block device");
    says(open(&file("odd.raw", 1000), &WRITE), "1024 bytes long");
    says(open(&file("empty.raw", 0), &WRITE), "is empty");
    says(open(&file("unsaid", 1024), &WRITE), "say format=raw");
    says(open(&file("no.qcow2", 1024), &WRITE), "does not begin as one");
    says(create(&at("new"), None, 1024), "ends in .raw or .qcow2");
    says(create(&at("new.raw"), None, 1000), "whole sectors");
    says(create(&at("new.raw"), None, 65 << 40), "up to 64T");
    says(create(&at("no/new.raw"), None, 1024), "make the folder");
    create(&at("new.raw"), None, 1024).unwrap();
    says(create(&at("new.raw"), None, 1024), "exists");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5, "nothing half made is left");
}

#[test]
fn a_guest_cannot_make_its_raw_disk_another_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    create(&path, None, 1 << 20).unwrap();
    open(&path, &WRITE).unwrap().write(0, &std::fs::read(Place::new(Kind::Qcow2, &[]).disk()).unwrap()[..512]).unwrap();
    says(open(&path, &WRITE), "say which it is");
    says(open(&path, &OpenOptions { read_only: true, ..WRITE }), "say which it is");
    open(&path, &OpenOptions { format: Some(Format::Raw), ..WRITE }).unwrap();
}

#[test]
fn a_disk_that_is_in_use_is_left_alone() {
    for kind in super::KINDS {
        let place = Place::new(kind, &vec![0; SIZE as usize]);
        let _first = place.open();
        let second = OpenOptions { format: Some(Format::Raw), read_only: false };
        says(open(&place.disk(), &second), "has it open");
        says(open(&place.disk(), &OpenOptions { read_only: true, ..second }), "writes to it");
        if matches!(kind, Kind::Backed | Kind::Overlay) {
            says(open(&place.path("base"), &second), "has it open");
            open(&place.path("base"), &OpenOptions { read_only: true, ..second }).unwrap();
        }
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    for kind in [Kind::Raw, Kind::Qcow2] {
        let place = Place::new(kind, &[]);
        let format = if kind == Kind::Raw { Format::Raw } else { Format::Qcow2 };
        let before = std::fs::read(place.disk()).unwrap();
        let disk = open(&place.disk(), &OpenOptions { format: Some(format), read_only: true }).unwrap();
        assert!(disk.is_read_only());
        for result in [disk.write(0, &[1; 512]), disk.discard(0, 512), disk.write_zeroes(0, 512, false)] {
            assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        disk.flush().unwrap();
        drop(disk);
        assert_eq!(std::fs::read(place.disk()).unwrap(), before);
    }
}

#[test]
fn backing_files_stay_in_the_images_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("images");
    std::fs::create_dir_all(folder.join("below")).unwrap();
    std::fs::write(outer.path().join("secret"), vec![1; SIZE as usize]).unwrap();
    std::fs::write(folder.join("below/base"), vec![2; SIZE as usize]).unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
    let cases = [
        ("../secret", "raw", "not in the image's folder"),
        ("/etc/passwd", "raw", "not in the image's folder"),
        ("below/../../secret", "raw", "not in the image's folder"),
        ("link", "raw", "not in the image's folder"),
        ("none", "raw", "does not exist"),
        ("below", "raw", "is a folder"),
        ("nbd://localhost", "raw", "no file's name"),
        ("json:{\"driver\":\"raw\"}", "raw", "no file's name"),
        ("below/base", "vmdk", "neither raw nor qcow2"),
        ("below/base", "qcow2", "does not begin as one"),
        ("self.qcow2", "qcow2", "leads back to itself"),
    ];
    for (name, format, expected) in cases {
        let path = folder.join("self.qcow2");
        backed(&path, 65536, name, format);
        says(open(&path, &WRITE), expected);
        std::fs::remove_file(path).unwrap();
    }
    let path = folder.join("good.qcow2");
    backed(&path, 65536, "file:below/base", "raw");
    let mut data = [0; 512];
    open(&path, &WRITE).unwrap().read(0, &mut data).unwrap();
    assert_eq!(data, [2; 512]);
}

#[test]
fn a_chain_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let image = |n: usize| folder.path().join(format!("{n}.qcow2"));
    create(&image(0), None, SIZE).unwrap();
    for n in 1..=MAX_DEPTH + 1 {
        backed(&image(n), 65536, &format!("{}.qcow2", n - 1), "qcow2");
    }
    open(&image(MAX_DEPTH), &WRITE).unwrap();
    says(open(&image(MAX_DEPTH + 1), &WRITE), "that is the most");
}

#[test]
fn a_loop_of_backing_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = |name: &str| folder.path().join(name);
    backed(&image("a.qcow2"), 65536, "b.qcow2", "qcow2");
    backed(&image("b.qcow2"), 65536, "a.qcow2", "qcow2");
    says(open(&image("a.qcow2"), &WRITE), "leads back to itself");
}

#[test]
fn an_overlay_belongs_to_its_base() {
    let place = Place::new(Kind::Overlay, &vec![3; SIZE as usize]);
    let read_only = OpenOptions { format: Some(Format::Raw), read_only: true };
    let base = || open(&place.path("base"), &read_only).unwrap();
    says(Overlay::open(&place.disk(), base(), &[8; 32]), "another base");
    says(Overlay::open(&place.path("base"), base(), &BASE_ID), "in use");
    std::fs::write(place.path("short"), "motu").unwrap();
    says(Overlay::open(&place.path("short"), base(), &BASE_ID), "cut off");
    std::fs::write(place.path("other"), vec![0; SIZE as usize]).unwrap();
    says(Overlay::open(&place.path("other"), base(), &BASE_ID), "does not begin as one");
    let file = std::fs::File::options().write(true).open(place.disk()).unwrap();
    file.set_len(file.metadata().unwrap().len() - 512).unwrap();
    says(Overlay::open(&place.disk(), base(), &BASE_ID), "shorter");
    says(Overlay::create(&place.disk(), base(), &BASE_ID), "exists");
}

#[test]
fn a_disk_does_not_shrink_nor_grow_beyond_what_there_is() {
    let refused = |disk: &dyn Disk, size: u64, expected: &str| {
        let before = disk.size();
        let error = disk.grow(size).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n  lacks: {expected}");
        assert_eq!(disk.size(), before);
    };
    for kind in super::KINDS {
        let place = Place::new(kind, &vec![0; SIZE as usize]);
        let disk = place.open();
        refused(&*disk, SIZE - SECTOR, "does not shrink");
        refused(&*disk, 0, "does not shrink");
        refused(&*disk, SIZE + 1, &format!("give {}", SIZE + SECTOR));
        refused(&*disk, u64::MAX, "at most 70368744177664");
        refused(&*disk, MAX_SIZE + SECTOR, "at most 70368744177664");
        disk.grow(SIZE).unwrap();
        if kind == Kind::Overlay {
            refused(&*disk, (1 << 40) + SECTOR, "at most 1099511627776");
        }
    }
    let place = Place::new(Kind::Raw, &[]);
    let disk = open(&place.disk(), &OpenOptions { format: Some(Format::Raw), read_only: true }).unwrap();
    refused(&*disk, 2 * SIZE, "read-only");
}
