//! One instruction on the host CPU.
//!
//! The instruction's bytes are written to a code page, followed by a jump back. [`stub`] loads the
//! state, all sixteen general registers included, and enters the page by IRETQ, which also
//! serialises the processor after the write to code (SDM vol. 3, 8.1.3). A retired instruction comes
//! back by that jump; a fault, and a branch taken to a page full of INT3, come back through
//! [`signal`].

mod pages;
mod signal;
mod stub;

#[cfg(test)]
mod tests;

use crate::layout;
use crate::{End, UserCpu, UserState};
use motu_x86::Exception;
use motu_x86::exception::pf;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use pages::Pages;

/// Why this host cannot be the oracle.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    #[error("the host CPU has no {0}, which the oracle needs")]
    Feature(&'static str),
    #[error("{doing}: {source}")]
    Host { doing: String, source: std::io::Error },
}

/// The addresses and the signal handlers are the process's: one oracle at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The host CPU. It belongs to the thread that made it; another [`Oracle::new`] waits until it is dropped.
#[derive(Debug)]
pub struct Oracle {
    pages: Pages,
    _signals: signal::Handlers,
    _only: MutexGuard<'static, ()>,
}

/// An instruction's greatest length in bytes (SDM vol. 2, 2.3.11).
pub const MAX_INSTRUCTION: usize = 15;

impl Oracle {
    /// Maps the pages of [`layout`] in this process and takes its fault signals.
    ///
    /// # Errors
    /// The host CPU has no AVX, or the addresses are in use already.
    pub fn new() -> Result<Self, OracleError> {
        Self::check()?;
        let only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = Pages::map(stub::exit_address())?;
        Ok(Self { pages, _signals: signal::Handlers::install()?, _only: only })
    }

    /// Whether this host can be the oracle.
    ///
    /// # Errors
    /// The host CPU has no AVX.
    pub fn check() -> Result<(), OracleError> {
        if !std::arch::is_x86_feature_detected!("xsave") {
            return Err(OracleError::Feature("XSAVE"));
        }
        if !std::arch::is_x86_feature_detected!("avx") {
            return Err(OracleError::Feature("AVX"));
        }
        Ok(())
    }
}

impl UserCpu for Oracle {
    fn window(&mut self) -> &mut [u8] {
        self.pages.window()
    }

    /// # Panics
    /// `code` is longer than an instruction can be, or `before.rip` lies in no code page: the
    /// caller's mistake, and running on would jump to nowhere.
    fn run_one(&mut self, before: &UserState, code: &[u8], after: &mut UserState) -> End {
        assert!(code.len() <= MAX_INSTRUCTION, "{} bytes are no single instruction", code.len());
        let offset = layout::code_offset(before.rip).expect("the instruction must lie in a code page");
        self.pages.write_code(offset as usize, code, before.mode());
        // SAFETY: the code page holds the instruction and a way back, the handlers are installed on
        // this thread, and the lock makes this the only user of the stub's context.
        let trap = unsafe { stub::run(before, after) };
        after.materialize_xsave();
        match trap {
            None => {
                after.rip = before.rip.wrapping_add(code.len() as u64);
                End::Ok
            }
            Some(trap) => end_of(trap, before.rip, after),
        }
    }
}

/// What a signal meant for the instruction at `start`.
fn end_of(trap: stub::Trap, start: u64, after: &mut UserState) -> End {
    let vector = trap.vector as u8;
    // The INT3s around the instruction stand for wherever a branch went.
    if vector == Exception::BP && after.rip.wrapping_sub(1) != start {
        after.rip = after.rip.wrapping_sub(1);
        return End::Ok;
    }
    let fetch = vector == Exception::PF && trap.error_code as u32 & pf::FETCH != 0;
    if fetch && after.rip != start && trap.address == after.rip {
        return End::Ok;
    }
    let address = if vector == Exception::PF { trap.address } else { 0 };
    End::Exception { vector, error_code: trap.error_code as u32, address }
}
