//! The serial console's output on its way to the person.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes under way at most; a guest that prints faster than they are taken waits, as on a real
/// serial line.
const QUEUE: usize = 64 << 10;
/// Last bytes kept for a report when the guest crashes.
const TAIL: usize = 16 << 10;

/// Takes a serial port's output without ever holding up the end of the machine: a thread writes to
/// the real destination, which may block for ever.
#[derive(Clone)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    tail: VecDeque<u8>,
    /// A thread takes from `queue`; without one, nothing is queued.
    connected: bool,
    /// The thread is writing what it took.
    writing: bool,
    /// Nobody reads the output any more (a broken pipe).
    abandoned: bool,
    on_abandoned: Option<Box<dyn FnOnce() + Send>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops queueing and wakes whoever waits for room.
    fn disconnect(&self) {
        let mut state = self.lock();
        state.connected = false;
        state.queue = Vec::new();
        self.changed.notify_all();
    }

    /// The destination takes nothing more. For a full disk the machine goes on without it.
    fn lose(&self, error: &io::Error) {
        self.disconnect();
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::warn!("the console's output is lost from here on: {error}");
            return;
        }
        let mut state = self.lock();
        state.abandoned = true;
        let act = state.on_abandoned.take();
        drop(state);
        if let Some(act) = act {
            act();
        }
    }
}

impl Output {
    /// Output that is thrown away, but for its tail.
    pub fn discard() -> Self {
        Self { shared: Arc::default() }
    }

    /// Output to `destination`.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn to(mut destination: impl Write + Send + 'static) -> io::Result<Self> {
        let output = Self::discard();
        output.shared.lock().connected = true;
        let shared = Arc::clone(&output.shared);
        std::thread::Builder::new().name("console".into()).spawn(move || {
            while let Some(chunk) = take(&shared) {
                if let Err(error) = destination.write_all(&chunk).and_then(|()| destination.flush()) {
                    shared.lose(&error);
                }
            }
        })?;
        Ok(output)
    }

    /// Waits until all is written, at most for `limit`; then nothing more is queued.
    pub fn finish(&self, limit: Option<Duration>) {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.shared.lock();
        while state.connected && (state.writing || !state.queue.is_empty()) {
            let Some(deadline) = deadline else {
                state = self.shared.wait(state);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.shared.disconnect();
    }

    /// Lets a guest that waits for room go on, its output lost: the machine is ending.
    pub fn release(&self) {
        self.shared.disconnect();
    }

    /// Calls `act` as soon as nobody reads the output any more (a broken pipe).
    pub fn on_abandoned(&self, act: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        if state.abandoned {
            drop(state);
            act();
        } else {
            state.on_abandoned = Some(Box::new(act));
        }
    }

    /// The last of what the guest printed, as text.
    pub fn tail(&self) -> String {
        let state = self.shared.lock();
        let bytes: Vec<u8> = state.tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        state.tail.extend(data);
        let excess = state.tail.len().saturating_sub(TAIL);
        state.tail.drain(..excess);
        while state.connected && state.queue.len() >= QUEUE {
            state = self.shared.wait(state);
        }
        if state.connected {
            state.queue.extend_from_slice(data);
            self.shared.changed.notify_all();
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is queued, as soon as there is anything; `None` once disconnected.
fn take(shared: &Shared) -> Option<Vec<u8>> {
    let mut state = shared.lock();
    state.writing = false;
    shared.changed.notify_all();
    while state.connected && state.queue.is_empty() {
        state = shared.wait(state);
    }
    state.writing = true;
    let chunk = std::mem::take(&mut state.queue);
    shared.changed.notify_all();
    state.connected.then_some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn all_is_written_before_finish_returns() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut output = Output::to(far).unwrap();
        for _ in 0..100 {
            output.write_all(b"0123456789").unwrap();
        }
        output.finish(None);
        let mut got = [0; 1000];
        near.read_exact(&mut got).unwrap();
        assert!(got.starts_with(b"01234567890123"));
    }

    #[test]
    fn a_blocked_destination_holds_the_guest_until_it_is_released() {
        let (_near, far) = UnixStream::pair().unwrap();
        let output = Output::to(far).unwrap();
        let mut guest = output.clone();
        let printed = std::thread::spawn(move || {
            for _ in 0..(8 << 20) / 4096 {
                guest.write_all(&[b'x'; 4096]).unwrap();
            }
        });
        output.finish(Some(Duration::from_millis(50)));
        printed.join().unwrap();
        assert_eq!(output.tail().len(), TAIL);
    }

    #[test]
    fn a_reader_that_went_away_is_noticed() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        let mut output = Output::to(far).unwrap();
        let (tell, noticed) = std::sync::mpsc::channel();
        output.on_abandoned(move || tell.send(()).unwrap());
        output.write_all(b"x").unwrap();
        noticed.recv().unwrap();
        output.finish(None);
    }

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
