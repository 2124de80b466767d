//! Where a machine's CPUs meet to go over to the other engine together.

use crate::durations::Durations;
use motu_hv::{HvError, Kick, Msi, SwitchStats, Vm};
use motu_x86::Nanos;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// CPUs stop one after the other.
    Gathering,
    /// All have stopped, at this time of the machine's.
    Moving(Nanos),
}

/// What became of a CPU at a switch.
#[derive(Debug)]
pub enum Moved {
    Yes,
    /// It has to leave the engine's `run` for another reason first, or to run another instruction.
    NotNow,
    /// The other engine does not take its state.
    Refused(HvError),
}

struct State {
    phase: Phase,
    /// The number of the meeting that gathers, or gathered last.
    meeting: u64,
    /// The engine that has the CPUs.
    active: usize,
    /// CPUs in `run`.
    inside: u32,
    /// CPUs that have done what the phase asks of each.
    done: u32,
    /// All of them could so far.
    moved: bool,
    /// Messages of the board that came meanwhile.
    waiting: Vec<Msi>,
    /// When the CPUs were called, by the host's clock.
    called: Instant,
    stats: SwitchStats,
    took: Durations,
}

impl State {
    fn note_switch(&mut self) {
        let took = Nanos(u64::try_from(self.called.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let SwitchStats { done, time, longest, .. } = &mut self.stats;
        *done += 1;
        (*time, *longest) = (time.saturating_add(took), took.max(*longest));
        self.took.note(took);
    }
}

/// One machine on two engines. Its lock is taken behind the board's and before the engines'.
pub struct Meeting {
    vms: [Arc<dyn Vm>; 2],
    vcpus: u32,
    state: Mutex<State>,
    changed: Condvar,
    kickers: Mutex<Vec<Arc<dyn Kick>>>,
}

impl Meeting {
    pub fn new(vms: [Arc<dyn Vm>; 2], vcpus: u32) -> Self {
        let state = State {
            phase: Phase::Running,
            meeting: 0,
            active: 0,
            inside: 0,
            done: 0,
            moved: true,
            waiting: Vec::new(),
            called: Instant::now(),
            stats: SwitchStats::default(),
            took: Durations::default(),
        };
        Self { vms, vcpus, state: Mutex::new(state), changed: Condvar::new(), kickers: Mutex::default() }
    }

    pub fn vms(&self) -> &[Arc<dyn Vm>; 2] {
        &self.vms
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A CPU of either engine is kicked by this.
    pub fn add_kicker(&self, kicker: Arc<dyn Kick>) {
        self.kickers.lock().unwrap_or_else(PoisonError::into_inner).push(kicker);
    }

    pub fn stats(&self) -> SwitchStats {
        let state = self.state();
        SwitchStats { most: state.took.most().min(state.stats.longest), ..state.stats }
    }

    /// Has all CPUs go over to the other engine, if all of them run.
    pub fn pull(&self) {
        let mut state = self.state();
        if state.phase != Phase::Running || state.inside != self.vcpus {
            return;
        }
        state.phase = Phase::Gathering;
        state.meeting += 1;
        state.called = Instant::now();
        drop(state);
        self.kickers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|kicker| kicker.kick());
    }

    pub fn signal(&self, msi: Msi) {
        let mut state = self.state();
        match state.phase {
            // Under the lock, so that none slips in behind a pull.
            Phase::Running => self.send(&state, msi),
            Phase::Gathering | Phase::Moving(_) => state.waiting.push(msi),
        }
    }

    fn send(&self, state: &State, msi: Msi) {
        if let Some(vm) = self.vms.get(state.active) {
            vm.signal_msi(msi);
        }
    }

    /// The CPUs run again.
    fn go_on(&self, state: &mut State) {
        (state.phase, state.done, state.moved) = (Phase::Running, 0, true);
        for msi in std::mem::take(&mut state.waiting) {
            self.send(state, msi);
        }
        self.changed.notify_all();
    }

    /// A CPU runs until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> Inside {
        self.state().inside += 1;
        Inside(Arc::clone(self))
    }

    /// Whether the CPU is to come to [`Meeting::gather`].
    pub fn is_called(&self) -> bool {
        self.state().phase == Phase::Gathering
    }

    /// Waits until all CPUs have stopped: the moment in which they have. None if it comes to nothing.
    pub fn gather(&self, now: impl FnOnce() -> Nanos) -> Option<Nanos> {
        let mut state = self.state();
        if state.phase != Phase::Gathering {
            return None;
        }
        let meeting = state.meeting;
        state.done += 1;
        if state.done == self.vcpus {
            (state.phase, state.done) = (Phase::Moving(now()), 0);
            self.changed.notify_all();
        }
        while state.phase == Phase::Gathering && state.meeting == meeting {
            state = self.wait(state);
        }
        match state.phase {
            Phase::Moving(now) if state.meeting == meeting => Some(now),
            _ => None,
        }
    }

    /// Waits until all CPUs have tried to move: whether they have.
    pub fn settle(&self, moved: Moved) -> bool {
        let mut state = self.state();
        let (meeting, active) = (state.meeting, state.active);
        match moved {
            Moved::Yes => {}
            Moved::NotNow => state.moved = false,
            Moved::Refused(error) => {
                state.moved = false;
                state.stats.refused += 1;
                tracing::warn!("a virtual CPU stays on its engine: {error}");
            }
        }
        state.done += 1;
        if state.done == self.vcpus {
            if state.moved {
                state.active = 1 - state.active;
                state.note_switch();
            }
            self.go_on(&mut state);
        }
        while matches!(state.phase, Phase::Moving(_)) && state.meeting == meeting {
            state = self.wait(state);
        }
        // The next switch needs this CPU.
        state.active != active
    }

    fn leave(&self) {
        let mut state = self.state();
        state.inside -= 1;
        if state.phase == Phase::Gathering {
            self.go_on(&mut state);
        }
    }
}

impl std::fmt::Debug for Meeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meeting").field("vcpus", &self.vcpus).finish_non_exhaustive()
    }
}

/// While it lives, a CPU runs.
pub struct Inside(Arc<Meeting>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.leave();
    }
}
