//! One command in the guest, from the agent's greeting to the command's exit status.
//!
//! ```text
//!   connecting --Hello: Exec is sent--> running --Exited or Error--> ended
//! ```
//! Input that comes while connecting is held back until the command runs; its window bounds it.

use crate::status::Status;
use crate::vmm::{Ending, Why};
use anyhow::{Result, anyhow, bail};
use motu_proto::{
    Decoder, Exec, GuestMessage, HostMessage, MAX_DATA, Message, OutputStream, PROTOCOL_VERSION, ReceiveWindow,
    SendWindow, TermSize,
};
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The only command that a session runs.
const ID: u32 = 1;
/// How long the guest may be without an agent before that is an error: a guest that powers off
/// ends its agent first.
const GONE_GRACE: Duration = Duration::from_secs(3);
/// SIGPIPE (signal(7)).
const SIGPIPE: u8 = 13;

/// Where a session's bytes come from and go to.
pub struct Wiring {
    pub from_guest: Box<dyn Read + Send>,
    pub to_guest: Box<dyn Write + Send>,
    pub stdout: Box<dyn Write + Send>,
    pub stderr: Box<dyn Write + Send>,
}

/// The host's handle to the command; any thread.
pub struct Session {
    state: Mutex<State>,
    changed: Condvar,
    to_guest: Mutex<Box<dyn Write + Send>>,
    ending: Arc<Ending>,
}

struct State {
    phase: Phase,
    stdin: SendWindow,
    /// Sent when the command runs.
    held: Vec<HostMessage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Running,
    Ended,
}

impl Session {
    /// Waits on a thread for the agent, runs `exec` and ends the machine by its status. `ready` is
    /// called when the agent has answered.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        exec: Exec,
        wiring: Wiring,
        ending: Arc<Ending>,
        ready: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let Wiring { from_guest, to_guest, stdout, stderr } = wiring;
        let state = State { phase: Phase::Connecting, stdin: SendWindow::default(), held: Vec::new() };
        let session =
            Arc::new(Self { state: state.into(), changed: Condvar::new(), to_guest: to_guest.into(), ending });
        let receiver = Receiver {
            session: Arc::clone(&session),
            exec: Some(Exec { id: ID, ..exec }),
            ready: Some(Box::new(ready)),
            stdout: Destination::new(stdout, OutputStream::Stdout),
            stderr: Destination::new(stderr, OutputStream::Stderr),
        };
        std::thread::Builder::new().name("agent".into()).spawn(move || receiver.serve(from_guest))?;
        Ok(session)
    }

    /// Sends bytes to the command's standard input; waits while its window is full. False when the
    /// command takes no more.
    pub fn type_in(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let mut state = self.lock();
            while state.stdin.available() == 0 && state.phase != Phase::Ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let (now, later) = data.split_at(data.len().min(state.stdin.available()).min(MAX_DATA));
            data = later;
            state.stdin.sent(now.len());
            drop(state);
            if !self.send(HostMessage::Stdin { id: ID, data: now.to_vec() }) {
                return false;
            }
        }
        true
    }

    /// The command's standard input has ended.
    pub fn close_stdin(&self) {
        self.send(HostMessage::StdinClose { id: ID });
    }

    /// Sends a signal to the command; false when it does not run.
    pub fn signal(&self, signo: u8) -> bool {
        let running = self.lock().phase == Phase::Running;
        running && self.send(HostMessage::Signal { id: ID, signo })
    }

    /// The terminal has a new size.
    pub fn resize(&self, size: TermSize) {
        self.send(HostMessage::Resize { id: ID, size });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends, or holds back while connecting; false when nobody is there to take it.
    fn send(&self, message: HostMessage) -> bool {
        let mut state = self.lock();
        match state.phase {
            Phase::Connecting => state.held.push(message),
            Phase::Running => {
                drop(state);
                return self.write(&[message]).is_ok();
            }
            Phase::Ended => return false,
        }
        true
    }

    fn write(&self, messages: &[HostMessage]) -> Result<()> {
        let mut frames = Vec::new();
        for message in messages {
            message.encode(&mut frames)?;
        }
        let mut to_guest = self.to_guest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(to_guest.write_all(&frames).and_then(|()| to_guest.flush())?)
    }

    /// Starts the command, and then sends what was held back, in one piece: what is sent later
    /// stays behind it.
    fn run(&self, exec: Exec) -> Result<()> {
        let mut state = self.lock();
        let mut messages = vec![HostMessage::Exec(exec)];
        messages.append(&mut state.held);
        state.phase = Phase::Running;
        self.write(&messages)
    }

    fn end(&self, why: Why) {
        self.lock().phase = Phase::Ended;
        self.changed.notify_all();
        self.ending.end(why);
    }
}

