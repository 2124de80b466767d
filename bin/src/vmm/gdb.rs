//! `--gdb`: where gdb may attach to the machine.

use super::{Ending, Why};
use anyhow::{Context, Result};
use motu_gdb::{GdbServer, Listening};
use motu_machine::Machine;
use std::sync::Arc;

/// A place to attach at, before the machine runs.
pub struct Gdb {
    listening: Listening,
    wait: bool,
}

impl Gdb {
    /// Listens, and warns of an address that others than this host's users can reach.
    ///
    /// # Errors
    /// The address is in use, or this host has none such.
    pub fn listen(asked: &motu_spec::Gdb) -> Result<Self> {
        let listening = Listening::at(&asked.address)?;
        if listening.is_exposed() {
            tell!(
                "motu: warning: whoever can connect to {} owns the guest; 127.0.0.1 keeps gdb to this host",
                listening.shown()
            );
        }
        Ok(Self { listening, wait: asked.wait })
    }

    /// Serves gdb for as long as the result lives.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn serve(self, machine: &Machine, ending: &Arc<Ending>) -> Result<GdbServer> {
        let Self { listening, wait } = self;
        let begins = if wait { "; the machine starts when gdb says so" } else { "" };
        tell!("motu: gdb attaches by: target remote {}{begins}", listening.shown());
        let ending = Arc::clone(ending);
        let kill = move || {
            ending.end(Why::Left);
        };
        listening.serve(machine.debug_port(), kill).context("starting gdb's thread")
    }
}
