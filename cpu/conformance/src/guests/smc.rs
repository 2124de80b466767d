//! Code that changes under the processor.

use super::{kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::board::port;
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use std::sync::Arc;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "store to the next instruction", manual: "vol. 3, 8.1.3", check: next_instruction },
    Guest { name: "store behind the instruction in a loop", manual: "vol. 3, 8.1.3", check: in_a_loop },
    Guest { name: "store to the instruction before", manual: "vol. 3, 8.1.3", check: before },
    Guest { name: "vector store, push and string store to code", manual: "vol. 3, 8.1.3", check: other_stores },
    Guest { name: "store to code by another mapping", manual: "vol. 3, 8.1.3", check: alias },
    Guest { name: "store to an instruction across pages", manual: "vol. 3, 8.1.3", check: across_pages },
    Guest { name: "store of ring 3 to its code", manual: "vol. 3, 8.1.3", check: in_user },
    Guest { name: "code written by a device", manual: "vol. 3, 8.1.3", check: by_the_board },
    Guest { name: "code page remapped", manual: "vol. 3, 4.10.4.1", check: remapped },
    Guest { name: "second page of an instruction remapped", manual: "vol. 3, 4.10.4.1", check: second_page_remapped },
    Guest { name: "second page of hot code remapped", manual: "vol. 3, 4.10.4.1", check: hot_second_page_remapped },
    Guest { name: "data beside code", manual: "vol. 3, 8.1.3", check: data_beside },
];

/// MOV EAX, `value`; RET.
fn returns(value: u32) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), &[0xc3]].concat()
}

/// Changes the immediate of the next instruction, runs it and logs what it loads.
fn change_next(a: &mut CodeAssembler) -> Checked {
    let mut at = a.create_label();
    a.lea(rbx, ptr(at))?;
    a.mov(byte_ptr(rbx + 1), 0x42)?;
    a.set_label(&mut at)?;
    a.mov(eax, 0x11)?;
    Ok(a.log(rax)?)
}

fn next_instruction(b: &mut Bench<'_>) -> Checked {
    kernel(b, change_next)?;
    same("the value", b.run()?.values(), vec![0x42])
}

fn in_a_loop(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let (mut again, mut at) = (a.create_label(), a.create_label());
        a.lea(rbx, ptr(at))?;
        a.mov(ecx, 3)?;
        a.set_label(&mut again)?;
        a.add(byte_ptr(rbx + 1), 1)?;
        a.nop()?;
        a.set_label(&mut at)?;
        a.mov(eax, 0x10)?;
        a.log(rax)?;
        a.loop_(again)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x11, 0x12, 0x13])
}

fn before(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let (mut again, mut done) = (a.create_label(), a.create_label());
        a.lea(rbx, ptr(again))?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut again)?;
        a.mov(eax, 0x10)?;
        a.log(rax)?;
        a.inc(ecx)?;
        a.cmp(ecx, 4)?;
        a.je(done)?;
        a.mov(byte_ptr(rbx + 2), cl)?;
        a.jmp(again)?;
        a.set_label(&mut done)?;
        a.nop()?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x10, 0x110, 0x210, 0x310])
}

fn other_stores(b: &mut Bench<'_>) -> Checked {
    const ROUTINE: u64 = FRAMES;
    b.map(FREE, ROUTINE, page::KERNEL)?;
    b.ram.write(Gpa(ROUTINE), &returns(1))?;
    for (n, value) in (0..).zip([2, 3, 4, 5]) {
        let mut code = returns(value);
        code.resize(16, 0x90);
        b.ram.write(Gpa(DATA + 16 * n), &code)?;
    }
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.movups(xmm0, xmmword_ptr(DATA))?;
        a.movups(xmmword_ptr(rbx), xmm0)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.mov(rbp, rsp)?;
        a.lea(rsp, ptr(rbx + 8))?;
        a.push(qword_ptr(DATA + 16))?;
        a.mov(rsp, rbp)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.mov(rsi, DATA + 32)?;
        a.mov(rdi, rbx)?;
        a.mov(ecx, 16)?;
        a.rep().movsb()?;
        a.call(rbx)?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rdx, qword_ptr(DATA + 48))?;
        a.lock().cmpxchg(qword_ptr(rbx), rdx)?;
        a.call(rbx)?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![1, 2, 3, 4, 5])
}

fn alias(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x20_0000, FRAMES, page::KERNEL | page::NX)?;
    b.ram.write(Gpa(FRAMES + 0x80), &returns(1))?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0x80)?;
        a.mov(rsi, FREE + 0x20_0080)?;
        // The data side is in the TLB before there is code.
        a.mov(eax, dword_ptr(rsi))?;
        a.mov(dword_ptr(rsi), eax)?;
        for value in [1, 2, 3] {
            a.mov(byte_ptr(rsi + 1), value)?;
            a.push(rbx)?;
            a.xor(eax, eax)?;
            a.cpuid()?;
            a.pop(rbx)?;
            a.call(rbx)?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![1, 2, 3])
}

