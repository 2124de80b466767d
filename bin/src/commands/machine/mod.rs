//! Commands on machines.

pub mod run;
