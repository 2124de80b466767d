//! The host CPU as the judge of the software CPU: native execution and differential tests.
//!
//! [`native::Oracle`] runs one user-mode instruction on the host CPU with every register, the
//! flags, the whole x87/SSE/AVX state and a small window of memory given, and says what came of it.
//! The rest of the crate makes such cases from the decoder's own table of instruction forms and
//! compares the answers of the host with those of another [`UserCpu`].
//!
//! [`run`] is the program around it, `motu-differ`: `cargo xtask fuzz cpu` builds and starts it, the crate's own test
//! runs five million cases with it. [`compare`] says what differs, and leaves out what processors may do as they like.
//! [`cases`] draws the cases: one number stands for one case, whatever ran before it.
//!
//! For tests only: no part of a machine runs guest instructions this way.

pub mod cases;
pub mod compare;
pub mod layout;
pub mod native;
mod rng;
pub mod run;
mod soft;
mod state;

pub use soft::Soft;
pub use state::{End, Mode, UserState};

/// Something that runs single user-mode instructions: the host CPU, or a CPU in software.
pub trait UserCpu {
    /// The memory that instructions may touch, [`layout::WINDOW_SIZE`] bytes.
    fn window(&mut self) -> &mut [u8];

    /// Runs the one instruction in `code` at `before.rip` and writes the state that it leaves,
    /// also where it ended in an exception, to `after`.
    fn run_one(&mut self, before: &UserState, code: &[u8], after: &mut UserState) -> End;

    /// How many of these ran translated.
    fn translated(&self) -> u64 {
        0
    }
}
