//! The thread of one virtual CPU.

use crate::control::{Control, Event};
use crate::debug::Work;
use motu_hv::{Debugging, Exit, GuestBus, HvError, Stats, Vcpu};
use motu_x86::{CpuState, Nanos};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

/// Runs one vCPU whenever it is told to, and parks it whenever the machine is halted.
///
/// ```text
///   parked --Run--> running --halt, or the CPU stopped by itself--> parked --command channel closed--> ended
/// ```
/// Every `Run` is answered by exactly one [`Event::Parked`], after every other event of that run. While it is parked, its
/// state is set and looked at.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    commands: Sender<Command>,
    thread: JoinHandle<Stats>,
}

enum Command {
    Restore(Start),
    /// With what a debugger asks for, if there is one.
    Run(Option<Debugging>),
    Look(Work, Nanos),
}

impl VcpuThread {
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        id: u32,
        vcpu: Box<dyn Vcpu>,
        bus: Arc<dyn GuestBus + Send + Sync>,
        control: Arc<Control>,
    ) -> std::io::Result<Self> {
        let (sender, commands) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("vcpu{id}")).spawn(move || {
            let _lost = ReportLoss { id, control: &control };
            serve(id, vcpu, &commands, bus.as_ref(), &control)
        })?;
        Ok(Self { commands: sender, thread })
    }

    /// Gives the CPU a state to run from. A thread that is lost has said so on the event queue.
    pub fn restore(&self, start: Start) {
        let _ = self.commands.send(Command::Restore(start));
    }

    /// Lets the CPU go on.
    pub fn run(&self, debugging: Option<Debugging>) {
        let _ = self.commands.send(Command::Run(debugging));
    }

    /// Has something done with the CPU.
    pub fn look(&self, work: Work, now: Nanos) {
        let _ = self.commands.send(Command::Look(work, now));
    }

    /// Ends the parked thread; what its CPU counted, or `None` if it panicked.
    pub fn finish(self) -> Option<Stats> {
        drop(self.commands);
        self.thread.join().ok()
    }
}

/// Where a CPU starts.
#[derive(Debug)]
pub(crate) struct Start {
    pub state: Box<CpuState>,
    /// The same for all CPUs of a machine, so that their TSCs are.
    pub at: Nanos,
}

fn serve(
    id: u32,
    mut vcpu: Box<dyn Vcpu>,
    commands: &Receiver<Command>,
    bus: &dyn GuestBus,
    control: &Control,
) -> Stats {
    let mut refused = None;
    let mut debugged = false;
    while let Ok(command) = commands.recv() {
        match command {
            Command::Restore(Start { state, at }) => refused = vcpu.restore(&state, at).err(),
            Command::Look(work, now) => {
                // It may have asked for anything.
                debugged = true;
                work(vcpu.as_mut(), now);
            }
            Command::Run(debugging) => {
                if debugged || debugging.is_some() {
                    debugged = debugging.is_some();
                    refused = refused.or(vcpu.set_debugging(debugging.as_ref()).err());
                }
                match refused.take() {
                    None => run(id, vcpu.as_mut(), bus, control),
                    Some(error) => control.send(Event::Refused(error)),
                }
                control.send(Event::Parked);
            }
        }
    }
    vcpu.stats()
}

fn run(id: u32, vcpu: &mut dyn Vcpu, bus: &dyn GuestBus, control: &Control) {
    while !control.is_halted() {
        match vcpu.run(bus) {
            Exit::Kicked => {}
            Exit::Debug(stop) => {
                control.send(Event::Stopped { cpu: id, stop });
                return;
            }
            Exit::Shutdown => {
                control.send(Event::Crashed { cpu: id, report: Box::new(vcpu.crash_report(bus.now())) });
                return;
            }
            Exit::Stuck(trouble) => {
                control.send(Event::Refused(HvError::Stuck { rip: vcpu.save(bus.now()).rip, trouble }));
                return;
            }
        }
    }
}

/// Tells the driver when the thread unwinds, which would otherwise wait for it for ever.
struct ReportLoss<'a> {
    id: u32,
    control: &'a Control,
}

impl Drop for ReportLoss<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.control.send(Event::CpuLost { id: self.id });
        }
    }
}
