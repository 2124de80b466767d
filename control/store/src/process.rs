//! Programs of the host that do part of the work.

use crate::progress::Watch;
use crate::{StoreError, room};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// How often it is looked whether the work is still wanted.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest line that is taken from a program, in bytes.
const LONGEST_LINE: u64 = 64 << 10;

/// Most lines that are taken of a program's complaints.
const MOST_COMPLAINTS: usize = 20;

/// What of the host is used.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// The folders to look for programs in, if not those of this process's `PATH`.
    pub(crate) path: Option<OsString>,
    /// Where apt keeps its lists of packages.
    pub(crate) lists: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        // Debian's place for them, and that of all that descends from it (apt.conf(5), Dir::State::lists).
        Host { path: None, lists: "/var/lib/apt/lists".into() }
    }
}

impl Host {
    /// A program, to be given its arguments.
    pub(crate) fn command(&self, tool: &'static str) -> Command {
        let mut command = Command::new(tool);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }
}

/// A line that a program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Out(String),
    Err(String),
}

/// How a program ended, and what it complained of.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) complaints: String,
}

/// Says why a program did not start.
pub(crate) fn cannot_run(tool: &'static str, source: io::Error) -> StoreError {
    if source.kind() == io::ErrorKind::NotFound {
        StoreError::NoTool { tool }
    } else {
        StoreError::Run { tool, source }
    }
}

/// Fails if a program did.
pub(crate) fn check(
    tool: &'static str,
    doing: impl FnOnce() -> String,
    status: ExitStatus,
    output: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    if status.success() {
        return Ok(());
    }
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "it did not end".to_owned(),
    };
    Err(StoreError::Tool { tool, doing: doing(), status: ended, output: output().trim_end().to_owned() })
}

/// Runs a program to its end and hands over each line of its standard output. It runs in a process
/// group of its own, so that Ctrl-C reaches motu alone, which then ends the whole group; so it does when
/// the disk that `folder` is on becomes full.
pub(crate) fn run(
    (tool, command): (&'static str, &mut Command),
    folder: &Path,
    watch: Watch<'_>,
    mut each: impl FnMut(&str),
) -> Result<Outcome, StoreError> {
    let mut child = command.process_group(0).spawn().map_err(|error| cannot_run(tool, error))?;
    let lines = read_lines(&mut child);
    let mut complaints = Vec::new();
    loop {
        if let Err(end) = watch.check().and_then(|()| room::check(folder, room::TO_GO_ON)) {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            return Err(end);
        }
        match lines.recv_timeout(PAUSE) {
            Ok(Line::Out(line)) => each(&line),
            Ok(Line::Err(line)) if complaints.len() < MOST_COMPLAINTS && !line.is_empty() => complaints.push(line),
            Ok(Line::Err(_)) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().map_err(|source| StoreError::Run { tool, source })?;
    Ok(Outcome { status, complaints: complaints.join("\n") })
}

fn read_lines(child: &mut Child) -> Receiver<Line> {
    let (sender, receiver) = sync_channel(64);
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, sender.clone(), Line::Out);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, sender, Line::Err);
    }
    receiver
}

fn forward(stream: impl Read + Send + 'static, sender: SyncSender<Line>, as_line: fn(String) -> Line) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = stream.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(as_line(text)).is_err() {
                return;
            }
        }
    });
}
