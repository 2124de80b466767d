//! A tree of files on this host becomes a root file system.

use crate::disks::ROOT_SIZE;
use crate::progress::Watch;
use crate::record::{Boot, ImageConfig, RECORD_VERSION, RootDisk};
use crate::{Digest, Image, ImageName, ImageRecord, Source, Store, StoreError, Timestamp};
use motu_rootfs::{Builder, Compression, Options, PackageData};
use rustix::fs::OFlags;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Bytes of a pipe's writer's buffer: entries' headers are small.
const BUFFER: usize = 1 << 18;

/// Passes on what is told, and what is asked.
impl motu_rootfs::Watch for Watch<'_> {
    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.check().is_err()
    }
}

/// Why a tree was not written to its end.
enum Stop {
    /// The other end is gone: it has said why.
    Pipe,
    Failed(StoreError),
}

impl Store {
    /// Makes an image of a tree of files on this host. What belongs to the person who does so, and is not root, is root's in the
    /// image; sockets are left out.
    ///
    /// # Errors
    /// [`StoreError::Io`] for what cannot be read; [`StoreError::Rootfs`] if it does not fit; [`StoreError::Cancelled`]. The store is as
    /// it was then.
    pub fn import_folder(&self, folder: &Path, names: &[ImageName], watch: Watch<'_>) -> Result<Image, StoreError> {
        let there = fs::metadata(folder).map_err(StoreError::io("read", folder))?;
        if !there.is_dir() {
            return Err(StoreError::io("read", folder)(io::ErrorKind::NotADirectory.into()));
        }
        let work = self.work(watch)?;
        let created = Timestamp::now();
        let (path, disk) = work.new_disk(ROOT_SIZE)?;
        let shown = folder.display().to_string();
        let mut uuid = [0; 16];
        let digest = Digest::of(format!("{shown} {created}").as_bytes()).bytes();
        uuid.iter_mut().zip(digest).for_each(|(byte, from)| *byte = from);
        let options = Options { uuid, time: i64::try_from(created.unix()).unwrap_or(0), ..Options::default() };
        watch.step(&format!("reading {shown}"), Some(crate::usage::used_below(folder)), || {
            let mut builder = Builder::new(disk.as_ref(), &options)?;
            // Names are meant as they are: no whiteouts.
            let none = BTreeSet::new();
            let layer = PackageData { name: &shown, compression: Compression::None, conffiles: &none };
            let (reader, writer) = io::pipe().map_err(StoreError::io("make a pipe to read", folder))?;
            let (written, applied) = std::thread::scope(|scope| {
                let writing = scope.spawn(move || Tree::write(folder, writer));
                let applied = builder.apply_package(&layer, reader, &watch);
                (writing.join(), applied)
            });
            watch.check()?;
            // What could not be read is why the other end found an archive that ends too soon.
            match written {
                Ok(Err(Stop::Failed(error))) => return Err(error),
                Ok(Ok(()) | Err(Stop::Pipe)) => drop(applied?),
                Err(_) => return Err(StoreError::io("read", folder)(io::Error::other("its thread ended by a panic"))),
            }
            builder.finish().map(drop).map_err(StoreError::from)
        })?;
        drop(disk);
        let layers = vec![work.add_disk(&path, watch)?];
        let record = ImageRecord {
            version: RECORD_VERSION,
            source: Source::Dir(folder.to_owned()).to_string(),
            manifest: None,
            created,
            boot: Boot::Default,
            disk: Some(RootDisk { size: ROOT_SIZE, filesystem: Some("ext4".to_owned()), layers }),
            config: ImageConfig::default(),
            packages: Vec::new(),
        };
        let digest = work.commit(&record, names, watch)?;
        let name = names.first().map_or_else(|| digest.short(), ToString::to_string);
        Ok(Image { name, digest, record })
    }
}

/// A tree as a tar archive.
pub(crate) struct Tree<W: Write> {
    archive: tar::Builder<W>,
    /// Whose files become root's.
    me: u32,
    /// The first names of files that have several: device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Tree<BufWriter<W>> {
    fn write(folder: &Path, to: W) -> Result<(), Stop> {
        let me = rustix::process::geteuid().as_raw();
        let archive = tar::Builder::new(BufWriter::with_capacity(BUFFER, to));
        let mut tree = Tree { archive, me, links: HashMap::new() };
        tree.add_below(folder, Path::new(""))?;
        let done = tree.archive.into_inner().and_then(|mut buffer| buffer.flush());
        done.map_err(|_| Stop::Pipe)
    }
}

