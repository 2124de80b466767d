//! `motu vmm ID`: the process of one machine that stays. It is started by `motu start` and its like, in a session of its own, and
//! ends with the machine.
//!
//! ```text
//!   lock the folder -> listen -> make the machine -> the agent greets -> its command runs -> Report::Up -> ... -> state.json
//! ```
//! Whoever started it reads one [`Report`] from its standard output; what it has to say later is in `vmm.log`.

mod own;
mod serve;
mod session;

use crate::agent::{Link, LinkError};
use crate::engine::{self, Engine};
use crate::error::Shown;
use crate::images;
use crate::status::Status;
use crate::terminal::signals::{Asked, Watch};
use crate::vmm::{Disks, Ended, Ending, Output, Outputs, Profile, Sizes, Traces, Vmm, Why};
use anyhow::{Context, Result, anyhow};
use motu_machine::{DiskHandle, Outcome};
use motu_manager::wire::{self, Report};
use motu_manager::{LogWriter, Machine, Machines, Record, State, files};
use motu_proto::PORT_NAME;
use motu_store::{ImageConfig, MachineFolder, Timestamp};
use own::Own;
use rustix::fs::{Mode, OFlags};
use serve::Server;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes of a log that are kept at least.
const LOG: u64 = 4 << 20;
/// How long a machine has to end by itself when this process is told to end, as with `motu stop`.
const GRACE: Duration = Duration::from_secs(10);

/// What the threads of this process share.
pub struct Shared {
    pub machine: Machine,
    pub link: Arc<Link>,
    pub ending: Arc<Ending>,
    pub own: Own,
    /// What commands beside the machine's own find around them.
    pub config: ImageConfig,
    pub record: Record,
    /// In the order in which the guest has them. Who holds it writes the record.
    pub disks: Mutex<Vec<DiskHandle>>,
}

/// # Errors
/// None that anybody but the starter would read: it is reported.
pub fn run(id: &str, attached: bool) -> Result<Status> {
    // It outlives who started it, and no terminal's signals reach it. A leader of its group is one already.
    let _ = rustix::process::setsid();
    let machines = Machines::of(images::store()?);
    let run = || -> Result<Running> {
        let machine = machines.find(id)?;
        let folder = machines.take(&machine)?;
        std::env::set_current_dir("/").context("going to /")?;
        let listener = motu_manager::listen(&machine.path)?;
        let record = machine.record()?;
        make(machine, folder, record, listener, attached)
    };
    match run().and_then(Running::run) {
        Ok(status) => Ok(status),
        Err(error) => {
            let message = Shown(&error).to_string();
            report(&Report::Failed { status: Status::Failed.code(), message });
            Ok(Status::Failed)
        }
    }
}

/// Tells whoever started this process, who may be gone, and says no more to it.
fn report(report: &Report) {
    let _ = wire::put(&mut std::io::stdout(), report);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let _ = null.and_then(rustix::stdio::dup2_stdout);
}

/// A machine that is about to run.
struct Running {
    vmm: Vmm,
    shared: Arc<Shared>,
    engine: Engine,
    attached: bool,
    console: Output,
    // Last: the machine's end is written down while it is locked.
    folder: MachineFolder,
}

fn make(
    machine: Machine,
    folder: MachineFolder,
    record: Record,
    listener: UnixListener,
    attached: bool,
) -> Result<Running> {
    let spec = &record.spec;
    let engine = engine::choose(spec)?;
    super::machine::run::check(spec, &engine)?;
    let console = LogWriter::open(&machine.path.join(files::CONSOLE), LOG).context("opening the console's log")?;
    let profile = spec.profile.as_ref().map(Profile::open).transpose()?;
    let console = Output::to(console).context("starting the console's thread")?;
    let outputs = Outputs { console: console.clone(), traces: Traces::open(&spec.traces)?, profile };
    // What is there at the first start may be somebody else's.
    let sizes = if machine.state()?.is_none() { Sizes::Exact } else { Sizes::AtLeast };
    let disks = Disks::open(&spec.disks, sizes)?;
    let image = machine.image.ok_or_else(|| anyhow!("the machine {} stands on no image", machine.name))?;
    let prepared = images::prepare_again(&images::store()?, image, motu_store::Watch::silent())?;
    let config = prepared.image.record.config.clone();
    let boot = images::boot::boot(prepared, &folder, spec, false, Some(&machine.name), disks)?;
    let mut vmm = Vmm::new(spec, boot, &engine, outputs)?;
    let port = vmm.machine().take_port(PORT_NAME).ok_or_else(|| anyhow!("the machine has no port {PORT_NAME}"))?;
    let disks = Mutex::new(vmm.machine().disks());
    let (ending, lost) = (vmm.ending(), vmm.ending());
    let lost = move |error: &LinkError| {
        lost.end(Why::Failed(anyhow::Error::new(error.clone())));
    };
    let link =
        Link::start(Box::new(port.clone()), Box::new(port), lost).context("starting the thread for the agent")?;
    let output = LogWriter::open(&machine.path.join(files::OUTPUT), LOG).context("opening the command's log")?;
    let shared = Arc::new(Shared { machine, link, ending, own: Own::new(output), config, record, disks });
    Server::start(listener, Arc::clone(&shared)).context("starting the thread for the socket")?;
    Ok(Running { vmm, shared, engine, attached, console, folder })
}

