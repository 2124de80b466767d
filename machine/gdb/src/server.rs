//! The thread that gdb talks to: one connection at a time; others are turned away.

use crate::listen::{ListenError, Listener, Stream};
use crate::session::{self, Waker};
use motu_machine::DebugPort;
use motu_spec::GdbAddress;
use rustix::event::{PollFd, PollFlags, poll};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A place where gdb can connect to, before there is a machine.
#[derive(Debug)]
pub struct Listening(Listener);

impl Listening {
    /// # Errors
    /// The address is in use, or this host has none such.
    pub fn at(address: &GdbAddress) -> Result<Self, ListenError> {
        Listener::bind(address).map(Self)
    }

    /// What gdb's `target remote` takes.
    pub fn shown(&self) -> String {
        self.0.shown()
    }

    /// Whether others than this host's users can connect, who then own the guest.
    pub fn is_exposed(&self) -> bool {
        self.0.is_exposed()
    }

    /// Serves gdb until the server is dropped. The machine is `port`'s; `kill` ends it.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn serve(self, port: DebugPort, kill: impl Fn() + Send + 'static) -> io::Result<GdbServer> {
        let end = Waker::new()?;
        let ending = Arc::clone(&end);
        let thread = std::thread::Builder::new().name("gdb".into()).spawn(move || {
            if let Err(error) = accept(&self.0, &port, &ending, &kill) {
                tracing::error!("gdb cannot connect any more: {error}");
            }
        })?;
        Ok(GdbServer { end, thread: Some(thread) })
    }
}

/// Serves gdb while it lives; then the session, if there is one, is told that the machine has ended.
pub struct GdbServer {
    end: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for GdbServer {
    fn drop(&mut self) {
        self.end.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("gdb's thread panicked");
        }
    }
}

impl fmt::Debug for GdbServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GdbServer").finish_non_exhaustive()
    }
}

fn accept(listener: &Listener, port: &DebugPort, end: &Waker, kill: &dyn Fn()) -> io::Result<()> {
    while !end.is_awake() {
        let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(stream) = listener.accept()?
            && !end.is_awake()
        {
            session::hold(stream, listener, port, end, kill);
        }
    }
    Ok(())
}

/// Turns away whoever else has connected.
pub fn turn_away(listener: &Listener) {
    while let Ok(Some(other)) = listener.accept() {
        tracing::warn!("a second gdb was turned away; one is attached already");
        drop::<Stream>(other);
    }
}
