//! Images as QEMU has them, where `qemu-img` is installed.

use super::{Place, SIZE};
use crate::qcow2::create_with;
use crate::{DiskError, Format, OpenOptions, SECTOR, create, open, tests::Kind};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `qemu-img` in `folder`; `None` where there is none.
fn qemu_img(folder: &Path, args: &[&str]) -> Option<Output> {
    match Command::new("qemu-img").current_dir(folder).args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!(
                "SKIPPED: images are not shown to QEMU: qemu-img cannot be run ({error}); it is in Debian's qemu-utils"
            );
            None
        }
    }
}

/// The same, which must succeed.
fn qemu_img_ok(folder: &Path, args: &[&str]) -> bool {
    let Some(output) = qemu_img(folder, args) else { return false };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {args:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    true
}

/// Has QEMU check an image; after a kill it may have clusters that nobody refers to.
pub fn check(image: &Path, killed: bool) {
    let Some(output) = qemu_img(Path::new("/"), &["check", "-f", "qcow2", image.to_str().unwrap()]) else { return };
    // qemu-img(1): 3 is leaked clusters, 2 corruption.
    let right = if killed { vec![0, 3] } else { vec![0] };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code().is_some_and(|code| right.contains(&code)), "{}: {said}", output.status);
}

/// Data that is the same for a sector's number.
fn pattern() -> Vec<u8> {
    (0..SIZE as usize).map(|at| (at / SECTOR as usize * 7 + at % 13) as u8).collect()
}

fn content(path: &Path, format: Format) -> Vec<u8> {
    let disk = open(path, &OpenOptions { format: Some(format), read_only: true }).unwrap();
    let mut data = vec![0; disk.size() as usize];
    disk.read(0, &mut data).unwrap();
    data
}

#[test]
fn what_we_write_qemu_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = (folder.path().join("a.qcow2"), folder.path().join("a.raw"));
    create(&image, None, SIZE).unwrap();
    {
        let disk = open(&image, &OpenOptions::default()).unwrap();
        disk.write(0, &pattern()).unwrap();
        disk.discard(0, 3 << 16).unwrap();
        disk.write_zeroes(5 << 16, 1000 * SECTOR, false).unwrap();
    }
    std::fs::write(&raw, content(&image, Format::Qcow2)).unwrap();
    if qemu_img_ok(folder.path(), &["compare", "-f", "qcow2", "-F", "raw", "a.qcow2", "a.raw"]) {
        check(&image, false);
    }
}

#[test]
fn what_qemu_makes_we_read_and_write() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a.raw"), pattern()).unwrap();
    let ways: [&[&str]; 6] = [
        &["-o", "compat=v3"],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "refcount_bits=1"],
        &["-c"],
    ];
    for (n, way) in ways.iter().enumerate() {
        let name = format!("{n}.qcow2");
        let args = [&["convert", "-f", "raw", "-O", "qcow2"], *way, &["a.raw", &name]].concat();
        if !qemu_img_ok(folder.path(), &args) {
            return;
        }
        assert_eq!(content(&at(&name), Format::Qcow2), pattern(), "{way:?}");
        let mut expected = pattern();
        {
            let disk = open(&at(&name), &OpenOptions::default()).unwrap();
            disk.write(100 * SECTOR, &[5; 4096]).unwrap();
            expected[100 * 512..100 * 512 + 4096].fill(5);
            disk.write_zeroes(1000 * SECTOR, 300 * SECTOR, true).unwrap();
            expected[1000 * 512..1300 * 512].fill(0);
            disk.flush().unwrap();
        }
        assert_eq!(content(&at(&name), Format::Qcow2), expected, "{way:?}");
        check(&at(&name), false);
    }
}

