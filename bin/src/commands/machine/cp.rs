//! `motu cp`: files and folders from a machine that runs, and to one.

use super::kept;
use crate::agent::{Controls, End, Event, Remote, printable};
use crate::cli::life::CpArgs;
use crate::images;
use crate::status::Status;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use motu_copy::{CopyError, Rights, Target, pack, unpack};
use motu_manager::wire::Request;
use motu_manager::{Connection, Machine};
use motu_proto::{Exec, OutputStream, builtin};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Bytes that are sent to the machine at once.
const BUFFER: usize = 128 * 1024;
/// Bytes of what the guest has to say that are shown.
const LONGEST: usize = 64 * 1024;

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Host(PathBuf),
    Guest(String, OsString),
}

/// # Errors
/// One of the two places cannot be used, or not all could be copied.
pub fn run(args: &CpArgs) -> Result<Status> {
    match (place(&args.source)?, place(&args.target)?) {
        (Place::Guest(machine, path), Place::Host(target)) => from_guest(args, &kept::find(&machine)?, &path, &target),
        (Place::Host(source), Place::Guest(machine, path)) => to_guest(args, &source, &kept::find(&machine)?, &path),
        (Place::Host(_), Place::Host(_)) => {
            bail!("neither of them is in a machine; write MACHINE:PATH for the one that is")
        }
        (Place::Guest(..), Place::Guest(..)) => bail!("both are in machines; copy to this host first, and then on"),
    }
}

/// Tells a machine's place from a host's as Docker does: what begins with `/` or `.` is the host's.
fn place(text: &OsStr) -> Result<Place> {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':');
    let (Some(colon), false) = (colon, bytes.starts_with(b"/") || bytes.starts_with(b".")) else {
        if bytes.is_empty() {
            bail!("an empty text is no path; write . for this folder");
        }
        return Ok(Place::Host(text.into()));
    };
    let (machine, path) = (bytes.get(..colon).unwrap_or_default(), bytes.get(colon + 1..).unwrap_or_default());
    if path.is_empty() {
        bail!("{} names no path in the machine; write MACHINE:PATH", text.display());
    }
    // There is no folder that a copy could begin in but the root.
    let path = [if path.starts_with(b"/") { &b""[..] } else { b"/" }, path].concat();
    Ok(Place::Guest(String::from_utf8_lossy(machine).into_owned(), OsString::from_vec(path)))
}

/// What a copy of this is called in a folder, and whether only what is in it is meant: `a/.`, `/` and `..` have no name.
fn name_of(source: &OsStr) -> (OsString, bool) {
    let bytes = source.as_bytes();
    let contents = bytes == b"." || bytes.ends_with(b"/.");
    match Path::new(source).file_name() {
        Some(name) if !contents => (name.to_owned(), false),
        _ => (OsString::from("."), true),
    }
}

/// Starts what the agent does by itself.
fn start(machine: &Machine, argv: Vec<Vec<u8>>, stdin: bool) -> Result<(Arc<Remote>, Receiver<Event>)> {
    let exec = Exec { argv, builtin: true, stdin, ..Exec::default() };
    let (speaker, says) = Connection::open(machine)?.command(&Request::Exec, Some(exec))?;
    Remote::start(speaker, says).context("starting the thread for the machine")
}

fn from_guest(args: &CpArgs, machine: &Machine, source: &OsStr, target: &Path) -> Result<Status> {
    let follow = if args.follow_link || source.as_bytes().ends_with(b"/.") { "follow" } else { "asis" };
    let argv = vec![builtin::PACK.to_vec(), source.as_bytes().to_vec(), follow.into()];
    let (_remote, events) = start(machine, argv, false)?;
    let mut says = Says { events, data: Vec::new(), at: 0, errors: Vec::new(), end: None };
    let (name, contents) = name_of(source);
    let bar = progress(machine, source);
    let to = Target { path: target, name: &name, contents, rights: Rights::Plain };
    let mut shown = 0;
    let made = unpack(BufReader::new(&mut says), &to, &mut |done| {
        bar.inc(done.bytes.saturating_sub(shown));
        shown = done.bytes;
    });
    bar.finish_and_clear();
    let made = match made {
        // This host's trouble: what the guest still says is of no interest.
        Err(error) if !matches!(error, CopyError::Stream(_) | CopyError::Broken(_)) => return Err(error.into()),
        made => made,
    };
    match (made, says.finish()) {
        (Ok(_), (Some(End::Exited(status)), errors)) if status.shell_status() == 0 => {
            tell(&errors);
            Ok(Status::Success)
        }
        // What the guest says is why there is no more, unless this host is.
        (Ok(_) | Err(CopyError::Stream(_) | CopyError::Broken(_)), (_, errors)) if !errors.is_empty() => {
            tell(&errors);
            Ok(Status::Failed)
        }
        (Ok(_), (end, _)) => bail!("the copy broke off: {}", ending(end)),
        (Err(CopyError::Stream(_) | CopyError::Broken(_)), (Some(End::Refused { message, .. }), _)) => {
            bail!("{message}")
        }
        (Err(error), _) => Err(error.into()),
    }
}

