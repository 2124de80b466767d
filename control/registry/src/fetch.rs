//! Downloads of layers: several at once, each continued where it broke off, judged before it counts.

use crate::RegistryError;
use crate::client::Client;
use crate::digest::{CHUNK, feed, finish};
use crate::manifest::Descriptor;
use crate::retry::{Failure, check, sleep};
use crate::sink::{BlobSink, Part};
use motu_store::Watch;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

/// How often a process that waits for another's download looks again.
const LOOK: Duration = Duration::from_millis(200);

/// Fetches what is not there yet, `at_once` layers at a time. Returns each layer's file, in order.
pub(crate) fn layers(
    client: &Client<'_>,
    sink: &dyn BlobSink,
    layers: &[Descriptor],
    at_once: usize,
    watch: Watch<'_>,
) -> Result<Vec<PathBuf>, RegistryError> {
    let mut files = Vec::new();
    for layer in layers {
        files.push(sink.find(layer.digest, layer.size)?);
    }
    // A layer may be there twice.
    let mut missing: Vec<&Descriptor> = Vec::new();
    for (layer, file) in layers.iter().zip(&files) {
        if file.is_none() && !missing.iter().any(|other| other.digest == layer.digest) {
            missing.push(layer);
        }
    }
    if !missing.is_empty() {
        let bytes = missing.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        sink.make_sure_of_room(&missing.iter().map(|layer| (layer.digest, layer.size)).collect::<Vec<_>>())?;
        let what = match (missing.len(), layers.len()) {
            (1, 1) => "fetching the layer".to_owned(),
            (some, all) if some == all => format!("fetching {all} layers"),
            (some, all) => format!("fetching {some} of {all} layers"),
        };
        watch.progress.start(&what, Some(bytes));
        let result = fetch_all(client, sink, &missing, at_once, watch);
        watch.progress.finish();
        result?;
    }
    let found = layers.iter().zip(files).map(|(layer, file)| match file {
        Some(file) => Ok(file),
        None => sink.find(layer.digest, layer.size)?.ok_or_else(|| {
            let problem = "was deleted while the image was fetched; try again";
            RegistryError::document(&format!("the layer sha256:{}", layer.digest), problem)
        }),
    });
    found.collect()
}

