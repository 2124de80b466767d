//! What the host asks for, until it goes or ends the machine.

use crate::exec::{Running, StartError};
use crate::port::Port;
use crate::power;
use crate::signals::Signals;
use motu_proto::{
    Decoder, Exec, GuestMessage, HostMessage, MAX_DATA, MAX_EXECS, Message, OutputStream, PROTOCOL_VERSION,
    STATUS_AGENT, WindowError,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// With so many bytes waiting for the host nothing more is read, neither from commands nor from it.
const OUTGOING_LIMIT: usize = 64 * 1024;

/// Most bytes of the reason why a command could not be started: the command's name is in it.
const LONGEST_MESSAGE: usize = 4096;

/// How long the last words of processes may take after they were killed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a host must not do.
enum Violation {
    Window(WindowError),
    IdInUse(u32),
}

impl From<WindowError> for Violation {
    fn from(error: WindowError) -> Self {
        Violation::Window(error)
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Violation::Window(error) => error.fmt(out),
            Violation::IdInUse(id) => write!(out, "a second command with the id {id}"),
        }
    }
}

/// Why a conversation ended.
enum End {
    /// The host closed its end, or broke the protocol: the next one may do better.
    HostGone,
    /// The host wants the machine to end.
    Shutdown,
}

/// Something that can be waited for.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Port,
    Stdin(u32),
    Output(u32, OutputStream),
}

/// How far the end has come that the host asked for.
#[derive(Clone, Copy)]
enum Ending {
    /// Processes were told to end; they have until then.
    Asked(Instant),
    /// They were killed; what they said is still sent until then.
    Killed(Instant),
}

/// Serves one host after the other until one says `Shutdown`. No command runs on a machine that is `unusable`.
pub fn serve(port: Port, signals: &Signals, unusable: Option<&str>) -> io::Result<()> {
    loop {
        port.wait_for_host(signals)?;
        let mut session = Session {
            port: &port,
            signals,
            decoder: Decoder::new(),
            commands: BTreeMap::new(),
            outgoing: Vec::new(),
            buffer: vec![0; MAX_DATA],
            unusable,
            ending: None,
        };
        let end = session.converse();
        for command in session.commands.values() {
            command.hang_up();
        }
        if let End::Shutdown = end? {
            return Ok(());
        }
    }
}

struct Session<'a> {
    port: &'a Port,
    signals: &'a Signals,
    decoder: Decoder<HostMessage>,
    commands: BTreeMap<u32, Running>,
    outgoing: Vec<u8>,
    buffer: Vec<u8>,
    unusable: Option<&'a str>,
    ending: Option<Ending>,
}

