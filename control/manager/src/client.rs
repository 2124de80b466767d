//! One end of a machine's socket: whoever wants something of a machine that runs.

use crate::wire::{self, Answer, Request};
use crate::{Machine, ManagerError, socket};
use motu_proto::{Decoder, Exec, GuestMessage, HostMessage, MAX_DATA, Message};
use motu_spec::Growth;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// A connection to the process of a machine.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

fn gone(error: &io::Error) -> ManagerError {
    ManagerError::Wire(match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            "has ended".to_owned()
        }
        _ => format!("cannot be spoken with: {error}"),
    })
}

impl Connection {
    /// Connects to a machine that runs.
    ///
    /// # Errors
    /// [`ManagerError::NotRunning`], [`ManagerError::Io`].
    pub fn open(machine: &Machine) -> Result<Self, ManagerError> {
        match socket::connect(&machine.path)? {
            Some(stream) => Ok(Self { stream }),
            None => Err(ManagerError::NotRunning(machine.name.clone())),
        }
    }

    /// Asks for something that has no streams.
    ///
    /// # Errors
    /// [`ManagerError::Refused`], [`ManagerError::Wire`].
    pub fn ask(&mut self, request: &Request) -> Result<(), ManagerError> {
        self.answer(request).map(|_| ())
    }

    /// Makes one of the machine's disks larger, of those that the guest has: its size in bytes then.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub fn grow_disk(&mut self, disk: usize, growth: Growth) -> Result<u64, ManagerError> {
        match self.answer(&Request::GrowDisk { disk, growth })? {
            Answer::Size(size) => Ok(size),
            other => Err(ManagerError::Wire(format!("does not say the disk's size, but {other:?}"))),
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Answer, ManagerError> {
        wire::put(&mut self.stream, request).map_err(|error| gone(&error))?;
        match wire::get(&mut self.stream).map_err(|error| gone(&error))? {
            Some(Answer::Refused(message)) => Err(ManagerError::Refused { status: 125, message }),
            Some(answer) => Ok(answer),
            None => Err(ManagerError::Wire("has ended".to_owned())),
        }
    }

    /// Waits until the machine's process has gone.
    pub fn wait_for_end(&mut self) {
        // Whatever still comes, it says nothing more of interest.
        let mut rest = [0; 256];
        while self.stream.read(&mut rest).is_ok_and(|count| count > 0) {}
    }

    /// Starts a command, or attaches to the machine's own (`exec` is none then): one end to speak with it, one to listen.
    ///
    /// # Errors
    /// As [`Connection::ask`]; [`ManagerError::Wire`] if the command is too long.
    pub fn command(mut self, request: &Request, exec: Option<Exec>) -> Result<(Speaker, Says), ManagerError> {
        self.ask(request)?;
        let listener = self.stream.try_clone().map_err(|error| gone(&error))?;
        let speaker = Speaker { stream: self.stream.into() };
        if let Some(exec) = exec {
            let exec = HostMessage::Exec(Exec { id: wire::ID, ..exec });
            let mut frame = Vec::new();
            exec.encode(&mut frame).map_err(|error| {
                let message = format!("the command and its environment are too long: {error}");
                ManagerError::Refused { status: 125, message }
            })?;
            speaker.write(&frame).map_err(|error| gone(&error))?;
        }
        let buffer = vec![0; MAX_DATA];
        Ok((speaker, Says { stream: listener, decoder: Decoder::new(), buffer }))
    }
}

/// Speaks with a command; any thread.
#[derive(Debug)]
pub struct Speaker {
    stream: Mutex<UnixStream>,
}

impl Speaker {
    fn write(&self, frame: &[u8]) -> io::Result<()> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).write_all(frame)
    }

    /// Ends the connection, also for who listens.
    pub fn hang_up(&self) {
        // It may have ended already.
        let _ = self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown(std::net::Shutdown::Both);
    }

    /// Sends a message; false if nobody is there to take it.
    pub fn say(&self, message: &HostMessage) -> bool {
        let mut frame = Vec::new();
        message.encode(&mut frame).is_ok() && self.write(&frame).is_ok()
    }
}

/// What comes of a command.
#[derive(Debug)]
pub struct Says {
    stream: UnixStream,
    decoder: Decoder<GuestMessage>,
    buffer: Vec<u8>,
}

impl Says {
    /// Waits for the next message; `None` when the machine's process has gone.
    ///
    /// # Errors
    /// [`ManagerError::Wire`]: it says what is no message.
    pub fn next_message(&mut self) -> Result<Option<GuestMessage>, ManagerError> {
        loop {
            let message = self.decoder.next_message();
            if let Some(message) = message.map_err(|error| ManagerError::Wire(format!("sent {error}")))? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.feed(self.buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(gone(&error)),
            }
        }
    }
}
