//! One processor alone: a locked access that crosses a page has no atomic instruction of the host's (Intel SDM vol. 3, 9.1.2).

use super::Processors;
use super::routing::{Set, members};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who stands still for whom.
#[derive(Debug, Default)]
pub struct Exclusive {
    /// There is an owner: read when a processor looks up.
    wanted: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    owner: Option<u32>,
    /// Processors that stand between two instructions until there is no owner.
    stopped: Set,
}

impl Exclusive {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands still while another processor is to be alone.
    pub fn make_way(&self, id: u32) {
        if !self.wanted.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.lock();
        state = self.stand(state, id);
        drop(state);
    }

    fn stand<'a>(&self, mut state: MutexGuard<'a, State>, id: u32) -> MutexGuard<'a, State> {
        state.stopped |= 1 << id;
        self.changed.notify_all();
        while state.owner.is_some() {
            state = self.wait(state);
        }
        state.stopped &= !(1 << id);
        state
    }

    /// A processor stopped running guest code: whoever waits for it looks again.
    pub fn rests(&self) {
        if self.wanted.load(Ordering::SeqCst) {
            drop(self.lock());
            self.changed.notify_all();
        }
    }
}

impl Processors {
    /// Has every other processor stand between two instructions until [`Processors::resume_others`]. Processor `id` must hold no lock
    /// that one of them may wait for.
    pub fn stop_others(&self, id: u32) {
        if self.is_alone() {
            return;
        }
        let exclusive = self.exclusive();
        let mut state = exclusive.lock();
        while state.owner.is_some() {
            state = exclusive.stand(state, id);
        }
        state.owner = Some(id);
        exclusive.wanted.store(true, Ordering::SeqCst);
        let others = self.all() & !(1 << id);
        members(others).for_each(|n| self.mailbox(n as u32).ring());
        // Whoever rests makes way before it runs again.
        while members(others).any(|n| state.stopped >> n & 1 == 0 && !self.mailbox(n as u32).rests()) {
            state = exclusive.wait(state);
        }
    }

    pub fn resume_others(&self) {
        if self.is_alone() {
            return;
        }
        let exclusive = self.exclusive();
        let mut state = exclusive.lock();
        state.owner = None;
        exclusive.wanted.store(false, Ordering::SeqCst);
        exclusive.changed.notify_all();
    }
}
