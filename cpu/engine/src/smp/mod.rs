//! Several processors in one machine: how they reach each other (docs/adr/0014).
//!
//! Each runs on a thread of its own and owns its registers, TLB, decoded code and local APIC. What is here is shared: a mailbox for
//! each, what the local APICs answer to, and who stands still for whom.

mod exclusive;
mod idle;
mod mailbox;
mod routing;
mod spin;

#[cfg(test)]
mod tests;

pub use idle::Idle;
pub use mailbox::{Mailbox, Post, Withdraw, Written};
pub use routing::{Set, members};
pub use spin::Spin;

use crate::decode::Pool;
use crate::lapic::{Address, Message};
use exclusive::Exclusive;
use routing::Addresses;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// All processors of one machine.
#[derive(Debug)]
pub struct Processors {
    mailboxes: Box<[Arc<Mailbox>]>,
    addresses: Addresses,
    exclusive: Exclusive,
    /// What there is only where there are several.
    pool: Option<Pool>,
    /// Processors that do not sleep in HLT, and CPUs that the host has for them.
    awake: AtomicU32,
    host_cpus: u32,
}

impl Processors {
    /// `count` processors, 1 to 64, before they first run.
    pub fn new(count: u32) -> Self {
        let host_cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            mailboxes: (0..count).map(|_| Arc::default()).collect(),
            addresses: Addresses::new(count as usize),
            exclusive: Exclusive::default(),
            pool: (count > 1).then(Pool::default),
            awake: AtomicU32::new(count),
            host_cpus,
        }
    }

    pub fn count(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    /// There is no other processor.
    #[inline(always)]
    pub fn is_alone(&self) -> bool {
        self.mailboxes.len() == 1
    }

    /// What processors have decoded, for others to take; `None` where there are no others.
    pub fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    /// All of them.
    pub fn all(&self) -> Set {
        Set::MAX >> (64 - self.count().clamp(1, 64))
    }

    /// The mailbox of processor `id`; of the first, if there is no such processor.
    pub fn mailbox(&self, id: u32) -> &Arc<Mailbox> {
        self.mailboxes.get(id as usize).unwrap_or(&self.mailboxes[0])
    }

    /// Processor `id` answers to `address` from now on, and has this processor priority.
    pub fn set_address(&self, id: u32, address: Address, priority: u8) {
        self.addresses.set(id, address, priority);
    }

    /// The processors that take `message`.
    pub fn destinations(&self, message: &Message) -> Set {
        self.addresses.destinations(message)
    }

    /// Puts a message into the mailboxes of `to`.
    pub fn send(&self, to: Set, message: Message) {
        members(to & self.all()).for_each(|n| self.mailbox(n as u32).send(message));
    }

    /// `holders` may hold code that was written.
    pub fn code_written(&self, holders: Set, written: Written) {
        members(holders & self.all()).for_each(|n| self.mailbox(n as u32).code_written(written));
    }

    /// No processor may write to memory from now on without noting it (`motu_memory::PageTracker::note_write`).
    pub fn withdraw_writes(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.withdraw_writes());
    }

    pub fn exclusive(&self) -> &Exclusive {
        &self.exclusive
    }

    /// A processor goes to sleep in HLT, or wakes up.
    pub fn note_sleep(&self, asleep: bool) {
        if asleep {
            self.awake.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.awake.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The host has a CPU left beside those that run, and one for the thread that a processor alone waits for.
    pub fn leave_room(&self) -> bool {
        let others = u32::from(self.is_alone());
        self.awake.load(Ordering::Relaxed) + others < self.host_cpus
    }

    /// There are more processors that want to run than CPUs of the host for them.
    pub fn are_too_many(&self) -> bool {
        self.awake.load(Ordering::Relaxed) > self.host_cpus
    }
}
