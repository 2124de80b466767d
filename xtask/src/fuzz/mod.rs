//! Hostile input: the targets of `fuzz/`, guided by coverage where a C++ compiler is to be had.

mod driver;
mod targets;

pub use targets::{Args, run, short};
