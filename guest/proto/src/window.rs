//! How many bytes of a stream may be under way.

use crate::WINDOW;

/// The other side broke the rules of flow control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// More was given back than had been sent.
    #[error("credit for {bytes} bytes with {outstanding} under way")]
    TooMuchCredit {
        /// The credit.
        bytes: u32,
        /// What had been sent and not given back.
        outstanding: u32,
    },
    /// More was sent than the window allows.
    #[error("{bytes} bytes sent into a window of {left}")]
    Overrun {
        /// The bytes that arrived.
        bytes: usize,
        /// The bytes that were allowed.
        left: u32,
    },
}

/// The sending side of a stream.
#[derive(Debug, Clone)]
pub struct SendWindow {
    available: u32,
}

impl Default for SendWindow {
    fn default() -> Self {
        SendWindow { available: WINDOW }
    }
}

impl SendWindow {
    /// Bytes that may be sent now.
    pub fn available(&self) -> usize {
        self.available as usize
    }

    /// Counts bytes that are sent; more than [`SendWindow::available`] counts as all of it.
    pub fn sent(&mut self, bytes: usize) {
        self.available = self.available.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Takes a `Credit`.
    ///
    /// # Errors
    /// [`WindowError::TooMuchCredit`] if it is for more than was sent; nothing changes then.
    pub fn credit(&mut self, bytes: u32) -> Result<(), WindowError> {
        let outstanding = WINDOW.saturating_sub(self.available);
        if bytes > outstanding {
            return Err(WindowError::TooMuchCredit { bytes, outstanding });
        }
        self.available = self.available.saturating_add(bytes);
        Ok(())
    }
}

/// The receiving side of a stream.
#[derive(Debug, Clone)]
pub struct ReceiveWindow {
    left: u32,
    passed_on: u32,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        ReceiveWindow { left: WINDOW, passed_on: 0 }
    }
}

impl ReceiveWindow {
    /// Counts bytes that arrived and are now held.
    ///
    /// # Errors
    /// [`WindowError::Overrun`] if the sender had no room for them.
    pub fn received(&mut self, bytes: usize) -> Result<(), WindowError> {
        match u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(WindowError::Overrun { bytes, left: self.left }),
        }
    }

    /// Counts bytes that are held no longer. Returns the `Credit` to send, once it is worth a message:
    /// a quarter of the window, so that a sender never waits for less than that.
    pub fn passed_on(&mut self, bytes: usize) -> Option<u32> {
        let held = WINDOW.saturating_sub(self.left).saturating_sub(self.passed_on);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(held);
        self.passed_on = self.passed_on.saturating_add(bytes);
        if self.passed_on < WINDOW / 4 {
            return None;
        }
        let credit = std::mem::take(&mut self.passed_on);
        self.left = self.left.saturating_add(credit);
        Some(credit)
    }
}
