//! What the person types, or pipes in.

use crate::terminal;
use rustix::io::Errno;
use std::io;

/// What takes the input.
pub trait Sink: Send {
    /// False when it takes no more.
    fn input(&mut self, data: &[u8]) -> bool;
    /// There is no more.
    fn end(&mut self);
}

/// Hands stdin to `sink` on a thread, until it ends or the person leaves, which calls `leave`.
///
/// # Errors
/// The host gives no thread.
pub fn forward(mut sink: impl Sink + 'static, leave: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            // Unbuffered: what is not read is left to whoever reads this stdin next.
            let read = match rustix::io::read(io::stdin(), &mut buffer) {
                Err(Errno::INTR) => continue,
                // A terminal that hung up, or a stdin that was never open: no input.
                Ok(0) | Err(_) => return sink.end(),
                Ok(read) => read,
            };
            let data = buffer.get(..read).unwrap_or_default();
            let (input, left) = if terminal::is_raw() { terminal::scan_for_leave(data) } else { (data, false) };
            if left {
                // First: the sink may wait for a guest that takes nothing.
                leave();
                sink.input(input);
                return;
            }
            if !sink.input(input) {
                return;
            }
        }
    })?;
    Ok(())
}
