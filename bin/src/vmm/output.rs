//! The serial console's output on its way to the person.

use super::background::Background;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Last bytes kept for a report when the guest crashes.
const TAIL: usize = 16 << 10;

/// Takes a serial port's output without ever holding up the end of the machine.
#[derive(Clone)]
pub struct Output {
    background: Background,
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl Output {
    /// Output that is thrown away, but for its tail.
    pub fn discard() -> Self {
        Self { background: Background::discard(), tail: Arc::default() }
    }

    /// Output to `destination`.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn to(destination: impl Write + Send + 'static) -> io::Result<Self> {
        let background = Background::to("console", "the console's output".into(), destination)?;
        Ok(Self { background, tail: Arc::default() })
    }

    /// Waits until all is written, at most for `limit`; then nothing more is queued.
    pub fn finish(&self, limit: Option<Duration>) {
        self.background.finish(limit);
    }

    /// Lets a guest that waits for room go on: the machine is ending.
    pub fn release(&self) {
        self.background.release();
    }

    /// Calls `act` as soon as nobody reads the output any more (a broken pipe).
    pub fn on_abandoned(&self, act: impl FnOnce() + Send + 'static) {
        self.background.on_abandoned(act);
    }

    /// The last of what the guest printed, as text.
    pub fn tail(&self) -> String {
        let bytes: Vec<u8> = self.lock_tail().iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn lock_tail(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut tail = self.lock_tail();
        tail.extend(data);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
        drop(tail);
        self.background.put(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_of_it_and_bounded() {
        let mut output = Output::discard();
        output.write_all(&vec![b'a'; 2 * TAIL]).unwrap();
        output.write_all(b"panic\xff").unwrap();
        let tail = output.tail();
        assert!(tail.ends_with("aapanic\u{fffd}"));
        assert_eq!(tail.chars().count(), TAIL);
    }
}
