//! To whom a message goes (Intel SDM vol. 3, 11.6.2 and 11.12.10): what of each local APIC decides it, readable by every sender.

use crate::lapic::{Address, DeliveryMode, Destination, Message};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What the local APICs answer to, as each of them last said.
#[derive(Debug)]
pub struct Addresses {
    /// By processor: [`Address::pack`], and above it the processor priority.
    entries: Box<[AtomicU64]>,
    /// Where the next search for the lowest priority begins, so that equals take turns.
    turn: AtomicU32,
}

const PRIORITY_SHIFT: u32 = 56;

/// Processors, a bit for each.
pub type Set = u64;

/// The numbers in a set.
pub fn members(set: Set) -> impl Iterator<Item = usize> {
    let without_first = |&rest: &Set| Some(rest & rest.wrapping_sub(1));
    std::iter::successors(Some(set), without_first)
        .take_while(|&rest| rest != 0)
        .map(|rest| rest.trailing_zeros() as usize)
}

impl Addresses {
    pub fn new(count: usize) -> Self {
        Self { entries: (0..count).map(|_| AtomicU64::new(0)).collect(), turn: AtomicU32::new(0) }
    }

    /// Processor `id` answers to `address` from now on, and has this processor priority.
    pub fn set(&self, id: u32, address: Address, priority: u8) {
        if let Some(entry) = self.entries.get(id as usize) {
            let word = address.pack() | u64::from(priority) << PRIORITY_SHIFT;
            // It is said often, and changes rarely.
            if entry.load(Ordering::Relaxed) != word {
                entry.store(word, Ordering::SeqCst);
            }
        }
    }

    /// The processors that take `message`.
    pub fn destinations(&self, message: &Message) -> Set {
        let answers = |(n, entry): (usize, &AtomicU64)| {
            let address = Address::unpack(entry.load(Ordering::SeqCst));
            let takes = message.mode != DeliveryMode::LowestPriority || address.accepts;
            Set::from(takes && address.answers_to(n as u32, message.destination)) << n
        };
        // The usual one needs no search.
        let all = match message.destination {
            Destination::Physical(id) => self.entries.get(id as usize).map_or(0, |entry| answers((id as usize, entry))),
            _ => self.entries.iter().enumerate().map(answers).fold(0, |all, one| all | one),
        };
        if message.mode == DeliveryMode::LowestPriority { self.lowest(all) } else { all }
    }

    /// The one with the lowest priority.
    fn lowest(&self, among: Set) -> Set {
        if among.count_ones() < 2 {
            return among;
        }
        let turn = self.turn.load(Ordering::Relaxed) as usize;
        let count = self.entries.len();
        let by_turn = |n: usize| (n + count - turn % count) % count;
        let priority =
            |n: usize| self.entries.get(n).map_or(u64::MAX, |entry| entry.load(Ordering::SeqCst) >> PRIORITY_SHIFT);
        let Some(chosen) = members(among).min_by_key(|&n| (priority(n), by_turn(n))) else { return 0 };
        self.turn.store(chosen as u32 + 1, Ordering::Relaxed);
        1 << chosen
    }
}
