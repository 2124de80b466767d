//! A port as a blocking stream, for host threads.

use super::port::{PortBackend, PortEvent, PortHandle};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one wait for input room lasts before the port is looked at again.
const ROOM_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    data: VecDeque<u8>,
    capacity: usize,
    /// The backend refused bytes since the reader last resumed the port.
    refused: bool,
    /// The guest has the port open; `None` before it first opened it.
    open: Option<bool>,
    /// The reader gave up.
    shut: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded buffer of at most `capacity` bytes (at least 1) between a port and a thread that reads it.
pub fn pipe(capacity: usize) -> (PipeBackend, PipeReader) {
    let state = State { capacity: capacity.max(1), ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (PipeBackend(Arc::clone(&shared)), PipeReader(shared))
}

/// The port's end of a [`pipe`].
#[derive(Debug)]
pub struct PipeBackend(Arc<Shared>);

impl PortBackend for PipeBackend {
    fn output(&mut self, data: &[u8]) -> usize {
        let mut state = self.0.lock();
        if state.shut {
            return data.len();
        }
        let taken = data.len().min(state.capacity.saturating_sub(state.data.len()));
        state.data.extend(data.get(..taken).unwrap_or_default());
        state.refused |= taken < data.len();
        self.0.changed.notify_all();
        taken
    }

    fn event(&mut self, event: PortEvent) {
        match event {
            PortEvent::Opened => self.0.lock().open = Some(true),
            PortEvent::Closed => self.0.lock().open = Some(false),
            PortEvent::InputRoom => {}
        }
        self.0.changed.notify_all();
    }
}

/// The reader's end of a [`pipe`], before it has its port.
#[derive(Debug)]
pub struct PipeReader(Arc<Shared>);

impl PipeReader {
    /// Joins it with the port that the other end was given to.
    pub fn attach(self, port: PortHandle) -> PortStream {
        PortStream { shared: self.0, port }
    }
}

/// A port as a byte stream. Clones read and write the same port.
///
/// Reading waits for the guest to open the port and to write; it ends (0 bytes) while the guest has
/// the port closed, and goes on when it opens it again. Writing waits for room.
#[derive(Clone, Debug)]
pub struct PortStream {
    shared: Arc<Shared>,
    port: PortHandle,
}

impl PortStream {
    pub fn port(&self) -> &PortHandle {
        &self.port
    }

    /// Closes the host's end: a read that waits ends, and what the guest still writes is dropped.
    pub fn shutdown(&self) {
        self.shared.lock().shut = true;
        self.shared.changed.notify_all();
        self.port.close();
    }
}

impl Read for PortStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        while state.data.is_empty() && !state.shut && state.open != Some(false) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let read = state.data.read(buf)?;
        let resume = read > 0 && std::mem::take(&mut state.refused);
        // The console locks itself, then this pipe: never the other way round.
        drop(state);
        if resume {
            self.port.resume();
        }
        Ok(read)
    }
}

impl Write for PortStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            let sent = self.port.send(buf);
            if sent > 0 || buf.is_empty() {
                return Ok(sent);
            }
            if !self.port.wait_room(ROOM_WAIT) && !self.port.host_open() {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the host's end of the port is closed"));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
