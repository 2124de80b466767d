//! The life of a machine: one queue of events, one thread that acts on them.
//!
//! ```text
//!            start            reset (restart in place)
//!   made ----------> running <-------------------------+----------------------+
//!                     | | |                            |                      |
//!   power-off, exit,  | | | reset                      | all CPUs parked:     |
//!         stop, crash | | v                            | devices reset, kernel loaded again
//!                     | |  halting(reset) -------------+                      |
//!                     | v        | stop, crash                                |
//!                     |  halting(pause) --all CPUs parked--> paused --resume--+
//!                     v        | stop, crash                  | stop
//!                  halting(end) <                             |
//!                     | all CPUs parked                       |
//!                     v                                       |
//!                   ended <-----------------------------------+
//! ```
//! While it halts, the first reason stands, except that a reset replaces a pause, and an end either. A machine is paused
//! for its debugger alone: while there is one, a CPU that shuts down is a reason for it, not an end.

use crate::clock::MachineClock;
use crate::control::{Control, Event};
use crate::debug::{CpuStop, DebugEvent, DebugRequest, Orders, StopCause, Told};
use crate::vcpu::{Start, VcpuThread};
use crate::{MachineError, Outcome};
use motu_bus::Clock;
use motu_hv::Vcpu;
use motu_x86::{CpuState, Nanos};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

/// What a guest's reset does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReset {
    /// The machine starts again in place, as on real hardware.
    #[default]
    Restart,
    /// The machine ends with [`Outcome::Reset`], as with QEMU's `-no-reboot`.
    End,
}

/// Puts the board into its state after power-up with the kernel loaded, and says where each CPU
/// starts.
pub(crate) trait Startup {
    fn start_states(&mut self) -> Result<Vec<CpuState>, MachineError>;
}

pub(crate) struct Driver<'a> {
    pub control: &'a Control,
    pub events: Receiver<Event>,
    pub vcpus: Vec<VcpuThread>,
    pub clock: Arc<MachineClock>,
    pub on_reset: OnReset,
    /// Not to run before a debugger says so.
    pub waits: bool,
    pub debugger: Option<Told>,
    /// Where the debugger stops the CPUs.
    pub orders: Orders,
    /// The debugger has asked for a pause, and something greater came first.
    pub owes_pause: bool,
}

enum Goal {
    Pause(Option<CpuStop>),
    Restart,
    End(Outcome),
}

impl Goal {
    /// The greater one stands.
    fn rank(&self) -> u32 {
        match self {
            Self::Pause(None) => 1,
            Self::Pause(Some(_)) => 2,
            Self::Restart => 3,
            Self::End(_) => 4,
        }
    }
}

