//! Locked accesses of several processors to the same memory.

use super::super::kernel;
use super::{READY, others, ready, wait_for, word};
use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "locked arithmetic of four processors", manual: "vol. 3, 9.1.2.2", check: arithmetic },
    Guest { name: "locked arithmetic of four processors, bytes and words", manual: "vol. 3, 9.1.2.2", check: narrow },
    Guest { name: "locked bits of four processors", manual: "vol. 3, 9.1.2.2", check: bits },
    Guest { name: "XADD and CMPXCHG of four processors", manual: "vol. 3, 9.1.2.2", check: exchanges },
    Guest { name: "CMPXCHG8B and CMPXCHG16B of four processors", manual: "vol. 3, 9.1.2.2", check: wide },
    Guest { name: "XCHG as a lock of four processors", manual: "vol. 3, 9.1.2.1", check: lock },
    Guest { name: "locked arithmetic across pages", manual: "vol. 3, 9.1.2.2", check: across_pages },
    Guest { name: "locked carry goes in and out", manual: "vol. 2, ADC", check: carry },
];

const COUNT: usize = 4;
const ROUNDS: i32 = 3000;
const TOTAL: u64 = COUNT as u64 * ROUNDS as u64;

/// All processors run `body` [`ROUNDS`] times at once; RDI is the number of each, and EBP counts. Then processor 0 logs the words at
/// `results`.
fn together(
    b: &mut Bench<'_>,
    body: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    results: &[u64],
) -> Checked<Vec<u64>> {
    let rounds = |a: &mut CodeAssembler| -> Checked {
        let mut again = a.create_label();
        ready(a)?;
        wait_for(a, READY, COUNT as i32)?;
        a.mov(ebp, ROUNDS)?;
        a.set_label(&mut again)?;
        body(a)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.lock().inc(qword_ptr(word(61)))?;
        Ok(())
    };
    others(b, COUNT, rounds)?;
    kernel(b, |a| {
        a.xor(edi, edi)?;
        rounds(a)?;
        wait_for(a, word(61), COUNT as i32)?;
        for &at in results {
            a.mov(rax, at)?;
            a.mov(rax, qword_ptr(rax))?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    Ok(b.run()?.values())
}

fn arithmetic(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        a.lock().inc(qword_ptr(word(0)))?;
        a.lock().add(dword_ptr(word(1)), 3)?;
        a.lock().dec(qword_ptr(word(2)))?;
        a.mov(eax, 5)?;
        a.lock().sub(qword_ptr(word(3)), rax)?;
        a.lock().neg(qword_ptr(word(4)))?;
        a.lock().not(qword_ptr(word(5)))?;
        a.lock().xor(qword_ptr(word(6)), 1)
    };
    let results = together(b, body, &[0, 1, 2, 3, 4, 5, 6].map(word))?;
    // An even number of complements.
    same("the sums", results, vec![TOTAL, 3 * TOTAL, TOTAL.wrapping_neg(), (5 * TOTAL).wrapping_neg(), 0, 0, 0])
}

fn narrow(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        a.lock().inc(byte_ptr(word(0) + 1))?;
        a.lock().inc(word_ptr(word(0) + 2))?;
        a.lock().inc(dword_ptr(word(0) + 4))?;
        a.lock().inc(word_ptr(word(1) + 3))?;
        // Across cache lines: processors do it, and some take very long.
        let mut over = a.create_label();
        a.test(ebp, 63)?;
        a.jnz(over)?;
        a.lock().inc(dword_ptr(word(2) + 61))?;
        a.set_label(&mut over)?;
        a.nop()
    };
    let results = together(b, body, &[word(0), word(1) + 3, word(2) + 61])?;
    let sums = (TOTAL & 0xff) << 8 | (TOTAL & 0xffff) << 16 | TOTAL << 32;
    let across = (ROUNDS / 64) as u64 * COUNT as u64;
    same("the sums", results, vec![sums, TOTAL & 0xffff, across])
}

/// Each processor has bits of its own in one word.
fn bits(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        a.lock().btc(qword_ptr(word(0)), rdi)?;
        a.lea(rax, ptr(rdi + 8))?;
        a.lock().bts(dword_ptr(word(0)), eax)?;
        a.setc(cl)?;
        a.movzx(ecx, cl)?;
        a.add(rsi, rcx)?;
        a.lock().btr(dword_ptr(word(0)), eax)?;
        a.setnc(cl)?;
        a.movzx(ecx, cl)?;
        a.lock().add(qword_ptr(word(1)), rcx)?;
        a.lock().bts(qword_ptr(word(2)), 40)?;
        a.setnc(cl)?;
        a.movzx(ecx, cl)?;
        a.lock().add(qword_ptr(word(3)), rcx)
    };
    same("bits, bits lost, a bit, who set it", together(b, body, &[0, 1, 2, 3].map(word))?, vec![0, 0, 1 << 40, 1])
}

