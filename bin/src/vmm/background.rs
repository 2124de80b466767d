//! Writing to the host without ever holding up the end of the machine.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes under way at most: a guest that makes more than are taken waits, as on a real serial line.
const QUEUE: usize = 64 << 10;

/// Takes bytes in order; a thread writes them to the real destination, which may block for ever.
///
/// ```text
///   connected --release--> ending (the queue has no bound) --finish--> disconnected (bytes are dropped)
/// ```
#[derive(Clone, Debug)]
pub struct Background {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<u8>,
    /// A thread takes from `queue`; without one, nothing is queued.
    connected: bool,
    /// Nobody waits for room: the machine is ending.
    ending: bool,
    /// The thread waits for something to write.
    idle: bool,
    /// Bytes that the thread took and has not written yet.
    writing: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops queueing and wakes whoever waits for room; how many bytes are lost by it.
    fn disconnect(&self) -> usize {
        let mut state = self.lock();
        state.connected = false;
        let lost = state.writing + std::mem::take(&mut state.queue).len();
        self.changed.notify_all();
        lost
    }

    /// What is queued, as soon as there is anything; `None` once disconnected.
    fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.writing = 0;
        state.idle = true;
        self.changed.notify_all();
        while state.connected && state.queue.is_empty() {
            state = self.wait(state);
        }
        state.idle = false;
        let chunk = std::mem::take(&mut state.queue);
        state.writing = chunk.len();
        self.changed.notify_all();
        state.connected.then_some(chunk)
    }
}

impl Background {
    /// Throws away what it takes.
    pub fn discard() -> Self {
        Self { shared: Arc::default() }
    }

    /// Writes to `destination` on a thread of this name. `lost` is called once, when the destination takes
    /// nothing more.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn to(
        name: &str,
        mut destination: impl Write + Send + 'static,
        lost: impl FnOnce(&io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let background = Self::discard();
        background.shared.lock().connected = true;
        let shared = Arc::clone(&background.shared);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            while let Some(chunk) = shared.take() {
                if let Err(error) = destination.write_all(&chunk).and_then(|()| destination.flush()) {
                    shared.disconnect();
                    return lost(&error);
                }
            }
        })?;
        Ok(background)
    }

    /// Queues `data`; waits while there is no room.
    pub fn put(&self, data: &[u8]) {
        let mut state = self.shared.lock();
        while state.connected && !state.ending && state.queue.len() >= QUEUE {
            state = self.shared.wait(state);
        }
        if state.connected {
            state.queue.extend_from_slice(data);
            // A thread that is at work looks by itself.
            if state.idle {
                state.idle = false;
                self.shared.changed.notify_all();
            }
        }
    }

    /// Lets a guest that waits for room go on: the machine is ending.
    pub fn release(&self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
    }

    /// Waits until all is written, at most for `limit`; then nothing more is queued. How many bytes
    /// were given up.
    pub fn finish(&self, limit: Option<Duration>) -> usize {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.shared.lock();
        while state.connected && (state.writing > 0 || !state.queue.is_empty()) {
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
        self.shared.disconnect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn to(destination: impl Write + Send + 'static) -> Background {
        Background::to("test", destination, |_| {}).unwrap()
    }

    #[test]
    fn all_is_written_before_finish_returns() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let background = to(far);
        for _ in 0..100 {
            background.put(b"0123456789");
        }
        assert_eq!(background.finish(None), 0);
        let mut got = [0; 1000];
        near.read_exact(&mut got).unwrap();
        assert!(got.starts_with(b"01234567890123"));
    }

    #[test]
    fn a_blocked_destination_holds_the_guest_until_it_is_given_up() {
        let (_near, far) = UnixStream::pair().unwrap();
        let background = to(far);
        let guest = background.clone();
        let printed = std::thread::spawn(move || {
            for _ in 0..(8 << 20) / 4096 {
                guest.put(&[b'x'; 4096]);
            }
        });
        assert!(background.finish(Some(Duration::from_millis(50))) > 0);
        printed.join().unwrap();
    }

    #[test]
    fn what_is_under_way_when_the_machine_ends_is_not_lost() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let background = to(far);
        background.release();
        // More than the queue and the socket hold: it would wait for a reader.
        for _ in 0..(8 << 20) / 4096 {
            background.put(&[b'x'; 4096]);
        }
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 8 << 20];
            near.read_exact(&mut got).unwrap();
        });
        assert_eq!(background.finish(None), 0);
        reader.join().unwrap();
    }

    #[test]
    fn a_destination_that_fails_is_told_once() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        let (tell, told) = std::sync::mpsc::channel();
        let background = Background::to("test", far, move |error| tell.send(error.kind()).unwrap()).unwrap();
        background.put(b"x");
        assert_eq!(told.recv().unwrap(), io::ErrorKind::BrokenPipe);
        background.put(b"y");
        assert_eq!(background.finish(None), 0, "nothing is queued any more");
        assert!(told.recv().is_err());
    }
}
