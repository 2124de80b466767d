//! A command in the machine of another process.

use super::{Controls, End, Event, LinkError};
use motu_manager::wire::ID;
use motu_manager::{Says, Speaker};
use motu_proto::{GuestMessage, HostMessage, MAX_DATA, OutputStream, SendWindow, TermSize};
use std::io;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Events that wait for who follows the command: then the socket waits.
const WAITING: usize = 16;

/// The command; any thread.
pub struct Remote {
    speaker: Speaker,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stdin: SendWindow,
    started: bool,
    ended: bool,
}

impl Remote {
    /// Listens on a thread to what the machine's process says of the command.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(speaker: Speaker, says: Says) -> io::Result<(Arc<Self>, Receiver<Event>)> {
        let state = State { stdin: SendWindow::default(), started: false, ended: false };
        let remote = Arc::new(Self { speaker, state: state.into(), changed: Condvar::new() });
        let (events, told) = mpsc::sync_channel(WAITING);
        let listener = Arc::clone(&remote);
        std::thread::Builder::new().name("machine".into()).spawn(move || {
            let end = listener.listen(says, &events);
            listener.lock().ended = true;
            listener.changed.notify_all();
            // Nobody may follow it any more.
            let _ = events.send(Event::Ended(end));
        })?;
        Ok((remote, told))
    }

    /// Hangs up: nothing more is said or heard.
    pub fn leave(&self) {
        self.speaker.hang_up();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut says: Says, events: &mpsc::SyncSender<Event>) -> End {
        loop {
            let event = match says.next_message() {
                Ok(Some(GuestMessage::Started { .. })) => {
                    self.lock().started = true;
                    Event::Started
                }
                Ok(Some(GuestMessage::Stdout { data, .. })) => Event::Output(OutputStream::Stdout, data),
                Ok(Some(GuestMessage::Stderr { data, .. })) => Event::Output(OutputStream::Stderr, data),
                Ok(Some(GuestMessage::Credit { bytes, .. })) => {
                    if let Err(error) = self.lock().stdin.credit(bytes) {
                        return End::Lost(error.into());
                    }
                    self.changed.notify_all();
                    Event::Room(bytes)
                }
                Ok(Some(GuestMessage::Exited { status, .. })) => return End::Exited(status),
                Ok(Some(GuestMessage::Error { status, message, .. })) => return End::Refused { status, message },
                Ok(Some(GuestMessage::Hello { .. })) => continue,
                Ok(None) => return End::Lost(LinkError::Process("has ended".into())),
                Err(error) => return End::Lost(LinkError::Process(error.to_string())),
            };
            if events.send(event).is_err() {
                return End::Lost(LinkError::Gone);
            }
        }
    }
}

impl Controls for Remote {
    fn type_in(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let mut state = self.lock();
            while state.stdin.available() == 0 && !state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return false;
            }
            let (now, later) = data.split_at(data.len().min(state.stdin.available()).min(MAX_DATA));
            data = later;
            state.stdin.sent(now.len());
            drop(state);
            if !self.speaker.say(&HostMessage::Stdin { id: ID, data: now.to_vec() }) {
                return false;
            }
        }
        true
    }

    fn close_stdin(&self) {
        self.speaker.say(&HostMessage::StdinClose { id: ID });
    }

    fn signal(&self, signo: u8) -> bool {
        let state = self.lock();
        let running = state.started && !state.ended;
        drop(state);
        running && self.speaker.say(&HostMessage::Signal { id: ID, signo })
    }

    fn resize(&self, size: TermSize) {
        self.speaker.say(&HostMessage::Resize { id: ID, size });
    }

    /// The socket itself holds up who sends.
    fn passed_on(&self, _: OutputStream, _: usize) {}
}