fn exchanges(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        a.mov(eax, 1)?;
        a.lock().xadd(qword_ptr(word(0)), rax)?;
        // Each value is seen once.
        a.lock().add(qword_ptr(word(1)), rax)?;
        let mut again = a.create_label();
        a.mov(rax, qword_ptr(word(2)))?;
        a.set_label(&mut again)?;
        a.lea(rcx, ptr(rax + 7))?;
        a.lock().cmpxchg(qword_ptr(word(2)), rcx)?;
        a.jne(again)
    };
    let results = together(b, body, &[0, 1, 2].map(word))?;
    same("the sums", results, vec![TOTAL, TOTAL * (TOTAL - 1) / 2, 7 * TOTAL])
}

fn wide(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        a.mov(eax, dword_ptr(word(0)))?;
        a.mov(edx, dword_ptr(word(0) + 4))?;
        a.set_label(&mut again)?;
        a.lea(ebx, ptr(eax + 1))?;
        a.lea(ecx, ptr(edx + 2))?;
        a.lock().cmpxchg8b(qword_ptr(word(0)))?;
        a.jne(again)?;
        let mut again = a.create_label();
        a.mov(rax, qword_ptr(word(1)))?;
        a.mov(rdx, qword_ptr(word(1) + 8))?;
        a.set_label(&mut again)?;
        a.lea(rbx, ptr(rax + 3))?;
        a.lea(rcx, ptr(rdx + 4))?;
        a.lock().cmpxchg16b(xmmword_ptr(word(1)))?;
        a.jne(again)
    };
    let results = together(b, body, &[word(0), word(1), word(1) + 8])?;
    same("the sums", results, vec![((2 * TOTAL) << 32) | TOTAL, 3 * TOTAL, 4 * TOTAL])
}

/// What is added to under the lock is no atomic access itself.
fn lock(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        let (mut again, mut mine) = (a.create_label(), a.create_label());
        a.nop()?;
        a.set_label(&mut again)?;
        a.mov(eax, 1)?;
        a.xchg(dword_ptr(word(0)), eax)?;
        a.test(eax, eax)?;
        a.jz(mine)?;
        a.pause()?;
        a.jmp(again)?;
        a.set_label(&mut mine)?;
        a.add(qword_ptr(word(1)), 1)?;
        a.mov(rcx, qword_ptr(word(2)))?;
        a.inc(rcx)?;
        a.mov(qword_ptr(word(2)), rcx)?;
        a.mov(dword_ptr(word(0)), 0)
    };
    same("lock and sums", together(b, body, &[0, 1, 2].map(word))?, vec![0, TOTAL, TOTAL])
}

/// The pages are no neighbours in memory.
fn across_pages(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES + 0x5000, page::KERNEL)?;
    b.map(FREE + 0x1000, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x2000, FRAMES + 0x3000, page::KERNEL)?;
    let body = |a: &mut CodeAssembler| {
        a.lock().inc(qword_ptr(FREE + 0xffd))?;
        a.lock().add(dword_ptr(FREE + 0x1ffe), 0x101)?;
        // The same bytes one by one, and as what lies inside a page.
        a.lock().inc(byte_ptr(FREE + 0x2001))?;
        a.lock().inc(word_ptr(FREE + 0xffd + 6))
    };
    let results = together(b, body, &[FREE + 0xffd, FREE + 0x1ffe])?;
    let second = (0x101 * TOTAL + ((TOTAL & 0xff) << 24)) & 0xffff_ffff;
    let first = results.first().copied();
    same("the first sum", first, Some(TOTAL.wrapping_add((TOTAL & 0xffff) << 48)))?;
    same("the second", results.get(1).map(|sum| sum & 0xffff_ffff), Some(second))
}

/// What a repetition that others have forced starts from is what the instruction began with.
fn carry(b: &mut Bench<'_>) -> Checked {
    let body = |a: &mut CodeAssembler| {
        a.stc()?;
        a.lock().adc(qword_ptr(word(0)), 1)?;
        a.setc(al)?;
        a.cmp(rsp, 0)?;
        a.stc()?;
        a.lock().sbb(qword_ptr(word(1)), 2)?;
        a.clc()?;
        a.lock().adc(dword_ptr(word(2)), 4)?;
        a.stc()?;
        a.lock().inc(dword_ptr(word(3)))?;
        a.adc(rsi, 0)?;
        a.lock().dec(qword_ptr(word(4)))
    };
    let results = together(b, body, &[0, 1, 2, 3, 4].map(word))?;
    let expected = vec![2 * TOTAL, (3 * TOTAL).wrapping_neg(), 4 * TOTAL, TOTAL, TOTAL.wrapping_neg()];
    same("the sums", results, expected)
}
