//! Everything that a machine says, on its way to the person.

use super::{Output, Profile, Traces};
use motu_machine::Tracing;
use std::time::Duration;

/// How long a guest's last output may take when motu was told to end at once.
const HASTY_FLUSH: Duration = Duration::from_millis(200);
/// How long the last of a trace may, which is asked for to be read whole. Less than the time that a
/// machine has to stop.
const TRACE_FLUSH: Duration = Duration::from_secs(3);

/// Where what a machine says goes.
#[derive(Clone)]
pub struct Outputs {
    pub console: Output,
    pub traces: Traces,
    pub profile: Option<Profile>,
}

impl Outputs {
    /// What the machine is to tell.
    pub fn tracing(&self) -> Tracing {
        let profile = self.profile.as_ref().map(Profile::profilers);
        Tracing { profile, ..self.traces.tracing() }
    }

    /// Lets a guest that waits for a reader go on: the machine is ending.
    pub fn release(&self) {
        self.console.release();
        self.traces.release();
    }

    /// Calls `act` when nobody reads one of them any more.
    pub fn on_abandoned(&self, act: impl Fn() + Clone + Send + 'static) {
        self.console.on_abandoned(act.clone());
        self.traces.on_abandoned(act);
    }

    /// Waits until all is written; not for ever if motu is to end at once.
    pub fn finish(&self, at_once: bool) {
        self.traces.finish(at_once.then_some(TRACE_FLUSH));
        self.console.finish(at_once.then_some(HASTY_FLUSH));
        self.profile.iter().for_each(Profile::draw);
    }
}
