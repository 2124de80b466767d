//! Code that one processor writes and another one runs (Intel SDM vol. 3, 9.1.3).

use super::super::{handler, kernel};
use super::{EOI, READY, others, ready, send, wait_for, word};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "cross-modified code behind a serialising instruction", manual: "vol. 3, 9.1.3", check: serialised },
    Guest { name: "cross-modified code by another mapping", manual: "vol. 3, 9.1.3", check: alias },
    Guest { name: "code is made anew in place and called by pointer", manual: "vol. 3, 9.1.3", check: published },
    Guest {
        name: "pages of code that another processor has just written",
        manual: "vol. 3, 9.1.3",
        check: fresh_pages,
    },
    Guest { name: "a breakpoint patched into code that runs", manual: "vol. 3, 9.1.3", check: patched },
    Guest { name: "two processors write to each other's code", manual: "vol. 3, 9.1.3", check: each_other },
    Guest { name: "code written by a device for another processor", manual: "vol. 3, 9.1.3", check: by_the_board },
];

const ROUNDS: i32 = 200;
const ASKED: u64 = word(0);
const ANSWERED: u64 = word(1);
const ANSWER: u64 = word(2);
const WRONG: u64 = word(3);
const POINTER: u64 = word(4);
const OWN: u64 = HANDLERS + 0x8000;

/// MOV EAX, `value`; RET.
fn returns(value: u32) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), &[0xc3]].concat()
}

/// Processor 1: for each question calls what is at POINTER, behind `before`, and answers what that returns.
fn answers(b: &mut Bench<'_>, before: fn(&mut CodeAssembler) -> Checked) -> Checked {
    others(b, 2, |a| {
        let (mut again, mut wait) = (a.create_label(), a.create_label());
        a.xor(ebp, ebp)?;
        ready(a)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(ASKED), rbp)?;
        a.jb(wait)?;
        before(a)?;
        a.call(qword_ptr(POINTER))?;
        a.mov(qword_ptr(ANSWER), rax)?;
        a.mov(qword_ptr(ANSWERED), rbp)?;
        a.jmp(again)?;
        Ok(())
    })?;
    Ok(())
}

fn serialise(a: &mut CodeAssembler) -> Checked {
    a.xor(eax, eax)?;
    Ok(a.cpuid()?)
}

/// Processor 0: asks for the round in RBP, waits, and counts an answer other than EBP.
fn ask(a: &mut CodeAssembler) -> Checked {
    let (mut wait, mut right) = (a.create_label(), a.create_label());
    a.mov(qword_ptr(ASKED), rbp)?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(qword_ptr(ANSWERED), rbp)?;
    a.jne(wait)?;
    a.cmp(qword_ptr(ANSWER), rbp)?;
    a.je(right)?;
    a.inc(qword_ptr(WRONG))?;
    a.set_label(&mut right)?;
    a.nop()?;
    Ok(())
}

/// Processor 0 writes what `write` does in each of so many rounds and asks; the routine at FRAMES is mapped at FREE.
fn rounds(b: &mut Bench<'_>, count: i32, write: impl FnOnce(&mut CodeAssembler) -> Checked) -> Checked {
    kernel(b, |a| {
        let mut again = a.create_label();
        a.mov(rax, FREE)?;
        a.mov(qword_ptr(POINTER), rax)?;
        wait_for(a, READY, 1)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        write(a)?;
        ask(a)?;
        a.cmp(ebp, count)?;
        a.jne(again)?;
        a.mov(rax, qword_ptr(WRONG))?;
        Ok(a.log(rax)?)
    })?;
    same("answers by old code", b.run()?.values(), vec![0])
}

fn serialised(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.ram.write(Gpa(FRAMES), &returns(0))?;
    answers(b, serialise)?;
    rounds(b, ROUNDS, |a| {
        a.mov(rbx, FREE)?;
        Ok(a.mov(dword_ptr(rbx + 1), ebp)?)
    })
}