#[test]
fn backing_files_of_qemus_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.raw"), pattern()).unwrap();
    let steps: [&[&str]; 3] = [
        &["create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "b.qcow2"],
        &["create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "c.qcow2"],
        &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", "c.qcow2", "-F", "qcow2", "d.qcow2", "2M"],
    ];
    for step in steps {
        if !qemu_img_ok(folder.path(), step) {
            return;
        }
    }
    let top = folder.path().join("d.qcow2");
    let mut expected = pattern();
    expected.resize(2 << 20, 0);
    assert_eq!(content(&top, Format::Qcow2), expected);
    {
        let disk = open(&top, &OpenOptions::default()).unwrap();
        disk.write(SECTOR, &[1; 512]).unwrap();
        disk.discard(0, 1 << 20).unwrap();
        disk.write_zeroes(1 << 16, 4096, true).unwrap();
    }
    expected[512..1024].fill(1);
    expected[1 << 16..(1 << 16) + 4096].fill(0);
    assert_eq!(content(&top, Format::Qcow2), expected);
    check(&top, false);
    assert_eq!(std::fs::read(folder.path().join("a.raw")).unwrap(), pattern());
}

#[test]
fn qemu_and_we_keep_out_of_each_others_disks() {
    let place = Place::new(Kind::Qcow2, &[]);
    let disk = place.open();
    let Some(output) = qemu_img(place.folder.path(), &["info", "-f", "qcow2", "disk"]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("lock"), "{said}");
    drop(disk);
    assert!(qemu_img_ok(place.folder.path(), &["info", "-f", "qcow2", "disk"]));
}

#[test]
fn an_image_with_snapshots_is_read_only() {
    let place = Place::new(Kind::Qcow2, &[]);
    if qemu_img_ok(place.folder.path(), &["snapshot", "-c", "one", "disk"]) {
        let error = open(&place.disk(), &OpenOptions::default()).unwrap_err();
        assert!(matches!(error, DiskError::Qcow2 { .. }) && error.to_string().contains("read-only"), "{error}");
        assert_eq!(content(&place.disk(), Format::Qcow2), vec![0; SIZE as usize]);
    }
}

/// With clusters of 512 bytes, 8 MiB take more blocks of refcounts than a cluster of their table holds.
#[test]
fn the_refcount_table_grows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    let size = 8 << 20;
    create_with(&File::create_new(&path).unwrap(), size, 9, None).unwrap();
    let data: Vec<u8> = (0..size as usize).map(|at| (at / 512 % 251) as u8).collect();
    for (round, part) in data.chunks(1 << 20).enumerate() {
        let disk = open(&path, &OpenOptions::default()).unwrap();
        disk.write((round << 20) as u64, part).unwrap();
        if round % 2 == 0 {
            disk.flush().unwrap();
        }
    }
    assert!(content(&path, Format::Qcow2) == data);
    check(&path, false);
    {
        let disk = open(&path, &OpenOptions::default()).unwrap();
        disk.discard(0, size).unwrap();
        disk.flush().unwrap();
        disk.write(0, &data).unwrap();
    }
    assert!(content(&path, Format::Qcow2) == data);
    check(&path, false);
    let len = std::fs::metadata(&path).unwrap().len();
    assert!(len < size * 3 / 2, "clusters that were given back are used again: {len}");
}

/// What QEMU makes, grown by us: what a backing file has behind the end does not come to light, and QEMU agrees.
#[test]
fn an_image_of_qemus_grows() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.raw"), vec![9; 4 << 20]).unwrap();
    let ways: [&[&str]; 5] = [
        &["-o", "compat=v3"],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-b", "a.raw", "-F", "raw"],
        &["-o", "compat=0.10", "-b", "a.raw", "-F", "raw"],
    ];
    // The end lies within a cluster, and the new one beyond the backing file's.
    let (old, new) = ((1 << 20) + 3 * SECTOR, (6 << 20) + SECTOR);
    for (n, way) in ways.iter().enumerate() {
        let name = format!("{n}.qcow2");
        let size = old.to_string();
        let args = [&["create", "-q", "-f", "qcow2"], *way, &[&name, &size]].concat();
        if !qemu_img_ok(folder.path(), &args) {
            return;
        }
        let path = folder.path().join(&name);
        let mut expected = content(&path, Format::Qcow2);
        {
            let disk = open(&path, &OpenOptions::default()).unwrap();
            disk.write(0, &[1; 512]).unwrap();
            disk.grow(new).unwrap();
            disk.write(new - SECTOR, &[2; 512]).unwrap();
        }
        expected[..512].fill(1);
        expected.resize((new - SECTOR) as usize, 0);
        expected.resize(new as usize, 2);
        assert!(content(&path, Format::Qcow2) == expected, "{way:?}");
        check(&path, false);
        std::fs::write(folder.path().join("b.raw"), &expected).unwrap();
        assert!(qemu_img_ok(folder.path(), &["compare", "-q", "-f", "qcow2", "-F", "raw", &name, "b.raw"]));
        // And by QEMU, after us.
        assert!(qemu_img_ok(folder.path(), &["resize", "-q", "-f", "qcow2", &name, "+1M"]));
        assert_eq!(content(&path, Format::Qcow2).len() as u64, new + (1 << 20));
    }
}
