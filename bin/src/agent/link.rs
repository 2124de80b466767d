//! One connection to the agent, from its greeting to its end.
//!
//! ```text
//!   connecting --Hello; what was held back is sent--> ready --the agent goes, breaks the protocol or cannot go on--> lost
//! ```
//! Commands that are started while connecting run when the agent has greeted; their windows bound what is held back. The state's
//! lock is never held while something is written to the guest: the guest may wait for being read before it reads.

use super::{Controls, printable};
use motu_proto::{
    Decoder, Exec, ExitStatus, GuestMessage, HostMessage, MAX_DATA, MAX_EXECS, Message, OutputStream, PROTOCOL_VERSION,
    ProtoError, ReceiveWindow, STATUS_AGENT, SendWindow, TermSize, WindowError,
};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the guest may be without an agent before that is an error: a guest that powers off
/// ends its agent first.
const GONE_GRACE: Duration = Duration::from_secs(3);

/// Why there is no agent to speak with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the agent in the guest went away")]
    Gone,
    #[error("the agent in the guest has not answered yet")]
    Silent,
    #[error("reading from the agent in the guest: {0}")]
    Read(Arc<io::Error>),
    #[error("the agent in the guest sent {0}")]
    Proto(#[from] ProtoError),
    #[error("the agent in the guest broke the protocol: {0}")]
    Window(#[from] WindowError),
    #[error("the agent in the guest speaks version {0} of the protocol, and this motu version {PROTOCOL_VERSION}")]
    Version(u16),
    #[error("the agent in the guest started anew while commands ran")]
    Anew,
    #[error("the agent in the guest speaks of a command {0}, which does not run")]
    NoCommand(u32),
    #[error("the machine's process {0}")]
    Process(String),
    /// In the agent's words.
    #[error("{0}")]
    Unusable(String),
}

/// What becomes of a command, as it is told to who started it.
#[derive(Debug)]
pub enum Event {
    /// It runs.
    Started,
    /// It wrote this. To be given back by [`Command::passed_on`].
    Output(OutputStream, Vec<u8>),
    /// So many bytes more may be typed in.
    Room(u32),
    /// The last event.
    Ended(End),
}

/// How a command ended.
#[derive(Clone, Debug)]
pub enum End {
    Exited(ExitStatus),
    /// It was not started; the status is as a shell's.
    Refused {
        status: u8,
        message: String,
    },
    Lost(LinkError),
}

/// The host's end of the connection; any thread.
pub struct Link {
    state: Mutex<State>,
    changed: Condvar,
    to_guest: Mutex<Box<dyn Write + Send>>,
}

struct State {
    phase: Phase,
    slots: BTreeMap<u32, Slot>,
    next: u32,
    /// Sent when the agent has greeted.
    held: Vec<HostMessage>,
}

enum Phase {
    Connecting,
    Ready,
    Lost(LinkError),
}

/// A command as the link keeps it.
struct Slot {
    started: bool,
    stdin: SendWindow,
    stdout: ReceiveWindow,
    stderr: ReceiveWindow,
    events: Sender<Event>,
}

impl Slot {
    fn output(&mut self, stream: OutputStream) -> &mut ReceiveWindow {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// Nobody may listen any more.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

impl Link {
    /// Waits on a thread for the agent and what it says. `lost` is called once if there is no agent to speak with any more.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        from_guest: Box<dyn Read + Send>,
        to_guest: Box<dyn Write + Send>,
        lost: impl FnOnce(&LinkError) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let state = State { phase: Phase::Connecting, slots: BTreeMap::new(), next: 1, held: Vec::new() };
        let link = Arc::new(Self { state: state.into(), changed: Condvar::new(), to_guest: to_guest.into() });
        let reader = Arc::clone(&link);
        std::thread::Builder::new().name("agent".into()).spawn(move || {
            let error = reader.listen(from_guest);
            reader.lose(&error);
            lost(&error);
        })?;
        Ok(link)
    }

    /// Starts a command; its `id` is the link's to choose.
    pub fn run(self: &Arc<Self>, exec: Exec) -> (Command, Receiver<Event>) {
        let (events, told) = mpsc::channel();
        let slot = Slot {
            started: false,
            stdin: SendWindow::default(),
            stdout: ReceiveWindow::default(),
            stderr: ReceiveWindow::default(),
            events,
        };
        let mut state = self.lock();
        let refusal = match &state.phase {
            Phase::Lost(error) => Some(End::Lost(error.clone())),
            _ if state.slots.len() >= MAX_EXECS => Some(refused(format!(
                "{MAX_EXECS} commands run in this machine already, which is the most; wait for one to end"
            ))),
            _ => None,
        };
        let id = state.free_id();
        let command = Command { link: Arc::clone(self), id };
        match refusal {
            Some(end) => slot.tell(Event::Ended(end)),
            None => {
                state.slots.insert(id, slot);
                drop(state);
                if let Err(Unsent::Unfit(error)) = self.send(HostMessage::Exec(Exec { id, ..exec })) {
                    self.end(id, refused(format!("the command and its environment are too long: {error}")));
                }
            }
        }
        (command, told)
    }

    /// Has the guest end its processes, which have `grace` for it, and switch itself off; false if there is no agent that could.
    pub fn shut_down(&self, grace: Duration) -> bool {
        let grace = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        let ready = matches!(self.lock().phase, Phase::Ready);
        ready && self.send(HostMessage::Shutdown { grace }).is_ok()
    }

    /// Waits until the agent has greeted.
    ///
    /// # Errors
    /// There is no agent to speak with, or it did not greet within `limit`.
    pub fn wait_until_ready(&self, limit: Option<Duration>) -> Result<(), LinkError> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            match &state.phase {
                Phase::Ready => return Ok(()),
                Phase::Lost(error) => return Err(error.clone()),
                Phase::Connecting => {}
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(LinkError::Silent),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends, or holds back while connecting.
    fn send(&self, message: HostMessage) -> Result<(), Unsent> {
        let mut state = self.lock();
        match state.phase {
            Phase::Connecting => state.held.push(message),
            Phase::Ready => {
                drop(state);
                return self.write(&[message]);
            }
            Phase::Lost(_) => return Err(Unsent::Lost),
        }
        Ok(())
    }

    fn write(&self, messages: &[HostMessage]) -> Result<(), Unsent> {
        let mut frames = Vec::new();
        for message in messages {
            message.encode(&mut frames).map_err(Unsent::Unfit)?;
        }
        let mut to_guest = self.to_guest.lock().unwrap_or_else(PoisonError::into_inner);
        to_guest.write_all(&frames).and_then(|()| to_guest.flush()).map_err(|_| Unsent::Lost)
    }

    /// Takes what the agent says, until it says no more.
    fn listen(&self, mut from_guest: Box<dyn Read + Send>) -> LinkError {
        let mut decoder = Decoder::new();
        let mut buffer = vec![0; MAX_DATA];
        loop {
            let read = match from_guest.read(&mut buffer) {
                Ok(0) => {
                    std::thread::sleep(GONE_GRACE);
                    return LinkError::Gone;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return LinkError::Read(Arc::new(error)),
            };
            decoder.feed(buffer.get(..read).unwrap_or_default());
            if let Err(error) = self.take_all(&mut decoder) {
                return error;
            }
        }
    }

    fn take_all(&self, decoder: &mut Decoder<GuestMessage>) -> Result<(), LinkError> {
        while let Some(message) = decoder.next_message()? {
            self.take(message)?;
        }
        Ok(())
    }

    fn take(&self, message: GuestMessage) -> Result<(), LinkError> {
        match message {
            GuestMessage::Hello { version, agent, unusable } => self.greet(version, &agent, unusable)?,
            GuestMessage::Started { id } => self.of(id, |slot| {
                // Said twice, it says nothing.
                if !std::mem::replace(&mut slot.started, true) {
                    slot.tell(Event::Started);
                }
                Ok(())
            })?,
            GuestMessage::Stdout { id, data } => self.put_out(id, OutputStream::Stdout, data)?,
            GuestMessage::Stderr { id, data } => self.put_out(id, OutputStream::Stderr, data)?,
            GuestMessage::Credit { bytes: 0, .. } => {}
            GuestMessage::Credit { id, bytes } => {
                self.of(id, |slot| {
                    slot.stdin.credit(bytes)?;
                    slot.tell(Event::Room(bytes));
                    Ok(())
                })?;
                self.changed.notify_all();
            }
            GuestMessage::Exited { id, status } => self.ended(id, End::Exited(status))?,
            GuestMessage::Error { id, status, message } => {
                self.ended(id, End::Refused { status, message: printable(&message) })?;
            }
        }
        Ok(())
    }

    fn of<T>(&self, id: u32, act: impl FnOnce(&mut Slot) -> Result<T, LinkError>) -> Result<T, LinkError> {
        let mut state = self.lock();
        act(state.slots.get_mut(&id).ok_or(LinkError::NoCommand(id))?)
    }

    fn put_out(&self, id: u32, stream: OutputStream, data: Vec<u8>) -> Result<(), LinkError> {
        self.of(id, |slot| {
            slot.output(stream).received(data.len())?;
            if !data.is_empty() {
                slot.tell(Event::Output(stream, data));
            }
            Ok(())
        })
    }

    fn greet(&self, version: u16, agent: &str, unusable: Option<String>) -> Result<(), LinkError> {
        tracing::info!("the agent in the guest is {}", printable(agent));
        if version != PROTOCOL_VERSION {
            return Err(LinkError::Version(version));
        }
        if let Some(message) = unusable {
            return Err(LinkError::Unusable(printable(&message)));
        }
        if !matches!(self.lock().phase, Phase::Connecting) {
            return Err(LinkError::Anew);
        }
        loop {
            let mut state = self.lock();
            let held = std::mem::take(&mut state.held);
            if held.is_empty() {
                state.phase = Phase::Ready;
                drop(state);
                self.changed.notify_all();
                return Ok(());
            }
            drop(state);
            for message in held {
                let id = if let HostMessage::Exec(exec) = &message { Some(exec.id) } else { None };
                match (self.write(&[message]), id) {
                    (Err(Unsent::Unfit(error)), Some(id)) => {
                        self.end(id, refused(format!("the command and its environment are too long: {error}")));
                    }
                    (Err(Unsent::Lost), _) => return Err(LinkError::Gone),
                    _ => {}
                }
            }
        }
    }

    fn ended(&self, id: u32, end: End) -> Result<(), LinkError> {
        if self.end(id, end) { Ok(()) } else { Err(LinkError::NoCommand(id)) }
    }

    /// Ends a command; false if there is none by this number.
    fn end(&self, id: u32, end: End) -> bool {
        let slot = self.lock().slots.remove(&id);
        self.changed.notify_all();
        slot.map(|slot| slot.tell(Event::Ended(end))).is_some()
    }

    /// The machine has ended: its commands hear it now, and not when the agent's silence is noticed.
    pub fn close(&self) {
        self.lose(&LinkError::Gone);
    }

    fn lose(&self, error: &LinkError) {
        let mut state = self.lock();
        state.phase = Phase::Lost(error.clone());
        state.held = Vec::new();
        let slots = std::mem::take(&mut state.slots);
        drop(state);
        self.changed.notify_all();
        for slot in slots.values() {
            slot.tell(Event::Ended(End::Lost(error.clone())));
        }
    }
}

fn refused(message: String) -> End {
    End::Refused { status: STATUS_AGENT, message }
}

/// Why a message did not go out.
enum Unsent {
    Lost,
    Unfit(ProtoError),
}

impl State {
    /// A number that no command has; there are few of them.
    fn free_id(&mut self) -> u32 {
        while self.slots.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        id
    }
}

/// A command that was started; any thread.
pub struct Command {
    link: Arc<Link>,
    id: u32,
}

impl Controls for Command {
    fn type_in(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let mut state = self.link.lock();
            let now = loop {
                let Some(slot) = state.slots.get_mut(&self.id) else { return false };
                let room = slot.stdin.available();
                if room > 0 {
                    let (now, later) = data.split_at(data.len().min(room).min(MAX_DATA));
                    slot.stdin.sent(now.len());
                    data = later;
                    break now;
                }
                state = self.link.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            if self.link.send(HostMessage::Stdin { id: self.id, data: now.to_vec() }).is_err() {
                return false;
            }
        }
        true
    }

    fn close_stdin(&self) {
        self.say(HostMessage::StdinClose { id: self.id });
    }

    fn signal(&self, signo: u8) -> bool {
        let running = self.link.lock().slots.get(&self.id).is_some_and(|slot| slot.started);
        running && self.say(HostMessage::Signal { id: self.id, signo })
    }

    fn resize(&self, size: TermSize) {
        self.say(HostMessage::Resize { id: self.id, size });
    }

    fn passed_on(&self, stream: OutputStream, bytes: usize) {
        let mut state = self.link.lock();
        let credit = state.slots.get_mut(&self.id).and_then(|slot| slot.output(stream).passed_on(bytes));
        drop(state);
        if let Some(bytes) = credit {
            self.say(HostMessage::Credit { id: self.id, stream, bytes });
        }
    }
}

impl Command {
    /// A command that has ended hears nothing.
    fn say(&self, message: HostMessage) -> bool {
        let runs = self.link.lock().slots.contains_key(&self.id);
        runs && self.link.send(message).is_ok()
    }
}
