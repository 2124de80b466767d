//! The machine's socket: each client has a thread, and asks for one thing.

use super::session::{self, Client};
use super::{Shared, own};
use crate::commands::disk::{named, resize};
use crate::error::Shown;
use crate::vmm::Why;
use anyhow::{Context, Result};
use motu_manager::wire::{self, Answer, Request};
use motu_spec::{ByteSize, Growth};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Clients at one time at most: each has threads.
const MOST: usize = 256;
/// How long a guest may take to write what is dirty, beyond the time that its processes have.
const TO_SYNC: Duration = Duration::from_secs(10);
/// SIGKILL (signal(7)).
const SIGKILL: i32 = 9;

/// What listens.
pub struct Server;

impl Server {
    /// Listens on a thread until the process ends.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(listener: UnixListener, shared: Arc<Shared>) -> io::Result<()> {
        let clients = Arc::new(AtomicUsize::new(0));
        let accept = move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    // No descriptors are left, for a while.
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                };
                if clients.load(Ordering::Relaxed) >= MOST {
                    refuse(&stream, &format!("{MOST} clients speak with this machine already"));
                    continue;
                }
                clients.fetch_add(1, Ordering::Relaxed);
                let (shared, counted) = (Arc::clone(&shared), Arc::clone(&clients));
                let serve = move || {
                    serve(&shared, stream);
                    counted.fetch_sub(1, Ordering::Relaxed);
                };
                if let Err(error) = std::thread::Builder::new().name("client".into()).spawn(serve) {
                    clients.fetch_sub(1, Ordering::Relaxed);
                    super::log(&format!("a client is not served: {error}"));
                }
            }
        };
        std::thread::Builder::new().name("socket".into()).spawn(accept).map(drop)
    }
}

fn refuse(stream: &UnixStream, message: &str) {
    answer(stream, &Answer::Refused(message.to_owned()));
}

fn answer(mut stream: &UnixStream, answer: &Answer) {
    // The client may have gone.
    let _ = wire::put(&mut stream, answer);
}

fn serve(shared: &Arc<Shared>, mut stream: UnixStream) {
    let request = match wire::get::<Request>(&mut stream) {
        Ok(Some(request)) => request,
        // Somebody looked whether the machine runs.
        Ok(None) => return,
        Err(error) => return refuse(&stream, &format!("it does not understand this motu: {error}")),
    };
    match &request {
        Request::Exec | Request::Main { .. } => match Client::new(stream) {
            Ok(client) if request == Request::Exec => session::exec(shared, client),
            Ok(client) => own::attach(shared, &request, client),
            Err(error) => super::log(&format!("a client is not served: {error}")),
        },
        Request::Ready => match shared.link.wait_until_ready(None) {
            Ok(()) => done(&stream),
            Err(error) => refuse(&stream, &error.to_string()),
        },
        Request::Signal { signo } => {
            if shared.own.signal(*signo) {
                done(&stream);
            } else {
                refuse(&stream, "the machine runs no command of its own that could take a signal");
            }
        }
        Request::Stop { grace } => {
            done(&stream);
            stop(shared, Duration::from_millis((*grace).into()));
            hold(stream);
        }
        Request::GrowDisk { disk, growth } => match grow_disk(shared, *disk, *growth) {
            Ok(size) => answer(&stream, &Answer::Size(size)),
            Err(error) => refuse(&stream, &Shown(&error).to_string()),
        },
        Request::Kill => {
            done(&stream);
            shared.own.stop();
            shared.ending.end(Why::Signal(SIGKILL));
            hold(stream);
        }
    }
}

fn done(stream: &UnixStream) {
    answer(stream, &Answer::Done);
}

/// Makes a disk larger, and writes that down: after a crash in between the file's word stands.
fn grow_disk(shared: &Shared, disk: usize, growth: Growth) -> Result<u64> {
    let disks = shared.disks.lock().unwrap_or_else(PoisonError::into_inner);
    let device = named::device(disk);
    let handle = disks.get(disk).with_context(|| format!("the machine has no disk {device}"))?;
    let size = handle.grow(|size| growth.of(size)).map_err(|error| resize::refused(&device, &error))?;
    // An image's root disk is the first, and no record's.
    if let Some(listed) = (disk + shared.record.spec.disks.len()).checked_sub(disks.len()) {
        let written = shared.machine.write_disk_size(listed, size);
        written.with_context(|| format!("{device} has {} now, but its record does not say so", ByteSize(size)))?;
    }
    Ok(size)
}

/// Keeps the connection until this process ends, which its client waits for.
fn hold(mut stream: UnixStream) {
    // A client says nothing more.
    let _ = wire::get::<Request>(&mut stream);
}

/// Has all processes in the guest end within `grace`, and switches the machine off: by the guest, or without it if that takes
/// too long.
pub fn stop(shared: &Arc<Shared>, grace: Duration) {
    shared.own.stop();
    // A machine that boots has no processes yet.
    let booting = shared.link.wait_until_ready(Some(grace)).is_err();
    if booting {
        shared.ending.end(Why::Signal(SIGKILL));
    } else {
        end(shared, grace);
    }
}

/// The same for one that is up.
pub fn end(shared: &Arc<Shared>, grace: Duration) {
    shared.own.stop();
    if !shared.link.shut_down(grace) {
        shared.ending.end(Why::Signal(SIGKILL));
        return;
    }
    let ending = Arc::clone(&shared.ending);
    let net = move || {
        std::thread::sleep(grace + TO_SYNC);
        ending.end(Why::Signal(SIGKILL));
    };
    if std::thread::Builder::new().name("switching off".into()).spawn(net).is_err() {
        shared.ending.end(Why::Signal(SIGKILL));
    }
}
