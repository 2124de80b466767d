//! The life of a machine: one queue of events, one thread that acts on them.
//!
//! ```text
//!            start            reset (restart in place)
//!   made ----------> running <-------------------------+
//!                     |   |                            |
//!   power-off, exit,  |   | reset                      | all CPUs parked:
//!         stop, crash |   v                            | devices reset, kernel loaded again
//!                     |  halting(reset) ---------------+
//!                     v        | stop, crash
//!                  halting(end) <
//!                     | all CPUs parked
//!                     v
//!                   ended
//! ```
//! While it halts, the first reason stands, except that an end replaces a reset.

use crate::control::{Control, Event};
use crate::vcpu::{Start, VcpuThread};
use crate::{MachineError, Outcome};
use motu_bus::Clock;
use motu_x86::CpuState;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

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
    pub clock: Arc<dyn Clock>,
    pub on_reset: OnReset,
}

enum Goal {
    Restart,
    End(Outcome),
}

impl Driver<'_> {
    /// Runs from `states` until the machine ends; all CPUs are parked then.
    pub fn drive(&mut self, mut states: Vec<CpuState>, startup: &mut dyn Startup) -> Result<Outcome, MachineError> {
        loop {
            self.control.clear_halt();
            let at = self.clock.now();
            for (vcpu, state) in self.vcpus.iter().zip(states) {
                vcpu.run(Start { state: Box::new(state), at });
            }
            match self.run_until_parked()? {
                Goal::End(outcome) => return Ok(outcome),
                Goal::Restart => tracing::info!("the guest reset the machine"),
            }
            states = startup.start_states()?;
        }
    }

    fn run_until_parked(&mut self) -> Result<Goal, MachineError> {
        let mut running = self.vcpus.len();
        let mut goal = None;
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
                Event::Reset if self.on_reset == OnReset::Restart => Some(Goal::Restart),
                Event::Reset => Some(Goal::End(Outcome::Reset)),
                Event::PowerOff => Some(Goal::End(Outcome::PoweredOff)),
                Event::DebugExit(value) => Some(Goal::End(Outcome::DebugExit(value))),
                Event::Stop => Some(Goal::End(Outcome::Stopped)),
                Event::Crashed(report) => Some(Goal::End(Outcome::Crashed(report))),
            };
            if let Some(asked) = asked
                && matches!((&goal, &asked), (None, _) | (Some(Goal::Restart), Goal::End(_)))
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
}
