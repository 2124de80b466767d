//! An image, and a command or a shell in it.

use super::{Face, Request, Run, kernel, outputs};
use crate::agent::{Command, Controls, End, Link, LinkError};
use crate::commands::machine::attached::Attached;
use crate::images::{self, Bars, Interrupt, boot};
use crate::status::Status;
use crate::terminal;
use crate::terminal::signals::{Asked, Watch};
use crate::vmm::{Disks, Ending, Sizes, Vmm, Why};
use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use motu_proto::{Exec, PORT_NAME};
use motu_spec::{CommandSpec, Console, DEFAULT_IMAGE};
use motu_store::{ImageConfig, Life};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

pub fn run(request: &Request) -> Result<Run> {
    let spec = &request.spec;
    let name = spec.image_name().unwrap_or(DEFAULT_IMAGE);
    let store = images::store()?;
    // One without an agent is to be talked to by its console. One that is still to be made has an agent.
    let has_agent = store.find(name).map_or(true, |image| images::has_agent(&image.record.boot));
    let face = if has_agent { Face::Command } else { Face::Console };
    if !has_agent && !request.command.is_empty() {
        bail!(
            "the image {name} has no agent of motu's, so no command can be run in it; leave out what follows --, and its console \
             is on this terminal"
        );
    }
    let shows_console = request.verbose || !has_agent || spec.console.as_ref().is_some_and(|c| *c != Console::None);
    let default = if request.verbose || !has_agent { Console::Stdio } else { Console::None };
    // Before the image is made, which may take a while.
    let outputs = outputs(spec, default, face)?;
    let disks = Disks::open(&spec.disks, Sizes::Exact)?;
    let interrupt = Interrupt::default();
    let signals = interrupt.watch()?;
    let bars = Bars::default();
    let watch = motu_store::Watch { progress: &bars, cancel: &interrupt.cancel };
    let prepared = match images::prepare(&store, name, watch) {
        Ok(prepared) => prepared,
        Err(error) => return interrupt.stopped(error).map(Run::Interrupted),
    };
    // Until the machine has ended: the image stays as long.
    let folder = store.create_machine(Some(&prepared.image), Life::Ephemeral, watch)?;
    let exec = exec(request, &prepared.image.record.config);
    let boot = boot::boot(prepared, &folder, spec, shows_console, None, disks)?;
    if !has_agent {
        return kernel::on_console(request, boot, outputs, Some(&signals)).inspect(|_| drop(folder));
    }
    let mut vmm = Vmm::new(spec, boot, &request.engine, outputs.clone())?;
    let spinner = if request.verbose { ProgressBar::hidden() } else { spinner(name) };
    let command = connect(&mut vmm, exec, &spinner)?;
    forward_signals(&signals, command, vmm.ending());
    let ended = vmm.run(spec);
    spinner.finish_and_clear();
    drop(folder);
    Ok(Run::Ended(Box::new(ended?), outputs.console, face))
}

/// A note that the machine boots, on a terminal only.
fn spinner(name: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_message(format!("booting {name}"));
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Starts the command; it runs as soon as the agent in the guest answers. From then on, the terminal is its.
fn connect(vmm: &mut Vmm, exec: Exec, spinner: &ProgressBar) -> Result<Arc<Command>> {
    let port = vmm.machine().take_port(PORT_NAME).ok_or_else(|| anyhow!("the machine has no port {PORT_NAME}"))?;
    let on_terminal = exec.tty.is_some() && std::io::stdin().is_terminal();
    let ending = vmm.ending();
    let lost = Arc::clone(&ending);
    let lost = move |error: &LinkError| {
        lost.end(Why::Failed(anyhow::Error::new(error.clone())));
    };
    let link =
        Link::start(Box::new(port.clone()), Box::new(port), lost).context("starting the thread for the agent")?;
    let (command, events) = link.run(exec);
    let command = Arc::new(command);
    let attached = Attached { controls: Arc::clone(&command), on_terminal, booting: spinner.clone(), stdin: true };
    let follow = move || {
        let left = Arc::clone(&ending);
        let leave = move || {
            left.end(Why::Left);
        };
        let why = match attached.follow(events, leave) {
            Ok(End::Exited(status)) => Why::Command(Status::Code(status.shell_status())),
            Ok(End::Refused { status, message }) => {
                tell!("motu: {message}");
                Why::Command(Status::Code(status))
            }
            // The link tells the person why.
            Ok(End::Lost(error)) => return tracing::debug!("the command is lost: {error}"),
            Err(error) => Why::Failed(error),
        };
        ending.end(why);
    };
    std::thread::Builder::new().name("command".into()).spawn(follow).context("starting the thread for the command")?;
    Ok(command)
}

/// The command that was asked for, or the image's, or a shell: on a terminal of its own if the person sits at one.
fn exec(request: &Request, config: &ImageConfig) -> Exec {
    let tty = request.tty || (request.command.is_empty() && terminal::is_interactive());
    // What is no UTF-8 is put in its place afterwards.
    let argv = request.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let asked = CommandSpec { argv, ..request.asked.clone() };
    let mut exec = boot::command(config, &asked).unwrap_or_else(|| boot::shell(config, &asked, tty));
    for (place, word) in exec.argv.iter_mut().rev().zip(request.command.iter().rev()) {
        *place = word.as_bytes().to_vec();
    }
    if let Some(term) = std::env::var_os("TERM").filter(|_| tty) {
        exec.env.insert(0, (b"TERM".to_vec(), term.as_bytes().to_vec()));
    }
    Exec { tty: tty.then(terminal::term_size), stdin: true, ..exec }
}

/// A signal to motu is one to the command, which may take it as it likes; a second one, or one
/// without a command, ends the machine.
fn forward_signals(signals: &Watch, command: Arc<Command>, ending: Arc<Ending>) {
    let mut forwarded = false;
    signals.replace(move |asked| match asked {
        Asked::Resized => command.resize(terminal::term_size()),
        Asked::End(signo) => {
            let sent = !forwarded && u8::try_from(signo).is_ok_and(|signo| command.signal(signo));
            forwarded = true;
            if !sent {
                ending.end(Why::Signal(signo));
            }
        }
    });
}