/// Takes what the agent says.
struct Receiver {
    session: Arc<Session>,
    exec: Option<Exec>,
    ready: Option<Box<dyn FnOnce() + Send>>,
    stdout: Destination,
    stderr: Destination,
}

impl Receiver {
    fn serve(mut self, mut from_guest: Box<dyn Read + Send>) {
        let mut decoder = Decoder::new();
        let mut buffer = vec![0; MAX_DATA];
        let why = loop {
            let read = match from_guest.read(&mut buffer) {
                Ok(0) => {
                    std::thread::sleep(GONE_GRACE);
                    break Why::Failed(anyhow!("the agent in the guest went away before the command ended"));
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Why::Failed(anyhow!(error).context("reading from the agent in the guest")),
            };
            decoder.feed(buffer.get(..read).unwrap_or_default());
            match self.take_all(&mut decoder) {
                Ok(None) => {}
                Ok(Some(status)) => break Why::Command(status),
                Err(error) => break Why::Failed(error.context("talking to the agent in the guest")),
            }
        };
        self.session.end(why);
    }

    /// Acts on every whole message; gives the status once the command has ended.
    fn take_all(&mut self, decoder: &mut Decoder<GuestMessage>) -> Result<Option<Status>> {
        while let Some(message) = decoder.next_message()? {
            if let Some(status) = self.take(message)? {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    fn take(&mut self, message: GuestMessage) -> Result<Option<Status>> {
        match message {
            GuestMessage::Hello { version, agent } => self.greet(version, &agent)?,
            GuestMessage::Stdout { id: ID, data } => self.stdout.pass_on(&data, &self.session)?,
            GuestMessage::Stderr { id: ID, data } => self.stderr.pass_on(&data, &self.session)?,
            GuestMessage::Credit { id: ID, bytes } => {
                self.session.lock().stdin.credit(bytes)?;
                self.session.changed.notify_all();
            }
            GuestMessage::Exited { id: ID, status } => return Ok(Some(Status::Code(status.shell_status()))),
            GuestMessage::Error { id: ID, status, message } => {
                eprintln!("motu: {}", printable(&message));
                return Ok(Some(Status::Code(status)));
            }
            GuestMessage::Stdout { id, .. }
            | GuestMessage::Stderr { id, .. }
            | GuestMessage::Credit { id, .. }
            | GuestMessage::Exited { id, .. }
            | GuestMessage::Error { id, .. } => bail!("it speaks of a command {id}, which was never started"),
        }
        Ok(None)
    }

    fn greet(&mut self, version: u16, agent: &str) -> Result<()> {
        tracing::info!("the agent in the guest is {}", printable(agent));
        if version != PROTOCOL_VERSION {
            bail!("it speaks version {version} of the protocol, and this motu version {PROTOCOL_VERSION}");
        }
        let Some(exec) = self.exec.take() else { bail!("it started anew while the command ran") };
        if let Some(ready) = self.ready.take() {
            ready();
        }
        self.session.run(exec)
    }
}

/// One of motu's own output streams.
struct Destination {
    writer: Box<dyn Write + Send>,
    stream: OutputStream,
    window: ReceiveWindow,
    closed: bool,
}

impl Destination {
    fn new(writer: Box<dyn Write + Send>, stream: OutputStream) -> Self {
        Self { writer, stream, window: ReceiveWindow::default(), closed: false }
    }

    /// Writes what arrived. When nobody reads any more, the command gets SIGPIPE, as it would in a
    /// pipeline on the host.
    fn pass_on(&mut self, data: &[u8], session: &Session) -> Result<()> {
        self.window.received(data.len())?;
        if !self.closed {
            match self.writer.write_all(data).and_then(|()| self.writer.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.closed = true;
                    session.signal(SIGPIPE);
                }
                Err(error) => return Err(anyhow!(error).context("writing the command's output")),
            }
        }
        match self.window.passed_on(data.len()) {
            Some(bytes) => session.write(&[HostMessage::Credit { id: ID, stream: self.stream, bytes }]),
            None => Ok(()),
        }
    }
}

/// A guest's text without what could steer a person's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(500).collect()
}
