//! Paging structures that several processors use, and that one of them changes.

use super::super::{handler, kernel};
use super::{EOI, READY, others, ready, send, wait_for, word};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "TLB shootdown by IPI", manual: "vol. 3, 4.10.5", check: shootdown },
    Guest { name: "accessed and dirty bits are set in one step", manual: "vol. 3, 4.8", check: accessed_and_dirty },
    Guest {
        name: "paging entries that one processor sets and another reads",
        manual: "vol. 3, 4.10.4.3",
        check: fresh,
    },
];

const OWN: u64 = HANDLERS + 0x8000;
const ROUNDS: i32 = 60;
const FLUSHED: u64 = word(0);
const WRONG: u64 = word(1);
const STOP: u64 = word(2);

/// Processor 1 reads through a page that processor 0 moves; behind the answer to the IPI it reads the new frame.
fn shootdown(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    let entry = b.entry(FREE, 1)?;
    b.write(FRAMES, 0)?;
    b.write(FRAMES + 0x1000, 1)?;
    handler(b, OWN, |a| {
        a.push(rax)?;
        a.mov(rax, FREE)?;
        a.invlpg(byte_ptr(rax))?;
        a.mov(dword_ptr(APIC + EOI), 0)?;
        a.inc(qword_ptr(FLUSHED))?;
        a.pop(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x41, Gate::to(OWN))?;
    others(b, 2, |a| {
        let (mut again, mut fine) = (a.create_label(), a.create_label());
        a.mov(rbx, FREE)?;
        ready(a)?;
        a.sti()?;
        a.set_label(&mut again)?;
        // The number of the frame is that of the last round that is complete, or the next one is under way.
        a.mov(rcx, qword_ptr(FLUSHED))?;
        a.mov(rax, qword_ptr(rbx))?;
        a.xor(rax, rcx)?;
        a.test(eax, 1)?;
        a.jz(fine)?;
        a.cmp(rcx, qword_ptr(FLUSHED))?;
        a.jne(fine)?;
        a.cmp(rcx, qword_ptr(word(3)))?;
        a.jne(fine)?;
        a.inc(qword_ptr(WRONG))?;
        a.set_label(&mut fine)?;
        a.jmp(again)?;
        Ok(())
    })?;
    kernel(b, |a| {
        let (mut again, mut wait) = (a.create_label(), a.create_label());
        wait_for(a, READY, 1)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        // A round is under way while this is ahead of what is flushed.
        a.mov(qword_ptr(word(3)), rbp)?;
        a.xor(qword_ptr(entry), 0x1000)?;
        send(a, 1, 0x41)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(FLUSHED), rbp)?;
        a.jne(wait)?;
        a.cmp(ebp, ROUNDS)?;
        a.jne(again)?;
        a.mov(rax, qword_ptr(WRONG))?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(FLUSHED))?;
        Ok(a.log(rax)?)
    })?;
    same("reads of the frame before, and flushes", b.run()?.values(), vec![0, ROUNDS as u64])
}

/// Processor 1 writes through an entry that processor 0 takes away now and then: it stays zero until it is there again.
fn accessed_and_dirty(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    let entry = b.entry(FREE, 1)?;
    let clean = FRAMES | page::KERNEL;
    // Not present: again.
    handler(b, OWN, |a| {
        a.add(rsp, 8)?;
        Ok(a.iretq()?)
    })?;
    b.gate(14, Gate::to(OWN))?;
    others(b, 2, |a| {
        let (mut again, mut done) = (a.create_label(), a.create_label());
        a.mov(rbx, FREE)?;
        ready(a)?;
        a.set_label(&mut again)?;
        a.invlpg(byte_ptr(rbx))?;
        a.mov(rax, qword_ptr(rbx))?;
        a.inc(qword_ptr(rbx))?;
        a.cmp(qword_ptr(STOP), 0)?;
        a.jne(done)?;
        a.jmp(again)?;
        a.set_label(&mut done)?;
        ready(a)
    })?;
    kernel(b, |a| {
        let (mut again, mut look, mut fine) = (a.create_label(), a.create_label(), a.create_label());
        wait_for(a, READY, 1)?;
        a.mov(ebp, 200 * ROUNDS)?;
        a.set_label(&mut again)?;
        a.xor(eax, eax)?;
        a.xchg(qword_ptr(entry), rax)?;
        // What was there is the clean entry, with A, or with A and D.
        a.and(rax, !0x60)?;
        a.mov(rcx, clean)?;
        a.cmp(rax, rcx)?;
        a.setne(al)?;
        a.movzx(eax, al)?;
        a.add(qword_ptr(WRONG), rax)?;
        a.mov(ecx, 30)?;
        a.set_label(&mut look)?;
        a.cmp(qword_ptr(entry), 0)?;
        a.je(fine)?;
        a.inc(qword_ptr(WRONG))?;
        a.set_label(&mut fine)?;
        a.loop_(look)?;
        a.mov(rax, clean)?;
        a.mov(qword_ptr(entry), rax)?;
        // It is taken away again at any time of the walk that finds it.
        a.mov(ecx, ebp)?;
        a.and(ecx, 127)?;
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.dec(ecx)?;
        a.jns(wait)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.mov(qword_ptr(STOP), 1)?;
        wait_for(a, READY, 2)?;
        a.mov(rax, qword_ptr(WRONG))?;
        Ok(a.log(rax)?)
    })?;
    same("entries that were not as they should", b.run()?.values(), vec![0])?;
    let mut entry_now = [0; 8];
    b.ram.read(Gpa(entry), &mut entry_now)?;
    let dirty = page::A | page::D;
    same("the entry in the end, but for A and D", u64::from_le_bytes(entry_now) & !dirty, clean)
}

/// An entry that was not present is in no TLB: who sees it set may use it at once.
fn fresh(b: &mut Bench<'_>) -> Checked {
    const PAGES: u64 = 64;
    for n in 0..PAGES {
        b.map(FREE + 0x1000 * n, FRAMES + 0x1000 * n, 0)?;
        b.write(FRAMES + 0x1000 * n, n + 100)?;
    }
    let entry = b.entry(FREE, 1)?;
    others(b, 2, |a| {
        let (mut again, mut wait) = (a.create_label(), a.create_label());
        a.xor(ebp, ebp)?;
        a.mov(rbx, FREE)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(word(0)), rbp)?;
        a.jb(wait)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.add(qword_ptr(word(1)), rax)?;
        a.add(rbx, 0x1000)?;
        a.cmp(ebp, PAGES as i32)?;
        a.jne(again)?;
        ready(a)
    })?;
    kernel(b, |a| {
        let mut again = a.create_label();
        a.mov(rbx, entry)?;
        a.mov(ecx, PAGES as u32)?;
        a.set_label(&mut again)?;
        a.or(qword_ptr(rbx), page::KERNEL as i32)?;
        a.inc(qword_ptr(word(0)))?;
        a.add(rbx, 8)?;
        a.loop_(again)?;
        wait_for(a, READY, 1)?;
        a.mov(rax, qword_ptr(word(1)))?;
        Ok(a.log(rax)?)
    })?;
    same("the sum", b.run()?.values(), vec![(0..PAGES).map(|n| n + 100).sum()])
}
