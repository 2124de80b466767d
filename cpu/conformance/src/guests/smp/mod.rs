//! Several processors: how they start, reach each other and share memory.
//!
//! Words of the page at [`DATA`] are what they tell each other. A guest ends where processor 0 says so.

mod atomics;
mod code;
mod ipi;
mod ordering;
mod shootdown;
mod spin;
mod start;

pub(crate) use atomics::GUESTS as ATOMICS;
pub(crate) use code::GUESTS as CODE;
pub(crate) use ipi::GUESTS as IPI;
pub(crate) use ordering::GUESTS as ORDERING;
pub(crate) use shootdown::GUESTS as SHOOTDOWN;
pub(crate) use spin::GUESTS as SPIN;
pub(crate) use start::GUESTS as START;

use crate::bench::{Bench, Checked, Code as Loaded};
use crate::layout::{APIC, DATA, smp};
use iced_x86::code_asm::*;

/// Registers of the local APIC: [`APIC`] plus these.
const ID: u64 = 0x20;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;

/// Word number `n`, of 8 bytes and in a cache line of its own.
const fn word(n: u64) -> u64 {
    DATA + 64 * n
}

/// Where processors say that they are ready.
const READY: u64 = word(60);

/// Processors 1 to `count` - 1 run what `emit` gives in 64-bit mode, each with its number in RDI, and then rest.
fn others<T>(
    b: &mut Bench<'_>,
    count: usize,
    emit: impl FnOnce(&mut CodeAssembler) -> Checked<T>,
) -> Checked<(Loaded, T)> {
    let mut a = b.assembler(64)?;
    let made = emit(&mut a)?;
    rest(&mut a)?;
    let code = b.load(smp::CODE, &mut a)?;
    b.add_running(count, smp::CODE);
    Ok((code, made))
}

/// Nothing more, whatever comes.
fn rest(a: &mut CodeAssembler) -> Checked {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.cli()?;
    a.hlt()?;
    a.jmp(again)?;
    Ok(())
}

/// Waits until the word at `at` is `value`.
fn wait_for(a: &mut CodeAssembler, at: u64, value: i32) -> Checked {
    let (mut again, mut done) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.cmp(qword_ptr(at), value)?;
    a.je(done)?;
    a.pause()?;
    a.jmp(again)?;
    a.set_label(&mut done)?;
    a.nop()?;
    Ok(())
}

/// Says that this processor is ready, one of several.
fn ready(a: &mut CodeAssembler) -> Checked {
    Ok(a.lock().inc(qword_ptr(READY))?)
}

/// Lets others do something. Changes RCX.
fn while_others_run(a: &mut CodeAssembler) -> Checked {
    let mut again = a.create_label();
    a.mov(ecx, 3000)?;
    a.set_label(&mut again)?;
    a.pause()?;
    a.dec(ecx)?;
    a.jnz(again)?;
    Ok(())
}

/// Sends what the ICR's low half says, by xAPIC; `destination` is its bits 56 to 63.
fn send(a: &mut CodeAssembler, destination: u32, low: u32) -> Checked {
    a.mov(dword_ptr(APIC + ICR_HIGH), (destination << 24) as i32)?;
    a.mov(dword_ptr(APIC + ICR_LOW), low as i32)?;
    Ok(())
}
