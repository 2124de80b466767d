//! Raw mode, which is always given back.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The terminal on stdin: global, because a panic and a signal must find it too.
static TERMINAL: Mutex<Terminal> = Mutex::new(Terminal::AsFound);

enum Terminal {
    AsFound,
    /// With the modes from before.
    Raw(Box<Termios>),
    /// motu is ending: the terminal is not touched any more.
    GivenBack,
}

fn lock() -> MutexGuard<'static, Terminal> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the terminal on stdin into raw mode, from any thread; nothing happens when it is already,
/// or when motu is ending.
///
/// # Errors
/// stdin is no terminal, or it cannot be changed.
pub fn enter_raw() -> io::Result<()> {
    let mut terminal = lock();
    if !matches!(*terminal, Terminal::AsFound) {
        return Ok(());
    }
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut raw = before.clone();
    raw.make_raw();
    // Kept before it is changed: there is no moment in which it could not be given back.
    *terminal = Terminal::Raw(Box::new(before));
    Ok(tcsetattr(&stdin, OptionalActions::Now, &raw)?)
}

/// Gives the terminal back as it was, for good.
pub fn give_back() {
    let mut terminal = lock();
    if let Terminal::Raw(before) = &*terminal {
        // The terminal may be gone (SIGHUP): there is nothing to give back then.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
    }
    *terminal = Terminal::GivenBack;
}

/// Gives the terminal back when it is dropped.
#[derive(Debug)]
#[must_use = "the terminal is given back when this is dropped"]
pub struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        give_back();
    }
}

pub fn is_raw() -> bool {
    matches!(*lock(), Terminal::Raw(_))
}

/// Makes a panic in any thread give the terminal back before it says anything.
pub fn give_back_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        give_back();
        next(info);
    }));
}
