//! The host threads of a disk, and the queues that wait for them.

use super::SERIAL_LEN;
use super::request::{PART, Request};
use crate::device::Interrupt;
use crate::queue::{Malformed, Next, VirtQueue};
use motu_disk::Disk;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests of a queue at most before others have their turn: another CPU may refill the ring for ever.
const TURN: u32 = 64;

/// What requests are about.
#[derive(Debug)]
pub struct Target {
    pub disk: Box<dyn Disk>,
    pub serial: [u8; SERIAL_LEN],
}

/// A queue while its driver is there.
#[derive(Debug)]
struct Active {
    queue: Mutex<VirtQueue>,
    interrupt: Interrupt,
    write_through: bool,
}

#[derive(Debug, Default)]
struct State {
    /// By index; none while there is no driver.
    queues: Vec<Option<Arc<Active>>>,
    /// Bit n: queue n may have chains.
    pending: u64,
    /// The queue after the one whose turn it was last.
    next: u32,
    /// Workers that hold a queue.
    busy: u32,
    /// Requests were done since the last flush of a disk that was left alone.
    unflushed: bool,
    /// No more chains are to be taken.
    stopping: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A disk that has been left alone for so long is flushed.
    quiet_after: Duration,
    /// There is something to do, or no more.
    work: Condvar,
    /// Nobody is busy.
    quiet: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.lock().stopping
    }
}

/// The workers; dropping it ends them, with the requests that they have begun.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    target: Arc<Target>,
}

impl Workers {
    /// # Errors
    /// The host gives no thread.
    pub fn start(target: Arc<Target>, count: u16, name: &str, quiet_after: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared { quiet_after, ..Shared::default() });
        let mut workers = Self { shared, threads: Vec::new(), target };
        for _ in 0..count {
            let (shared, target) = (Arc::clone(&workers.shared), Arc::clone(&workers.target));
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&shared, &target))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub fn activate(&self, queues: Vec<Option<VirtQueue>>, interrupt: &Interrupt, write_through: bool) {
        let active = |queue| {
            let (queue, interrupt) = (Mutex::new(queue), interrupt.clone());
            Arc::new(Active { queue, interrupt, write_through })
        };
        let mut state = self.shared.lock();
        state.queues = queues.into_iter().map(|queue| queue.map(active)).collect();
        state.stopping = false;
        state.pending = 0;
    }

    pub fn notify(&self, queue: u16) {
        let mut state = self.shared.lock();
        if let Some(bit) = 1u64.checked_shl(queue.into())
            && state.pending & bit == 0
        {
            state.pending |= bit;
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Forgets the driver, when the requests that have been begun are done: its memory is its own again then.
    pub fn quiesce(&self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        state.pending = 0;
        while state.busy > 0 {
            state = self.shared.quiet.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.queues.clear();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.quiesce();
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk's thread ended by itself: this is an error in motu");
            }
        }
        // What the guest did not flush is not lost when the machine ends in peace.
        if let Err(error) = self.target.disk.flush() {
            tracing::error!("what was written to a disk last may be lost: {error}");
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, target: &Target) {
    let mut buffer = vec![0; PART];
    let mut state = shared.lock();
    while !state.ended {
        let Some(queue) = next_queue(&mut state) else {
            state = wait(shared, target, state);
            continue;
        };
        state.busy += 1;
        state.unflushed = true;
        drop(state);
        let served = serve(shared, target, &queue, &mut buffer);
        if let Err(why) = &served {
            fail(shared, &queue, *why);
        }
        state = shared.lock();
        state.busy -= 1;
        if let Ok(Served::InPart(index)) = served
            && !state.stopping
        {
            state.pending |= 1u64.checked_shl(index.into()).unwrap_or(0);
        }
        if state.busy == 0 {
            shared.quiet.notify_all();
        }
    }
}

/// Waits until there may be something to do.
fn wait<'a>(shared: &'a Shared, target: &Target, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    if !state.unflushed {
        return shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let waited = shared.work.wait_timeout(state, shared.quiet_after).unwrap_or_else(PoisonError::into_inner);
    let (mut state, time_out) = waited;
    if !time_out.timed_out() || state.pending != 0 || state.busy > 0 || state.ended {
        return state;
    }
    state.unflushed = false;
    drop(state);
    if let Err(error) = target.disk.flush() {
        tracing::warn!("flushing a disk that is not in use failed: {error}");
    }
    shared.lock()
}

/// Takes a queue that may have chains; they take turns.
fn next_queue(state: &mut State) -> Option<Arc<Active>> {
    while state.pending != 0 {
        let behind = state.pending & u64::MAX.checked_shl(state.next).unwrap_or(0);
        let index = if behind == 0 { state.pending } else { behind }.trailing_zeros();
        state.pending &= !(1 << index);
        state.next = index + 1;
        if let Some(Some(queue)) = state.queues.get(index as usize) {
            return Some(Arc::clone(queue));
        }
    }
    None
}

/// What became of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// It has no more, or is to be given up.
    Whole,
    /// Queue number so and so may have more.
    InPart(u16),
}

/// Does what a queue has, as long as it is its turn.
fn serve(shared: &Shared, target: &Target, active: &Active, buffer: &mut [u8]) -> Result<Served, Malformed> {
    let lock = || active.queue.lock().unwrap_or_else(PoisonError::into_inner);
    let memory = Arc::clone(lock().memory());
    for _ in 0..TURN {
        let request = {
            let mut queue = lock();
            // One at a time, so that nothing is taken that will not be done.
            match queue.next(&mut 1)? {
                Next::Chain(chain) => Request::parse(&queue, chain)?,
                Next::Idle => return Ok(Served::Whole),
                Next::Spent => continue,
            }
        };
        let written = request.run(target, &memory, active.write_through, buffer);
        let mut queue = lock();
        queue.push_used(request.head(), written)?;
        if queue.needs_interrupt()? {
            let index = queue.index();
            drop(queue);
            active.interrupt.queue_used(index);
        }
        if shared.is_stopping() {
            return Ok(Served::Whole);
        }
    }
    Ok(Served::InPart(lock().index()))
}

/// The driver broke the specification: its rings are left alone until it resets the device.
fn fail(shared: &Shared, active: &Active, why: Malformed) {
    let mut state = shared.lock();
    state.stopping = true;
    state.pending = 0;
    state.queues.clear();
    drop(state);
    active.interrupt.needs_reset(why);
}
