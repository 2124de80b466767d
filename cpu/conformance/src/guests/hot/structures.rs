//! Hot accesses to several fields at once, where these lie in two pages.

use super::super::{handler, kernel};
use super::repeat;
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot structures across pages", manual: "vol. 1, 4.1.1", check: across },
    Guest { name: "a hot structure's second page is missing", manual: "vol. 3, 6.15, interrupt 14", check: missing },
    Guest { name: "a hot structure's second page is read-only", manual: "vol. 3, 4.6.1", check: read_only },
    Guest { name: "hot accesses across pages among flags that matter", manual: "vol. 1, 4.1.1", check: low_pages },
    Guest { name: "a hot stack across pages", manual: "vol. 1, 6.2", check: stack },
];

const OWN: u64 = HANDLERS + 0x8000;
/// Two pages that lie beside each other, and their frames, which do not.
const FIRST: u64 = FREE;
const SECOND: u64 = FREE + 0x1000;
const FIRST_FRAME: u64 = FRAMES + 0x2000;
const SECOND_FRAME: u64 = FRAMES;

fn across(b: &mut Bench<'_>) -> Checked {
    b.map(FIRST, FIRST_FRAME, page::KERNEL)?;
    b.map(SECOND, SECOND_FRAME, page::KERNEL)?;
    const START: u64 = 0xf80;
    const STEPS: u64 = 40;
    const PASSES: u64 = 10;
    kernel(b, |a| {
        a.xor(esi, esi)?;
        repeat(a, PASSES as u32, |a| {
            a.mov(rbx, FIRST + START)?;
            a.push(rcx)?;
            repeat(a, STEPS as u32, |a| {
                a.mov(rax, qword_ptr(rbx))?;
                a.add(rax, 1)?;
                a.mov(qword_ptr(rbx + 8), rax)?;
                a.mov(rdx, qword_ptr(rbx + 16))?;
                a.lea(rdx, ptr(rdx + rax))?;
                a.mov(qword_ptr(rbx + 24), rdx)?;
                a.mov(edx, dword_ptr(rbx + 13))?;
                a.add(rsi, rdx)?;
                a.inc(byte_ptr(rbx + 31))?;
                Ok(a.add(rbx, 8)?)
            })?;
            Ok(a.pop(rcx)?)
        })?;
        Ok(a.log(rsi)?)
    })?;
    let mut memory = [0u8; 0x2000];
    let mut sum = 0u64;
    let word = |memory: &[u8], at: usize| {
        memory.iter().skip(at).take(8).rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
    };
    for at in (0..PASSES).flat_map(|_| 0..STEPS).map(|step| (START + 8 * step) as usize) {
        let first = word(&memory, at).wrapping_add(1);
        memory[at + 8..at + 16].copy_from_slice(&first.to_le_bytes());
        let fourth = word(&memory, at + 16).wrapping_add(first);
        memory[at + 24..at + 32].copy_from_slice(&fourth.to_le_bytes());
        sum = sum.wrapping_add(word(&memory, at + 13) & 0xffff_ffff);
        memory[at + 31] = memory[at + 31].wrapping_add(1);
    }
    same("the sum", b.run()?.values(), vec![sum])?;
    for (frame, expected) in [FIRST_FRAME, SECOND_FRAME].into_iter().zip(memory.chunks(0x1000)) {
        let mut found = [0; 0x1000];
        b.ram.read(Gpa(frame), &mut found)?;
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        same(format!("where the page at {frame:x} differs"), differs, None)?;
    }
    Ok(())
}

/// Linear addresses below 16 MiB, where a software TLB's empty entries may be taken for pages, which a write to CR3 empties.
fn low_pages(b: &mut Bench<'_>) -> Checked {
    const PAGES: u64 = 16;
    const ROUNDS: u64 = 100;
    for n in 0..PAGES {
        b.write(USER_DATA + 0x1000 * n + 0xffc, n + 1)?;
    }
    kernel(b, |a| {
        a.xor(esi, esi)?;
        a.xor(edi, edi)?;
        repeat(a, ROUNDS as u32, |a| {
            a.push(rcx)?;
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)?;
            a.mov(rbx, USER_DATA + 0xffc)?;
            repeat(a, PAGES as u32, |a| {
                a.stc()?;
                a.mov(rax, qword_ptr(rbx))?;
                a.adc(rsi, rax)?;
                a.stc()?;
                a.mov(qword_ptr(rbx), rax)?;
                a.adc(rdi, 0)?;
                Ok(a.add(rbx, 0x1000)?)
            })?;
            Ok(a.pop(rcx)?)
        })?;
        a.log(rsi)?;
        Ok(a.log(rdi)?)
    })?;
    let sum = PAGES * (PAGES + 1) / 2;
    same("the sums", b.run()?.values(), vec![ROUNDS * (sum + PAGES), ROUNDS * PAGES])?;
    (0..PAGES).try_for_each(|n| same("a word", b.read(USER_DATA + 0x1000 * n + 0xffc)?, n + 1))
}

