//! What instructions do. One handler runs one instruction; see [`crate::decode::Handler`].

pub mod arithmetic;
pub mod bits;
pub mod branch;
pub mod call_gate;
pub mod data;
pub mod debug;
pub mod decimal;
pub mod far;
pub mod flag_ops;
pub mod fpu;
pub mod guard;
pub mod host;
pub mod interrupt;
pub mod io;
pub mod iret;
pub mod operand;
pub mod segment;
pub mod stack;
pub mod string;
pub mod syscall;
pub mod system;
pub mod task;
pub mod width;
pub mod xsave;
