//! Hot functions, beside the code that calls them: what a translator takes for one piece.

use super::super::{handler, kernel};
use super::repeat;
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot functions that return elsewhere", manual: "vol. 2, RET", check: elsewhere },
    Guest { name: "hot functions within functions", manual: "vol. 1, 6.4", check: nested },
    Guest { name: "a hot function that changes its caller", manual: "vol. 3, 8.1.3", check: changes_caller },
    Guest { name: "a hot function that is changed", manual: "vol. 3, 8.1.3", check: is_changed },
    Guest { name: "a page fault in a hot function", manual: "vol. 3, 6.15, interrupt 14", check: faults },
    Guest { name: "flags over hot functions", manual: "vol. 1, 3.4.3.1", check: flags },
];

const ROUNDS: u64 = 500;
const OWN: u64 = HANDLERS + 0x8000;

/// Emits a function, which is jumped over.
fn function(
    a: &mut CodeAssembler,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<CodeLabel, IcedError> {
    let (mut function, mut over) = (a.create_label(), a.create_label());
    a.jmp(over)?;
    a.set_label(&mut function)?;
    body(a)?;
    a.set_label(&mut over)?;
    a.nop()?;
    Ok(function)
}

/// Every eighth round, the function returns behind the instruction that follows its call; every fifth, with a jump.
fn elsewhere(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let (mut skips, mut jumps) = (a.create_label(), a.create_label());
        let called = function(a, |a| {
            a.inc(rsi)?;
            a.test(cl, 7)?;
            a.jz(skips)?;
            a.ret()?;
            a.set_label(&mut skips)?;
            a.add(qword_ptr(rsp), 4)?;
            a.ret()
        })?;
        let in_register = function(a, |a| {
            a.mov(eax, ecx)?;
            a.xor(edx, edx)?;
            a.mov(ebx, 5)?;
            a.div(ebx)?;
            a.test(edx, edx)?;
            a.jz(jumps)?;
            a.ret()?;
            a.set_label(&mut jumps)?;
            a.pop(rax)?;
            a.add(rax, 4)?;
            a.jmp(rax)
        })?;
        [esi, edi, ebp].into_iter().try_for_each(|register| a.xor(register, register))?;
        repeat(a, ROUNDS as u32, |a| {
            a.call(called)?;
            // Four bytes each.
            a.add(rdi, 1)?;
            a.call(in_register)?;
            Ok(a.add(rbp, 1)?)
        })?;
        Ok([rsi, rdi, rbp].into_iter().try_for_each(|register| a.log(register))?)
    })?;
    let [eighths, fifths] = [8, 5].map(|n| ROUNDS / n);
    same("calls and what follows them", b.run()?.values(), vec![ROUNDS, ROUNDS - eighths, ROUNDS - fifths])
}

/// Four functions one in the other, one that calls itself, and one that takes what was pushed for it.
fn nested(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let mut inner = function(a, |a| {
            a.lea(rsi, ptr(rsi + rcx))?;
            a.ret()
        })?;
        for _ in 0..5 {
            let called = inner;
            inner = function(a, |a| {
                a.push(rcx)?;
                a.call(called)?;
                a.inc(rsi)?;
                a.call(called)?;
                a.pop(rcx)?;
                a.ret()
            })?;
        }
        let mut itself = a.create_label();
        let (mut ends, mut over) = (a.create_label(), a.create_label());
        a.jmp(over)?;
        a.set_label(&mut itself)?;
        a.inc(rdi)?;
        a.dec(eax)?;
        a.jz(ends)?;
        a.call(itself)?;
        a.set_label(&mut ends)?;
        a.ret()?;
        a.set_label(&mut over)?;
        let takes = function(a, |a| {
            a.add(rbp, qword_ptr(rsp + 8))?;
            a.ret_1(16)
        })?;
        [esi, edi, ebp].into_iter().try_for_each(|register| a.xor(register, register))?;
        a.mov(r8, rsp)?;
        repeat(a, ROUNDS as u32, |a| {
            a.call(inner)?;
            a.mov(eax, 6)?;
            a.call(itself)?;
            a.push(rdi)?;
            a.push(rcx)?;
            Ok(a.call(takes)?)
        })?;
        a.sub(r8, rsp)?;
        Ok([rsi, rdi, rbp, r8].into_iter().try_for_each(|register| a.log(register))?)
    })?;
    let numbers = ROUNDS * (ROUNDS + 1) / 2;
    let found = b.run()?.values();
    same("sums", found, vec![32 * numbers + 31 * ROUNDS, 6 * ROUNDS, numbers, 0])
}