impl Session<'_> {
    fn converse(&mut self) -> io::Result<End> {
        self.say(&GuestMessage::Hello {
            version: PROTOCOL_VERSION,
            agent: env!("CARGO_PKG_VERSION").into(),
            unusable: self.unusable.map(|message| short(message.to_owned())),
        });
        loop {
            self.flush()?;
            if self.ended() {
                return Ok(End::Shutdown);
            }
            for (source, events) in self.wait()? {
                match source {
                    Source::Signals => self.reap(),
                    Source::Port if events.contains(PollFlags::IN) => {
                        if let Some(end) = self.listen()? {
                            return Ok(end);
                        }
                    }
                    Source::Port if events.contains(PollFlags::HUP) => return Ok(End::HostGone),
                    Source::Port => {}
                    Source::Stdin(id) => {
                        let credit = self.commands.get_mut(&id).and_then(Running::pump_in);
                        credit.iter().for_each(|credit| self.say(credit));
                    }
                    Source::Output(id, stream) => {
                        let command = self.commands.get_mut(&id);
                        let output = command.and_then(|command| command.pump_out(stream, &mut self.buffer));
                        output.iter().for_each(|output| self.say(output));
                    }
                }
            }
            self.finish();
        }
    }

    /// Sleeps until something can be done, and says what.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let room = self.outgoing.len() < OUTGOING_LIMIT;
        let mut port = PollFlags::empty();
        port.set(PollFlags::IN, room);
        port.set(PollFlags::OUT, !self.outgoing.is_empty());
        let mut sources = vec![Source::Signals, Source::Port];
        let mut fds = vec![PollFd::new(self.signals, PollFlags::IN), PollFd::new(self.port, port)];
        for (&id, command) in &self.commands {
            if let Some(fd) = command.wants_to_write() {
                sources.push(Source::Stdin(id));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                if let Some(fd) = command.wants_to_read(stream).filter(|_| room) {
                    sources.push(Source::Output(id, stream));
                    fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                }
            }
        }
        let ending = self.ending.map(|(Ending::Asked(until) | Ending::Killed(until))| until);
        let deadline = self.commands.values().filter_map(Running::deadline).chain(ending).min();
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn reap(&mut self) {
        self.signals.clear();
        while let Some(ended) = self.signals.next_ended() {
            // Whoever it was is collected; only a command's own process has a status to report.
            let _ = self.commands.values_mut().any(|command| command.take_end(&ended));
        }
    }

    /// Reads what the host says and does it.
    fn listen(&mut self) -> io::Result<Option<End>> {
        match self.port.read(&mut self.buffer)? {
            None => return Ok(None),
            Some(0) => return Ok(Some(End::HostGone)),
            Some(count) => self.decoder.feed(self.buffer.get(..count).unwrap_or_default()),
        }
        loop {
            match self.decoder.next_message() {
                Ok(None) => return Ok(None),
                Ok(Some(message)) => {
                    if let Err(error) = self.act(message) {
                        eprintln!("motu-agent: the host broke the protocol: {error}");
                        return Ok(Some(End::HostGone));
                    }
                }
                Err(error) => {
                    eprintln!("motu-agent: the host sent {error}");
                    return Ok(Some(End::HostGone));
                }
            }
        }
    }

    fn act(&mut self, message: HostMessage) -> Result<(), Violation> {
        match message {
            HostMessage::Exec(exec) if self.commands.contains_key(&exec.id) => {
                return Err(Violation::IdInUse(exec.id));
            }
            HostMessage::Exec(exec) => self.start(&exec),
            HostMessage::Stdin { id, data } => {
                self.commands.get_mut(&id).map_or(Ok(()), |command| command.take_stdin(&data))?;
            }
            HostMessage::StdinClose { id } => {
                self.commands.get_mut(&id).into_iter().for_each(Running::close_stdin);
            }
            HostMessage::Signal { id, signo } => {
                self.commands.get(&id).into_iter().for_each(|command| command.signal(signo));
            }
            HostMessage::Resize { id, size } => {
                self.commands.get(&id).into_iter().for_each(|command| command.resize(size));
            }
            HostMessage::Credit { id, stream, bytes } => {
                self.commands.get_mut(&id).map_or(Ok(()), |command| command.take_credit(stream, bytes))?;
            }
            HostMessage::Shutdown { grace } => {
                if self.ending.is_none() {
                    power::signal_all(Signal::TERM);
                    self.ending = Some(Ending::Asked(Instant::now() + Duration::from_millis(grace.into())));
                }
            }
        }
        Ok(())
    }

    /// Whether the end that the host asked for has come: all processes have ended and what they said is sent, or their
    /// time is over.
    fn ended(&mut self) -> bool {
        let Some(ending) = self.ending else { return false };
        if self.signals.alone() && self.commands.is_empty() && self.outgoing.is_empty() {
            return true;
        }
        match ending {
            Ending::Asked(until) if Instant::now() >= until => {
                power::signal_all(Signal::KILL);
                self.ending = Some(Ending::Killed(Instant::now() + LAST_WORDS));
                false
            }
            Ending::Killed(until) => Instant::now() >= until,
            Ending::Asked(_) => false,
        }
    }

    fn start(&mut self, exec: &Exec) {
        let refuse = |message: String| Err(StartError { status: STATUS_AGENT, message });
        let started = if let Some(message) = self.unusable {
            refuse(message.to_owned())
        } else if self.ending.is_some() {
            refuse("the machine is being switched off".into())
        } else if self.commands.len() >= MAX_EXECS {
            refuse(format!("{MAX_EXECS} commands run already, which is the most"))
        } else {
            Running::start(exec)
        };
        match started {
            Ok(running) => {
                self.commands.insert(exec.id, running);
                self.say(&GuestMessage::Started { id: exec.id });
            }
            Err(StartError { status, message }) => {
                self.say(&GuestMessage::Error { id: exec.id, status, message: short(message) });
            }
        }
    }

    /// Reports the commands that have ended and whose output is all said.
    fn finish(&mut self) {
        let mut ended = Vec::new();
        for (&id, command) in &mut self.commands {
            if let Some(status) = command.finished() {
                ended.push(GuestMessage::Exited { id, status });
            }
        }
        for message in ended {
            if let GuestMessage::Exited { id, .. } = message {
                self.commands.remove(&id);
            }
            self.say(&message);
        }
    }

    fn say(&mut self, message: &GuestMessage) {
        if let Err(error) = message.encode(&mut self.outgoing) {
            eprintln!("motu-agent: {error}");
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut said = 0;
        while let Some(bytes) = self.outgoing.get(said..).filter(|bytes| !bytes.is_empty()) {
            match self.port.write(bytes)? {
                Some(count) if count > 0 => said += count,
                _ => break,
            }
        }
        self.outgoing.drain(..said);
        Ok(())
    }
}

fn short(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
    message
}
