//! The guests, by theme.

mod alignment;
mod apic;
mod breakpoints;
mod checksum;
mod compatibility;
mod debug;
mod exceptions;
mod frames;
mod hot;
mod interrupts;
mod long_segments;
mod paging;
mod paging32;
mod protected;
mod protection;
mod real;
mod reset;
mod rights;
mod segments;
mod smc;
mod smp;
mod syscalls;
mod system;
mod tlb;
mod virtual86;

use crate::Guest;
use crate::bench::{Asm, Bench, Checked, Code};
use crate::board::port;
use crate::handlers::Idioms;
use crate::layout::legacy::V86_CODE;
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
    real::DELIVERY,
    real::MODES,
    protected::LOADS,
    protected::LIMITS,
    protected::GATES,
    protected::DELIVERY,
    protected::TASK_SWITCHES,
    protected::PRIVILEGES,
    breakpoints::GUESTS,
    alignment::GUESTS,
    paging32::GUESTS,
    protection::GUESTS,
    long_segments::GUESTS,
    virtual86::GUESTS,
    virtual86::VME,
    virtual86::STEPPING,
    protected::IMPLICIT,
    protected::MIXED,
    reset::GUESTS,
    hot::STORES,
    hot::PAGE_FAULTS,
    hot::EXCEPTIONS,
    hot::REMAPPING,
    hot::STRUCTURES,
    hot::CALLS,
    hot::ADDRESSING,
    hot::DEBUGGING,
    hot::INTERRUPTS,
    hot::NARROW,
    smp::START,
    smp::IPI,
    smp::ATOMICS,
    smp::ORDERING,
    smp::CODE,
    smp::SHOOTDOWN,
    smp::SPIN,
    checksum::GUESTS,
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

/// Real-address mode: code that begins the guest at [`CODE`] and ends it, content, behind what `emit` gives.
fn real<T>(b: &mut Bench<'_>, emit: impl FnOnce(&mut Asm) -> Checked<T>) -> Checked<(Code, T)> {
    b.real()?;
    legacy(b, (16, CODE, CODE), emit)
}

/// 16-bit protected mode: the same in the segment at [`CODE`].
fn protected16<T>(b: &mut Bench<'_>, emit: impl FnOnce(&mut Asm) -> Checked<T>) -> Checked<(Code, T)> {
    b.protected16()?;
    legacy(b, (16, CODE, CODE), emit)
}

/// 32-bit protected mode, ring 0: the same.
fn protected<T>(b: &mut Bench<'_>, emit: impl FnOnce(&mut Asm) -> Checked<T>) -> Checked<(Code, T)> {
    b.protected()?;
    legacy(b, (32, CODE, 0), emit)
}

/// 32-bit protected mode, ring 3, which ring 0 enters with `flags` in EFLAGS.
fn protected_user<T>(b: &mut Bench<'_>, flags: i32, emit: impl FnOnce(&mut Asm) -> Checked<T>) -> Checked<(Code, T)> {
    protected(b, |a| Ok(a.to_ring3(USER_CODE, flags)?))?;
    legacy(b, (32, USER_CODE, 0), emit)
}

/// Virtual-8086 mode, which ring 0 of 32-bit protected mode enters with `flags`, and VM, in EFLAGS.
fn virtual86<T>(b: &mut Bench<'_>, flags: u64, emit: impl FnOnce(&mut Asm) -> Checked<T>) -> Checked<(Code, T)> {
    b.real()?;
    protected(b, |a| Ok(a.to_virtual86(flags)?))?;
    legacy(b, (16, V86_CODE, V86_CODE), emit)
}

/// Code of that many bits, at that address, in a segment with that base, which ends the guest, content.
fn legacy<T>(
    b: &mut Bench<'_>,
    (bits, at, base): (u32, u64, u64),
    emit: impl FnOnce(&mut Asm) -> Checked<T>,
) -> Checked<(Code, T)> {
    let mut a = Asm::new(bits)?;
    let made = emit(&mut a)?;
    a.finish()?;
    Ok((b.load_legacy(at, base, a)?, made))
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
