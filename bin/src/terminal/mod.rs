//! The person's terminal: raw mode that is always given back, its size, the key that leaves.

mod escape;
mod raw;
pub mod signals;

pub use escape::scan as scan_for_leave;
pub use raw::{GiveBack, enter_raw, give_back, give_back_on_panic, is_raw};

use motu_proto::TermSize;
use std::io::IsTerminal;

/// Whether both input and output are a terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Rows and columns of the terminal on stdout; `None` if it is no terminal or does not know.
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The terminal's size; 24 lines of 80 where it is not known.
pub fn term_size() -> TermSize {
    let (rows, cols) = size().unwrap_or((24, 80));
    TermSize { rows, cols }
}
