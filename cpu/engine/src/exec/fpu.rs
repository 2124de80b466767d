//! FPU instructions that the host does not execute as they are: state images and per-element access.

use crate::decode::Handler;
use iced_x86::{Instruction, Mnemonic as M};

/// The handler of a state image or masked access instruction.
pub fn handler(i: &Instruction) -> Option<Handler> {
    match i.mnemonic() {
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => Some(super::data::nop),
        _ => None,
    }
}
