//! One connection, from gdb's attaching to its leaving.
//!
//! ```text
//!   connected --machine paused--> idle --continue, step--> running --it paused, ended--> idle, left
//!                                  ^                          | Ctrl-C: the machine is asked to pause
//!                                  +--------------------------+
//! ```
//! Whatever ends it (gdb leaves, is gone, or says what is no packet), the machine goes on as if there had been none.

use crate::listen::{Listener, Stream};
use crate::server::turn_away;
use crate::target::Debuggee;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use motu_machine::{DebugEvent, DebugPort};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

/// How long gdb may leave an answer unread.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a packet at most: what gdb may read or write of memory at once, twice, and a little.
const PACKET: usize = 16 << 10;

/// Wakes a thread that waits for a file descriptor; it stays awake then.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub fn wake(&self) {
        // It can only fail if the counter is full: then it is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub fn is_awake(&self) -> bool {
        let mut waiting = [PollFd::new(self, PollFlags::IN)];
        poll(&mut waiting, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Lets it sleep again.
    fn settle(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the machine tells, and the waker of who waits for it.
struct Teller {
    events: Sender<DebugEvent>,
    waker: Arc<Waker>,
}

impl Teller {
    fn tell(&self, event: DebugEvent) {
        let _ = self.events.send(event);
        self.waker.wake();
    }
}

impl Drop for Teller {
    /// The machine is no more.
    fn drop(&mut self) {
        self.tell(DebugEvent::Ended);
    }
}

/// gdb's end, written a packet at a time.
struct Output {
    stream: Stream,
    packet: Vec<u8>,
}

impl Connection for Output {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.packet.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.packet.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.stream.write_all(&self.packet);
        self.packet.clear();
        written
    }
}

type Stub<'a> = GdbStubStateMachine<'a, Debuggee, Output>;

/// Holds a session to its end.
pub fn hold(stream: Stream, listener: &Listener, port: &DebugPort, end: &Waker, kill: &dyn Fn()) {
    tracing::info!("gdb has connected");
    match Session::start(stream, listener, port, end).and_then(|session| session.run()) {
        Ok(DisconnectReason::Kill) => kill(),
        Ok(_) => tracing::info!("gdb has left"),
        Err(error) => tracing::warn!("gdb's connection has ended: {error}"),
    }
    port.detach();
}

struct Session<'a> {
    debuggee: Debuggee,
    stub: Stub<'a>,
    events: Receiver<DebugEvent>,
    waker: Arc<Waker>,
    listener: &'a Listener,
    end: &'a Waker,
}

fn broken(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}

/// What has come while the session waited.
enum Input {
    Event(DebugEvent),
    /// As many of the buffer's bytes.
    Bytes(usize),
    Closed,
}

impl<'a> Session<'a> {
    /// Attaches to the machine.
    fn start(stream: Stream, listener: &'a Listener, port: &DebugPort, end: &'a Waker) -> io::Result<Self> {
        stream.prepare(WRITE_LIMIT)?;
        let waker = Waker::new()?;
        let (sender, events) = mpsc::channel();
        let teller = Teller { events: sender, waker: Arc::clone(&waker) };
        port.attach(Box::new(move |event| teller.tell(event)));
        let mut debuggee = Debuggee::new(port.clone());
        let stub = GdbStub::builder(Output { stream, packet: Vec::new() })
            .packet_buffer_size(PACKET)
            .build()
            .map_err(broken)?
            .run_state_machine(&mut debuggee)
            .map_err(broken)?;
        Ok(Self { debuggee, stub, events, waker, listener, end })
    }

