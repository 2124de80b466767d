//! A debugger's way to a machine: [`DebugPort`] asks, the driver acts.

use crate::control::{Control, Event};
use motu_hv::{DebugStop, Debugging, Vcpu, Watchpoint};
use motu_memory::GuestRam;
use motu_x86::Nanos;
use std::fmt;
use std::sync::{Arc, mpsc};

/// What a debugger is told. Called on the driver's thread, which waits until it returns.
pub type Told = Box<dyn Fn(DebugEvent) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugEvent {
    /// All CPUs stand still, and the machine's time with them: because of what one of them came to, or since it was
    /// asked for.
    Paused(Option<CpuStop>),
    /// The machine has ended.
    Ended,
}

/// Which CPU has stopped the machine, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStop {
    pub cpu: u32,
    pub cause: StopCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// What the debugger had asked for.
    Debug(DebugStop),
    /// The CPU shut down (triple fault), and does so again whenever it runs.
    Shutdown,
}

/// How a paused machine goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Linear addresses, for all CPUs.
    pub breakpoints: Vec<u64>,
    pub watchpoints: Vec<Watchpoint>,
    /// By CPU; those beyond the end run.
    pub cpus: Vec<Resume>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    #[default]
    Run,
    /// One instruction, and the machine is paused again.
    Step,
    /// Stands still while others run.
    Stay,
}

impl Orders {
    fn resume(&self, cpu: usize) -> Resume {
        self.cpus.get(cpu).copied().unwrap_or_default()
    }

    /// What CPU number `cpu` is told; `None` if it is to stand still.
    pub(crate) fn of(&self, cpu: usize) -> Option<Debugging> {
        let resume = self.resume(cpu);
        let (breakpoints, watchpoints) = (self.breakpoints.clone(), self.watchpoints.clone());
        (resume != Resume::Stay).then_some(Debugging { breakpoints, watchpoints, step: resume == Resume::Step })
    }

    /// All CPUs run, up to where these stop.
    pub(crate) fn for_all(self) -> Self {
        Self { cpus: Vec::new(), ..self }
    }
}

/// What is done with a CPU that stands still, at the machine's time.
pub(crate) type Work = Box<dyn FnOnce(&mut dyn Vcpu, Nanos) + Send>;

/// What a debugger asks of the driver.
pub(crate) enum DebugRequest {
    Attach(Told),
    Detach,
    Pause,
    Resume(Orders),
    Look { cpu: u32, work: Work },
}

/// The one debugger's way to a machine; from before it runs until after it has ended.
#[derive(Clone)]
pub struct DebugPort {
    pub(crate) control: Arc<Control>,
    pub(crate) ram: GuestRam,
    pub(crate) cpus: u32,
}

impl DebugPort {
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The guest's memory by guest-physical address. What is written there counts for code, too.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Pauses the machine, and has `told` told of what becomes of it, in place of whoever was told before. A machine that has
    /// ended tells nobody.
    pub fn attach(&self, told: Told) {
        self.request(DebugRequest::Attach(told));
    }

    /// Lets the machine go on as if there were no debugger.
    pub fn detach(&self) {
        self.request(DebugRequest::Detach);
    }

    /// Pauses the machine; told when it is so, unless it was before.
    pub fn pause(&self) {
        self.request(DebugRequest::Pause);
    }

    /// Lets a paused machine go on.
    pub fn resume(&self, orders: Orders) {
        self.request(DebugRequest::Resume(orders));
    }

    /// Has `work` done with a CPU, at the machine's time. `None` if the machine is not paused.
    pub fn look<R: Send + 'static>(
        &self,
        cpu: u32,
        work: impl FnOnce(&mut dyn Vcpu, Nanos) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answers) = mpsc::channel();
        let work = Box::new(move |vcpu: &mut dyn Vcpu, now| {
            let _ = answer.send(work(vcpu, now));
        });
        self.request(DebugRequest::Look { cpu, work });
        answers.recv().ok()
    }

    /// Resets the machine as its reset button does; a paused one stays so.
    pub fn reset(&self) {
        self.control.send(Event::Reset);
    }

    /// Ends the machine, as [`crate::MachineHandle::stop`] does.
    pub fn stop(&self) {
        self.control.send(Event::Stop);
    }

    fn request(&self, request: DebugRequest) {
        self.control.send(Event::Debug(request));
    }
}

impl fmt::Debug for DebugPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugPort").field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

impl fmt::Debug for DebugRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attach(_) => "Attach",
            Self::Detach => "Detach",
            Self::Pause => "Pause",
            Self::Resume(_) => "Resume",
            Self::Look { .. } => "Look",
        })
    }
}