/// The handler of #PF logs CR2, the error code, RIP and what the first field holds, and makes the second page what it is to be.
fn log_page_fault(b: &mut Bench<'_>) -> Checked {
    let entry = b.entry(SECOND, 1)?;
    handler(b, OWN, |a| {
        a.push(rax)?;
        a.mov(rax, cr2)?;
        a.log(rax)?;
        for offset in [8, 16] {
            a.mov(rax, qword_ptr(rsp + offset))?;
            a.log(rax)?;
        }
        a.mov(rax, qword_ptr(SECOND - 8))?;
        a.log(rax)?;
        a.mov(rax, SECOND_FRAME | page::KERNEL)?;
        a.mov(qword_ptr(entry), rax)?;
        a.mov(rax, SECOND)?;
        a.invlpg(byte_ptr(rax))?;
        a.pop(rax)?;
        a.add(rsp, 8)?;
        Ok(a.iretq()?)
    })?;
    b.gate(14, Gate::to(OWN))
}

/// Runs a structure's fields hot in the first page, then across both; the second store faults.
fn faults_once(b: &mut Bench<'_>, second: u64, error: u64) -> Checked {
    b.map(FIRST, FIRST_FRAME, page::KERNEL)?;
    b.map(SECOND, SECOND_FRAME, second)?;
    log_page_fault(b)?;
    let (code, site) = kernel(b, |a| {
        let mut site = a.create_label();
        a.xor(edi, edi)?;
        a.mov(r8, FIRST + 0x100)?;
        a.mov(r9, SECOND - 8)?;
        repeat(a, 300, |a| {
            a.mov(rbx, r8)?;
            a.cmp(ecx, 1)?;
            a.cmove(rbx, r9)?;
            a.inc(rdi)?;
            a.mov(qword_ptr(rbx), rdi)?;
            a.lea(rax, ptr(rdi + rdi))?;
            a.set_label(&mut site)?;
            a.mov(qword_ptr(rbx + 8), rax)?;
            a.mov(rdx, qword_ptr(rbx + 16))?;
            Ok(a.add(rdx, qword_ptr(rbx + 8))?)
        })?;
        a.log(rdx)?;
        a.log(rdi)?;
        Ok(site)
    })?;
    let found = b.run()?.values();
    same("CR2, error, RIP, first field; results", found, vec![SECOND, error, code.at(&site)?, 300, 600, 300])
}

fn missing(b: &mut Bench<'_>) -> Checked {
    faults_once(b, 0, 2)
}

fn read_only(b: &mut Bench<'_>) -> Checked {
    b.state.cr0 |= motu_x86::flags::cr0::WP;
    faults_once(b, page::P, 3)
}

fn stack(b: &mut Bench<'_>) -> Checked {
    b.map(FIRST, FIRST_FRAME, page::KERNEL)?;
    b.map(SECOND, SECOND_FRAME, page::KERNEL)?;
    kernel(b, |a| {
        let (mut over, mut function) = (a.create_label(), a.create_label());
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.push(rbx)?;
        a.push(rbp)?;
        a.sub(rsp, 24)?;
        a.mov(qword_ptr(rsp + 8), rax)?;
        a.mov(rbx, rsp)?;
        a.mov(ebp, 7)?;
        a.inc(qword_ptr(rsp + 8))?;
        a.mov(rax, qword_ptr(rbx + 8))?;
        a.add(rsp, 24)?;
        a.pop(rbp)?;
        a.pop(rbx)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.xor(eax, eax)?;
        a.mov(ebx, 0x1234)?;
        a.mov(rbp, SECOND + 0x60)?;
        repeat(a, 480, |a| {
            // A word deeper each time, and up again behind twenty-four.
            let mut on = a.create_label();
            a.mov(rsp, rbp)?;
            a.call(function)?;
            a.sub(rbp, 8)?;
            a.mov(rdx, SECOND - 0x60)?;
            a.cmp(rbp, rdx)?;
            a.jne(on)?;
            a.add(rbp, 0xc0)?;
            a.set_label(&mut on)?;
            Ok(a.nop()?)
        })?;
        a.mov(rsp, STACK)?;
        a.log(rax)?;
        a.log(rbx)?;
        Ok(a.log(rbp)?)
    })?;
    same("calls, RBX, RBP", b.run()?.values(), vec![480, 0x1234, SECOND + 0x60])
}
