//! What commands on machines that stay have in common.

use super::attached::Attached;
use crate::agent::{Controls, End, Remote};
use crate::cli::RunArgs;
use crate::error::Shown;
use crate::images::{self, Bars};
use crate::status::Status;
use crate::terminal::signals::{Asked, Watch};
use crate::{engine, terminal};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use motu_manager::wire::Request;
use motu_manager::{Connection, Machine, Machines, ManagerError, RECORD_VERSION, Record, check_name};
use motu_proto::Exec;
use motu_spec::{DEFAULT_IMAGE, VmSpec};
use motu_store::Watch as Progress;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// # Errors
/// There is no place for machines, or it cannot be read.
pub fn machines() -> Result<Machines> {
    Ok(Machines::of(images::store()?))
}

/// The machine that a person means.
///
/// # Errors
/// There is none.
pub fn find(text: &str) -> Result<Machine> {
    Ok(machines()?.find(text)?)
}

/// Does the same with each machine that is named, and prints what was given for it. What fails is told, and the rest is done all the
/// same.
///
/// # Errors
/// There is no place for machines, or it cannot be read.
pub fn each(names: &[String], act: impl Fn(&Machines, &Machine) -> Result<()>) -> Result<Status> {
    let machines = machines()?;
    let mut status = Status::Success;
    for name in names {
        let done = machines.find(name).map_err(Into::into).and_then(|machine| act(&machines, &machine));
        match done {
            Ok(()) => say(name)?,
            Err(error) => {
                tell!("motu: {}", Shown(&error));
                status = Status::Failed;
            }
        }
    }
    Ok(status)
}

/// Prints a line.
///
/// # Errors
/// Nobody reads it.
pub fn say(line: &str) -> Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").context("writing to stdout")
}

/// Makes a machine of what was asked for; its image first, if need be.
///
/// # Errors
/// What was asked for cannot be had, or the name is another machine's. There is no machine then.
pub fn create(args: &RunArgs) -> Result<Machine> {
    args.own.name.as_deref().map_or(Ok(()), check_name)?;
    let spec = absolute(args.spec()?)?;
    super::run::check(&spec, &engine::choose(&spec)?)?;
    let tty = args.tty || (args.command.is_empty() && !args.detach && terminal::is_interactive());
    let command = args.own.spec(&args.command, tty)?;
    let store = images::store()?;
    let (bars, cancel) = (Bars::default(), AtomicBool::new(false));
    let watch = Progress { progress: &bars, cancel: &cancel };
    let prepared = images::prepare(&store, spec.image_name().unwrap_or(DEFAULT_IMAGE), watch)?;
    if !images::has_agent(&prepared.image.record.boot) {
        bail!(
            "the image {} has no agent of motu's, which a machine that stays needs; `motu run` without --name and --detach has \
             its console on this terminal",
            prepared.image.name
        );
    }
    let record = Record { version: RECORD_VERSION, spec, command };
    let machines = Machines::of(store);
    Ok(machines.create(Some(&prepared.image), args.own.name.as_deref(), &record, Progress::silent())?)
}

/// The spec as another process, in another folder, can use it.
fn absolute(mut spec: VmSpec) -> Result<VmSpec> {
    if spec.kernel.is_some() {
        bail!("a machine that stays boots an image; --kernel is for `motu run` without --name and --detach");
    }
    if spec.console.is_some() {
        bail!(
            "--console is for `motu run` without --name and --detach; `motu logs --console` shows what a machine's console said"
        );
    }
    if spec.traces.iter().any(|trace| trace.file.is_none()) {
        bail!("a machine that stays has no stderr to trace to; give --trace a file, such as --trace int:FILE");
    }
    let full = |path: &Path| -> Result<PathBuf> {
        std::path::absolute(path).with_context(|| format!("finding the folder of {}", path.display()))
    };
    for disk in &mut spec.disks {
        disk.path = full(&disk.path)?;
    }
    for share in &mut spec.shares {
        share.path = full(&share.path)?;
    }
    for trace in &mut spec.traces {
        trace.file = trace.file.as_deref().map(full).transpose()?;
    }
    if let Some(profile) = &mut spec.profile {
        profile.file = full(&profile.file)?;
        profile.symbols = profile.symbols.as_deref().map(full).transpose()?;
    }
    Ok(spec)
}

/// Starts a machine's process.
///
/// # Errors
/// The machine runs already, or cannot; in its process's own words.
pub fn launch(machine: &Machine, attached: bool) -> Result<()> {
    let program = std::env::current_exe().context("finding motu's own program")?;
    motu_manager::launch(&program, machine, attached)?;
    Ok(())
}

/// How a followed command came to its end.
pub enum Followed {
    Ended(Status),
    /// The person left it.
    Left,
    /// The machine ended before.
    Lost(String),
}

/// Starts a command in a machine that runs, or attaches to its own (`exec` is none then), and lives with it until it ends.
///
/// # Errors
/// The machine does not run; the host's trouble.
pub fn follow(machine: &Machine, request: &Request, exec: Option<Exec>, tty: bool, stdin: bool) -> Result<Followed> {
    let (speaker, says) = Connection::open(machine)?.command(request, exec)?;
    let (remote, events) = Remote::start(speaker, says).context("starting the thread for the machine")?;
    let controls = Arc::clone(&remote);
    let mut signalled = false;
    let act = move |asked| match asked {
        Asked::Resized if tty => controls.resize(terminal::term_size()),
        Asked::Resized => {}
        Asked::End(signo) => {
            let sent = !signalled && u8::try_from(signo).is_ok_and(|signo| controls.signal(signo));
            signalled = true;
            if !sent {
                terminal::give_back();
                std::process::exit(Status::signal(signo).code().into());
            }
        }
    };
    Watch::start(act).context("handling signals")?;
    let give_back = terminal::GiveBack;
    let left = Arc::new(AtomicBool::new(false));
    let leave = {
        let (left, leaving) = (Arc::clone(&left), Arc::clone(&remote));
        move || {
            left.store(true, Ordering::SeqCst);
            leaving.leave();
        }
    };
    let on_terminal = tty && std::io::stdin().is_terminal();
    let attached = Attached { controls: remote, on_terminal, booting: ProgressBar::hidden(), stdin };
    let end = attached.follow(events, leave)?;
    drop(give_back);
    if left.load(Ordering::SeqCst) {
        return Ok(Followed::Left);
    }
    Ok(match end {
        End::Exited(status) => Followed::Ended(Status::Code(status.shell_status())),
        End::Refused { status, message } => {
            tell!("motu: {message}");
            Followed::Ended(Status::Code(status))
        }
        End::Lost(error) => Followed::Lost(error.to_string()),
    })
}

/// Waits until a machine's process has gone. False if it had gone already.
///
/// # Errors
/// The socket cannot be used.
pub fn wait_for_end(machine: &Machine, request: Option<&Request>) -> Result<bool, ManagerError> {
    let mut connection = match Connection::open(machine) {
        Err(ManagerError::NotRunning(_)) => return Ok(false),
        other => other?,
    };
    match request.map(|request| connection.ask(request)) {
        // It ended meanwhile.
        Some(Err(ManagerError::Wire(_))) | None | Some(Ok(())) => {}
        Some(Err(error)) => return Err(error),
    }
    connection.wait_for_end();
    // Its lock is free a moment later.
    for _ in 0..400 {
        match machines_lock_is_free(machine) {
            true => break,
            false => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
    Ok(true)
}

fn machines_lock_is_free(machine: &Machine) -> bool {
    machines().and_then(|machines| Ok(machines.find(&machine.id)?)).map_or(true, |machine| !machine.running)
}
