//! `unpack DISK.qcow2 LAYER...`: makes a root file system of layers, as an image's. `cargo xtask bench image` runs it.

use motu_disk::{Format, OpenOptions};
use motu_rootfs::{Builder, Compression, Layer, Options, Unattended};
use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

/// Bytes of the disk.
const SIZE: u64 = 10 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let disk = arguments.next().ok_or("usage: unpack DISK.qcow2 LAYER...")?;
    motu_disk::create(Path::new(&disk), Some(Format::Qcow2), SIZE)?;
    let disk = motu_disk::open(Path::new(&disk), &OpenOptions { format: Some(Format::Qcow2), read_only: false })?;
    let mut builder = Builder::new(&*disk, &Options::default())?;
    for name in arguments {
        let mut file = File::open(&name)?;
        let mut first = [0; 6];
        let read = file.read(&mut first)?;
        file.rewind()?;
        let compression = Compression::of_magic(first.get(..read).unwrap_or_default());
        builder.apply(&Layer { name: &name, compression }, file, &Unattended)?;
    }
    println!("{:?}", builder.finish()?);
    Ok(())
}
