//! Time as devices see it.

pub use motu_x86::Nanos;

/// Monotonic machine time; stands still while the machine is paused.
pub trait Clock: Send + Sync {
    fn now(&self) -> Nanos;
}

/// A device that acts at a time of its own.
pub trait Timed: Send {
    /// When [`Timed::expire`] wants to be called next.
    fn next_deadline(&self) -> Option<Nanos>;
    /// `now` has reached the deadline; it may be late by any amount.
    fn expire(&mut self, now: Nanos);
}
