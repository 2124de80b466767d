//! One command: its process and its three streams.

use crate::port::unless_busy;
use crate::signals::{Ended, unblock_all};
use crate::users::{Names, User};
use motu_proto::{
    Exec, ExitStatus, GuestMessage, MAX_DATA, OutputStream, ReceiveWindow, STATUS_AGENT, STATUS_NOT_EXECUTABLE,
    STATUS_NOT_FOUND, SendWindow, TermSize, WindowError,
};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process_group, setsid, umask};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where commands are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The agent's program, also after the initial RAM disk that it came in is gone (proc(5), /proc/PID/exe).
const OWN_PROGRAM: &str = "/proc/1/exe";

/// How readily the kernel ends a process when memory is out (proc(5)).
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What ends the input of a terminal in its default settings (termios(3): VEOF).
const END_OF_FILE: u8 = 0x04;

/// How long nothing may come of a terminal after its session has ended until that is all, if something left behind holds the
/// terminal open.
const TERMINAL_DRAIN: Duration = Duration::from_millis(200);

/// A command could not be started.
#[derive(Debug)]
pub struct StartError {
    /// What to exit with.
    pub status: u8,
    /// Why.
    pub message: String,
}

/// Bytes on their way to a command.
#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    /// Nothing comes after the queue.
    closing: bool,
    window: ReceiveWindow,
}

/// Bytes on their way from a command.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    window: SendWindow,
    /// After the command's end: how many of the bytes in the pipe are its own.
    left: Option<u64>,
}

/// A command that runs, or has ended with output still to be sent.
#[derive(Debug)]
pub struct Running {
    id: u32,
    process: Pid,
    terminal: bool,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    ended: Option<ExitStatus>,
    /// When its end, output of it or room for that came last.
    stirred: Instant,
}

/// To be called in a new child between fork and exec: makes it the leader of its own session, with the
/// terminal on its standard input as the controlling one if it has one.
pub fn become_leader(terminal: bool) -> io::Result<()> {
    unblock_all();
    setsid()?;
    if terminal {
        ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    Ok(())
}

fn agent_trouble(what: &str, error: impl Into<io::Error>) -> StartError {
    StartError { status: STATUS_AGENT, message: format!("{what}: {}", error.into()) }
}

fn nonblocking(fd: OwnedFd) -> Result<OwnedFd, StartError> {
    fcntl_getfl(&fd)
        .and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .map_err(|error| agent_trouble("a pipe", error))?;
    Ok(fd)
}

fn winsize(size: TermSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

fn refused(status: u8, message: String) -> StartError {
    StartError { status, message }
}

fn command_of(exec: &Exec, user: &User) -> Result<Command, StartError> {
    let Some((program, arguments)) = exec.argv.split_first() else {
        return Err(refused(STATUS_AGENT, "there is no command to run".into()));
    };
    let mut command = if exec.builtin {
        let mut command = Command::new(OWN_PROGRAM);
        command.arg(OsStr::from_bytes(program));
        command
    } else {
        Command::new(OsStr::from_bytes(program))
    };
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    command.env_clear().env("PATH", PATH).env("HOME", OsStr::from_bytes(&user.home)).env("TERM", "linux");
    command.envs(exec.env.iter().map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))));
    match &exec.cwd {
        Some(cwd) => command.current_dir(working_folder(Path::new(OsStr::from_bytes(cwd)))?),
        None => {
            let home = Path::new(OsStr::from_bytes(&user.home));
            command.current_dir(if home.is_dir() { home } else { Path::new("/") })
        }
    };
    Ok(command)
}

/// The folder to start in; made if it is not there, as Docker does.
fn working_folder(folder: &Path) -> Result<&Path, StartError> {
    let refused = |why: String| refused(STATUS_NOT_EXECUTABLE, format!("cannot start in {}: {why}", folder.display()));
    if !folder.is_absolute() {
        return Err(refused("it has to begin with /".into()));
    }
    if !folder.is_dir() {
        std::fs::create_dir_all(folder).map_err(|error| refused(error.to_string()))?;
    }
    Ok(folder)
}

