//! The guests, by theme.

mod apic;
mod compatibility;
mod debug;
mod exceptions;
mod frames;
mod interrupts;
mod paging;
mod rights;
mod segments;
mod smc;
mod syscalls;
mod system;
mod tlb;

use crate::Guest;
use crate::bench::{Bench, Checked, Code};
use crate::board::port;
use crate::handlers::Idioms;
use crate::layout::{APIC, CODE, USER_CODE, USER_STACK};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(crate) const THEMES: &[&[Guest]] = &[
    paging::GUESTS,
    rights::GUESTS,
    tlb::GUESTS,
    exceptions::GUESTS,
    frames::GUESTS,
    interrupts::GUESTS,
    apic::GUESTS,
    debug::GUESTS,
    smc::GUESTS,
    syscalls::GUESTS,
    segments::GUESTS,
    compatibility::GUESTS,
    system::GUESTS,
];

/// One instruction, or a few.
type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Puts ring 0 code in place that begins the guest and ends it, content, behind what `emit` gives.
fn kernel<T>(b: &mut Bench<'_>, emit: impl FnOnce(&mut CodeAssembler) -> Checked<T>) -> Checked<(Code, T)> {
    let mut a = b.assembler(64)?;
    let made = emit(&mut a)?;
    a.finish()?;
    Ok((b.load(CODE, &mut a)?, made))
}

/// The same for ring 3, which ring 0 enters with `flags` in RFLAGS.
fn user<T>(b: &mut Bench<'_>, flags: i32, emit: impl FnOnce(&mut CodeAssembler) -> Checked<T>) -> Checked<(Code, T)> {
    kernel(b, |a| Ok(a.to_user(USER_CODE, USER_STACK, flags)?))?;
    let mut a = b.assembler(64)?;
    let made = emit(&mut a)?;
    a.finish()?;
    Ok((b.load(USER_CODE, &mut a)?, made))
}

/// A handler of ring 0 of the test's own at `at`.
fn handler<T>(b: &mut Bench<'_>, at: u64, emit: impl FnOnce(&mut CodeAssembler) -> Checked<T>) -> Checked<(Code, T)> {
    let mut a = b.assembler(64)?;
    let made = emit(&mut a)?;
    Ok((b.load(at, &mut a)?, made))
}

/// Has the board send an MSI and waits until it is in the IRR; interrupts are off. Bits 8 to 15 of `data` are
/// those of the message. Changes RAX and RDX.
fn raise(a: &mut CodeAssembler, data: i32) -> Checked {
    let mut wait = a.create_label();
    a.mov(edx, u32::from(port::MSI))?;
    a.mov(eax, data)?;
    a.out(dx, eax)?;
    a.set_label(&mut wait)?;
    a.bt(dword_ptr(APIC + 0x200 + 0x10 * (data as u64 >> 5 & 7)), data & 31)?;
    a.jnc(wait)?;
    Ok(())
}
