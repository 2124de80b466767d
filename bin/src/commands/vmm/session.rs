//! A client and a command.

use super::Shared;
use crate::agent::{Command, Controls, End, Event};
use crate::images::boot;
use motu_manager::wire::{self, Answer, ID};
use motu_proto::{Decoder, Exec, GuestMessage, HostMessage, MAX_DATA, Message, OutputStream, STATUS_AGENT};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// SIGHUP (signal(7)).
const SIGHUP: u8 = 1;

/// Who asked for a command.
pub struct Client {
    stream: UnixStream,
    /// What arrived behind the request.
    reader: Option<Reader>,
}

/// What a client says of its command.
pub struct Reader {
    stream: UnixStream,
    decoder: Decoder<HostMessage>,
    buffer: Vec<u8>,
}

impl Reader {
    /// The next message; `None` when the client has gone, or says what is no message.
    fn next_message(&mut self) -> Option<HostMessage> {
        loop {
            if let Some(message) = self.decoder.next_message().ok()? {
                return Some(message);
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.feed(self.buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Client {
    /// # Errors
    /// The host has no more descriptors.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let reader = Reader { stream: stream.try_clone()?, decoder: Decoder::new(), buffer: vec![0; MAX_DATA] };
        Ok(Self { stream, reader: Some(reader) })
    }

    /// Says that frames of the protocol follow; false if the client has gone.
    pub fn go(&mut self) -> bool {
        wire::put(&mut self.stream, &Answer::Going).is_ok()
    }

    pub fn refuse(&mut self, message: &str) {
        // The client may have gone.
        let _ = wire::put(&mut self.stream, &Answer::Refused(message.to_owned()));
    }

    /// What the client says, once.
    pub fn reader(&mut self) -> Option<Reader> {
        self.reader.take()
    }

    /// Tells what became of the command; false if the client has gone.
    pub fn tell(&mut self, event: &Event) -> bool {
        let message = match event {
            Event::Started => GuestMessage::Started { id: ID },
            Event::Output(OutputStream::Stdout, data) => GuestMessage::Stdout { id: ID, data: data.clone() },
            Event::Output(OutputStream::Stderr, data) => GuestMessage::Stderr { id: ID, data: data.clone() },
            Event::Room(bytes) => GuestMessage::Credit { id: ID, bytes: *bytes },
            Event::Ended(End::Exited(status)) => GuestMessage::Exited { id: ID, status: *status },
            Event::Ended(End::Refused { status, message }) => {
                GuestMessage::Error { id: ID, status: *status, message: message.clone() }
            }
            Event::Ended(End::Lost(error)) => {
                GuestMessage::Error { id: ID, status: STATUS_AGENT, message: format!("the machine has ended: {error}") }
            }
        };
        let mut frame = Vec::new();
        message.encode(&mut frame).is_ok() && self.stream.write_all(&frame).is_ok()
    }
}

/// Does on a thread what the client says, and at last, when it has gone, what `gone` says.
pub fn listen(reader: Option<Reader>, command: Arc<Command>, gone: impl FnOnce(&Command) + Send + 'static) {
    let Some(mut reader) = reader else { return };
    let act = move || {
        while let Some(message) = reader.next_message() {
            match message {
                HostMessage::Stdin { data, .. } => drop(command.type_in(&data)),
                HostMessage::StdinClose { .. } => command.close_stdin(),
                HostMessage::Signal { signo, .. } => drop(command.signal(signo)),
                HostMessage::Resize { size, .. } => command.resize(size),
                HostMessage::Exec(_) | HostMessage::Credit { .. } | HostMessage::Shutdown { .. } => break,
            }
        }
        gone(&command);
    };
    if let Err(error) = std::thread::Builder::new().name("client".into()).spawn(act) {
        super::log(&format!("a command hears nothing from who started it: {error}"));
    }
}

/// Runs a command beside the machine's own for a client. It hangs up when the client goes.
pub fn exec(shared: &Shared, mut client: Client) {
    if !client.go() {
        return;
    }
    let Some(mut reader) = client.reader() else { return };
    let Some(HostMessage::Exec(exec)) = reader.next_message() else { return };
    let (command, events) = shared.link.run(if exec.builtin { exec } else { surrounded(shared, exec) });
    let command = Arc::new(command);
    listen(Some(reader), Arc::clone(&command), |command| {
        command.signal(SIGHUP);
        command.close_stdin();
    });
    let mut gone = false;
    for event in events {
        gone = gone || !client.tell(&event);
        if let Event::Output(stream, data) = event {
            command.passed_on(stream, data.len());
        }
    }
}

/// The command with what the machine's own has around it.
fn surrounded(shared: &Shared, exec: Exec) -> Exec {
    let mut around = boot::surroundings(&shared.config, &shared.record.command);
    around.env.extend(exec.env);
    Exec { env: around.env, cwd: exec.cwd.or(around.cwd), user: exec.user.or(around.user), ..exec }
}