/// To be called in a new child between fork and exec: makes it what a command is that this user starts.
fn become_user(user: &User, own_stdin: bool) -> io::Result<()> {
    let score = open(OOM_SCORE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    // Without /proc the score stays the agent's.
    let _ = score.and_then(|score| rustix::io::write(score, b"0"));
    umask(Mode::from_raw_mode(0o022));
    if user.uid == 0 && user.gid == 0 && user.groups.is_empty() {
        return Ok(());
    }
    for fd in if own_stdin { 0..3 } else { 1..3 } {
        // SAFETY: fchown takes no pointer. /dev/stdout and its like can be opened by their owner only.
        unsafe { libc::fchown(fd, user.uid, libc::gid_t::MAX) };
    }
    // SAFETY: setgroups reads so many numbers of a live slice; the others take no pointer. All are
    // async-signal-safe, and the process has one thread.
    let failed = unsafe {
        libc::setgroups(user.groups.len(), user.groups.as_ptr()) != 0
            || libc::setresgid(user.gid, user.gid, user.gid) != 0
            || libc::setresuid(user.uid, user.uid, user.uid) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn start(command: &mut Command, user: User, terminal: bool, own_stdin: bool) -> Result<Child, StartError> {
    let become_command = move || {
        become_leader(terminal)?;
        become_user(&user, own_stdin)
    };
    // SAFETY: both make system calls only, which is all that may be done between fork and exec.
    unsafe { command.pre_exec(become_command) };
    command.spawn().map_err(|error| {
        let status = match error.kind() {
            io::ErrorKind::NotFound => STATUS_NOT_FOUND,
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => STATUS_AGENT,
            _ => STATUS_NOT_EXECUTABLE,
        };
        StartError { status, message: format!("{}: {error}", command.get_program().display()) }
    })
}

impl Running {
    /// Starts a command.
    pub fn start(exec: &Exec) -> Result<Self, StartError> {
        let user = Names::of_machine().find(exec.user.as_deref());
        let user = user.map_err(|message| refused(STATUS_NOT_EXECUTABLE, message))?;
        let mut command = command_of(exec, &user)?;
        let (child, stdin, stdout, stderr) = match exec.tty {
            Some(size) => start_on_terminal(&mut command, user, size)?,
            None => start_on_pipes(&mut command, user, exec.stdin)?,
        };
        let input = |fd| Input { fd, queue: VecDeque::new(), closing: false, window: ReceiveWindow::default() };
        let output = |fd| Output { fd, window: SendWindow::default(), left: None };
        let mut running = Running {
            id: exec.id,
            process: Pid::from_child(&child),
            terminal: exec.tty.is_some(),
            stdin: stdin.map(input),
            stdout: stdout.map(output),
            stderr: stderr.map(output),
            ended: None,
            stirred: Instant::now(),
        };
        if !exec.stdin {
            running.close_stdin();
        }
        Ok(running)
    }

    /// Whether this is the process that ended; takes its status then.
    pub fn take_end(&mut self, (process, status): &Ended) -> bool {
        if self.ended.is_some() || self.process.as_raw_nonzero().get() != *process {
            return false;
        }
        let number = |status: i32| u8::try_from(status).unwrap_or(u8::MAX);
        let how = match status.terminating_signal() {
            Some(signo) => ExitStatus::Signal(number(signo)),
            None => ExitStatus::Code(number(status.exit_status().unwrap_or(i32::MAX))),
        };
        self.ended = Some(how);
        self.stirred = Instant::now();
        self.stdin = None;
        if !self.terminal {
            // What the command wrote is in the pipes by now. A process that it left behind may hold
            // them open and write on; that is not waited for.
            for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
                output.left = Some(rustix::io::ioctl_fionread(&output.fd).unwrap_or(0));
            }
        }
        true
    }

    /// Takes bytes for the command's standard input.
    pub fn take_stdin(&mut self, data: &[u8]) -> Result<(), WindowError> {
        let Some(input) = self.stdin.as_mut().filter(|input| !input.closing) else { return Ok(()) };
        input.window.received(data.len())?;
        input.queue.extend(data);
        Ok(())
    }

    /// Ends the command's standard input after what has been taken.
    pub fn close_stdin(&mut self) {
        if let Some(input) = &mut self.stdin {
            if self.terminal && !input.closing {
                input.queue.push_back(END_OF_FILE);
            }
            input.closing = true;
            if input.queue.is_empty() {
                self.stdin = None;
            }
        }
    }

    /// Takes the host's word that it has passed output on.
    pub fn take_credit(&mut self, stream: OutputStream, bytes: u32) -> Result<(), WindowError> {
        self.stirred = Instant::now();
        self.output(stream).as_mut().map_or(Ok(()), |output| output.window.credit(bytes))
    }

    /// Sends a signal to the command and what it started, unless it has ended.
    pub fn signal(&self, signo: u8) {
        if self.ended.is_none() {
            // SAFETY: kill takes no pointer; a negative number is the process group of that number.
            unsafe { libc::kill(-self.process.as_raw_nonzero().get(), i32::from(signo)) };
        }
    }

    /// Ends the command because the host that wanted it has gone.
    pub fn hang_up(&self) {
        if self.ended.is_none() {
            let _ = kill_process_group(self.process, Signal::HUP);
        }
    }

    /// Gives the terminal a new size.
    pub fn resize(&self, size: TermSize) {
        if let (true, Some(output)) = (self.terminal, &self.stdout) {
            let _ = tcsetwinsize(&output.fd, winsize(size));
        }
    }

    fn output(&mut self, stream: OutputStream) -> &mut Option<Output> {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// The descriptor to write standard input to, if there is something to write.
    pub fn wants_to_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|input| !input.queue.is_empty()).map(|input| input.fd.as_fd())
    }

    /// The descriptor to read this stream from, if the host has room for what comes.
    pub fn wants_to_read(&self, stream: OutputStream) -> Option<BorrowedFd<'_>> {
        let output = match stream {
            OutputStream::Stdout => self.stdout.as_ref(),
            OutputStream::Stderr => self.stderr.as_ref(),
        };
        output.filter(|output| output.window.available() > 0).map(|output| output.fd.as_fd())
    }

    /// Writes what the command takes of its standard input; returns the credit for the host.
    pub fn pump_in(&mut self) -> Option<GuestMessage> {
        let input = self.stdin.as_mut()?;
        let (front, _) = input.queue.as_slices();
        let count = match unless_busy(rustix::io::write(&input.fd, front)) {
            Ok(count) => count.unwrap_or(0),
            Err(_) => {
                // The command has closed its standard input: what comes for it has no place to go.
                self.stdin = None;
                return None;
            }
        };
        input.queue.drain(..count);
        let credit = input.window.passed_on(count);
        if input.closing && input.queue.is_empty() && !self.terminal {
            self.stdin = None;
        }
        credit.map(|bytes| GuestMessage::Credit { id: self.id, bytes })
    }

    /// Reads what the command has written to this stream.
    pub fn pump_out(&mut self, stream: OutputStream, buffer: &mut [u8]) -> Option<GuestMessage> {
        let id = self.id;
        let place = self.output(stream);
        let output = place.as_mut()?;
        let left = output.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let room = buffer.len().min(MAX_DATA).min(output.window.available()).min(left);
        let read = buffer.get_mut(..room).map(|buffer| rustix::io::read(&output.fd, buffer));
        // A terminal that nothing holds open any more gives EIO for the end (pty(7)).
        let count = match read.map(unless_busy) {
            Some(Ok(None)) => return None,
            Some(Ok(Some(count))) if count > 0 => count,
            _ => {
                *place = None;
                return None;
            }
        };
        output.window.sent(count);
        output.left = output.left.map(|left| left.saturating_sub(count as u64));
        if output.left == Some(0) {
            *place = None;
        }
        self.stirred = Instant::now();
        let data = buffer.get(..count)?.to_vec();
        Some(match stream {
            OutputStream::Stdout => GuestMessage::Stdout { id, data },
            OutputStream::Stderr => GuestMessage::Stderr { id, data },
        })
    }

    /// How long to wait at most before [`Running::finished`] is to be asked again.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.terminal && self.wants_to_read(OutputStream::Stdout).is_some();
        self.ended.filter(|_| waiting).map(|_| self.stirred + TERMINAL_DRAIN)
    }

    /// How the command ended, once all of its output has been handed over.
    pub fn finished(&mut self) -> Option<ExitStatus> {
        let status = self.ended?;
        for output in [&mut self.stdout, &mut self.stderr] {
            if output.as_ref().is_some_and(|output| output.left == Some(0)) {
                *output = None;
            }
        }
        let drained = self.stdout.is_none() && self.stderr.is_none();
        let expired = self.deadline().is_some_and(|deadline| Instant::now() >= deadline);
        (drained || expired).then_some(status)
    }
}

