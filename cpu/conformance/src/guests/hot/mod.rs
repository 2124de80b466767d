//! Code that runs often enough to be translated, and then something happens to it.
//!
//! Every guest here runs its code some hundreds of times, most of them in several places ([`place::Place`]).

mod addressing;
mod calls;
mod case;
mod debugging;
mod exceptions;
mod interrupts;
mod narrow;
mod page_faults;
mod place;
mod remapping;
mod rounds;
mod stores;
mod structures;

pub(crate) use addressing::GUESTS as ADDRESSING;
pub(crate) use calls::GUESTS as CALLS;
pub(crate) use debugging::GUESTS as DEBUGGING;
pub(crate) use exceptions::GUESTS as EXCEPTIONS;
pub(crate) use interrupts::GUESTS as INTERRUPTS;
pub(crate) use narrow::GUESTS as NARROW;
pub(crate) use page_faults::GUESTS as PAGE_FAULTS;
pub(crate) use remapping::GUESTS as REMAPPING;
pub(crate) use stores::GUESTS as STORES;
pub(crate) use structures::GUESTS as STRUCTURES;

use crate::bench::Checked;
use iced_x86::code_asm::*;

/// Emits a loop that ECX counts.
fn repeat(a: &mut CodeAssembler, times: u32, body: impl FnOnce(&mut CodeAssembler) -> Checked) -> Checked {
    let mut again = a.create_label();
    a.mov(ecx, times)?;
    a.set_label(&mut again)?;
    body(a)?;
    a.dec(ecx)?;
    Ok(a.jnz(again)?)
}
