//! An image, and a command or a shell in it.

use super::stdin::{self, Sink};
use super::{Request, Run, outputs};
use crate::agent::{Session, Wiring};
use crate::error::Shown;
use crate::images;
use crate::status::Status;
use crate::terminal;
use crate::terminal::signals::{Asked, Watch};
use crate::vmm::{Boot, Disks, Ending, Vmm, Why};
use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use motu_machine::OnReset;
use motu_proto::{Exec, PORT_NAME, TermSize};
use motu_spec::{Console, DEFAULT_IMAGE};
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub fn run(request: &Request) -> Result<Run> {
    let spec = &request.spec;
    let name = spec.image_name().unwrap_or(DEFAULT_IMAGE);
    let shows_console = request.verbose || spec.console.as_ref().is_some_and(|c| *c != Console::None);
    // Before the image is made, which may take a while.
    let outputs = outputs(spec, if request.verbose { Console::Stdio } else { Console::None })?;
    let disks = Disks::open(&spec.disks)?;
    let making = Making::default();
    let signals = making.watch()?;
    let image = match images::prepare(name, &making.cancel) {
        Ok(image) => image,
        Err(error) => return making.stopped(error),
    };
    let boot = Boot {
        kernel: image.kernel,
        initrd: Some(image.initrd),
        cmdline: cmdline(&image.cmdline, shows_console, spec.cmdline.as_deref()),
        flat: None,
        ports: vec![PORT_NAME.to_owned()],
        disks,
        on_reset: OnReset::End,
    };
    let mut vmm = Vmm::new(spec, boot, &request.engine, outputs.clone())?;
    let spinner = if request.verbose { ProgressBar::hidden() } else { spinner(name) };
    let session = connect(&mut vmm, request, &spinner)?;
    forward_signals(&signals, session, vmm.ending());
    let ended = vmm.run(spec);
    spinner.finish_and_clear();
    Ok(Run::Ended(Box::new(ended?), outputs.console))
}

/// Signals while the image is made.
#[derive(Default)]
struct Making {
    cancel: Arc<AtomicBool>,
    signo: Arc<AtomicI32>,
}

impl Making {
    fn watch(&self) -> Result<Watch> {
        let (cancel, by) = (Arc::clone(&self.cancel), Arc::clone(&self.signo));
        let act = move |asked| {
            if let Asked::End(signo) = asked {
                by.store(signo, Ordering::SeqCst);
                cancel.store(true, Ordering::SeqCst);
            }
        };
        Watch::start(act).context("handling signals")
    }

    /// What it comes to that no image was made.
    fn stopped(&self, error: anyhow::Error) -> Result<Run> {
        match self.signo.load(Ordering::SeqCst) {
            0 => Err(error),
            signo => {
                eprintln!("motu: {}", Shown(&error));
                Ok(Run::Interrupted(Status::signal(signo)))
            }
        }
    }
}

/// The kernel's parameters: the image's, which are for a console that nobody watches; what is shown
/// is shown from the start (printing costs time).
fn cmdline(image: &str, shows_console: bool, append: Option<&str>) -> String {
    let loglevel = shows_console.then_some("loglevel=7");
    let parts: Vec<&str> = [Some(image), loglevel, append].into_iter().flatten().collect();
    parts.join(" ")
}

/// A note that the machine boots, on a terminal only.
fn spinner(name: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_message(format!("booting {name}"));
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Starts the command as soon as the agent in the guest answers; from then on, the terminal is its.
fn connect(vmm: &mut Vmm, request: &Request, spinner: &ProgressBar) -> Result<Arc<Session>> {
    let port = vmm.machine().take_port(PORT_NAME).ok_or_else(|| anyhow!("the machine has no port {PORT_NAME}"))?;
    let exec = exec(request);
    let on_terminal = exec.tty.is_some() && std::io::stdin().is_terminal();
    let wiring = Wiring {
        from_guest: Box::new(port.clone()),
        to_guest: Box::new(port),
        stdout: Box::new(std::io::stdout()),
        stderr: Box::new(std::io::stderr()),
    };
    let ending = vmm.ending();
    let running: Arc<OnceLock<Arc<Session>>> = Arc::default();
    let (spinner, to_be_typed) = (spinner.clone(), Arc::clone(&running));
    let ready = move || {
        spinner.finish_and_clear();
        let started = take_terminal(on_terminal).and_then(|()| {
            let session = Arc::clone(to_be_typed.wait());
            stdin::forward(Typing(session), Arc::clone(&ending)).context("starting the thread for stdin")
        });
        if let Err(error) = started {
            ending.end(Why::Failed(error));
        }
    };
    let session = Session::start(exec, wiring, vmm.ending(), ready).context("starting the thread for the agent")?;
    running.get_or_init(|| Arc::clone(&session));
    Ok(session)
}

fn take_terminal(on_terminal: bool) -> Result<()> {
    if !on_terminal {
        return Ok(());
    }
    // A closed stderr has no reader to miss the note.
    let _ = writeln!(std::io::stderr(), "motu: Ctrl-] leaves");
    terminal::enter_raw().context("putting the terminal into raw mode")
}

/// The command that was asked for, or a shell: on a terminal of its own if the person sits at one.
fn exec(request: &Request) -> Exec {
    let tty = request.tty || (request.command.is_empty() && terminal::is_interactive());
    let argv: Vec<Vec<u8>> = match request.command.as_slice() {
        [] if tty => vec![b"/bin/sh".to_vec(), b"-l".to_vec()],
        [] => vec![b"/bin/sh".to_vec()],
        command => command.iter().map(|word| word.as_bytes().to_vec()).collect(),
    };
    let term = std::env::var_os("TERM").filter(|_| tty);
    let env = term.map(|term| (b"TERM".to_vec(), term.as_bytes().to_vec()));
    Exec { argv, env: env.into_iter().collect(), tty: tty.then(terminal_size), stdin: true, ..Exec::default() }
}

/// The terminal's size; 24 lines of 80 where it is not known.
fn terminal_size() -> TermSize {
    let (rows, cols) = terminal::size().unwrap_or((24, 80));
    TermSize { rows, cols }
}

/// A signal to motu is one to the command, which may take it as it likes; a second one, or one
/// without a command, ends the machine.
fn forward_signals(signals: &Watch, session: Arc<Session>, ending: Arc<Ending>) {
    let mut forwarded = false;
    signals.replace(move |asked| match asked {
        Asked::Resized => session.resize(terminal_size()),
        Asked::End(signo) => {
            let sent = !forwarded && u8::try_from(signo).is_ok_and(|signo| session.signal(signo));
            forwarded = true;
            if !sent {
                ending.end(Why::Signal(signo));
            }
        }
    });
}

struct Typing(Arc<Session>);

impl Sink for Typing {
    fn input(&mut self, data: &[u8]) -> bool {
        self.0.type_in(data)
    }

    fn end(&mut self) {
        self.0.close_stdin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_nobody_watches_is_quiet() {
        assert_eq!(cmdline("console=ttyS0 quiet", false, None), "console=ttyS0 quiet");
        assert_eq!(cmdline("quiet", true, Some("debug")), "quiet loglevel=7 debug");
    }
}