type Started = (Child, Option<OwnedFd>, Option<OwnedFd>, Option<OwnedFd>);

fn start_on_pipes(command: &mut Command, user: User, stdin: bool) -> Result<Started, StartError> {
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command, user, false, stdin)?;
    let stdin = child.stdin.take().map(OwnedFd::from).map(nonblocking).transpose()?;
    let stdout = child.stdout.take().map(OwnedFd::from).map(nonblocking).transpose()?;
    let stderr = child.stderr.take().map(OwnedFd::from).map(nonblocking).transpose()?;
    Ok((child, stdin, stdout, stderr))
}

fn start_on_terminal(command: &mut Command, user: User, size: TermSize) -> Result<Started, StartError> {
    let trouble = |error: rustix::io::Errno| agent_trouble("a terminal", error);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(trouble)?;
    unlockpt(&master).map_err(trouble)?;
    tcsetwinsize(&master, winsize(size)).map_err(trouble)?;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(trouble)?;
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| agent_trouble("a terminal", error));
    command.stdin(copy(&slave)?).stdout(copy(&slave)?).stderr(slave);
    let child = start(command, user, true, true)?;
    let master = nonblocking(master)?;
    Ok((child, Some(copy(&master)?), Some(master), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_proto::WINDOW;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{WaitOptions, waitpid};

    /// Waits until the terminal has something to read, or its end, and takes it.
    fn read(command: &mut Running, buffer: &mut [u8]) -> usize {
        let fd = command.wants_to_read(OutputStream::Stdout).expect("there is room");
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None).expect("polled");
        match command.pump_out(OutputStream::Stdout, buffer) {
            Some(GuestMessage::Stdout { data, .. }) => data.len(),
            _ => 0,
        }
    }

    #[test]
    fn what_a_terminal_holds_back_for_want_of_credit_is_not_lost() {
        let all = WINDOW as usize + 1000;
        let line = format!("head -c {all} /dev/zero | tr '\\0' x");
        let argv = ["/bin/sh", "-c", &line].map(|word| word.as_bytes().to_vec()).to_vec();
        let exec = Exec { argv, tty: Some(TermSize { rows: 24, cols: 80 }), ..Exec::default() };
        let mut command = Running::start(&exec).expect("started");
        let mut buffer = vec![0; MAX_DATA];
        let mut came = 0;
        while came < WINDOW as usize {
            came += read(&mut command, &mut buffer);
        }
        // It ends with the rest in its terminal, and the host takes its time.
        let (process, status) =
            waitpid(Some(command.process), WaitOptions::empty()).expect("it is a child").expect("it has ended");
        assert!(command.take_end(&(process.as_raw_nonzero().get(), status)));
        std::thread::sleep(2 * TERMINAL_DRAIN);
        assert_eq!(command.finished(), None);
        command.take_credit(OutputStream::Stdout, WINDOW).expect("it was sent");
        assert_eq!(command.finished(), None, "the rest can be read only now");
        while command.finished().is_none() {
            came += read(&mut command, &mut buffer);
        }
        assert_eq!((came, command.finished()), (all, Some(ExitStatus::Code(0))));
    }
}
