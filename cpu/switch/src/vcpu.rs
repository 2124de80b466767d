//! One virtual CPU on two engines.

use crate::meeting::{Meeting, Moved};
use crate::shared::Both;
use motu_hv::{CrashReport, Debugging, Exit, GuestBus, HvError, Kick, Profiler, Stats, Tracer, Vcpu};
use motu_x86::{CpuState, Nanos};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct SwitchingVcpu {
    id: u32,
    first: Box<dyn Vcpu>,
    second: Box<dyn Vcpu>,
    /// The second engine has the CPU.
    on_second: bool,
    meeting: Arc<Meeting>,
    bell: Arc<Bell>,
}

/// A kick of both engines' CPUs, and the one that is meant for who called `run`.
struct Bell {
    kicked: AtomicBool,
    kickers: [Arc<dyn Kick>; 2],
}

impl Kick for Bell {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.kickers.iter().for_each(|kicker| kicker.kick());
    }
}

impl SwitchingVcpu {
    pub fn new(id: u32, [first, second]: [Box<dyn Vcpu>; 2], meeting: Arc<Meeting>) -> Self {
        let kickers = [first.kicker(), second.kicker()];
        kickers.iter().for_each(|kicker| meeting.add_kicker(Arc::clone(kicker)));
        let bell = Arc::new(Bell { kicked: AtomicBool::new(false), kickers });
        Self { id, first, second, on_second: false, meeting, bell }
    }

    fn active(&self) -> &dyn Vcpu {
        if self.on_second { self.second.as_ref() } else { self.first.as_ref() }
    }

    /// The CPU that runs, and the other engine's.
    fn both(&mut self) -> (&mut dyn Vcpu, &mut dyn Vcpu) {
        match self.on_second {
            false => (self.first.as_mut(), self.second.as_mut()),
            true => (self.second.as_mut(), self.first.as_mut()),
        }
    }

    /// Takes part in a switch.
    fn switch(&mut self, bus: &dyn GuestBus) {
        let Some(now) = self.meeting.gather(|| bus.now()) else { return };
        let moved = self.move_over(bus, now);
        if self.meeting.settle(moved) {
            self.on_second = !self.on_second;
        }
    }

    fn move_over(&mut self, bus: &dyn GuestBus, now: Nanos) -> Moved {
        let (from, to) = self.both();
        // What other CPUs have sent since this one has stopped.
        if absorb(from, bus) != Exit::Kicked {
            return Moved::NotNow;
        }
        let state = from.save(now);
        // What pins did meanwhile, which is no news to the state: whatever it makes of that is about to be overwritten.
        absorb(to, bus);
        match to.restore(&state, now) {
            Ok(()) => Moved::Yes,
            Err(HvError::NotYet(_)) => Moved::NotNow,
            Err(error) => Moved::Refused(error),
        }
    }
}

/// Has a CPU take in what was sent to it, without an instruction of the guest's.
fn absorb(vcpu: &mut dyn Vcpu, bus: &dyn GuestBus) -> Exit {
    vcpu.kicker().kick();
    vcpu.run(bus)
}

impl Vcpu for SwitchingVcpu {
    fn run(&mut self, bus: &dyn GuestBus) -> Exit {
        let _inside = self.meeting.enter();
        loop {
            if self.bell.kicked.swap(false, Ordering::SeqCst) {
                return Exit::Kicked;
            }
            if self.meeting.is_called() {
                self.switch(bus);
                continue;
            }
            match self.both().0.run(bus) {
                // Whose kick it was shows above.
                Exit::Kicked => {}
                exit => return exit,
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.bell) as Arc<dyn Kick>
    }

    fn save(&self, now: Nanos) -> CpuState {
        self.active().save(now)
    }

    fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        self.both().0.restore(state, now)
    }

    fn stats(&self) -> Stats {
        // They are the machine's, so that one CPU tells of them.
        let switches = (self.id == 0).then(|| self.meeting.stats());
        Stats { switches, ..self.first.stats() + self.second.stats() }
    }

    fn crash_report(&self, now: Nanos) -> CrashReport {
        self.active().crash_report(now)
    }

    fn set_tracer(&mut self, tracer: Option<Box<dyn Tracer>>) {
        let [first, second] = match tracer.map(Both::new) {
            Some(both) => both.map(|tracer| Some(Box::new(tracer) as Box<dyn Tracer>)),
            None => [None, None],
        };
        self.first.set_tracer(first);
        self.second.set_tracer(second);
    }

    fn set_profiler(&mut self, profiler: Option<Box<dyn Profiler>>) -> Result<(), HvError> {
        let [first, second] = match profiler.map(Both::new) {
            Some(both) => both.map(|profiler| Some(Box::new(profiler) as Box<dyn Profiler>)),
            None => [None, None],
        };
        self.first.set_profiler(first)?;
        self.second.set_profiler(second)
    }

    fn set_debugging(&mut self, debugging: Option<&Debugging>) -> Result<(), HvError> {
        self.first.set_debugging(debugging)?;
        self.second.set_debugging(debugging)
    }

    fn stand_still(&mut self, now: Nanos) {
        self.both().0.stand_still(now);
    }

    fn go_on(&mut self, now: Nanos) {
        self.both().0.go_on(now);
    }
}
