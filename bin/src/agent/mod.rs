//! The host's side of a command in the guest.

mod session;
#[cfg(test)]
mod tests;

pub use session::{Session, Wiring};

/// The agent for the guest: built beside motu by `build.rs`, and put into images as their init.
pub const BINARY: &[u8] = include_bytes!(env!("MOTU_AGENT"));
