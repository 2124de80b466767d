//! Single steps and breakpoints that begin while code is hot (SDM vol. 3, 17.2 and 17.3).

use super::super::{handler, kernel};
use super::repeat;
use crate::Guest;
use crate::bench::{Bench, Checked, Code, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "single steps begin in hot code", manual: "vol. 3, 17.3.1.4", check: steps },
    Guest { name: "an instruction breakpoint is set in hot code", manual: "vol. 3, 17.3.1.1", check: instruction },
    Guest { name: "a data breakpoint is set in hot code", manual: "vol. 3, 17.3.1.2", check: data },
];

const OWN: u64 = HANDLERS + 0x8000;
/// What RFLAGS or DR7 becomes in each round, counted down.
const TABLE: u64 = USER_DATA;
const ROUNDS: u32 = 400;
/// The rounds in which something is on.
const ON: [u64; 3] = [200, 199, 50];

/// Has #DB log RIP and go on with RF set. It changes no register, and has a stack of its own.
fn log_debug(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.push(rax)?;
        a.mov(rax, qword_ptr(rsp + 8))?;
        a.log(rax)?;
        a.or(dword_ptr(rsp + 24), rflags::RF as i32)?;
        a.pop(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(1, Gate { ist: 1, ..Gate::to(OWN) })
}

/// Fills the table: `on` in the rounds that are [`ON`], else `off`.
fn fill(b: &Bench<'_>, off: u64, on: u64) -> Checked {
    (0..=u64::from(ROUNDS)).try_for_each(|round| b.write(TABLE + 8 * round, if ON.contains(&round) { on } else { off }))
}

/// A hot loop with a label before each instruction behind the one that `switch` emits, which has the round's number in RCX.
fn hot_loop(b: &mut Bench<'_>, switch: fn(&mut CodeAssembler) -> Checked) -> Checked<(Code, Vec<CodeLabel>)> {
    kernel(b, |a| {
        let mut places = Vec::new();
        let mut place = |a: &mut CodeAssembler| -> Checked {
            let mut label = a.create_label();
            a.set_label(&mut label)?;
            places.push(label);
            Ok(())
        };
        a.xor(esi, esi)?;
        a.mov(rbx, DATA)?;
        repeat(a, ROUNDS, |a| {
            switch(a)?;
            place(a)?;
            a.add(rsi, rcx)?;
            place(a)?;
            a.mov(qword_ptr(rbx + 8), rsi)?;
            place(a)?;
            a.inc(qword_ptr(rbx + 16))?;
            place(a)?;
            a.mov(rdi, qword_ptr(rbx + 8))?;
            place(a)?;
            a.push(rdi)?;
            place(a)?;
            a.pop(rdi)?;
            place(a)
        })?;
        a.log(rsi)?;
        a.mov(rax, qword_ptr(rbx + 16))?;
        a.log(rax)?;
        Ok(places)
    })
}

/// Runs it; gives the places of #DB by their number, 99 for others.
fn hits(b: &mut Bench<'_>, code: &Code, places: &[CodeLabel]) -> Checked<Vec<usize>> {
    let mut values = b.run()?.values();
    let sum = u64::from(ROUNDS) * u64::from(ROUNDS + 1) / 2;
    same("the results", values.split_off(values.len().saturating_sub(2)), vec![sum, u64::from(ROUNDS)])?;
    let places: Vec<u64> = places.iter().map(|place| code.at(place)).collect::<Checked<_>>()?;
    Ok(values.iter().map(|rip| places.iter().position(|place| place == rip).unwrap_or(99)).collect())
}

fn steps(b: &mut Bench<'_>) -> Checked {
    log_debug(b)?;
    fill(b, 2, 2 | rflags::TF)?;
    let (code, places) = hot_loop(b, |a| {
        a.push(qword_ptr(rcx * 8 + TABLE))?;
        Ok(a.popfq()?)
    })?;
    // From behind the first instruction behind POPF to behind the POPF that clears TF: the loop's end is at place 6, and
    // DEC, JNZ, PUSH and POPF follow, of which only what comes behind POPF is a place.
    let round = [1, 2, 3, 4, 5, 6, 99, 99, 99, 0];
    let expected = ON.iter().flat_map(|_| round).collect::<Vec<_>>();
    same("where single steps come", hits(b, &code, &places)?, expected)
}

fn breakpoint(b: &mut Bench<'_>, address: u64, kind: u64) -> Checked {
    b.state.dr[0] = address;
    fill(b, 0x400, 0x401 | kind << 16)
}

fn switch_breakpoint(a: &mut CodeAssembler) -> Checked {
    a.mov(rax, qword_ptr(rcx * 8 + TABLE))?;
    Ok(a.mov(dr7, rax)?)
}

fn instruction(b: &mut Bench<'_>) -> Checked {
    log_debug(b)?;
    let (code, places) = hot_loop(b, switch_breakpoint)?;
    for (n, place) in places.iter().enumerate().take(6) {
        breakpoint(b, code.at(place)?, 0)?;
        b.write(DATA + 16, 0)?;
        same("where breakpoints come", hits(b, &code, &places)?, vec![n; ON.len()])?;
    }
    Ok(())
}

fn data(b: &mut Bench<'_>) -> Checked {
    const WRITES: u64 = 0b1001;
    const ACCESSES: u64 = 0b1011;
    log_debug(b)?;
    let (code, places) = hot_loop(b, switch_breakpoint)?;
    // Traps: behind the instruction.
    let cases: [(u64, u64, &[usize]); 4] =
        [(8, WRITES, &[2]), (8, ACCESSES, &[2, 4]), (16, WRITES, &[3]), (0, ACCESSES, &[])];
    for (offset, kind, expected) in cases {
        breakpoint(b, DATA + offset, kind)?;
        b.write(DATA + 16, 0)?;
        let expected = ON.iter().flat_map(|_| expected.iter().copied()).collect::<Vec<_>>();
        same(format!("where traps come for {kind:b} at {offset}"), hits(b, &code, &places)?, expected)?;
    }
    breakpoint(b, STACK - 8, ACCESSES)?;
    b.write(DATA + 16, 0)?;
    let expected = ON.iter().flat_map(|_| [5, 6]).collect::<Vec<_>>();
    same("where traps come for the stack", hits(b, &code, &places)?, expected)
}
