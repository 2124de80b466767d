//! A command's output on its way to motu's own streams.

use super::Controls;
use anyhow::{Context, Result};
use motu_proto::OutputStream;
use std::io::{self, Write};

/// SIGPIPE (signal(7)).
const SIGPIPE: u8 = 13;

/// Where a command's two streams go.
pub struct Output {
    stdout: Destination,
    stderr: Destination,
}

struct Destination {
    writer: Box<dyn Write + Send>,
    closed: bool,
}

impl Output {
    pub fn to(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        let destination = |writer| Destination { writer, closed: false };
        Self { stdout: destination(stdout), stderr: destination(stderr) }
    }

    /// Writes what arrived. When nobody reads any more, the command gets SIGPIPE, as it would in a
    /// pipeline on the host.
    ///
    /// # Errors
    /// The stream takes nothing, for another reason.
    pub fn pass_on(&mut self, stream: OutputStream, data: &[u8], command: &dyn Controls) -> Result<()> {
        let destination = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        if !destination.closed {
            match destination.writer.write_all(data).and_then(|()| destination.writer.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    destination.closed = true;
                    command.signal(SIGPIPE);
                }
                Err(error) => return Err(error).context("writing the command's output"),
            }
        }
        command.passed_on(stream, data.len());
        Ok(())
    }
}
