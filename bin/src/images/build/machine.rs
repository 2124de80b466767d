//! A machine that does a step of a build and then switches itself off, so that its disk is as a clean end leaves it.

use super::BuildOptions;
use super::context::Copy;
use crate::agent::{Command, Controls, End, Event, Link, Output, printable};
use crate::images::{boot, with_kernel};
use crate::status::Status;
use crate::vmm::{self, Disks, Outputs, Sizes, Traces, Vmm, Why};
use anyhow::{Context as _, Result, anyhow, bail};
use motu_copy::pack;
use motu_machine::Outcome;
use motu_proto::{Exec, PORT_NAME, builtin};
use motu_spec::CommandSpec;
use motu_store::{Image, ImageConfig, Life, MachineFolder, RootDisk, Store, StoreError, Watch};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often it is looked whether the build is still wanted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long processes that a step left behind have to end.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes that are sent at once.
const BUFFER: usize = 128 << 10;

/// What is done in the machine.
#[derive(Debug)]
pub enum Job {
    Command(Vec<String>),
    Copy(Copy),
}

/// What the machine is to be.
pub struct Machine<'a> {
    pub store: &'a Store,
    pub base: &'a Image,
    /// The base's layers, and those of the steps before.
    pub disk: &'a RootDisk,
    pub config: &'a ImageConfig,
    pub options: &'a BuildOptions<'a>,
}

impl Machine<'_> {
    /// Does the jobs, one after the other, and gives the folder with what they have written.
    ///
    /// # Errors
    /// One of them failed, or the host's trouble.
    pub fn run(&self, jobs: Vec<Job>, watch: Watch<'_>) -> Result<MachineFolder> {
        let folder = self.store.create_machine(Some(self.base), Life::Ephemeral, watch)?;
        let mut image = self.base.clone();
        image.record.disk = Some(self.disk.clone());
        let prepared = with_kernel(self.store, image, watch)?;
        let spec = self.options.spec;
        let boot = boot::boot(prepared, &folder, spec, false, None, Disks::open(&[], Sizes::Exact)?)?;
        let outputs = Outputs { console: vmm::Output::discard(), traces: Traces::open(&[])?, profile: None };
        let mut vmm = Vmm::new(spec, boot, self.options.engine, outputs)?;
        let port = vmm.machine().take_port(PORT_NAME).ok_or_else(|| anyhow!("the machine has no port {PORT_NAME}"))?;
        let ending = vmm.ending();
        // What runs hears of it.
        let link = Link::start(Box::new(port.clone()), Box::new(port), |_| ());
        let link = link.context("starting the thread for the agent")?;
        let over = AtomicBool::new(false);
        // Progress is told on this thread only.
        let cancel = watch.cancel;
        let (ended, done) = std::thread::scope(|scope| {
            let doing = scope.spawn(|| {
                let done = jobs.iter().try_for_each(|job| self.do_one(job, &link, cancel));
                let off = done.is_ok() && link.shut_down(GRACE) && waited(&over, cancel);
                if !off {
                    // Why is told by `done`. An ending ends this process, too, if the machine does not take it; one that has
                    // switched itself off was not asked to end, so that the next step finds this process still there.
                    ending.end(Why::Left);
                }
                done
            });
            let ended = vmm.run(spec);
            over.store(true, Ordering::Relaxed);
            link.close();
            (ended, doing.join())
        });
        let ended = ended?;
        done.map_err(|_| anyhow!("the step's thread ended by a panic"))??;
        watch.check()?;
        // The step may have made nothing of the error that it saw, or have seen none; what it should have written is not there.
        if let Some(failure) = ended.disks.first() {
            bail!("the machine's disk is not as the step left it: the host failed at {failure}");
        }
        match (ended.why, ended.finished.outcome) {
            (None, Outcome::PoweredOff) => Ok(folder),
            (Some(Why::Failed(error)), _) => Err(error),
            _ => bail!("the machine did not switch itself off after the step"),
        }
    }

    fn do_one(&self, job: &Job, link: &Arc<Link>, cancel: &AtomicBool) -> Result<()> {
        match job {
            Job::Command(argv) => {
                let argv = argv.iter().map(|word| word.clone().into_bytes()).collect();
                let exec = Exec { argv, ..boot::surroundings(self.config, &CommandSpec::default()) };
                let (command, events) = link.run(exec);
                match follow(&command, &events, cancel)? {
                    0 => Ok(()),
                    status => bail!("the command ended with status {status}"),
                }
            }
            Job::Copy(copy) => copy_in(copy, link, cancel),
        }
    }
}

/// Waits for the machine's end; false if that takes too long, or nobody wants it any more.
fn waited(over: &AtomicBool, cancel: &AtomicBool) -> bool {
    let begun = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if begun.elapsed() > 2 * GRACE || cancel.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(PAUSE / 10);
    }
    true
}

fn copy_in(copy: &Copy, link: &Arc<Link>, cancel: &AtomicBool) -> Result<()> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let argv = vec![
        builtin::UNPACK.to_vec(),
        bytes(&copy.path),
        bytes(&copy.name),
        if copy.contents { b"contents".to_vec() } else { b"whole".to_vec() },
        b"bits".to_vec(),
    ];
    // The agent makes the folder that it starts in.
    let exec = Exec { argv, builtin: true, stdin: true, cwd: Some(bytes(&copy.folder)), ..Exec::default() };
    let (command, events) = link.run(exec);
    let (status, packed) = std::thread::scope(|scope| {
        let packing = scope.spawn(|| {
            let mut to = BufWriter::with_capacity(BUFFER, Typing(&command));
            let mut left_out = Vec::new();
            let packed = pack(&copy.source, false, &mut to, &mut |error| left_out.push(error.to_string()));
            drop(to);
            command.close_stdin();
            (packed, left_out)
        });
        (follow(&command, &events, cancel), packing.join())
    });
    let status = status?;
    let (packed, left_out) = packed.map_err(|_| anyhow!("the copy's thread ended by a panic"))?;
    if let Some(problem) = left_out.first() {
        bail!("not all of {} can be copied: {problem}", copy.source.display());
    }
    if status != 0 {
        bail!("the copy to {} ended with status {status} in the machine", copy.path);
    }
    packed?;
    Ok(())
}

/// Passes on what a command says until it ends; its status.
fn follow(command: &Command, events: &Receiver<Event>, cancel: &AtomicBool) -> Result<u8> {
    let mut output = Output::to(Box::new(io::stderr()), Box::new(io::stderr()));
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled.into());
        }
        match events.recv_timeout(PAUSE) {
            Ok(Event::Output(stream, data)) => output.pass_on(stream, &data, command)?,
            Ok(Event::Started | Event::Room(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Ended(End::Exited(status))) => return Ok(Status::Code(status.shell_status()).code()),
            Ok(Event::Ended(End::Refused { message, .. })) => bail!("{}", printable(&message)),
            Ok(Event::Ended(End::Lost(error))) => return Err(error.into()),
            Err(RecvTimeoutError::Disconnected) => bail!("the agent in the guest went away"),
        }
    }
}

/// The standard input of what runs in the guest.
struct Typing<'a>(&'a Command);

impl Write for Typing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.type_in(bytes) { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
