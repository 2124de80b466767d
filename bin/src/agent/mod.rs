//! The host's side of the agent in the guest: one connection, any number of commands.
//!
//! ```text
//!   port --"agent" thread--> Link --events--> who started the command, on a thread of its own
//!   port <---------------------------------- Command: input, signals, credit for output
//! ```
//! The thread that reads the port waits for nobody: what a command may say is bounded by its windows, and who started it gives
//! them back as it passes output on. So a command whose reader stands still holds up no other.

mod link;
mod output;
mod remote;
#[cfg(test)]
mod tests;

pub use link::{Command, End, Event, Link, LinkError};
pub use output::Output;
pub use remote::Remote;

use motu_proto::{OutputStream, TermSize};

/// What can be done with a command that was started, in this process's machine or in another's; any thread.
pub trait Controls: Send + Sync {
    /// Sends bytes to the command's standard input; waits while its window is full. False when the command takes no more.
    fn type_in(&self, data: &[u8]) -> bool;
    /// The command's standard input has ended.
    fn close_stdin(&self);
    /// Sends a signal to the command; false when it does not run.
    fn signal(&self, signo: u8) -> bool;
    /// The terminal has a new size.
    fn resize(&self, size: TermSize);
    /// So many bytes of output have gone on to their reader: the guest may send as many more.
    fn passed_on(&self, stream: OutputStream, bytes: usize);
}

/// The agent for the guest: built beside motu by `build.rs`, and put into images as their init.
pub const BINARY: &[u8] = include_bytes!(env!("MOTU_AGENT"));

/// A guest's text without what could steer a person's terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(500).collect()
}
