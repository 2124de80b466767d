//! motu's own log, on stderr.

use crate::terminal;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;

/// Says a line on stderr. If nobody can take it, such as a file on a full disk, nobody is held up: `eprintln!` would panic, and end
/// a thread that a guest waits for.
macro_rules! tell {
    ($($said:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($said)*);
    }};
}

/// Sets the log up: `MOTU_LOG` if set (as in `motu_machine=debug`), else by the number of `-v`.
pub fn init(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("MOTU_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines)
        .with_ansi(false)
        .with_target(verbose > 1)
        .init();
}

/// stderr, with the carriage returns that a terminal in raw mode does not add by itself.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if !terminal::is_raw() {
            return stderr.write(data);
        }
        for line in data.split_inclusive(|&b| b == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) => stderr.write_all(&[text, b"\r\n"].concat())?,
                None => stderr.write_all(line)?,
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Where log lines go. One that cannot be written is dropped: the library would tell of it by `eprintln!`.
struct Lines;

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let _ = Stderr.write_all(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
