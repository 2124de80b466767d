//! Making a file system of layers, and looking into it.

use crate::{Builder, Compression, Layer, Limits, Options, Report, RootfsError, Unattended};
use ext4_view::{Ext4, Path as InPath};
use motu_disk::{Format, OpenOptions};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tar::{EntryType, Header};
use tempfile::TempDir;

/// A layer that is being written.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Tar(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    /// An entry of any kind; the name is put down as it is.
    pub(crate) fn entry(mut self, mut header: Header, name: &str, target: &str, data: &[u8]) -> Self {
        put(&mut header.as_old_mut().name, name);
        put(&mut header.as_old_mut().linkname, target);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(Self::header(EntryType::Regular, data.len() as u64), name, "", data)
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.entry(Self::header(EntryType::Directory, 0), name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(Self::header(EntryType::Symlink, 0), name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(Self::header(EntryType::Link, 0), name, target, b"")
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn put(field: &mut [u8], text: &str) {
    field.fill(0);
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// A file system in a file.
pub(crate) struct Made {
    _folder: TempDir,
    pub(crate) image: PathBuf,
    pub(crate) report: Report,
    ext4: Ext4,
}

/// Makes one of layers, with other bounds than usual.
pub(crate) fn make_within(limits: Limits, mib: u64, layers: &[&[u8]]) -> Result<Made, RootfsError> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("root.raw");
    motu_disk::create(&image, Some(Format::Raw), mib << 20).unwrap();
    let report = {
        let disk = motu_disk::open(&image, &OpenOptions::default()).unwrap();
        let mut builder = Builder::new(&*disk, &Options { limits, ..Options::default() })?;
        for (layer, number) in layers.iter().zip(1..) {
            let name = format!("layer {number}");
            let layer_of = Layer { name: &name, compression: Compression::of_magic(layer) };
            builder.apply(&layer_of, *layer, &Unattended)?;
        }
        builder.finish()?
    };
    Ok(Made { report, ..Made::open(folder, image) })
}

pub(crate) fn make(layers: &[&[u8]]) -> Made {
    make_within(Limits::default(), 64, layers).unwrap_or_else(|error| panic!("{error}"))
}

/// The error that layers end with.
pub(crate) fn refused(layers: &[&[u8]]) -> String {
    match make_within(Limits::default(), 64, layers) {
        Ok(_) => panic!("it was made"),
        Err(error) => error.to_string(),
    }
}

/// Has e2fsck look at it, if there is one.
pub(crate) fn check(image: &std::path::Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]);
    let Some(program) = folders.map(|folder| folder.join("e2fsck")).find(|program| program.exists()) else {
        println!("SKIPPED: e2fsck's judgement: there is no e2fsck (Debian's e2fsprogs)");
        return;
    };
    let output = Command::new(program).arg("-fn").arg(image).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

impl Made {
    /// One that was made, after e2fsck has judged it.
    pub(crate) fn open(folder: TempDir, image: PathBuf) -> Self {
        check(&image);
        let ext4 = Ext4::load_from_path(&image).unwrap();
        Made { _folder: folder, image, report: Report::default(), ext4 }
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        self.ext4.read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.ext4.symlink_metadata(path).is_ok()
    }

    pub(crate) fn link(&self, path: &str) -> Vec<u8> {
        self.ext4.read_link(path).unwrap().as_ref().to_vec()
    }

    pub(crate) fn metadata(&self, path: &str) -> ext4_view::Metadata {
        self.ext4.symlink_metadata(InPath::new(path)).unwrap()
    }

    /// The names in a folder, sorted, without dots.
    pub(crate) fn names(&self, path: &str) -> Vec<Vec<u8>> {
        let entries = self.ext4.read_dir(path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().as_ref().to_vec());
        let mut names: Vec<Vec<u8>> = names.filter(|name| name != b"." && name != b"..").collect();
        names.sort();
        names
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap()
    }
}
