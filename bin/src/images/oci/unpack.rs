//! Layers become a root disk. Unpacking and judging a layer is one thread's work, writing the file system another's.

use anyhow::{Context, Result};
use motu_registry::{LayerCache, OciImage, Verified};
use motu_rootfs::{Builder, Compression, Options, RootfsError};
use motu_store::{ROOT_SIZE, RootDisk, Timestamp, Watch, Work};
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// What packed layers may grow to, with room for a machine to work in.
const GROWTH: u64 = 8;
const GIB: u64 = 1 << 30;
/// Bytes that are handed over at a time, and how many such may wait.
const CHUNK: usize = 512 << 10;
const WAITING: usize = 8;

/// Makes the root disk of an image, and adds it to the work.
///
/// # Errors
/// A layer is damaged or is none that can be unpacked, it is too much, or the host's trouble. A damaged layer is no longer kept.
pub fn root_disk(
    work: &Work,
    oci: &OciImage,
    created: Timestamp,
    cache: &LayerCache,
    watch: Watch<'_>,
) -> Result<RootDisk> {
    let packed = oci.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    let size = ROOT_SIZE.max(packed.saturating_mul(GROWTH).div_ceil(GIB).saturating_mul(GIB));
    let (path, disk) = work.new_disk(size)?;
    let mut uuid = [0; 16];
    uuid.iter_mut().zip(oci.digest.bytes()).for_each(|(byte, from)| *byte = from);
    let time = i64::try_from(created.unix()).unwrap_or(0);
    let mut builder = Builder::new(disk.as_ref(), &Options { uuid, time, ..Options::default() })?;
    watch.progress.start("unpacking", Some(packed));
    let applied = oci.layers.iter().try_for_each(|layer| {
        apply(&mut builder, layer, watch).map_err(|error| {
            let unreadable =
                matches!(error.downcast_ref(), Some(RootfsError::Read { .. } | RootfsError::Archive { .. }));
            match unreadable && cache.forget_if_damaged(layer.digest).unwrap_or(false) {
                true => error
                    .context("a layer that was kept has been damaged since and is deleted: try again to fetch it anew"),
                false => error,
            }
        })
    });
    watch.progress.finish();
    applied?;
    builder.finish()?;
    drop(disk);
    let layers = vec![work.add_disk(&path, watch)?];
    Ok(RootDisk { size, filesystem: Some("ext4".to_owned()), layers })
}

fn apply(builder: &mut Builder<'_>, layer: &motu_registry::Layer, watch: Watch<'_>) -> Result<()> {
    let name = format!("sha256:{}", layer.digest.short());
    let mut first = Vec::new();
    layer.open()?.take(6).read_to_end(&mut first).with_context(|| format!("reading {}", layer.path.display()))?;
    let file = layer.open()?;
    let read = AtomicU64::new(0);
    let (sender, receiver) = sync_channel(WAITING);
    thread::scope(|scope| {
        let packed = Counted { inner: file, count: &read };
        scope.spawn(move || {
            let plain = Compression::of_magic(&first).unpack(packed);
            hand_over(Verified::new(plain, layer.diff_id), &sender);
        });
        let plain = HandedOver { receiver, chunk: Vec::new(), at: 0, read: &read, watch };
        let plain_layer = motu_rootfs::Layer { name: &name, compression: Compression::None };
        Ok(builder.apply(&plain_layer, plain, &Asked(watch))?)
    })
}

/// Counts packed bytes, which progress is told in.
struct Counted<'a, R> {
    inner: R,
    count: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Reads ahead until nobody wants more.
fn hand_over(mut plain: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let next = match (&mut plain).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => return,
            Ok(_) => Ok(chunk),
            Err(error) => Err(error),
        };
        let failed = next.is_err();
        if sender.send(next).is_err() || failed {
            return;
        }
    }
}

/// The other end of it.
struct HandedOver<'a> {
    receiver: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    read: &'a AtomicU64,
    watch: Watch<'a>,
}

impl Read for HandedOver<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            // The sender is gone when all is said.
            let Ok(next) = self.receiver.recv() else { return Ok(0) };
            (self.chunk, self.at) = (next?, 0);
            self.watch.progress.advance(self.read.swap(0, Ordering::Relaxed));
        }
        let count = self.chunk.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// Whether it is still wanted. Bytes are told by [`HandedOver`].
struct Asked<'a>(Watch<'a>);

impl motu_rootfs::Watch for Asked<'_> {
    fn advance(&self, _: u64) {}

    fn is_cancelled(&self) -> bool {
        self.0.check().is_err()
    }
}
