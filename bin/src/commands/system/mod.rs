//! Commands on all that motu keeps.

pub mod check;
pub mod df;
