//! `motu run`: boots a machine and lives with it until it ends.

mod image;
mod kept;
mod kernel;

use crate::cli::RunArgs;
use crate::engine::{self, Engine};
use crate::error::Shown;
use crate::host;
use crate::status::Status;
use crate::terminal;
use crate::vmm::{Ended, Output, Outputs, Profile, ShownCrash, Traces, Why};
use anyhow::{Context, Result, bail};
use motu_machine::Outcome;
use motu_spec::{CommandSpec, Console, Limits, VmSpec};
use std::ffi::OsString;
use std::fs::File;

/// A run as asked for, checked against this host.
struct Request {
    spec: VmSpec,
    engine: Engine,
    command: Vec<OsString>,
    /// What is found around the command, and the entry point.
    asked: CommandSpec,
    tty: bool,
    verbose: bool,
}

/// What became of a request.
enum Run {
    /// A machine ran; its console's output, and what of it was the person's.
    Ended(Box<Ended>, Output, Face),
    /// A signal came before there was a machine.
    Interrupted(Status),
}

/// What of a machine a person has before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    /// A command's output; the console is for what goes wrong.
    Command,
    /// The serial console.
    Console,
}

/// # Errors
/// Bad input, or the host's trouble: exit status 125.
pub fn run(args: RunArgs, verbose: u8) -> Result<Status> {
    if args.detach || args.own.name.is_some() {
        return kept::run(&args);
    }
    let spec = args.spec()?;
    let engine = engine::choose(&spec)?;
    check(&spec, &engine)?;
    let (stats, engine_name) = (args.stats, engine.hypervisor.capabilities().name);
    tracing::info!("engine {engine_name} ({})", engine.why);
    let asked = args.own.around_only()?;
    let request = Request { spec, engine, command: args.command, asked, tty: args.tty, verbose: verbose > 0 };

    let give_back = terminal::GiveBack;
    let run = match request.spec.kernel {
        Some(_) => kernel::run(&request)?,
        None => image::run(&request)?,
    };
    drop(give_back);
    let (ended, output, face) = match run {
        Run::Ended(ended, output, face) => (ended, output, face),
        Run::Interrupted(status) => return Ok(status),
    };

    let status = report(&ended, &output, face, request.command.is_empty());
    if stats {
        tell!("{}", ended.stats.table(&format!("{engine_name} ({})", request.engine.why)).to_string().trim_end());
    }
    status
}

/// Checks a spec against this host and the engine.
///
/// # Errors
/// The first rule that is broken.
pub fn check(spec: &VmSpec, engine: &Engine) -> Result<()> {
    let capabilities = engine.hypervisor.capabilities();
    let limits = Limits {
        engine: capabilities.name,
        max_cpus: capabilities.max_vcpus,
        contracts: &capabilities.contracts,
        host_memory: host::memory()?,
    };
    Ok(spec.validate(&limits)?)
}

/// Where what the machine says goes; the serial console's to `default` if the spec does not say.
fn outputs(spec: &VmSpec, default: Console, face: Face) -> Result<Outputs> {
    let profile = spec.profile.as_ref().map(Profile::open).transpose()?;
    Ok(Outputs { console: console(spec, default, face)?, traces: Traces::open(&spec.traces)?, profile })
}

fn console(spec: &VmSpec, default: Console, face: Face) -> Result<Output> {
    let output = match spec.console.as_ref().unwrap_or(&default) {
        Console::None => return Ok(Output::discard()),
        Console::Stdio if face == Face::Console => Output::to(std::io::stdout()),
        // stdout is the command's.
        Console::Stdio => Output::to(std::io::stderr()),
        Console::File(path) => {
            let file = File::create(path).with_context(|| format!("opening the console file {}", path.display()))?;
            Output::to(file)
        }
    };
    output.context("starting the console's thread")
}

/// Tells the person how the machine ended; what motu exits with.
fn report(ended: &Ended, output: &Output, face: Face, is_shell: bool) -> Result<Status> {
    // The guest's own word stands before what the host made of its end.
    if let Outcome::DebugExit(value) = ended.finished.outcome {
        return Ok(Status::debug_exit(value));
    }
    let is_console = face == Face::Console;
    if let Some(why) = &ended.why {
        match why {
            Why::TimedOut(limit) => {
                tell!("motu: the machine was stopped: --timeout {} s is over", limit.as_secs_f64());
            }
            Why::Failed(error) => {
                show_tail(output);
                tell!("motu: {}", Shown(error));
            }
            Why::Command(_) | Why::Left | Why::Signal(_) => {}
        }
        if let (0, Some(lost)) = (why.status().code(), ended.lost()) {
            bail!(lost);
        }
        return Ok(why.status());
    }
    match &ended.finished.outcome {
        Outcome::Crashed(report) => {
            if !is_console {
                show_tail(output);
            }
            tell!("motu: the guest crashed: its CPU shut down (triple fault)\n{}", ShownCrash(report));
            Ok(Status::GuestCrashed)
        }
        Outcome::Reset if is_console => Ok(Status::Success),
        Outcome::Reset => {
            show_tail(output);
            tell!("motu: the guest restarted before its command ended (as reboot and a kernel panic do)");
            Ok(Status::GuestCrashed)
        }
        Outcome::PoweredOff if is_console || is_shell => Ok(Status::Success),
        Outcome::PoweredOff => bail!("the guest was switched off before its command ended"),
        Outcome::Stopped | Outcome::DebugExit(_) => Ok(Status::Success),
    }
}

/// The last lines of the guest's console, for a person to see why it failed.
fn show_tail(output: &Output) {
    const LINES: usize = 80;
    let tail = output.tail();
    let lines: Vec<&str> = tail.lines().collect();
    if lines.is_empty() {
        return;
    }
    tell!("motu: the end of the guest's console:");
    for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
        let shown: String = line.chars().filter(|c| !c.is_control()).collect();
        tell!("  {shown}");
    }
}
