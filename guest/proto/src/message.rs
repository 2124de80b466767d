//! What the two sides say to each other, and how each message looks in a frame.

use crate::wire::{Reader, Writer};
use crate::{MAX_DATA, ProtoError};

const EXEC: u8 = 0x01;
const STDIN: u8 = 0x02;
const STDIN_CLOSE: u8 = 0x03;
const SIGNAL: u8 = 0x04;
const RESIZE: u8 = 0x05;
const HOST_CREDIT: u8 = 0x06;
const SHUTDOWN: u8 = 0x07;

const HELLO: u8 = 0x81;
const STDOUT: u8 = 0x82;
const STDERR: u8 = 0x83;
const EXITED: u8 = 0x84;
const ERROR: u8 = 0x85;
const GUEST_CREDIT: u8 = 0x86;
const STARTED: u8 = 0x87;

const MAGIC: [u8; 4] = *b"MOTU";

/// Linux has the signals 1 to 64 on x86-64 (signal(7)).
const SIGNALS: std::ops::RangeInclusive<u8> = 1..=64;

/// A message of one direction.
pub trait Message: Sized {
    /// Appends the message as one frame to `out`.
    ///
    /// # Errors
    /// [`ProtoError::FrameLength`] if it would be longer than [`crate::MAX_FRAME`], or would carry more
    /// than [`MAX_DATA`] bytes of data; `out` is then as it was.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtoError>;

    /// Reads the message from a frame without its length.
    ///
    /// # Errors
    /// Any [`ProtoError`]: the bytes may be anything.
    fn decode(kind: u8, body: &[u8]) -> Result<Self, ProtoError>;
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TermSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    /// The host's name for the command; free again after its `Exited` or `Error`.
    pub id: u32,
    /// The program, looked up in `PATH` if it has no slash, and its arguments. With `builtin` one of the agent's own:
    /// see [`crate::builtin`].
    pub argv: Vec<Vec<u8>>,
    /// Names and values, added to the agent's own `PATH`, `HOME` and `TERM` or in their place.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder that it starts in, made if it is not there; the user's home folder if none is given, or `/` where that is not
    /// there.
    pub cwd: Option<Vec<u8>>,
    /// Who runs it: `NAME|UID[:GROUP|GID]`, as the guest's /etc/passwd and /etc/group have them; root if none is given.
    pub user: Option<Vec<u8>>,
    /// Size of the terminal to run it on; without one it gets pipes. On a terminal all output is `Stdout`.
    pub tty: Option<TermSize>,
    /// Whether `Stdin` will follow; otherwise the command reads from an empty stream at once.
    pub stdin: bool,
    /// The agent itself is the program; `argv` begins with what it is to do.
    pub builtin: bool,
}

/// One of the streams that come from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputStream {
    /// Standard output, or all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The status as a shell reports it in `$?`: 128 + n for signal n.
    pub fn shell_status(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signo) => signo.saturating_add(128),
        }
    }
}

/// What the host says to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMessage {
    /// Run a command.
    Exec(Exec),
    /// Bytes for a command's standard input, at most [`MAX_DATA`].
    Stdin {
        /// The command.
        id: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A command's standard input ends here. A terminal gets its end-of-file character.
    StdinClose {
        /// The command.
        id: u32,
    },
    /// Send a signal to a command's process group.
    Signal {
        /// The command.
        id: u32,
        /// The signal, 1 to 64.
        signo: u8,
    },
    /// A command's terminal has a new size.
    Resize {
        /// The command.
        id: u32,
        /// The size.
        size: TermSize,
    },
    /// So many bytes of a stream have been passed on: the agent may send as many more.
    Credit {
        /// The command.
        id: u32,
        /// The stream.
        stream: OutputStream,
        /// The bytes given back.
        bytes: u32,
    },
    /// End all processes, write out what is dirty and power the machine off.
    Shutdown {
        /// Milliseconds that processes have to end by themselves after SIGTERM, before SIGKILL.
        grace: u32,
    },
}