impl<W: Write> Tree<W> {
    /// Everything in a folder, in the order of names; iterative, as a tree may be deep.
    fn add_below(&mut self, root: &Path, name: &Path) -> Result<(), Stop> {
        let mut waiting = vec![name.to_owned()];
        while let Some(name) = waiting.pop() {
            let path = root.join(&name);
            let metadata = fs::symlink_metadata(&path).map_err(failed(&path))?;
            self.add(&path, &name, &metadata)?;
            if metadata.is_dir() {
                let mut below = Vec::new();
                for entry in fs::read_dir(&path).map_err(failed(&path))? {
                    below.push(name.join(entry.map_err(failed(&path))?.file_name()));
                }
                below.sort_by(|a, b| b.cmp(a));
                waiting.extend(below);
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), Stop> {
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        let owner = |id: u32| if id == self.me && self.me != 0 { 0 } else { u64::from(id) };
        header.set_uid(owner(metadata.uid()));
        header.set_gid(if owner(metadata.uid()) == 0 { 0 } else { u64::from(metadata.gid()) });
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        let name = if name.as_os_str().is_empty() { Path::new("./") } else { name };
        if kind.is_file() && metadata.nlink() > 1 {
            let first = self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.to_owned());
            if first != name {
                header.set_entry_type(EntryType::Link);
                return self.archive.append_link(&mut header, name, first).map_err(|_| Stop::Pipe);
            }
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(failed(path))?;
            header.set_entry_type(EntryType::Symlink);
            // As it is, `a//b` and all, if it fits.
            if header.set_link_name_literal(target.as_os_str().as_bytes()).is_ok() {
                return self.archive.append_data(&mut header, name, io::empty()).map_err(|_| Stop::Pipe);
            }
            return self.archive.append_link(&mut header, name, &target).map_err(|_| Stop::Pipe);
        }
        if kind.is_file() {
            return self.add_file(path, name, header);
        }
        let special = match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            () if kind.is_fifo() => EntryType::Fifo,
            () => {
                tracing::info!("{} is left out: it is a socket", path.display());
                return Ok(());
            }
        };
        header.set_entry_type(special);
        if kind.is_char_device() || kind.is_block_device() {
            let numbers = [rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())];
            let fits = header.set_device_major(numbers[0]).and_then(|()| header.set_device_minor(numbers[1]));
            fits.map_err(failed(path))?;
        }
        self.archive.append_data(&mut header, name, io::empty()).map_err(|_| Stop::Pipe)
    }

    /// A file as long as it is now, whatever somebody does to it meanwhile.
    fn add_file(&mut self, path: &Path, name: &Path, mut header: Header) -> Result<(), Stop> {
        // Neither a link that is there by now is followed, nor a pipe waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed(path))?;
        let metadata = file.metadata().map_err(failed(path))?;
        if !metadata.is_file() {
            return Err(failed(path)(io::Error::other("it became something else meanwhile")));
        }
        let size = metadata.len();
        header.set_size(size);
        header.set_entry_type(EntryType::Regular);
        let mut exact = Exact { file, left: size, error: None };
        self.archive.append_data(&mut header, name, &mut exact).map_err(|_| match exact.error.take() {
            Some(error) => failed(path)(error),
            None => Stop::Pipe,
        })
    }
}

/// A file of a length that is known. Its own error is kept apart from who writes what it reads.
struct Exact {
    file: File,
    left: u64,
    error: Option<io::Error>,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..want).unwrap_or_default();
        let read = match self.file.read(part) {
            Ok(0) if self.left > 0 && want > 0 => Err(io::Error::other("it became shorter meanwhile")),
            other => other,
        };
        match read {
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.error = Some(error);
                Err(io::Error::other("a file cannot be read"))
            }
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Stop {
    move |error| Stop::Failed(StoreError::io("read", path)(error))
}
