//! How far long work has come, for whoever draws it.

use crate::StoreError;
use std::sync::atomic::{AtomicBool, Ordering};

/// Is told of long work, one step after the other.
pub trait Progress {
    /// A step begins. `total` is its size in bytes, if that is known.
    fn start(&self, what: &str, total: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The step that was started has ended, well or not.
    fn finish(&self);
}

/// Draws nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

/// Where a step reports to, and what may stop it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Is told of each step.
    pub progress: &'a dyn Progress,
    /// Set once the work is no longer wanted.
    pub cancel: &'a AtomicBool,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Watch").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// Tells nobody and never ends.
    pub fn silent() -> Watch<'static> {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        Watch { progress: &Silent, cancel: &GO_ON }
    }

    /// Fails once the work is no longer wanted.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`].
    pub fn check(&self) -> Result<(), StoreError> {
        if self.cancel.load(Ordering::Relaxed) { Err(StoreError::Cancelled) } else { Ok(()) }
    }

    /// Does one step, reported from its beginning to its end.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`], or the work's.
    pub fn step<T>(
        &self,
        what: &str,
        total: Option<u64>,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check()?;
        self.progress.start(what, total);
        let result = work();
        self.progress.finish();
        result
    }
}
