//! What instructions do. One handler runs one instruction; see [`crate::decode::Handler`].

pub mod arithmetic;
pub mod bits;
pub mod branch;
pub mod data;
pub mod decimal;
pub mod flag_ops;
pub mod fpu;
pub mod host;
pub mod io;
pub mod operand;
pub mod segment;
pub mod string;
pub mod system;
pub mod transfer;
pub mod width;