/// What the agent says to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMessage {
    /// The first message: the agent is there.
    Hello {
        /// The agent's [`crate::PROTOCOL_VERSION`].
        version: u16,
        /// The agent's own version, for people.
        agent: String,
        /// Why the machine is not what was asked for, and runs no commands, for people: its root disk cannot be used.
        unusable: Option<String>,
    },
    /// Bytes from a command's standard output or its terminal, at most [`MAX_DATA`].
    Stdout {
        /// The command.
        id: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Bytes from a command's standard error, at most [`MAX_DATA`].
    Stderr {
        /// The command.
        id: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A command has ended and all of its output has been sent.
    Exited {
        /// The command.
        id: u32,
        /// How.
        status: ExitStatus,
    },
    /// A command could not be started.
    Error {
        /// The command.
        id: u32,
        /// What to exit with: [`crate::STATUS_NOT_FOUND`], [`crate::STATUS_NOT_EXECUTABLE`] or
        /// [`crate::STATUS_AGENT`].
        status: u8,
        /// Why, for people.
        message: String,
    },
    /// So many bytes of standard input have reached the command: the host may send as many more.
    Credit {
        /// The command.
        id: u32,
        /// The bytes given back.
        bytes: u32,
    },
    /// A command runs.
    Started {
        /// The command.
        id: u32,
    },
}

fn check_data(data: &[u8]) -> Result<(), ProtoError> {
    if data.len() > MAX_DATA { Err(ProtoError::FrameLength(data.len() as u64)) } else { Ok(()) }
}

fn read_data(reader: &mut Reader<'_>) -> Result<Vec<u8>, ProtoError> {
    let data = reader.rest();
    check_data(&data)?;
    Ok(data)
}

fn read_signal(reader: &mut Reader<'_>) -> Result<u8, ProtoError> {
    let signo = reader.u8()?;
    if SIGNALS.contains(&signo) { Ok(signo) } else { Err(reader.field("signal", signo)) }
}

fn read_size(reader: &mut Reader<'_>) -> Result<TermSize, ProtoError> {
    Ok(TermSize { rows: reader.u16()?, cols: reader.u16()? })
}

fn read_exec(reader: &mut Reader<'_>) -> Result<Exec, ProtoError> {
    Ok(Exec {
        id: reader.u32()?,
        argv: reader.list(Reader::bytes)?,
        env: reader.list(|reader| Ok((reader.bytes()?, reader.bytes()?)))?,
        cwd: reader.option("presence of a folder", Reader::bytes)?,
        user: reader.option("presence of a user", Reader::bytes)?,
        tty: reader.option("presence of a terminal", read_size)?,
        stdin: reader.bool("presence of standard input")?,
        builtin: reader.bool("kind of program")?,
    })
}

fn write_exec(writer: &mut Writer<'_>, exec: &Exec) {
    writer.u32(exec.id).count(exec.argv.len());
    for argument in &exec.argv {
        writer.bytes(argument);
    }
    writer.count(exec.env.len());
    for (name, value) in &exec.env {
        writer.bytes(name).bytes(value);
    }
    for text in [&exec.cwd, &exec.user] {
        match text {
            Some(text) => writer.u8(1).bytes(text),
            None => writer.u8(0),
        };
    }
    match exec.tty {
        Some(size) => writer.u8(1).u16(size.rows).u16(size.cols),
        None => writer.u8(0),
    };
    writer.u8(exec.stdin.into()).u8(exec.builtin.into());
}

impl Message for HostMessage {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let kind = match self {
            HostMessage::Exec(_) => EXEC,
            HostMessage::Stdin { .. } => STDIN,
            HostMessage::StdinClose { .. } => STDIN_CLOSE,
            HostMessage::Signal { .. } => SIGNAL,
            HostMessage::Resize { .. } => RESIZE,
            HostMessage::Credit { .. } => HOST_CREDIT,
            HostMessage::Shutdown { .. } => SHUTDOWN,
        };
        if let HostMessage::Stdin { data, .. } = self {
            check_data(data)?;
        }
        let mut writer = Writer::new(out, kind);
        match self {
            HostMessage::Exec(exec) => write_exec(&mut writer, exec),
            HostMessage::Stdin { id, data } => {
                writer.u32(*id).raw(data);
            }
            HostMessage::StdinClose { id } => {
                writer.u32(*id);
            }
            HostMessage::Signal { id, signo } => {
                writer.u32(*id).u8(*signo);
            }
            HostMessage::Resize { id, size } => {
                writer.u32(*id).u16(size.rows).u16(size.cols);
            }
            HostMessage::Credit { id, stream, bytes } => {
                writer.u32(*id).u8(matches!(stream, OutputStream::Stderr).into()).u32(*bytes);
            }
            HostMessage::Shutdown { grace } => {
                writer.u32(*grace);
            }
        }
        writer.finish()
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, ProtoError> {
        let mut reader = Reader::new(kind, body);
        let message = match kind {
            EXEC => HostMessage::Exec(read_exec(&mut reader)?),
            STDIN => HostMessage::Stdin { id: reader.u32()?, data: read_data(&mut reader)? },
            STDIN_CLOSE => HostMessage::StdinClose { id: reader.u32()? },
            SIGNAL => HostMessage::Signal { id: reader.u32()?, signo: read_signal(&mut reader)? },
            RESIZE => HostMessage::Resize { id: reader.u32()?, size: read_size(&mut reader)? },
            HOST_CREDIT => {
                let id = reader.u32()?;
                let stream = if reader.bool("stream")? { OutputStream::Stderr } else { OutputStream::Stdout };
                HostMessage::Credit { id, stream, bytes: reader.u32()? }
            }
            SHUTDOWN => HostMessage::Shutdown { grace: reader.u32()? },
            other => return Err(ProtoError::Kind(other)),
        };
        reader.end()?;
        Ok(message)
    }
}

impl Message for GuestMessage {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let kind = match self {
            GuestMessage::Hello { .. } => HELLO,
            GuestMessage::Stdout { .. } => STDOUT,
            GuestMessage::Stderr { .. } => STDERR,
            GuestMessage::Exited { .. } => EXITED,
            GuestMessage::Error { .. } => ERROR,
            GuestMessage::Credit { .. } => GUEST_CREDIT,
            GuestMessage::Started { .. } => STARTED,
        };
        if let GuestMessage::Stdout { data, .. } | GuestMessage::Stderr { data, .. } = self {
            check_data(data)?;
        }
        let mut writer = Writer::new(out, kind);
        match self {
            GuestMessage::Hello { version, agent, unusable } => {
                writer.raw(&MAGIC).u16(*version).bytes(agent.as_bytes());
                match unusable {
                    Some(message) => writer.u8(1).bytes(message.as_bytes()),
                    None => writer.u8(0),
                };
            }
            GuestMessage::Stdout { id, data } | GuestMessage::Stderr { id, data } => {
                writer.u32(*id).raw(data);
            }
            GuestMessage::Exited { id, status } => {
                let (how, number) = match status {
                    ExitStatus::Code(code) => (0, *code),
                    ExitStatus::Signal(signo) => (1, *signo),
                };
                writer.u32(*id).u8(how).u8(number);
            }
            GuestMessage::Error { id, status, message } => {
                writer.u32(*id).u8(*status).bytes(message.as_bytes());
            }
            GuestMessage::Credit { id, bytes } => {
                writer.u32(*id).u32(*bytes);
            }
            GuestMessage::Started { id } => {
                writer.u32(*id);
            }
        }
        writer.finish()
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, ProtoError> {
        let mut reader = Reader::new(kind, body);
        let message = match kind {
            HELLO => {
                let magic = reader.array::<4>()?;
                if magic != MAGIC {
                    return Err(reader.field("magic", u32::from_le_bytes(magic)));
                }
                let version = reader.u16()?;
                if version != crate::PROTOCOL_VERSION {
                    // Another version's Hello may go on differently, and must still be told as that.
                    return Ok(GuestMessage::Hello { version, agent: String::new(), unusable: None });
                }
                let agent = reader.text()?;
                GuestMessage::Hello { version, agent, unusable: reader.option("presence of trouble", Reader::text)? }
            }
            STDOUT => GuestMessage::Stdout { id: reader.u32()?, data: read_data(&mut reader)? },
            STDERR => GuestMessage::Stderr { id: reader.u32()?, data: read_data(&mut reader)? },
            EXITED => {
                let id = reader.u32()?;
                let killed = reader.bool("way of ending")?;
                let status =
                    if killed { ExitStatus::Signal(read_signal(&mut reader)?) } else { ExitStatus::Code(reader.u8()?) };
                GuestMessage::Exited { id, status }
            }
            ERROR => GuestMessage::Error { id: reader.u32()?, status: reader.u8()?, message: reader.text()? },
            GUEST_CREDIT => GuestMessage::Credit { id: reader.u32()?, bytes: reader.u32()? },
            STARTED => GuestMessage::Started { id: reader.u32()? },
            other => return Err(ProtoError::Kind(other)),
        };
        reader.end()?;
        Ok(message)
    }
}
