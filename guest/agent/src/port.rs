//! The virtio-console port that leads to the host.

use crate::signals::Signals;
use motu_proto::PORT_NAME;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the kernel lists the ports (Documentation/ABI/testing/sysfs-class: virtio-ports).
const PORTS: &str = "/sys/class/virtio-ports";

/// The devices that the console driver has taken: one folder entry `virtioN` each.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_console";

/// How long a console device has to announce its ports and their names, which it does by messages
/// after the driver has started (virtio 1.2, 5.3.6.2).
const ANNOUNCED: Duration = Duration::from_secs(5);

/// The open port; reads and writes never block.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
}

impl Port {
    /// Finds the port by its name and opens it.
    ///
    /// # Errors
    /// `NotFound` if this machine has no console device with such a port.
    pub fn find() -> io::Result<Self> {
        let deadline = Instant::now() + ANNOUNCED;
        let mut pause = Timespec { tv_sec: 0, tv_nsec: 500_000 };
        loop {
            if let Some(path) = named_port() {
                let fd = open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
                return Ok(Port { fd });
            }
            if !console_device() || Instant::now() >= deadline {
                return Err(io::ErrorKind::NotFound.into());
            }
            let _ = poll(&mut [] as &mut [PollFd<'_>; 0], Some(&pause));
            pause.tv_nsec = (pause.tv_nsec * 2).min(50_000_000);
        }
    }

    /// Sleeps until the host has connected its end of the port. A port without a host is always ready
    /// to be polled (POLLHUP), so the kernel is asked for SIGIO meanwhile.
    pub fn wait_for_host(&self, signals: &Signals) -> io::Result<()> {
        if self.connected() {
            return Ok(());
        }
        // SAFETY: F_SETOWN takes a process number, no pointer.
        if unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETOWN, libc::getpid()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = fcntl_getfl(&self.fd)?;
        let signalled = OFlags::from_bits_retain(libc::O_ASYNC as u32);
        fcntl_setfl(&self.fd, flags | signalled)?;
        while !self.connected() {
            while signals.next_ended().is_some() {}
            signals.wait();
        }
        fcntl_setfl(&self.fd, flags)?;
        Ok(())
    }

    fn connected(&self) -> bool {
        let mut port = [PollFd::new(&self.fd, PollFlags::OUT)];
        let polled = poll(&mut port, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        polled.is_ok() && !port.iter().any(|port| port.revents().contains(PollFlags::HUP))
    }

    /// Reads what has arrived; `None` if nothing has, 0 if the host has gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_busy(rustix::io::read(&self.fd, buffer))
    }

    /// Writes what the host has room for; `None` if it has none.
    pub fn write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_busy(rustix::io::write(&self.fd, bytes))
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Turns "not now" into `None`.
pub fn unless_busy(result: rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn named_port() -> Option<PathBuf> {
    for entry in fs::read_dir(PORTS).ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

fn console_device() -> bool {
    fs::read_dir(DRIVER)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"virtio")))
}
