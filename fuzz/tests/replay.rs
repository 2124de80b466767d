//! Every input of the corpus, and every one that ever broke a target, once more: without a fuzzer.

use motu_fuzz::TARGETS;
use motu_fuzz::random::{self, Random};
use std::fs;
use std::path::{Path, PathBuf};

/// Inputs by chance that each target gets on top.
const BY_CHANCE: u64 = 500;

fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Names what a target breaks on. Nothing else is printed: what tests print is kept in one allocation, which this crate bounds.
struct Input<T: Fn() -> String>(T);

impl<T: Fn() -> String> Drop for Input<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("broken by {}", (self.0)());
        }
    }
}

/// Runs a target on its files and on inputs made of them.
fn replay(name: &str) {
    let target = motu_fuzz::find(name).unwrap();
    let paths = [files("corpus", name), files("regressions", name)].concat();
    assert!(!paths.is_empty(), "{name} has no corpus");
    let mut corpus = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let _named = Input(|| path.display().to_string());
        (target.run)(&bytes);
        corpus.push(bytes);
    }
    let mut random = Random::new(0x6d6f_7475);
    for _ in 0..BY_CHANCE {
        let bytes = random::input(&mut random, &corpus, target.max_len);
        let _named = Input(|| format!("{bytes:?}"));
        (target.run)(&bytes);
    }
}

/// One test a target, so that they run side by side and fail by name.
macro_rules! replay {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replay! {
    acpi_pm agent_proto bzimage decode elf ext4 fuse i8042 interpret ioapic kernel lapic pci pic pit ports qcow2 rootfs rtc spec
    uart virtio_pci virtqueue
}

#[test]
fn every_target_is_replayed_and_every_folder_is_a_targets() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, REPLAYED);
    for folder in ["corpus", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(names.contains(&name.as_str()) || name.ends_with(".md"), "{folder:?} has {name}");
        }
    }
}
