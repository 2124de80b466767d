//! INIT and start-up messages between processors.

use super::super::kernel;
use super::{others, ready, send, wait_for, while_others_run, word};
use crate::Guest;
use crate::bench::{Asm, Bench, Checked, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "INIT and SIPI start a processor", manual: "vol. 3, 9.4.4", check: one },
    Guest { name: "INIT and SIPI start all other processors", manual: "vol. 3, 9.4.4.1", check: all },
    Guest {
        name: "a processor that was started ignores SIPI, and INIT stops it",
        manual: "vol. 3, 9.4.2",
        check: again,
    },
    Guest { name: "processors have numbers", manual: "vol. 3, 9.9.2", check: numbers },
];

const INIT: u32 = 0x4500;
const SIPI: u32 = 0x4600 | (smp::START >> 12) as u32;
const OTHERS: u32 = 3 << 18;

/// Where processors count themselves.
const STARTED: u64 = word(0);
const COUNTED: u64 = word(1);

/// Real-address mode's code of a processor that has been started.
fn started(b: &mut Bench<'_>, emit: impl FnOnce(&mut Asm) -> Checked) -> Checked {
    let mut a = Asm::new(16)?;
    emit(&mut a)?;
    a.db(&[0xeb, 0xfe])?;
    b.load_legacy(smp::START, smp::START, a)?;
    Ok(())
}

fn one(b: &mut Bench<'_>) -> Checked {
    started(b, |a| {
        a.pushf()?;
        a.mov(ax, cs)?;
        a.movzx(eax, ax)?;
        a.log_eax()?;
        a.mov(eax, cr0)?;
        a.and(eax, 1)?;
        a.log_eax()?;
        a.pop(ax)?;
        a.movzx(eax, ax)?;
        a.log_eax()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(dword_ptr(STARTED), 1)?;
        Ok(())
    })?;
    kernel(b, |a| {
        send(a, 1, INIT)?;
        send(a, 1, SIPI)?;
        wait_for(a, STARTED, 1)?;
        a.mov(eax, 7)?;
        Ok(a.log(rax)?)
    })?;
    b.add_waiting(2);
    same("CS, CR0.PE, FLAGS; then processor 0", b.run()?.values(), vec![smp::START >> 4, 0, 2, 7])
}

fn all(b: &mut Bench<'_>) -> Checked {
    const COUNT: usize = 5;
    started(b, |a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.lock().inc(dword_ptr(STARTED))?;
        Ok(())
    })?;
    kernel(b, |a| {
        send(a, 0, INIT | OTHERS)?;
        send(a, 0, SIPI | OTHERS)?;
        send(a, 0, SIPI | OTHERS)?;
        wait_for(a, STARTED, COUNT as i32 - 1)?;
        while_others_run(a)?;
        a.mov(rax, qword_ptr(STARTED))?;
        Ok(a.log(rax)?)
    })?;
    b.add_waiting(COUNT);
    same("how many started", b.run()?.values(), vec![COUNT as u64 - 1])
}

fn again(b: &mut Bench<'_>) -> Checked {
    started(b, |a| {
        let mut count = a.create_label();
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.lock().inc(dword_ptr(STARTED))?;
        a.set_label(&mut count)?;
        a.inc(dword_ptr(COUNTED))?;
        a.jmp(count)?;
        Ok(())
    })?;
    kernel(b, |a| {
        let mut moves = a.create_label();
        send(a, 1, INIT)?;
        send(a, 1, SIPI)?;
        wait_for(a, STARTED, 1)?;
        send(a, 1, SIPI)?;
        while_others_run(a)?;
        a.mov(rax, qword_ptr(STARTED))?;
        a.log(rax)?;
        // It stops some time after INIT, and for good.
        send(a, 1, INIT)?;
        a.set_label(&mut moves)?;
        a.mov(rbx, qword_ptr(COUNTED))?;
        while_others_run(a)?;
        while_others_run(a)?;
        a.cmp(rbx, qword_ptr(COUNTED))?;
        a.jne(moves)?;
        send(a, 1, SIPI)?;
        wait_for(a, STARTED, 2)?;
        a.mov(rax, qword_ptr(STARTED))?;
        Ok(a.log(rax)?)
    })?;
    b.add_waiting(2);
    same("how often it started", b.run()?.values(), vec![1, 2])
}

/// CPUID and the APIC agree, and there is one boot processor.
fn numbers(b: &mut Bench<'_>) -> Checked {
    const COUNT: usize = 4;
    let tell = |a: &mut CodeAssembler| -> Checked {
        a.mov(rsi, rdi)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.shr(ebx, 24)?;
        a.mov(ebp, ebx)?;
        a.mov(eax, 0xb)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.shl(rbp, 8)?;
        a.or(rbp, rdx)?;
        a.mov(eax, dword_ptr(APIC + super::ID))?;
        a.shr(eax, 24)?;
        a.shl(rbp, 8)?;
        a.or(rbp, rax)?;
        a.mov(ecx, 0x1b)?;
        a.rdmsr()?;
        a.shr(eax, 8)?;
        a.and(eax, 1)?;
        a.shl(rbp, 8)?;
        a.or(rbp, rax)?;
        a.shl(rsi, 6)?;
        a.mov(qword_ptr(rsi + word(8)), rbp)?;
        Ok(())
    };
    others(b, COUNT, |a| {
        tell(a)?;
        ready(a)
    })?;
    kernel(b, |a| {
        a.xor(edi, edi)?;
        tell(a)?;
        wait_for(a, super::READY, COUNT as i32 - 1)?;
        for n in 0..COUNT as u64 {
            a.mov(rax, qword_ptr(word(8 + n)))?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    let expected = (0..COUNT as u64).map(|n| n << 24 | n << 16 | n << 8 | u64::from(n == 0)).collect::<Vec<_>>();
    same("initial and x2APIC ID by CPUID, APIC ID, boot processor", b.run()?.values(), expected)
}