impl Running {
    fn run(self) -> Result<Status> {
        let Self { vmm, shared, engine, attached, console, folder } = self;
        tracing::info!("engine {} ({})", engine.hypervisor.capabilities().name, engine.why);
        let started = State { started: Timestamp::now(), pid: std::process::id(), ..State::default() };
        shared.machine.write_state(&started)?;
        let to_stop = Arc::clone(&shared);
        let signals = move |asked| {
            if let Asked::End(_) = asked {
                serve::stop(&to_stop, GRACE);
            }
        };
        Watch::start(signals).context("handling signals")?;
        let beginning = Arc::clone(&shared);
        let begin = move || begin(&beginning, attached);
        std::thread::Builder::new().name("beginning".into()).spawn(begin).context("starting a thread")?;
        let spec = shared.record.spec.clone();
        let ended = vmm.run(&spec);
        shared.link.close();
        let (status, error) = outcome(&shared, &ended, &console);
        if let Some(error) = &error {
            tell!("motu: {error}");
        }
        // The machine may have ended before it was up.
        report(&Report::Failed {
            status: status.code(),
            message: error.clone().unwrap_or_else(|| "the machine ended before its command ran".to_owned()),
        });
        let ended = State { ended: Some(Timestamp::now()), status: Some(status.code()), error, ..started };
        // On a full disk it looks as if it had been killed.
        if let Err(error) = shared.machine.write_state(&ended) {
            log(&error.to_string());
        }
        // Who waits for the machine's end has what its command said, and may start it again.
        shared.own.wait_until_said();
        drop(folder);
        Ok(Status::Success)
    }
}

/// Waits for the agent, starts the machine's own command and tells whoever waits for it.
fn begin(shared: &Arc<Shared>, attached: bool) {
    let up = match shared.link.wait_until_ready(None) {
        // The machine's end tells why.
        Err(_) => return,
        Ok(()) if attached => Ok(()),
        Ok(()) => own::start_detached(shared),
    };
    match up {
        Ok(()) => report(&Report::Up),
        Err((status, message)) => {
            report(&Report::Failed { status, message });
            serve::end(shared, Duration::ZERO);
        }
    }
}

/// What the machine's end comes to: a status, and what a person should know of it.
fn outcome(shared: &Shared, ended: &Result<Ended>, console: &Output) -> (Status, Option<String>) {
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) => return (Status::Failed, Some(Shown(error).to_string())),
    };
    let own = shared.own.status();
    match (&ended.why, own) {
        (Some(Why::TimedOut(limit)), _) => {
            (Status::TimedOut, Some(format!("the machine was stopped: --timeout {} s is over", limit.as_secs_f64())))
        }
        // What went wrong after the command had ended says nothing of it.
        (_, Some(status)) => match ended.lost() {
            Some(lost) if status.code() == 0 => (Status::Failed, Some(lost)),
            lost => (status, lost),
        },
        (Some(Why::Failed(error)), _) if !shared.own.stopping() => (Status::Failed, Some(Shown(error).to_string())),
        (Some(Why::Failed(_)), _) => (Status::Success, None),
        (Some(why), _) => (why.status(), None),
        (None, _) => match &ended.finished.outcome {
            Outcome::Crashed(_) => {
                let last = console.tail();
                let last =
                    last.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
                (Status::GuestCrashed, Some(format!("the guest crashed: its CPU shut down (triple fault)\n{last}")))
            }
            Outcome::Reset => {
                (Status::GuestCrashed, Some("the guest restarted (as reboot and a kernel panic do)".into()))
            }
            Outcome::DebugExit(value) => (Status::debug_exit(*value), None),
            Outcome::PoweredOff | Outcome::Stopped => (Status::Success, None),
        },
    }
}

/// A log of the machine's process itself.
pub fn log(line: &str) {
    // It has no other place to go.
    let _ = writeln!(std::io::stderr(), "motu: {line}");
}
