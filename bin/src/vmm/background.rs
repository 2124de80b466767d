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
#[derive(Clone)]
pub struct Background {
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
    /// A thread takes from `queue`; without one, nothing is queued.
    connected: bool,
    /// Nobody waits for room: the machine is ending.
    ending: bool,
    /// The thread waits for something to write.
    idle: bool,
    /// Bytes that the thread took and has not written yet.
    writing: usize,
    /// Nobody reads any more (a broken pipe).
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

    /// Stops queueing and wakes whoever waits for room; how many bytes are lost by it.
    fn disconnect(&self) -> usize {
        let mut state = self.lock();
        state.connected = false;
        let lost = std::mem::take(&mut state.writing) + std::mem::take(&mut state.queue).len();
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

    /// The destination takes nothing more. For a full disk the machine goes on without it.
    fn lose(&self, what: &str, error: &io::Error) {
        self.disconnect();
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::warn!("{what} is lost from here on: {error}");
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

impl Background {
    /// Throws away what it takes.
    pub fn discard() -> Self {
        Self { shared: Arc::default() }
    }

    /// Writes to `destination` on a thread of the name `thread`. The person is told once if it takes nothing
    /// more: `what` names it.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn to(thread: &str, what: String, mut destination: impl Write + Send + 'static) -> io::Result<Self> {
        let background = Self::discard();
        background.shared.lock().connected = true;
        let shared = Arc::clone(&background.shared);
        std::thread::Builder::new().name(thread.into()).spawn(move || {
            while let Some(chunk) = shared.take() {
                if let Err(error) = destination.write_all(&chunk).and_then(|()| destination.flush()) {
                    return shared.lose(&what, &error);
                }
            }
        })?;
        Ok(background)
    }

    /// Calls `act` as soon as nobody reads any more (a broken pipe).
    pub fn on_abandoned(&self, act: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        if state.abandoned {
            drop(state);
            act();
        } else {
            state.on_abandoned = Some(Box::new(act));
        }
    }

    /// Whether both are the same destination.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
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
        Background::to("test", "the test".into(), destination).unwrap()
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
        // More than the socket holds.
        background.put(&vec![b'x'; 8 << 20]);
        let guest = background.clone();
        let printed = std::thread::spawn(move || {
            for _ in 0..2 * QUEUE / 4096 {
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
    fn a_reader_that_went_away_is_noticed() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        let background = to(far);
        let (tell, noticed) = std::sync::mpsc::channel();
        background.on_abandoned(move || tell.send(()).unwrap());
        background.put(b"x");
        noticed.recv().unwrap();
        assert_eq!(background.finish(None), 0, "nothing is queued any more");
    }

    #[test]
    fn a_full_disk_holds_nobody_up() {
        let background = to(std::fs::File::create("/dev/full").unwrap());
        background.on_abandoned(|| panic!("a full disk is no reader that went away"));
        for _ in 0..(8 << 20) / 4096 {
            background.put(&[b'x'; 4096]);
        }
        background.finish(None);
    }
}