impl Driver<'_> {
    /// Runs from `states` until the machine ends; all CPUs are parked then.
    pub fn drive(&mut self, states: Vec<CpuState>, startup: &mut dyn Startup) -> Result<Outcome, MachineError> {
        let outcome = self.live(states, startup);
        self.tell(DebugEvent::Ended);
        outcome
    }

    fn live(&mut self, states: Vec<CpuState>, startup: &mut dyn Startup) -> Result<Outcome, MachineError> {
        self.load(states);
        let mut goal = self.waits.then_some(Goal::Pause(None));
        loop {
            let reached = match goal.take() {
                Some(goal) => goal,
                None => self.run_until_parked()?,
            };
            goal = match reached {
                Goal::End(outcome) => return Ok(outcome),
                Goal::Restart => {
                    tracing::info!("the guest reset the machine");
                    self.orders = std::mem::take(&mut self.orders).for_all();
                    self.load(startup.start_states()?);
                    self.owes_pause.then_some(Goal::Pause(None))
                }
                Goal::Pause(stop) => self.stay_paused(stop, startup)?,
            };
        }
    }

    fn load(&mut self, states: Vec<CpuState>) {
        let at = self.clock.now();
        for (vcpu, state) in self.vcpus.iter().zip(states) {
            vcpu.restore(Start { state: Box::new(state), at });
        }
    }

    fn tell(&self, event: DebugEvent) {
        if let Some(told) = &self.debugger {
            told(event);
        }
    }

    /// Lets the CPUs run until there is a reason not to, and all are parked.
    fn run_until_parked(&mut self) -> Result<Goal, MachineError> {
        self.control.clear_halt();
        let mut running = 0;
        for (n, vcpu) in self.vcpus.iter().enumerate() {
            let debugging = self.orders.of(n);
            if self.debugger.is_none() {
                vcpu.run(None);
            } else if debugging.is_some() {
                vcpu.run(debugging);
            } else {
                continue;
            }
            running += 1;
        }
        if running == 0 {
            return Ok(Goal::Pause(None));
        }
        let mut goal: Option<Goal> = None;
        let mut refused = None;
        while running > 0 {
            // The channel cannot close: `control` holds a sender.
            let Ok(event) = self.events.recv() else { break };
            let asked = match event {
                Event::Parked => {
                    running -= 1;
                    continue;
                }
                Event::CpuLost { id } => return Err(MachineError::CpuLost { id }),
                Event::Refused(error) => {
                    refused = Some(error);
                    None
                }
                Event::Debug(request) => match self.while_running(request) {
                    Some(pause) => Some(pause),
                    None => continue,
                },
                Event::Stopped { cpu, stop } => Some(Goal::Pause(Some(CpuStop { cpu, cause: StopCause::Debug(stop) }))),
                Event::Crashed { cpu, .. } if self.debugger.is_some() => {
                    Some(Goal::Pause(Some(CpuStop { cpu, cause: StopCause::Shutdown })))
                }
                other => self.wish(other),
            };
            self.owes_pause |= matches!(asked, Some(Goal::Pause(_)));
            if let Some(asked) = asked
                && asked.rank() > goal.as_ref().map_or(0, Goal::rank)
            {
                goal = Some(asked);
            }
            self.control.halt();
        }
        match refused {
            Some(error) => Err(MachineError::Engine(error)),
            None => Ok(goal.unwrap_or(Goal::End(Outcome::Stopped))),
        }
    }

    /// What the guest or the host wants of the machine as a whole.
    fn wish(&self, event: Event) -> Option<Goal> {
        let outcome = match event {
            Event::Reset if self.on_reset == OnReset::Restart => return Some(Goal::Restart),
            Event::Reset => Outcome::Reset,
            Event::PowerOff => Outcome::PoweredOff,
            Event::DebugExit(value) => Outcome::DebugExit(value),
            Event::Stop => Outcome::Stopped,
            Event::Crashed { report, .. } => Outcome::Crashed(report),
            Event::Parked | Event::CpuLost { .. } | Event::Refused(_) | Event::Debug(_) | Event::Stopped { .. } => {
                return None;
            }
        };
        Some(Goal::End(outcome))
    }

    /// What a debugger may ask while the machine runs: only to pause it. That also makes a change of debuggers.
    fn while_running(&mut self, request: DebugRequest) -> Option<Goal> {
        match request {
            DebugRequest::Attach(told) => self.debugger = Some(told),
            DebugRequest::Detach => self.debugger = None,
            DebugRequest::Pause => {}
            // What is not done is dropped, which answers it.
            DebugRequest::Resume(_) | DebugRequest::Look { .. } => return None,
        }
        Some(Goal::Pause(None))
    }

    /// Stands still until the debugger, or something greater, says otherwise. `None` lets the CPUs go on.
    fn stay_paused(&mut self, stop: Option<CpuStop>, startup: &mut dyn Startup) -> Result<Option<Goal>, MachineError> {
        self.owes_pause = false;
        self.clock.pause();
        self.tell_cpus(|vcpu, now| vcpu.stand_still(now));
        let next = self.serve_debugger(stop, startup);
        self.tell_cpus(|vcpu, now| vcpu.go_on(now));
        self.clock.resume();
        next
    }

    /// Has each CPU told something of the pause; returns when all have been.
    fn tell_cpus(&self, tell: fn(&mut dyn Vcpu, Nanos)) {
        let now = self.clock.now();
        let (done, all_done) = mpsc::channel::<()>();
        for vcpu in &self.vcpus {
            let done = done.clone();
            let work = move |vcpu: &mut dyn Vcpu, now: Nanos| {
                tell(vcpu, now);
                drop(done);
            };
            vcpu.look(Box::new(work), now);
        }
        drop(done);
        // Nothing is sent: it ends when nobody is left who could.
        let _ = all_done.recv();
    }

    fn serve_debugger(
        &mut self,
        stop: Option<CpuStop>,
        startup: &mut dyn Startup,
    ) -> Result<Option<Goal>, MachineError> {
        self.tell(DebugEvent::Paused(stop));
        while self.debugger.is_some() || self.waits {
            // The channel cannot close: `control` holds a sender.
            let Ok(event) = self.events.recv() else { break };
            match event {
                Event::CpuLost { id } => return Err(MachineError::CpuLost { id }),
                Event::Debug(DebugRequest::Attach(told)) => {
                    self.debugger = Some(told);
                    self.tell(DebugEvent::Paused(None));
                }
                Event::Debug(DebugRequest::Detach) => {
                    self.debugger = None;
                    break;
                }
                // It has been told.
                Event::Debug(DebugRequest::Pause) => {}
                Event::Debug(DebugRequest::Resume(orders)) => {
                    self.orders = orders;
                    break;
                }
                Event::Debug(DebugRequest::Look { cpu, work }) => {
                    if let Some(vcpu) = self.vcpus.get(cpu as usize) {
                        vcpu.look(work, self.clock.now());
                    }
                }
                Event::Reset if self.on_reset == OnReset::Restart => self.load(startup.start_states()?),
                other => match self.wish(other) {
                    None => {}
                    goal => return Ok(goal),
                },
            }
        }
        self.waits = false;
        if self.debugger.is_none() {
            self.orders = Orders::default();
        }
        Ok(None)
    }
}