fn to_guest(args: &CpArgs, source: &Path, machine: &Machine, target: &OsStr) -> Result<Status> {
    let (name, contents) = name_of(source.as_os_str());
    let follow = args.follow_link || source.as_os_str().as_bytes().ends_with(b"/.");
    // Before anything is begun.
    let found = if follow { source.metadata() } else { source.symlink_metadata() };
    found.with_context(|| format!("cannot read {}", source.display()))?;
    let argv = vec![
        builtin::UNPACK.to_vec(),
        target.as_bytes().to_vec(),
        name.as_bytes().to_vec(),
        if contents { b"contents".to_vec() } else { b"whole".to_vec() },
        if args.archive { b"owners".to_vec() } else { b"bits".to_vec() },
    ];
    let (remote, events) = start(machine, argv, true)?;
    let bar = progress(machine, target);
    let (typing, counted) = (Arc::clone(&remote), bar.clone());
    let sending = std::thread::Builder::new().name("copy".into()).spawn({
        let source = source.to_owned();
        move || {
            let mut to = BufWriter::with_capacity(BUFFER, Typing { remote: typing, bar: counted });
            let mut left_out = Vec::new();
            let packed = pack(&source, follow, &mut to, &mut |error| left_out.push(error.to_string()));
            // What is still held cannot be sent if the other end is gone.
            drop(to);
            (packed, left_out)
        }
    });
    let sending = sending.context("starting the thread for the copy")?;
    let mut says = Says { events, data: Vec::new(), at: 0, errors: Vec::new(), end: None };
    io::copy(&mut says, &mut io::sink()).context("listening to the machine")?;
    bar.finish_and_clear();
    let (packed, left_out) =
        sending.join().unwrap_or_else(|_| (Err(CopyError::Broken(io::ErrorKind::Other.into())), Vec::new()));
    left_out.iter().for_each(|error| tell!("motu: {error}"));
    match (says.finish(), packed) {
        ((Some(End::Exited(status)), errors), Ok(packed)) if status.shell_status() == 0 => {
            tell(&errors);
            Ok(if packed.left_out == 0 { Status::Success } else { Status::Failed })
        }
        // The guest took nothing more, and says why.
        ((_, errors), Ok(_) | Err(CopyError::Broken(_))) if !errors.is_empty() => {
            tell(&errors);
            Ok(Status::Failed)
        }
        ((_, _), Err(error)) if !matches!(error, CopyError::Broken(_)) => Err(error.into()),
        ((end, _), _) => bail!("the copy broke off: {}", ending(end)),
    }
}

fn ending(end: Option<End>) -> String {
    match end {
        Some(End::Exited(status)) => format!("the agent's copy ended with status {}", status.shell_status()),
        Some(End::Refused { message, .. }) => message,
        Some(End::Lost(error)) => error.to_string(),
        None => "the machine says nothing more".to_owned(),
    }
}

/// Shows what the guest has to say, as one person's words.
fn tell(errors: &[u8]) {
    for line in String::from_utf8_lossy(errors).lines().filter(|line| !line.is_empty()) {
        tell!("motu: in the machine: {}", printable(line));
    }
}

/// Bytes and their rate, on a terminal only.
fn progress(machine: &Machine, path: &OsStr) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = images::bytes_spinner();
    bar.set_message(format!("copying {}:{}", machine.name, printable(&path.to_string_lossy())));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// The standard output of what runs in the guest.
struct Says {
    events: Receiver<Event>,
    data: Vec<u8>,
    at: usize,
    errors: Vec<u8>,
    end: Option<End>,
}

impl Says {
    /// How it ended, and what it had to say. It is not waited for if it is still at work: its output has no reader any more.
    fn finish(mut self) -> (Option<End>, Vec<u8>) {
        while self.end.is_none() {
            match self.events.recv_timeout(Duration::from_secs(1)) {
                Ok(event) => self.hear(event),
                Err(_) => break,
            }
            self.data.clear();
        }
        (self.end, self.errors)
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Output(OutputStream::Stdout, data) => (self.data, self.at) = (data, 0),
            Event::Output(OutputStream::Stderr, data) => {
                let room = LONGEST.saturating_sub(self.errors.len());
                self.errors.extend(data.iter().take(room));
            }
            Event::Started | Event::Room(_) => {}
            Event::Ended(end) => self.end = Some(end),
        }
    }
}

impl Read for Says {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut rest = self.data.get(self.at..).unwrap_or_default();
            if !rest.is_empty() {
                let count = rest.read(buffer)?;
                self.at += count;
                return Ok(count);
            }
            if self.end.is_some() {
                return Ok(0);
            }
            match self.events.recv() {
                Ok(event) => self.hear(event),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// The standard input of what runs in the guest; it ends when this is dropped.
struct Typing {
    remote: Arc<Remote>,
    bar: ProgressBar,
}

impl Write for Typing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if !self.remote.type_in(data) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.bar.inc(data.len() as u64);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        self.remote.close_stdin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_as_docker_does() {
        let host = |path: &str| Place::Host(path.into());
        let guest = |path: &str| Place::Guest("web".into(), path.into());
        for (text, expected) in [
            ("web:/etc/x", guest("/etc/x")),
            ("web:etc/x", guest("/etc/x")),
            ("web:a:b", guest("/a:b")),
            ("/a:b", host("/a:b")),
            ("./web:b", host("./web:b")),
            ("file", host("file")),
        ] {
            assert_eq!(place(text.as_ref()).unwrap(), expected, "{text}");
        }
        assert!(place("web:".as_ref()).unwrap_err().to_string().contains("MACHINE:PATH"));
        assert!(place("".as_ref()).is_err());
        for (source, name, contents) in [
            ("/a/b", "b", false),
            ("a/", "a", false),
            ("a/.", ".", true),
            ("/", ".", true),
            (".", ".", true),
            ("..", ".", true),
        ] {
            assert_eq!(name_of(source.as_ref()), (name.into(), contents), "{source}");
        }
    }
}
