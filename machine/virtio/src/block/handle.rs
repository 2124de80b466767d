//! A disk from the host's side, while a guest uses it: it may grow.
//!
//! ```text
//!   the file grows ─► capacity and generation ─► configuration change interrupt
//! ```
//! In this order the guest never knows of a sector that a crash could take away again.

use super::Target;
use super::config::Config;
use crate::device::Interrupt;
use motu_disk::GrowError;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// What the driver is shown of the disk, and how it hears of a change.
#[derive(Debug)]
pub struct Shown {
    state: Mutex<State>,
    /// One growth at a time. Locked before the state.
    growing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    config: Config,
    /// Of the configuration space (virtio 1.2, 2.5.3).
    generation: u8,
    /// None while there is no driver.
    interrupt: Option<Interrupt>,
    /// It changed while there was no driver to be told, which may have read it already.
    untold: bool,
}

impl Shown {
    pub fn new(config: Config) -> Self {
        let state = State { config, generation: 0, interrupt: None, untold: false };
        Self { state: state.into(), growing: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().config.read(offset, data);
    }

    pub fn generation(&self) -> u8 {
        self.lock().generation
    }

    /// The driver is ready (DRIVER_OK).
    pub fn activate(&self, interrupt: Interrupt) {
        let mut state = self.lock();
        if std::mem::take(&mut state.untold) {
            interrupt.config_changed();
        }
        state.interrupt = Some(interrupt);
    }

    /// There is no driver any more. The next one reads all anew.
    pub fn reset(&self) {
        let mut state = self.lock();
        (state.interrupt, state.untold) = (None, false);
    }

    /// The disk has this size now, in bytes.
    fn set_size(&self, size: u64) {
        let mut state = self.lock();
        state.config.set_size(size);
        state.generation = state.generation.wrapping_add(1);
        match &state.interrupt {
            Some(interrupt) => interrupt.config_changed(),
            None => state.untold = true,
        }
    }
}

/// Reaches a disk from any thread; it does not keep it from being closed.
#[derive(Clone, Debug)]
pub struct DiskHandle(pub(super) Weak<Target>);

impl DiskHandle {
    /// Makes the disk larger, and tells the guest: `new_size` is given the size that it has, in bytes, and gives the one that it is to
    /// have. Returns that.
    ///
    /// # Errors
    /// As [`motu_disk::Disk::grow`]; the machine has ended. The guest has heard of nothing then.
    pub fn grow(&self, new_size: impl FnOnce(u64) -> u64) -> Result<u64, GrowError> {
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "its machine has ended");
        let target = self.0.upgrade().ok_or_else(ended)?;
        let _one = target.shown.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = target.disk.size();
        target.disk.grow(new_size(before))?;
        let size = target.disk.size();
        if size != before {
            target.shown.set_size(size);
        }
        Ok(size)
    }
}
