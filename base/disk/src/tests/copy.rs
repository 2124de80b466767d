//! Copies have all of the disk, and nothing that is zeros.

use super::{BASE_ID, KINDS, Kind, Place, SIZE};
use crate::{Disk, Format, Overlay, SECTOR, copy, copy_changes, create, create_layer, open, open_layer};
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SECTORS: u64 = SIZE / SECTOR;

/// Where, how many sectors, and what: zeros by `write_zeroes` for 0.
fn change() -> impl Strategy<Value = (u64, u64, u8)> {
    (0..SECTORS, 1..200u64, 0..4u8).prop_map(|(at, len, value)| (at, len.min(SECTORS - at), value))
}

fn apply(disk: &dyn Disk, changes: &[(u64, u64, u8)]) {
    for (at, len, value) in changes {
        match value {
            0 => disk.write_zeroes(at * SECTOR, len * SECTOR, true).unwrap(),
            _ => disk.write(at * SECTOR, &vec![value - 1; (len * SECTOR) as usize]).unwrap(),
        }
    }
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read(0, &mut bytes).unwrap();
    bytes
}

/// What is not zeros lies where the disk says that there may be something.
fn data_is_said(disk: &dyn Disk) {
    let bytes = content(disk);
    let mut at = 0;
    while let Some((start, end)) = disk.next_data(at).unwrap() {
        assert!(start >= at && end > start && end <= disk.size(), "{at}: {start} to {end}");
        assert!(start.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR));
        assert!(bytes[at as usize..start as usize].iter().all(|byte| *byte == 0), "{at} to {start}");
        at = end;
    }
    assert!(bytes[at as usize..].iter().all(|byte| *byte == 0), "from {at} on");
}

fn new(folder: &Path, name: &str, format: Format) -> Box<dyn Disk> {
    let path = folder.join(name);
    create(&path, Some(format), SIZE).unwrap();
    open(&path, &crate::OpenOptions { format: Some(format), read_only: false }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_copy_is_the_disk(changes in prop::collection::vec(change(), 0..12)) {
        let base = vec![5; SIZE as usize];
        for kind in KINDS {
            let place = Place::new(kind, &base);
            let disk = place.open();
            apply(disk.as_ref(), &changes);
            data_is_said(disk.as_ref());
            for (name, format) in [("copy.raw", Format::Raw), ("copy.qcow2", Format::Qcow2)] {
                let to = new(place.folder.path(), name, format);
                let mut told = 0;
                copy(disk.as_ref(), to.as_ref(), |bytes| { told += bytes; Ok(()) }).unwrap();
                prop_assert!(content(to.as_ref()) == content(disk.as_ref()), "{:?}", kind);
                prop_assert_eq!(told, SIZE);
            }
        }
    }

    #[test]
    fn a_layer_has_an_overlays_changes(changes in prop::collection::vec(change(), 0..12), again in prop::collection::vec(change(), 0..4)) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        drop(new(folder.path(), "base.raw", Format::Raw));
        let bytes: Vec<u8> = (0..SIZE).map(|at| if at / 4096 % 3 == 0 { 0 } else { 1 }).collect();
        std::fs::write(at("base.raw"), &bytes).unwrap();
        let mut layers = vec![("base.raw", Format::Raw)];
        // Two, each over all before.
        for (name, changes) in [("one.qcow2", &changes), ("two.qcow2", &again)] {
            let chain = |layers: &[(&str, Format)]| {
                layers.iter().fold(None, |below, (name, format)| Some(open_layer(&at(name), *format, below).unwrap())).unwrap()
            };
            let overlay = Overlay::create(&at("overlay"), chain(&layers), &BASE_ID).unwrap();
            apply(&overlay, changes);
            data_is_said(&overlay);
            let layer = create_layer(&at(name), chain(&layers)).unwrap();
            copy_changes(&overlay, layer.as_ref(), |_| Ok(())).unwrap();
            prop_assert!(content(layer.as_ref()) == content(&overlay));
            drop(layer);
            layers.push((name, Format::Qcow2));
            prop_assert!(content(chain(&layers).as_ref()) == content(&overlay), "read again");
            drop(overlay);
            std::fs::remove_file(at("overlay")).unwrap();
        }
    }
}

#[test]
fn zeros_take_no_space() {
    let place = Place::new(Kind::Raw, &[]);
    let disk = place.open();
    disk.write(0, &vec![0; SIZE as usize]).unwrap();
    disk.write(SIZE / 2 / SECTOR * SECTOR, &[1; 512]).unwrap();
    let to = new(place.folder.path(), "copy.raw", Format::Raw);
    copy(disk.as_ref(), to.as_ref(), |_| Ok(())).unwrap();
    let used = std::fs::metadata(place.folder.path().join("copy.raw")).unwrap().blocks() * 512;
    assert!(used <= 64 << 10, "{used}");
    let stopped = copy(disk.as_ref(), to.as_ref(), |_| Err(std::io::ErrorKind::Interrupted.into()));
    assert!(stopped.is_err());
}

#[test]
fn a_raw_layer_lies_over_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(new(folder.path(), "a.raw", Format::Raw));
    drop(new(folder.path(), "b.raw", Format::Raw));
    let layer = |name: &str, below| open_layer(&folder.path().join(name), Format::Raw, below);
    let below = layer("a.raw", None).unwrap();
    let error = layer("b.raw", Some(below)).unwrap_err().to_string();
    assert!(error.contains("b.raw") && error.contains("over another"), "{error}");
}
