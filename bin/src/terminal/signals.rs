//! Signals to motu.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// End, by signal number.
    End(i32),
    /// Look at the terminal's size again.
    Resized,
}

type Act = Box<dyn FnMut(Asked) + Send>;

/// Says what signals do; they end the process without ado only before [`Watch::start`].
#[derive(Clone)]
pub struct Watch {
    act: Arc<Mutex<Act>>,
}

impl Watch {
    /// Calls `act` for each signal from now on, on a thread of its own.
    ///
    /// # Errors
    /// The host gives no thread or no signal handler.
    pub fn start(act: impl FnMut(Asked) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH])?;
        let watch = Self { act: Arc::new(Mutex::new(Box::new(act))) };
        let act = Arc::clone(&watch.act);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signo in signals.forever() {
                let asked = if signo == SIGWINCH { Asked::Resized } else { Asked::End(signo) };
                act.lock().unwrap_or_else(PoisonError::into_inner)(asked);
            }
        })?;
        Ok(watch)
    }

    /// Calls `act` instead from now on.
    pub fn replace(&self, act: impl FnMut(Asked) + Send + 'static) {
        *self.act.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(act);
    }
}
