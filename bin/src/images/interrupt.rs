//! Long work that a signal stops.

use super::progress::Bars;
use crate::error::Shown;
use crate::status::Status;
use crate::terminal::signals::{Asked, Watch as Signals};
use anyhow::{Context, Result};
use motu_store::Watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Signals while something is made.
#[derive(Debug, Default)]
pub struct Interrupt {
    pub cancel: Arc<AtomicBool>,
    signo: Arc<AtomicI32>,
}

impl Interrupt {
    /// From now on a signal stops the work.
    ///
    /// # Errors
    /// The host gives no thread or no signal handler.
    pub fn watch(&self) -> Result<Signals> {
        let (cancel, by) = (Arc::clone(&self.cancel), Arc::clone(&self.signo));
        let act = move |asked| {
            if let Asked::End(signo) = asked {
                by.store(signo, Ordering::SeqCst);
                cancel.store(true, Ordering::SeqCst);
            }
        };
        Signals::start(act).context("handling signals")
    }

    /// What it comes to that the work ended with this error: the status of a signal, if one stopped it.
    ///
    /// # Errors
    /// The same error, if none did.
    pub fn stopped(&self, error: anyhow::Error) -> Result<Status> {
        match self.signo.load(Ordering::SeqCst) {
            0 => Err(error),
            signo => {
                tell!("motu: {}", Shown(&error));
                Ok(Status::signal(signo))
            }
        }
    }

    /// Does work that is shown to the person, and that a signal stops. `Err` inside is the status of that signal.
    ///
    /// # Errors
    /// The work's.
    pub fn run<T>(work: impl FnOnce(Watch<'_>) -> Result<T>) -> Result<Result<T, Status>> {
        let interrupt = Self::default();
        let _signals = interrupt.watch()?;
        let bars = Bars::default();
        match work(Watch { progress: &bars, cancel: &interrupt.cancel }) {
            Ok(done) => Ok(Ok(done)),
            Err(error) => interrupt.stopped(error).map(Err),
        }
    }
}