fn across_pages(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x1000, FRAMES + 0x5000, page::KERNEL)?;
    let code = returns(0x0101_0101);
    let (first, second) = code.split_at(3);
    b.ram.write(Gpa(FRAMES + 0xffd), first)?;
    b.ram.write(Gpa(FRAMES + 0x5000), second)?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0xffd)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.mov(byte_ptr(rbx + 4), 2)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.mov(byte_ptr(rbx + 1), 3)?;
        a.call(rbx)?;
        a.log(rax)?;
        // Both at once.
        a.mov(dword_ptr(rbx + 1), 0x0405_0607)?;
        a.call(rbx)?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x0101_0101, 0x0201_0101, 0x0201_0103, 0x0405_0607])
}

fn in_user(b: &mut Bench<'_>) -> Checked {
    user(b, 2, change_next)?;
    same("the value", b.run()?.values(), vec![0x42])
}

fn by_the_board(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.ram.write(Gpa(FRAMES), &returns(1))?;
    // A write that does not succeed shows in what the guest logs.
    b.action = Some(Arc::new(|value, ram, _| drop(ram.write(Gpa(FRAMES), &returns(value)))));
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.call(rbx)?;
        a.log(rax)?;
        for value in [2, 3] {
            a.mov(edx, u32::from(port::ACTION))?;
            a.mov(eax, value)?;
            a.out(dx, eax)?;
            a.call(rbx)?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![1, 2, 3])
}

fn remapped(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    for n in 0..4 {
        b.ram.write(Gpa(FRAMES + 0x1000 * n), &returns(n as u32 + 1))?;
    }
    let entry = b.entry(FREE, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.add(qword_ptr(entry), 0x1000)?;
        a.invlpg(byte_ptr(rbx))?;
        a.call(rbx)?;
        a.log(rax)?;
        a.add(qword_ptr(entry), 0x1000)?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.call(rbx)?;
        a.log(rax)?;
        // Not executable any more; then global, and the last frame.
        a.bts(qword_ptr(entry), 63)?;
        a.invlpg(byte_ptr(rbx))?;
        a.faulting(|a| a.call(rbx))?;
        a.btr(qword_ptr(entry), 63)?;
        a.add(qword_ptr(entry), 0x1000 + page::G as i32)?;
        a.invlpg(byte_ptr(rbx))?;
        a.call(rbx)?;
        a.log(rax)?;
        a.sub(qword_ptr(entry), 0x1000)?;
        a.invlpg(byte_ptr(rbx))?;
        a.call(rbx)?;
        a.log(rax)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![1, 2, 3, 4, 3])?;
    same("the fault", run.faults(), vec![(14, 0x11)])
}

fn second_page_remapped(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL | page::G)?;
    b.map(FREE + 0x1000, FRAMES + 0x1000, page::KERNEL)?;
    for (at, value) in [(FRAMES + 0x1000, 1u32), (FRAMES + 0x2000, 2)] {
        let code = returns(value << 24);
        let (first, second) = code.split_at(3);
        b.ram.write(Gpa(FRAMES + 0xffd), first)?;
        b.ram.write(Gpa(at), second)?;
    }
    let entry = b.entry(FREE + 0x1000, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0xffd)?;
        a.call(rbx)?;
        a.log(rax)?;
        a.add(qword_ptr(entry), 0x1000)?;
        a.invlpg(byte_ptr(rbx + 0x100))?;
        a.call(rbx)?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![1 << 24, 2 << 24])
}

/// The same with code that runs often, into whose last instruction the code before it runs on, by INVLPG and by CR3, where
/// the first page is global or not.
fn hot_second_page_remapped(b: &mut Bench<'_>) -> Checked {
    const ROUNDS: u32 = 40;
    b.map(FREE, FRAMES, page::KERNEL | page::G)?;
    b.map(FREE + 0x1000, FRAMES + 0x1000, page::KERNEL)?;
    for (at, value) in [(FRAMES + 0x1000, 1u32), (FRAMES + 0x2000, 2)] {
        let code = returns(value);
        let (first, second) = code.split_at(1);
        b.ram.write(Gpa(FRAMES + 0xff0), &[0x90; 15])?;
        b.ram.write(Gpa(FRAMES + 0xfff), first)?;
        b.ram.write(Gpa(at), second)?;
    }
    let entry = b.entry(FREE + 0x1000, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0xff0)?;
        for round in 0..4 {
            let mut again = a.create_label();
            a.xor(esi, esi)?;
            a.mov(ecx, ROUNDS)?;
            a.set_label(&mut again)?;
            a.call(rbx)?;
            a.add(esi, eax)?;
            a.loop_(again)?;
            a.mov(rax, rsi)?;
            a.log(rax)?;
            let step = if round % 2 == 0 { 0x1000 } else { -0x1000 };
            a.add(qword_ptr(entry), step)?;
            if round < 2 {
                a.invlpg(byte_ptr(rbx + 0x100))?;
            } else {
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)?;
            }
        }
        Ok(())
    })?;
    let sum = |value: u64| value * u64::from(ROUNDS);
    same("the sums", b.run()?.values(), vec![sum(1), sum(2), sum(1), sum(2)])
}

fn data_beside(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let (mut data, mut again, mut over) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(ecx, 1000)?;
        a.set_label(&mut again)?;
        a.inc(qword_ptr(data))?;
        a.loop_(again)?;
        a.mov(rax, qword_ptr(data))?;
        a.log(rax)?;
        a.jmp(over)?;
        a.set_label(&mut data)?;
        a.dq(&[5])?;
        a.set_label(&mut over)?;
        a.nop()?;
        Ok(())
    })?;
    same("the value", b.run()?.values(), vec![1005])
}
