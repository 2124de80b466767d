//! The thread of one virtual CPU.

use crate::control::{Control, Event};
use motu_hv::{Exit, GuestBus, HvError, Stats, Vcpu};
use motu_x86::{CpuState, Nanos};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

/// Runs one vCPU whenever it is told to, and parks it whenever the machine is halted.
///
/// ```text
///   parked --Run--> running --halt, or the CPU shut down--> parked --command channel closed--> ended
/// ```
/// Every `Run` is answered by exactly one [`Event::Parked`], after every other event of that run.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    runs: Sender<Start>,
    thread: JoinHandle<Stats>,
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
        let (runs, commands) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("vcpu{id}")).spawn(move || {
            let _lost = ReportLoss { id, control: &control };
            serve(vcpu, &commands, bus.as_ref(), &control)
        })?;
        Ok(Self { runs, thread })
    }

    /// Starts the CPU. A thread that is lost has said so on the event queue.
    pub fn run(&self, start: Start) {
        let _ = self.runs.send(start);
    }

    /// Ends the parked thread; what its CPU counted, or `None` if it panicked.
    pub fn finish(self) -> Option<Stats> {
        drop(self.runs);
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

fn serve(mut vcpu: Box<dyn Vcpu>, commands: &Receiver<Start>, bus: &dyn GuestBus, control: &Control) -> Stats {
    while let Ok(Start { state, at }) = commands.recv() {
        match vcpu.restore(&state, at) {
            Ok(()) => run(vcpu.as_mut(), bus, control),
            Err(error) => control.send(Event::Refused(error)),
        }
        control.send(Event::Parked);
    }
    vcpu.stats()
}

fn run(vcpu: &mut dyn Vcpu, bus: &dyn GuestBus, control: &Control) {
    while !control.is_halted() {
        match vcpu.run(bus) {
            Exit::Kicked | Exit::Debug(_) => {}
            Exit::Shutdown => {
                control.send(Event::Crashed(Box::new(vcpu.crash_report(bus.now()))));
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
