//! The machine's own command: it is logged, the machine ends with it, and a client may be attached to it.
//!
//! ```text
//!   waiting --started by this process, or by the client that attaches--> running --> ended
//! ```

use super::session::{self, Client};
use super::{Shared, log, serve};
use crate::agent::{Command, Controls, End, Event};
use crate::images::boot;
use crate::status::Status;
use motu_manager::LogWriter;
use motu_manager::wire::Request;
use motu_proto::{Exec, STATUS_AGENT, TermSize};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long what the command said may take to its client after the machine's end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The machine's own command.
pub struct Own {
    state: Mutex<Stage>,
    said: Condvar,
    log: Mutex<LogWriter>,
    stopping: AtomicBool,
}

enum Stage {
    Waiting,
    Running(Arc<Command>),
    Ended(Status),
}

impl Own {
    pub fn new(log: LogWriter) -> Self {
        Self { state: Stage::Waiting.into(), said: Condvar::new(), log: log.into(), stopping: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it exited with, if it ran and has ended.
    pub fn status(&self) -> Option<Status> {
        if let Stage::Ended(status) = *self.lock() { Some(status) } else { None }
    }

    /// Sends it a signal; false if it does not run.
    pub fn signal(&self, signo: u8) -> bool {
        let command = if let Stage::Running(command) = &*self.lock() { Some(Arc::clone(command)) } else { None };
        command.is_some_and(|command| command.signal(signo))
    }

    /// The machine is to end; what happens from now on is no failure.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Waits, not for long, until all that the command said is where it is to go.
    pub fn wait_until_said(&self) {
        let running = |stage: &mut Stage| matches!(stage, Stage::Running(_));
        drop(self.said.wait_timeout_while(self.lock(), LAST_WORDS, running));
    }

    /// Writes down what the command said. A log that cannot be written holds nobody up.
    fn record(&self, stream: motu_proto::OutputStream, data: &[u8]) {
        let mut output = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = output.record(stream, data) {
            log(&format!("what the command writes is not logged: {error}"));
        }
    }
}

/// Starts the command with nobody attached, and waits until it runs.
///
/// # Errors
/// It cannot be started: a status, and why.
pub fn start_detached(shared: &Arc<Shared>) -> Result<(), (u8, String)> {
    let Some(exec) = boot::unattended_command(&shared.config, &shared.record.command) else { return Ok(()) };
    let tty = shared.record.command.tty.then_some(TermSize { rows: 24, cols: 80 });
    // Input that never comes and never ends, on a terminal; else the end at once.
    let exec = Exec { tty, stdin: tty.is_some(), ..exec };
    let (tell, told) = mpsc::channel();
    let trouble = |error: io::Error| (STATUS_AGENT, format!("starting a thread for the command: {error}"));
    let (command, events) = run(shared, exec);
    let shared = Arc::clone(shared);
    let follow = move || follow(&shared, &command, events, None, &tell);
    std::thread::Builder::new().name("command".into()).spawn(follow).map_err(trouble)?;
    told.recv().unwrap_or(Ok(()))
}

/// Starts the command for a client, and speaks with the client until it goes or the command has ended.
pub fn attach(shared: &Arc<Shared>, request: &Request, mut client: Client) {
    let Request::Main { size: (rows, cols), term, stdin } = request else { return };
    if !matches!(*shared.own.lock(), Stage::Waiting) {
        return client.refuse("the machine's own command runs already; `motu exec` runs another");
    }
    let asked = &shared.record.command;
    let exec = boot::command(&shared.config, asked).unwrap_or_else(|| boot::shell(&shared.config, asked, asked.tty));
    let tty = asked.tty.then_some(TermSize { rows: *rows, cols: *cols });
    let mut exec = Exec { tty, stdin: *stdin, ..exec };
    if let (Some(_), Some(term)) = (exec.tty, term) {
        exec.env.insert(0, (b"TERM".to_vec(), term.clone().into_bytes()));
    }
    if !client.go() {
        return;
    }
    let (command, events) = run(shared, exec);
    let (tell, _) = mpsc::channel();
    session::listen(client.reader(), Arc::clone(&command), move |command| {
        // On a terminal that would be a key; nobody is there to press it.
        if tty.is_none() {
            command.close_stdin();
        }
    });
    follow(shared, &command, events, Some(client), &tell);
}

fn run(shared: &Shared, exec: Exec) -> (Arc<Command>, Receiver<Event>) {
    let (command, events) = shared.link.run(exec);
    let command = Arc::new(command);
    *shared.own.lock() = Stage::Running(Arc::clone(&command));
    (command, events)
}

/// Logs what the command says, and passes it on to the client as long as there is one; ends the machine with it.
fn follow(
    shared: &Arc<Shared>,
    command: &Command,
    events: Receiver<Event>,
    mut client: Option<Client>,
    started: &Sender<Result<(), (u8, String)>>,
) {
    for event in events {
        if let Event::Output(stream, data) = &event {
            shared.own.record(*stream, data);
        }
        if client.as_mut().is_some_and(|client| !client.tell(&event)) {
            client = None;
        }
        match event {
            Event::Started => drop(started.send(Ok(()))),
            Event::Output(stream, data) => command.passed_on(stream, data.len()),
            Event::Room(_) => {}
            Event::Ended(end) => {
                let status = match end {
                    End::Exited(status) => Status::Code(status.shell_status()),
                    End::Refused { status, message } => {
                        log(&message);
                        let _ = started.send(Err((status, message)));
                        Status::Code(status)
                    }
                    // The machine's end tells why.
                    End::Lost(_) => {
                        *shared.own.lock() = Stage::Waiting;
                        shared.own.said.notify_all();
                        return;
                    }
                };
                *shared.own.lock() = Stage::Ended(status);
                shared.own.said.notify_all();
                // What it has left behind ends, and what is on its disks is written.
                serve::end(shared, Duration::ZERO);
            }
        }
    }
}