/// The writer's mapping is in its TLB before there is code, and never executable.
fn alias(b: &mut Bench<'_>) -> Checked {
    const ALIAS: u64 = FREE + 0x20_0000;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(ALIAS, FRAMES, page::KERNEL | page::NX)?;
    b.ram.write(Gpa(FRAMES), &returns(0))?;
    answers(b, serialise)?;
    rounds(b, ROUNDS, |a| {
        a.mov(rbx, ALIAS)?;
        a.inc(qword_ptr(rbx + 0x800))?;
        Ok(a.mov(dword_ptr(rbx + 1), ebp)?)
    })
}

/// Writes MOV EAX, EBP's value and RET at offset RBX of the pages at `FREE`, and gives it out to be called.
fn publish(a: &mut CodeAssembler) -> Checked {
    a.mov(rax, FREE)?;
    a.add(rbx, rax)?;
    a.mov(byte_ptr(rbx), 0xb8)?;
    a.mov(dword_ptr(rbx + 1), ebp)?;
    a.mov(byte_ptr(rbx + 5), 0xc3)?;
    Ok(a.mov(qword_ptr(POINTER), rbx)?)
}

/// As compilers at run time do: the page has been run, this place of it has not, or not for long; nothing serialises but the call.
fn published(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    for n in 0..64 {
        b.ram.write(Gpa(FRAMES + 64 * n), &returns(0))?;
    }
    answers(b, |_| Ok(()))?;
    rounds(b, ROUNDS, |a| {
        a.mov(rbx, rbp)?;
        a.and(ebx, 63)?;
        a.shl(rbx, 6)?;
        publish(a)
    })
}

/// Each page is written while the writer may do so unseen, called, written again at once, and called again.
fn fresh_pages(b: &mut Bench<'_>) -> Checked {
    const PAGES: i32 = 200;
    for n in 0..PAGES as u64 / 2 + 1 {
        b.map(FREE + 0x1000 * n, FRAMES + 0x1000 * n, page::KERNEL)?;
    }
    answers(b, |_| Ok(()))?;
    rounds(b, PAGES, |a| {
        a.mov(rbx, rbp)?;
        a.shr(rbx, 1)?;
        a.shl(rbx, 12)?;
        publish(a)
    })
}