/// Every fourth round the function writes the number that its caller loads next.
fn changes_caller(b: &mut Bench<'_>) -> Checked {
    b.map(CODE, CODE, page::KERNEL)?;
    kernel(b, |a| {
        let (mut number, mut keeps) = (a.create_label(), a.create_label());
        let called = function(a, |a| {
            a.test(cl, 3)?;
            a.jnz(keeps)?;
            a.lea(rax, ptr(number))?;
            a.mov(dword_ptr(rax - 4), ecx)?;
            a.set_label(&mut keeps)?;
            a.ret()
        })?;
        a.xor(esi, esi)?;
        repeat(a, ROUNDS as u32, |a| {
            a.call(called)?;
            a.mov(edx, 0x1234_5678)?;
            a.set_label(&mut number)?;
            Ok(a.add(rsi, rdx)?)
        })?;
        Ok(a.log(rsi)?)
    })?;
    let sum: u64 = (1..=ROUNDS).map(|round| round.next_multiple_of(4)).sum();
    same("the sum", b.run()?.values(), vec![sum])
}

/// Its caller writes the number that a function loads, mostly elsewhere.
fn is_changed(b: &mut Bench<'_>) -> Checked {
    b.map(CODE, CODE, page::KERNEL)?;
    kernel(b, |a| {
        let mut number = a.create_label();
        let called = function(a, |a| {
            a.mov(edx, 0)?;
            a.set_label(&mut number)?;
            a.ret()
        })?;
        a.xor(esi, esi)?;
        a.lea(r8, ptr(number))?;
        a.sub(r8, 4)?;
        repeat(a, ROUNDS as u32, |a| {
            a.mov(rdi, USER_DATA)?;
            a.test(cl, 15)?;
            a.cmovz(rdi, r8)?;
            a.mov(dword_ptr(rdi), ecx)?;
            a.call(called)?;
            Ok(a.add(rsi, rdx)?)
        })?;
        Ok(a.log(rsi)?)
    })?;
    // 500 is no multiple of 16: the function has 0 at first.
    let sum: u64 = (1..=ROUNDS).map(|round| round.next_multiple_of(16)).filter(|&number| number <= ROUNDS).sum();
    same("the sum", b.run()?.values(), vec![sum])
}

/// The handler sees the function's own RIP and RSP, and the page is there behind it.
fn faults(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    let entry = b.entry(FREE, 1)?;
    handler(b, OWN, |a| {
        a.push(rax)?;
        // Error code, RIP; RSP is behind CS and RFLAGS.
        a.inc(r12)?;
        a.add(r13, qword_ptr(rsp + 16))?;
        a.mov(rax, qword_ptr(rsp + 40))?;
        a.add(r14, qword_ptr(rax))?;
        a.mov(rax, FRAMES | page::KERNEL)?;
        a.mov(qword_ptr(entry), rax)?;
        a.pop(rax)?;
        a.add(rsp, 8)?;
        Ok(a.iretq()?)
    })?;
    b.gate(14, Gate::to(OWN))?;
    let (code, site) = kernel(b, |a| {
        let (mut present, mut site) = (a.create_label(), a.create_label());
        let called = function(a, |a| {
            a.push(rbx)?;
            a.mov(rbx, FREE)?;
            a.set_label(&mut site)?;
            a.inc(qword_ptr(rbx))?;
            a.pop(rbx)?;
            a.ret()
        })?;
        [r12, r13, r14].into_iter().try_for_each(|register| a.xor(register, register))?;
        a.mov(ebx, 77)?;
        repeat(a, ROUNDS as u32, |a| {
            a.test(cl, 31)?;
            a.jnz(present)?;
            a.xor(eax, eax)?;
            a.mov(qword_ptr(entry), rax)?;
            a.mov(rax, FREE)?;
            a.invlpg(byte_ptr(rax))?;
            a.set_label(&mut present)?;
            Ok(a.call(called)?)
        })?;
        [r12, r13, r14, rbx].into_iter().try_for_each(|register| a.log(register))?;
        Ok(site)
    })?;
    let count = ROUNDS / 32;
    let found = b.run()?.values();
    // The caller's RBX was on the stack's top.
    same("faults, their RIP, what was on the stack", found, vec![count, count * code.at(&site)?, count * 77, 77])?;
    same("the word", b.read(FRAMES)?, ROUNDS)
}

/// Flags go into functions and come back.
fn flags(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let adds = function(a, |a| {
            a.adc(rsi, 0)?;
            a.stc()?;
            a.ret()
        })?;
        let leaves = function(a, |a| a.ret())?;
        [esi, edi].into_iter().try_for_each(|register| a.xor(register, register))?;
        repeat(a, ROUNDS as u32, |a| {
            a.bt(ecx, 0)?;
            a.call(leaves)?;
            a.call(adds)?;
            a.adc(rdi, 0)?;
            a.cmp(ecx, 100)?;
            a.call(leaves)?;
            Ok(a.adc(rdi, 0)?)
        })?;
        a.log(rsi)?;
        Ok(a.log(rdi)?)
    })?;
    same("carries", b.run()?.values(), vec![ROUNDS / 2, ROUNDS + 99])
}