    fn run(mut self) -> io::Result<DisconnectReason> {
        // Nothing is answered before the machine stands still.
        match self.events.recv() {
            Ok(DebugEvent::Paused(stop)) => self.debuggee.current = stop.map_or(0, |stop| stop.cpu),
            Ok(DebugEvent::Ended) | Err(_) => return Ok(DisconnectReason::Disconnect),
        }
        self.waker.settle();
        let mut buffer = [0; 4096];
        loop {
            if let GdbStubStateMachine::Disconnected(stub) = &mut self.stub {
                let reason = stub.get_reason();
                if reason == DisconnectReason::Kill {
                    // gdb waits for an answer to vKill, and is gone where it does not.
                    let output = stub.borrow_conn();
                    let _ = output.write_all(b"$OK#9a").and_then(|()| output.flush());
                }
                return Ok(reason);
            }
            self = match self.wait(&mut buffer)? {
                Input::Closed => return Ok(DisconnectReason::Disconnect),
                Input::Event(event) => match self.take_event(event)? {
                    Some(session) => session,
                    None => return Ok(DisconnectReason::Disconnect),
                },
                Input::Bytes(count) => self.take_bytes(buffer.get(..count).unwrap_or_default())?,
            };
        }
    }

    /// Waits until the machine or gdb has something to say.
    fn wait(&mut self, buffer: &mut [u8]) -> io::Result<Input> {
        loop {
            match self.events.try_recv() {
                Ok(event) => return Ok(Input::Event(event)),
                Err(TryRecvError::Disconnected) => return Ok(Input::Event(DebugEvent::Ended)),
                Err(TryRecvError::Empty) => {}
            }
            let output = match &mut self.stub {
                GdbStubStateMachine::Idle(stub) => stub.borrow_conn(),
                GdbStubStateMachine::Running(stub) => stub.borrow_conn(),
                GdbStubStateMachine::CtrlCInterrupt(stub) => stub.borrow_conn(),
                GdbStubStateMachine::Disconnected(stub) => stub.borrow_conn(),
            };
            let mut waiting = [
                PollFd::new(&output.stream, PollFlags::IN),
                PollFd::new(&*self.waker, PollFlags::IN),
                PollFd::new(self.listener, PollFlags::IN),
                PollFd::new(self.end, PollFlags::IN),
            ];
            match poll(&mut waiting, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [from_gdb, woken, others, ended] = waiting.map(|fd| !fd.revents().is_empty());
            // Whoever comes when gdb has gone is the next.
            if others && !from_gdb {
                turn_away(self.listener);
            }
            if woken {
                self.waker.settle();
                continue;
            }
            if ended {
                return Ok(Input::Event(DebugEvent::Ended));
            }
            if from_gdb {
                return match output.stream.read(buffer)? {
                    0 => Ok(Input::Closed),
                    count => Ok(Input::Bytes(count)),
                };
            }
        }
    }

    /// `None` where there is nothing more to say.
    fn take_event(mut self, event: DebugEvent) -> io::Result<Option<Self>> {
        self.stub = match (self.stub, event) {
            (GdbStubStateMachine::Running(stub), event) => {
                let reason = match event {
                    DebugEvent::Paused(stop) => self.debuggee.reason(stop),
                    DebugEvent::Ended => MultiThreadStopReason::Exited(0),
                };
                stub.report_stop(&mut self.debuggee, reason).map_err(broken)?
            }
            (_, DebugEvent::Ended) => return Ok(None),
            // gdb knows that the machine is paused.
            (stub, DebugEvent::Paused(_)) => stub,
        };
        Ok(Some(self))
    }

    fn take_bytes(mut self, bytes: &[u8]) -> io::Result<Self> {
        for &byte in bytes {
            let next = match self.stub {
                GdbStubStateMachine::Idle(stub) => stub.incoming_data(&mut self.debuggee, byte).map_err(broken)?,
                GdbStubStateMachine::Running(stub) => stub.incoming_data(&mut self.debuggee, byte).map_err(broken)?,
                other => other,
            };
            self.stub = match next {
                GdbStubStateMachine::CtrlCInterrupt(stub) => {
                    self.debuggee.port.pause();
                    let later = None::<MultiThreadStopReason<u64>>;
                    stub.interrupt_handled(&mut self.debuggee, later).map_err(broken)?
                }
                next => next,
            };
        }
        Ok(self)
    }
}
