//! The host threads of a device, and the queues that wait for them.
//!
//! A notification only wakes a worker; requests are taken, done and given back there, so a vCPU never waits for the host's files:
//!
//! ```text
//!   vCPU: notify ──► pending queues ──► worker: take a chain ─► do it ─► give it back ─► interrupt
//!                       ▲                                        │
//!                       └──── about to wait for the host ◄───────┘
//!   vCPU: reset  ──► no more chains are taken; waits for the requests under way
//! ```
//! One worker does a queue's requests one after the other. Before it waits for the host ([`Request::waits`]) it has another one go on with the
//! queue; so what the host does at once needs no second thread, and what it does not is under way together.
//!
//! Locks, after the function's: the workers' state, then a queue. Neither is held while a request is done.

use crate::device::{Activation, Interrupt};
use crate::lookout::Lookout;
use crate::queue::{Chain, Malformed, Next, VirtQueue};
use motu_memory::Mmap;
use std::cell::Cell;
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
    place: Place<'a>,
}

impl Request<'_> {
    /// The worker is about to wait for the host until this request is done: another one goes on with the queue meanwhile, if one is free.
    pub fn waits(&self) {
        let Place { shared, active, waits } = &self.place;
        if waits.replace(true) {
            return;
        }
        let mut state = shared.lock();
        state.waiting += 1;
        if state.busy == state.workers {
            return;
        }
        drop(state);
        // What comes later is notified of. Whatever is wrong with the queue is found by who goes on with it.
        let more = active.queue.lock().unwrap_or_else(PoisonError::into_inner).rearm();
        shared.look_at((more != Ok(false)).then_some(self.queue));
    }
}

/// Where a request comes from.
#[derive(Debug)]
struct Place<'a> {
    shared: &'a Shared,
    active: &'a Active,
    /// It has been said to wait for the host.
    waits: Cell<bool>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.waits.get() {
            self.shared.lock().waiting -= 1;
        }
    }
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
    /// Workers that there are; of these, that hold a queue (one queue may be held by several); of these, that wait for the host.
    workers: u32,
    busy: u32,
    waiting: u32,
    /// Workers that have nothing to do: the last one is the next to be woken, which the host's CPU still knows.
    idle: Vec<usize>,
    /// Workers that were woken and have not come yet.
    woken: u32,
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
    /// How often there was something new to look at.
    calls: AtomicU32,
    /// By worker: there is something to do, or no more.
    work: Vec<Condvar>,
    /// Nobody is busy.
    quiet: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a worker look at a queue, if one is named, and at all others that may have chains. One that does not wait for the host looks
    /// by itself as soon as it is done; so that not more are awake than have something to do.
    fn look_at(&self, queue: Option<u16>) {
        let mut state = self.lock();
        if state.stopping {
            return;
        }
        state.pending |= queue.and_then(|queue| 1u64.checked_shl(queue.into())).unwrap_or(0);
        if state.pending != 0
            && state.busy == state.waiting
            && state.woken == 0
            && let Some(worker) = state.idle.pop()
        {
            state.woken += 1;
            drop(state);
            self.calls.fetch_add(1, Ordering::Release);
            self.work.get(worker).into_iter().for_each(Condvar::notify_one);
        }
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
        let count = staff.count.max(1);
        let calls = (0..count).map(|_| Condvar::new()).collect();
        let shared = Arc::new(Shared { rests_after: staff.rests_after, work: calls, ..Shared::default() });
        let mut workers = Self { shared, threads: Vec::new(), server };
        for number in 0..count.into() {
            let (shared, server) = (Arc::clone(&workers.shared), Arc::clone(&workers.server));
            let thread = std::thread::Builder::new().name(staff.name.to_owned());
            workers.threads.push(thread.spawn(move || work(&shared, &*server, number))?);
            workers.shared.lock().workers += 1;
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
        self.shared.look_at(Some(queue));
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
        self.shared.work.iter().for_each(Condvar::notify_all);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a device's thread ended by itself: this is an error in motu");
            }
        }
        self.server.end();
    }
}

/// The life of worker `number`.
fn work(shared: &Shared, server: &dyn Serve, number: usize) {
    let mut buffer = Vec::new();
    let mut lookout = Lookout::default();
    let mut state = shared.lock();
    while !state.ended {
        let Some(queue) = next_queue(&mut state) else {
            state = wait(shared, server, state, number, &mut lookout);
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
fn wait<'a>(
    shared: &'a Shared,
    server: &dyn Serve,
    mut state: MutexGuard<'a, State>,
    number: usize,
    lookout: &mut Lookout,
) -> MutexGuard<'a, State> {
    let Some(work) = shared.work.get(number) else { return state };
    state.idle.push(number);
    if lookout.is_worth_it() {
        let seen = shared.calls.load(Ordering::Acquire);
        drop(state);
        lookout.look(|| shared.calls.load(Ordering::Acquire) != seen);
        state = shared.lock();
    }
    let is_idle = |state: &mut State| !state.ended && state.idle.contains(&number);
    let mut state = lookout.sleep(|| {
        if state.worked {
            let waited = work.wait_timeout_while(state, shared.rests_after, is_idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            work.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner)
        }
    });
    let Some(at) = state.idle.iter().position(|idle| *idle == number) else {
        state.woken -= 1;
        return state;
    };
    state.idle.remove(at);
    // Of several that wait, the first one rests for all.
    if !state.worked || state.pending != 0 || state.busy > 0 || state.ended {
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
        let place = Place { shared, active, waits: Cell::new(false) };
        let request = Request { queue, chain, memory: &memory, features, place };
        let written = server.serve(&request, buffer);
        let Request { chain, place, .. } = request;
        // From here on it waits for nobody, and looks for more by itself.
        drop(place);
        let written = written?;
        let mut used = lock();
        used.push_used(chain.head, written)?;
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
