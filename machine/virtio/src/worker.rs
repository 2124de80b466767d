//! The host threads of a device, and the queues that wait for them.
//!
//! A notification only wakes a worker; requests are taken, done and given back there, one after the other in a queue, so a vCPU never
//! waits for the host's files:
//!
//! ```text
//!   vCPU: notify ──► pending queues ──► worker: take a chain ─► do it ─► give it back ─► interrupt
//!   vCPU: reset  ──► no more chains are taken; waits for the request under way
//! ```
//!
//! Locks, after the function's: the workers' state, then a queue. Neither is held while a request is done.

use crate::device::{Activation, Interrupt};
use crate::lookout::Lookout;
use crate::queue::{Chain, Malformed, Next, VirtQueue};
use motu_memory::Mmap;
use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests of a queue at most before others have their turn: another CPU may refill the ring for ever.
const TURN: u32 = 64;

/// Does a device's requests; any of its threads.
pub trait Serve: Debug + Send + Sync + 'static {
    /// Does one; how many bytes were written for the driver. `buffer` is the thread's own, and is kept.
    ///
    /// # Errors
    /// The request is none.
    fn serve(&self, request: &Request<'_>, buffer: &mut Vec<u8>) -> Result<usize, Malformed>;

    /// There was nothing to do for a while.
    fn rest(&self);

    /// There will be nothing to do any more.
    fn end(&self);
}

/// What a driver asks for.
#[derive(Debug)]
pub struct Request<'a> {
    pub queue: u16,
    pub chain: Chain,
    pub memory: &'a Mmap,
    /// The negotiated feature bits.
    pub features: u64,
}

/// What a device's threads are called, and when they rest.
#[derive(Debug)]
pub struct Staff<'a> {
    pub name: &'a str,
    /// At least one.
    pub count: u16,
    /// When nothing was to be done for so long, [`Serve::rest`] is called.
    pub rests_after: Duration,
}

/// A queue while its driver is there.
#[derive(Debug)]
struct Active {
    queue: Mutex<VirtQueue>,
    interrupt: Interrupt,
    features: u64,
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
    /// Requests were done since the last rest.
    worked: bool,
    /// No more chains are to be taken.
    stopping: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// See [`Staff::rests_after`].
    rests_after: Duration,
    /// How often [`Workers::notify`] has found something new.
    calls: AtomicU32,
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
    server: Arc<dyn Serve>,
}

impl Workers {
    /// # Errors
    /// The host gives no thread.
    pub fn start(server: Arc<dyn Serve>, staff: &Staff<'_>) -> io::Result<Self> {
        let shared = Arc::new(Shared { rests_after: staff.rests_after, ..Shared::default() });
        let mut workers = Self { shared, threads: Vec::new(), server };
        for _ in 0..staff.count.max(1) {
            let (shared, server) = (Arc::clone(&workers.shared), Arc::clone(&workers.server));
            let thread = std::thread::Builder::new().name(staff.name.to_owned());
            workers.threads.push(thread.spawn(move || work(&shared, &*server))?);
        }
        Ok(workers)
    }

    pub fn activate(&self, activation: Activation) {
        let Activation { features, interrupt, .. } = activation;
        let active = |queue| {
            let (queue, interrupt) = (Mutex::new(queue), interrupt.clone());
            Arc::new(Active { queue, interrupt, features })
        };
        let mut state = self.shared.lock();
        state.queues = activation.queues.into_iter().map(|queue| queue.map(active)).collect();
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
            self.shared.calls.fetch_add(1, Ordering::Release);
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
                tracing::error!("a device's thread ended by itself: this is an error in motu");
            }
        }
        self.server.end();
    }
}

/// A worker's life.
fn work(shared: &Shared, server: &dyn Serve) {
    let mut buffer = Vec::new();
    let mut lookout = Lookout::default();
    let mut state = shared.lock();
    while !state.ended {
        let Some(queue) = next_queue(&mut state) else {
            let seen = shared.calls.load(Ordering::Acquire);
            if lookout.is_worth_it() {
                drop(state);
                lookout.look(|| shared.calls.load(Ordering::Acquire) != seen);
                state = shared.lock();
            }
            if state.pending == 0 && !state.ended {
                state = lookout.sleep(|| wait(shared, server, state));
            }
            continue;
        };
        state.busy += 1;
        state.worked = true;
        drop(state);
        let served = serve(shared, server, &queue, &mut buffer);
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
fn wait<'a>(shared: &'a Shared, server: &dyn Serve, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    if !state.worked {
        return shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let waited = shared.work.wait_timeout(state, shared.rests_after).unwrap_or_else(PoisonError::into_inner);
    let (mut state, time_out) = waited;
    // Of several that wait, the first one rests for all.
    if !time_out.timed_out() || state.pending != 0 || state.busy > 0 || state.ended || !state.worked {
        return state;
    }
    state.worked = false;
    drop(state);
    server.rest();
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
fn serve(shared: &Shared, server: &dyn Serve, active: &Active, buffer: &mut Vec<u8>) -> Result<Served, Malformed> {
    let lock = || active.queue.lock().unwrap_or_else(PoisonError::into_inner);
    let (memory, queue) = {
        let queue = lock();
        (Arc::clone(queue.memory()), queue.index())
    };
    let features = active.features;
    for _ in 0..TURN {
        // One at a time, so that nothing is taken that will not be done.
        let next = lock().next(&mut 1)?;
        let chain = match next {
            Next::Chain(chain) => chain,
            Next::Idle => return Ok(Served::Whole),
            Next::Spent => continue,
        };
        let request = Request { queue, chain, memory: &memory, features };
        let written = server.serve(&request, buffer)?;
        let mut used = lock();
        used.push_used(request.chain.head, written)?;
        if used.needs_interrupt()? {
            drop(used);
            active.interrupt.queue_used(queue);
        }
        if shared.is_stopping() {
            return Ok(Served::Whole);
        }
    }
    Ok(Served::InPart(queue))
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