/// Fetches all, or fails with the first error after the others have stopped.
fn fetch_all(
    client: &Client<'_>,
    sink: &dyn BlobSink,
    missing: &[&Descriptor],
    at_once: usize,
    watch: Watch<'_>,
) -> Result<(), RegistryError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let (arrived, arrivals) = mpsc::channel::<u64>();
    thread::scope(|scope| {
        let worker = |arrived: Sender<u64>| {
            while let Some(layer) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let (failed, cancel, arrived) = (&failed, watch.cancel, &arrived);
                let download = Download { client, sink, layer, failed, cancel, arrived, told: 0 };
                if let Err(error) = download.run() {
                    // Whoever fails first says why, and has the others' connections ended: they may be waiting.
                    let first = !failed.swap(true, Ordering::Relaxed);
                    client.stopper().shutdown();
                    return if first { Err(error) } else { Ok(()) };
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..at_once.clamp(1, missing.len().max(1)))
            .map(|_| {
                let arrived = arrived.clone();
                scope.spawn(move || worker(arrived))
            })
            .collect();
        drop(arrived);
        for bytes in arrivals {
            watch.progress.advance(bytes);
        }
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// One layer on its way.
struct Download<'a> {
    client: &'a Client<'a>,
    sink: &'a dyn BlobSink,
    layer: &'a Descriptor,
    failed: &'a AtomicBool,
    cancel: &'a AtomicBool,
    arrived: &'a Sender<u64>,
    /// Bytes that were reported: what comes twice counts once.
    told: u64,
}

/// What there is of a layer.
struct Progressed {
    part: Part,
    at: u64,
    hasher: Sha256,
}

impl Download<'_> {
    fn run(mut self) -> Result<(), RegistryError> {
        let Some(part) = self.begin()? else { return Ok(()) };
        let mut there = self.read_again(part)?;
        // What an earlier run left may have been damaged since: that is worth one more try, from nothing.
        let mut anew = there.at == 0;
        loop {
            self.complete(&mut there)?;
            let found = finish(std::mem::take(&mut there.hasher));
            if found == self.layer.digest {
                return self.sink.keep(there.part).map(drop);
            }
            if anew {
                self.sink.discard(there.part)?;
                let problem = format!("its first {} bytes have the digest sha256:{found}", self.layer.size);
                return Err(RegistryError::Tampered { what: self.name(), problem });
            }
            anew = true;
            self.restart(&mut there)?;
        }
    }

    /// The right to write the layer; `None` if another process has completed it meanwhile.
    fn begin(&mut self) -> Result<Option<Part>, RegistryError> {
        loop {
            let part = self.sink.begin(self.layer.digest)?;
            if self.sink.find(self.layer.digest, self.layer.size)?.is_some() {
                self.tell(self.layer.size);
                return part.map_or(Ok(None), |part| self.sink.discard(part).map(|()| None));
            }
            if part.is_some() {
                return Ok(part);
            }
            sleep(LOOK, &[self.cancel, self.failed])?;
        }
    }

    /// What an earlier run left, read again: a digest that was written down beside it would say nothing of what a power cut
    /// has done to it.
    fn read_again(&mut self, part: Part) -> Result<Progressed, RegistryError> {
        let mut hasher = Sha256::new();
        let mut file: &File = &part.file;
        let most = self.layer.size;
        let stop = |_| check(self.cancel).and_then(|()| check(self.failed)).map_err(io::Error::other);
        let at = file.seek(SeekFrom::Start(0)).and_then(|_| feed(&mut hasher, file.take(most), stop));
        check(self.cancel)?;
        // What is there may be longer than the layer.
        let at = at.and_then(|at| file.set_len(at).map(|()| at));
        let at = at.map_err(RegistryError::io("read", &part.path))?;
        self.tell(at);
        Ok(Progressed { part, at, hasher })
    }

    /// Fetches until as many bytes are there as the layer has.
    fn complete(&mut self, there: &mut Progressed) -> Result<(), RegistryError> {
        let mut backoff = self.client.backoff().unless(self.failed);
        let mut furthest = there.at;
        while there.at < self.layer.size {
            let Err(failure) = self.attempt(there) else { continue };
            if there.at > furthest {
                furthest = there.at;
                backoff.reset();
            }
            backoff.wait(failure).map_err(|error| match error {
                RegistryError::Unreachable { reason, .. } if there.at > 0 => RegistryError::BrokenOff {
                    what: self.name(),
                    times: backoff.failed,
                    at: there.at,
                    size: self.layer.size,
                    reason,
                },
                other => other,
            })?;
        }
        Ok(())
    }

    /// One request, from where we are to where the connection ends or the layer does.
    fn attempt(&mut self, there: &mut Progressed) -> Result<(), Failure> {
        let stream = self.client.blob(self.layer.digest, there.at)?;
        if stream.from != there.at {
            self.restart(there).map_err(Failure::Final)?;
        }
        let mut body = stream.body.take(self.layer.size - there.at);
        let mut chunk = vec![0; CHUNK];
        while there.at < self.layer.size {
            let count = match body.read(&mut chunk) {
                Ok(0) => return Err(self.client.broke_off(io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok(count) => count,
                Err(error) => return Err(self.client.broke_off(error)),
            };
            let bytes = chunk.get(..count).unwrap_or_default();
            let written = (&there.part.file).write_all(bytes);
            written.map_err(RegistryError::io("write", &there.part.path)).map_err(Failure::Final)?;
            there.hasher.update(bytes);
            there.at += count as u64;
            self.tell(there.at);
            check(self.cancel).map_err(Failure::Final)?;
            if self.failed.load(Ordering::Relaxed) {
                return Err(Failure::Final(RegistryError::Cancelled));
            }
        }
        Ok(())
    }

    fn restart(&self, there: &mut Progressed) -> Result<(), RegistryError> {
        let mut file: &File = &there.part.file;
        let empty = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        empty.map_err(RegistryError::io("write", &there.part.path))?;
        (there.at, there.hasher) = (0, Sha256::new());
        Ok(())
    }

    fn tell(&mut self, at: u64) {
        if at > self.told {
            // Nobody listens any more only when all is over.
            let _ = self.arrived.send(at - self.told);
            self.told = at;
        }
    }

    fn name(&self) -> String {
        format!("the layer sha256:{}", self.layer.digest)
    }
}