/// As kernels patch themselves: first a breakpoint, then all but the first byte, then that, each followed by an IPI that is waited
/// for. What runs is the old instruction, the breakpoint or the new one.
fn patched(b: &mut Bench<'_>) -> Checked {
    const SITE: u64 = FREE + 0x100;
    const SYNCED: u64 = word(8);
    const STEPS: i32 = 3;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.ram.write(Gpa(FRAMES + 0x100), &returns(0))?;
    // #BP: as if the instruction were MOV EAX, -1.
    handler(b, OWN, |a| {
        a.mov(eax, u32::MAX)?;
        a.add(qword_ptr(rsp), 4)?;
        Ok(a.iretq()?)
    })?;
    b.gate(3, Gate::to(OWN))?;
    handler(b, OWN + 0x100, |a| {
        a.mov(dword_ptr(APIC + EOI), 0)?;
        a.inc(qword_ptr(SYNCED))?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x41, Gate::to(OWN + 0x100))?;
    // Processor 1 calls without end. What it finds is no older than the last patch that was complete when it called, nor newer than
    // the one that has begun when it is back.
    others(b, 2, |a| {
        let (mut again, mut fine, mut wrong) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(rbx, SITE)?;
        ready(a)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.mov(rsi, qword_ptr(ANSWERED))?;
        a.call(rbx)?;
        a.cmp(eax, -1)?;
        a.je(fine)?;
        a.cmp(rax, rsi)?;
        a.jb(wrong)?;
        a.cmp(rax, qword_ptr(ASKED))?;
        a.jbe(fine)?;
        a.set_label(&mut wrong)?;
        a.inc(qword_ptr(WRONG))?;
        a.set_label(&mut fine)?;
        a.inc(qword_ptr(ANSWER))?;
        a.jmp(again)?;
        Ok(())
    })?;
    kernel(b, |a| {
        let mut again = a.create_label();
        /// Waits until processor 1 has taken one more IPI; R12 counts them.
        fn synchronise(a: &mut CodeAssembler) -> Checked {
            let mut wait = a.create_label();
            send(a, 1, 0x41)?;
            a.inc(r12)?;
            a.set_label(&mut wait)?;
            a.pause()?;
            a.cmp(qword_ptr(SYNCED), r12)?;
            a.jne(wait)?;
            Ok(())
        }
        a.mov(rbx, SITE)?;
        a.xor(r12d, r12d)?;
        a.xor(ebp, ebp)?;
        wait_for(a, READY, 1)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        a.mov(qword_ptr(ASKED), rbp)?;
        a.mov(byte_ptr(rbx), 0xcc)?;
        synchronise(a)?;
        a.mov(dword_ptr(rbx + 1), ebp)?;
        synchronise(a)?;
        a.mov(byte_ptr(rbx), 0xb8)?;
        synchronise(a)?;
        a.mov(qword_ptr(ANSWERED), rbp)?;
        a.cmp(ebp, ROUNDS / STEPS)?;
        a.jne(again)?;
        a.mov(rax, qword_ptr(WRONG))?;
        a.log(rax)?;
        a.cmp(qword_ptr(ANSWER), 0)?;
        a.setne(al)?;
        a.movzx(eax, al)?;
        Ok(a.log(rax)?)
    })?;
    same("answers out of time, and whether there were any", b.run()?.values(), vec![0, 1])
}

/// Both run code of the page that both write to.
fn each_other(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    for n in 0..2 {
        b.ram.write(Gpa(FRAMES + 0x80 * n), &returns(0))?;
    }
    /// RDI is the number: changes the other's routine, tells it, waits for the same, and calls its own.
    fn rounds(a: &mut CodeAssembler) -> Checked {
        let (mut again, mut wait, mut right) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(rbx, FREE)?;
        a.mov(rsi, rdi)?;
        a.shl(rsi, 7)?;
        a.add(rsi, rbx)?;
        a.mov(rdx, rsi)?;
        a.xor(rdx, 0x80)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        a.mov(dword_ptr(rdx + 1), ebp)?;
        a.lock().inc(qword_ptr(ASKED))?;
        a.lea(rcx, ptr(rbp + rbp))?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(ASKED), rcx)?;
        a.jb(wait)?;
        a.call(rsi)?;
        a.cmp(eax, ebp)?;
        a.je(right)?;
        a.lock().inc(qword_ptr(WRONG))?;
        a.set_label(&mut right)?;
        // Nobody writes before both have called.
        a.lock().inc(qword_ptr(ANSWERED))?;
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(ANSWERED), rcx)?;
        a.jb(wait)?;
        a.cmp(ebp, ROUNDS)?;
        a.jne(again)?;
        Ok(())
    }
    others(b, 2, rounds)?;
    kernel(b, |a| {
        a.xor(edi, edi)?;
        rounds(a)?;
        a.mov(rax, qword_ptr(WRONG))?;
        Ok(a.log(rax)?)
    })?;
    same("answers by old code", b.run()?.values(), vec![0])
}

fn by_the_board(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.ram.write(Gpa(FRAMES), &returns(0))?;
    // A write that does not succeed shows in what the guest answers.
    b.action = Some(std::sync::Arc::new(|value, ram, _| drop(ram.write(Gpa(FRAMES), &returns(value)))));
    answers(b, |_| Ok(()))?;
    rounds(b, ROUNDS, |a| {
        a.mov(edx, u32::from(crate::board::port::ACTION))?;
        a.mov(eax, ebp)?;
        Ok(a.out(dx, eax)?)
    })
}
