//! A command that this process's own streams, or its terminal, are attached to.

use super::stdin::{self, Sink};
use crate::agent::{Controls, End, Event, LinkError, Output};
use crate::terminal;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// A command, and how it is attached.
pub struct Attached<C> {
    pub controls: Arc<C>,
    /// It has a terminal, and so has this process: what is typed goes to it as it is.
    pub on_terminal: bool,
    /// Shown until the command runs.
    pub booting: ProgressBar,
    /// Whether this process's standard input is the command's.
    pub stdin: bool,
}

impl<C: Controls + 'static> Attached<C> {
    /// Passes on what the command says until it ends, and what is typed as soon as it runs. `left` is called when the person
    /// leaves.
    ///
    /// # Errors
    /// The host's trouble.
    pub fn follow(self, events: Receiver<Event>, left: impl FnOnce() + Send + 'static) -> Result<End> {
        let mut output = Output::to(Box::new(std::io::stdout()), Box::new(std::io::stderr()));
        let mut left = Some(left);
        for event in events {
            match event {
                Event::Started => {
                    self.booting.finish_and_clear();
                    self.take_terminal()?;
                    if let Some(left) = left.take().filter(|_| self.stdin) {
                        let typing = Typing(Arc::clone(&self.controls));
                        stdin::forward(typing, left).context("starting the thread for stdin")?;
                    }
                }
                Event::Output(stream, data) => output.pass_on(stream, &data, self.controls.as_ref())?,
                Event::Room(bytes) => tracing::trace!("the command has read {bytes} bytes"),
                Event::Ended(end) => {
                    self.booting.finish_and_clear();
                    return Ok(end);
                }
            }
        }
        Ok(End::Lost(LinkError::Gone))
    }

    fn take_terminal(&self) -> Result<()> {
        if !self.on_terminal {
            return Ok(());
        }
        // A closed stderr has no reader to miss the note.
        let _ = writeln!(std::io::stderr(), "motu: Ctrl-] leaves");
        terminal::enter_raw().context("putting the terminal into raw mode")
    }
}

struct Typing<C>(Arc<C>);

impl<C: Controls> Sink for Typing<C> {
    fn input(&mut self, data: &[u8]) -> bool {
        self.0.type_in(data)
    }

    fn end(&mut self) {
        self.0.close_stdin();
    }
}
