//! One machine and its connections to the host, from a checked spec to its end. It knows neither
//! the command line nor images, so that it can as well be a process of its own.

mod background;
mod crash;
mod disks;
mod ending;
mod gdb;
mod output;
mod outputs;
mod profile;
pub mod shares;
mod stats;
mod trace;

pub use crash::Shown as ShownCrash;
pub use disks::{Disks, Sizes};
pub use ending::{Deadline, Ending, Why};
use gdb::Gdb;
pub use output::Output;
pub use outputs::Outputs;
pub use profile::Profile;
pub use stats::Stats;
pub use trace::Traces;

use crate::engine::Engine;
use crate::host;
use crate::{status::Status, terminal};
use anyhow::{Context, Result, bail};
use motu_machine::{BootSource, DiskFailures, Finished, Flat, Image, Machine, MachineConfig, Module, OnReset, Role};
use motu_spec::VmSpec;
use signal_hook::consts::SIGPIPE;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// A machine that does not stop within this time after it was told to is left behind.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What to boot, and the disks that are there: names are resolved.
#[derive(Debug)]
pub struct Boot {
    pub kernel: PathBuf,
    /// As `--initrd` takes it: a multiboot kernel may have a list.
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
    pub flat: Option<Flat>,
    /// virtio-console ports.
    pub ports: Vec<String>,
    pub disks: Disks,
    pub on_reset: OnReset,
}

impl Boot {
    /// Opens the files.
    fn open(&self) -> Result<BootSource> {
        let kernel = Image::open(Role::Kernel, &self.kernel)?;
        let modules = match &self.initrd {
            Some(text) => Module::open_all(&kernel, text.as_os_str())?,
            None => Vec::new(),
        };
        Ok(BootSource { kernel, modules, cmdline: self.cmdline.clone(), flat: self.flat })
    }
}

impl Ended {
    /// What a person is to know whose command took all that it wrote for written; `None` if that is so.
    pub fn lost(&self) -> Option<String> {
        let lost = self.disks.first_lost()?;
        Some(format!("not all that the guest wrote is on its disks: the host failed at {lost}"))
    }
}

/// A machine that is about to run.
pub struct Vmm {
    machine: Machine,
    outputs: Outputs,
    ending: Arc<Ending>,
    gdb: Option<Gdb>,
    contract: &'static str,
    disks: Arc<DiskFailures>,
    started: Instant,
}

/// How a run ended.
pub struct Ended {
    pub why: Option<Why>,
    pub finished: Finished,
    /// What the host could not do of what the guest asked of its disks.
    pub disks: Arc<DiskFailures>,
    pub stats: Stats,
}

impl Vmm {
    /// Makes the machine of a `spec` that was checked against `engine`.
    ///
    /// # Errors
    /// What is to be booted cannot be, or the host lacks a resource.
    pub fn new(spec: &VmSpec, mut boot: Boot, engine: &Engine, outputs: Outputs) -> Result<Self> {
        let started = Instant::now();
        let gdb = spec.gdb.as_ref().map(Gdb::listen).transpose()?;
        let contract = contract(spec, engine)?;
        let config = MachineConfig {
            memory: spec.memory.0,
            cpus: spec.cpus,
            contract,
            boot: boot.open()?,
            serial: Box::new(outputs.console.clone()),
            ports: boot.ports,
            disks: boot.disks.take(),
            shares: shares::open(&spec.shares)?,
            entropy: Box::new(host::random),
            on_reset: boot.on_reset,
            debug_exit: spec.debug_exit,
            tracing: outputs.tracing(),
            waits_for_debugger: spec.gdb.as_ref().is_some_and(|gdb| gdb.wait),
        };
        let machine = Machine::new(config, engine.hypervisor.as_ref())?;
        let disks = boot.disks.failures();
        boot.disks.keep();
        let handle = machine.handle();
        let release = outputs.clone();
        let ending = Ending::new(move |status| {
            handle.stop();
            // A guest that waits for a terminal which takes nothing cannot be stopped otherwise.
            release.release();
            leave_behind_after(STOP_GRACE, status, release.clone());
        });
        let abandon = Arc::downgrade(&ending);
        outputs.on_abandoned(move || {
            if let Some(ending) = abandon.upgrade() {
                ending.end(Why::Signal(SIGPIPE));
            }
        });
        Ok(Self { machine, outputs, ending, gdb, contract, disks, started })
    }

    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    pub fn ending(&self) -> Arc<Ending> {
        Arc::clone(&self.ending)
    }

    /// Runs the machine on this thread until it ends.
    ///
    /// # Errors
    /// The host's trouble.
    pub fn run(self, spec: &VmSpec) -> Result<Ended> {
        let Self { machine, outputs, ending, gdb, contract, disks, started } = self;
        let limit = spec.timeout.map(|timeout| Deadline::start(timeout.duration(), Arc::clone(&ending)));
        let _deadline = limit.transpose().context("starting the thread for --timeout")?;
        let gdb = gdb.map(|gdb| gdb.serve(&machine, &ending)).transpose()?;
        let ended = machine.run().map(|finished| {
            let stats = Stats::collect(&finished, contract, started.elapsed());
            Ended { why: ending.take(), finished, disks, stats }
        });
        drop(gdb);
        outputs.finish(ended.as_ref().map_or(true, |ended| ended.why.is_some()));
        Ok(ended?)
    }
}

/// The safety net under everything that may fail to stop: leaves the process after `grace`.
fn leave_behind_after(grace: Duration, status: Status, outputs: Outputs) {
    let leave = move || {
        std::thread::sleep(grace);
        terminal::give_back();
        let (said, wait) = mpsc::channel();
        let say = move || {
            outputs.traces.finish(Some(Duration::ZERO));
            tell!("motu: the machine did not stop within {} s and is left behind", grace.as_secs());
            // It may be too late.
            let _ = said.send(());
        };
        if std::thread::Builder::new().name("last words".into()).spawn(say).is_ok() {
            // A stderr that nobody reads keeps nobody alive.
            let _ = wait.recv_timeout(LAST_WORDS);
        }
        std::process::exit(status.code().into());
    };
    if let Err(error) = std::thread::Builder::new().name("safety net".into()).spawn(leave) {
        tracing::warn!("no thread for the safety net: {error}");
    }
}

/// The contract that `spec` names, or the highest there is.
fn contract(spec: &VmSpec, engine: &Engine) -> Result<&'static str> {
    let contracts = engine.hypervisor.capabilities().contracts;
    let wanted = |name: &&str| spec.cpu.as_deref().is_none_or(|asked| asked == *name);
    match contracts.into_iter().find(wanted) {
        Some(name) => Ok(name),
        None => bail!("this host's CPU can keep none of motu's CPU contracts; an x86-64-v2 CPU is needed"),
    }
}
