//! Interrupts from one processor to others, by each kind of destination.

use super::super::{handler, kernel};
use super::{DFR, EOI, ID, LDR, READY, others, ready, rest, send, wait_for, while_others_run, word};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, Run, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::msr;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "IPI to physical destinations", manual: "vol. 3, 11.6.2.1", check: physical },
    Guest { name: "IPI by shorthand", manual: "vol. 3, 11.6.1", check: shorthand },
    Guest { name: "IPI to logical destinations of the flat model", manual: "vol. 3, 11.6.2.2", check: flat },
    Guest { name: "IPI to logical destinations of the cluster model", manual: "vol. 3, 11.6.2.2", check: cluster },
    Guest { name: "IPI of lowest priority goes to one", manual: "vol. 3, 11.6.2.4", check: lowest },
    Guest { name: "IPI in x2APIC mode", manual: "vol. 3, 11.12.10", check: x2apic },
    Guest { name: "NMI to another processor", manual: "vol. 3, 11.6.1", check: nmi },
    Guest { name: "IPIs are answered by IPIs", manual: "vol. 3, 11.6.1", check: ping_pong },
];

const COUNT: u64 = 4;
const VECTOR: u8 = 0x41;
const OWN: u64 = HANDLERS + 0x8000;
/// Where each processor counts.
const COUNTS: u64 = word(0);
const ALL_TOGETHER: u64 = word(20);
const LOGICAL: u32 = 1 << 11;
const LOWEST: u32 = 1 << 8;

/// Counts an interrupt for this processor, whose number is brought into EAX.
fn count_in(
    b: &mut Bench<'_>,
    vector: u8,
    number: impl FnOnce(&mut CodeAssembler) -> Checked,
    ends: impl FnOnce(&mut CodeAssembler) -> Checked,
) -> Checked {
    let at = OWN + 0x100 * u64::from(vector & 0xf);
    handler(b, at, |a| {
        a.push(rax)?;
        a.push(rcx)?;
        a.push(rdx)?;
        number(a)?;
        a.shl(eax, 6)?;
        a.inc(qword_ptr(rax + COUNTS))?;
        a.lock().inc(qword_ptr(ALL_TOGETHER))?;
        ends(a)?;
        a.pop(rdx)?;
        a.pop(rcx)?;
        a.pop(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(vector, Gate::to(at))
}

fn number_of_xapic(a: &mut CodeAssembler) -> Checked {
    a.mov(eax, dword_ptr(APIC + ID))?;
    a.shr(eax, 24)?;
    Ok(())
}

fn end_of_xapic(a: &mut CodeAssembler) -> Checked {
    Ok(a.mov(dword_ptr(APIC + EOI), 0)?)
}

/// The other processors do nothing but take interrupts.
fn sleepers(b: &mut Bench<'_>, prepare: fn(&mut CodeAssembler) -> Checked) -> Checked {
    others(b, COUNT as usize, |a| {
        let mut again = a.create_label();
        prepare(a)?;
        ready(a)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)?;
        Ok(())
    })?;
    Ok(())
}

/// Each command, to so many processors; gives what each has counted in the end.
fn counted(
    b: &mut Bench<'_>,
    prepare: fn(&mut CodeAssembler) -> Checked,
    commands: &[(u32, u32, i32)],
) -> Checked<Vec<u64>> {
    count_in(b, VECTOR, number_of_xapic, end_of_xapic)?;
    sleepers(b, prepare)?;
    kernel(b, |a| {
        a.xor(edi, edi)?;
        prepare(a)?;
        wait_for(a, READY, COUNT as i32 - 1)?;
        a.sti()?;
        let mut total = 0;
        for &(destination, low, times) in commands {
            send(a, destination, low | u32::from(VECTOR))?;
            total += times;
            wait_for(a, ALL_TOGETHER, total)?;
        }
        while_others_run(a)?;
        log_counts(a)
    })?;
    Ok(b.run()?.values())
}

fn log_counts(a: &mut CodeAssembler) -> Checked {
    for n in 0..COUNT {
        a.mov(rax, qword_ptr(COUNTS + 64 * n))?;
        a.log(rax)?;
    }
    a.mov(rax, qword_ptr(ALL_TOGETHER))?;
    Ok(a.log(rax)?)
}

fn physical(b: &mut Bench<'_>) -> Checked {
    let counts = counted(b, |_| Ok(()), &[(1, 0, 1), (3, 0, 1), (3, 0x4000, 1), (0, 0, 1), (0xff, 0, 4), (9, 0, 0)])?;
    same("the counts", counts, vec![2, 2, 1, 3, 8])
}

fn shorthand(b: &mut Bench<'_>) -> Checked {
    let counts = counted(b, |_| Ok(()), &[(1, 1 << 18, 1), (1, 2 << 18, 4), (1, 3 << 18, 3)])?;
    same("the counts", counts, vec![2, 2, 2, 2, 8])
}

/// Logical ID: one bit each.
fn set_flat(a: &mut CodeAssembler) -> Checked {
    a.mov(ecx, edi)?;
    a.mov(eax, 1 << 24)?;
    a.shl(eax, cl)?;
    a.mov(dword_ptr(APIC + LDR), eax)?;
    Ok(())
}

fn flat(b: &mut Bench<'_>) -> Checked {
    let commands = [(0b0110, LOGICAL, 2), (0b1001, LOGICAL, 2), (0xff, LOGICAL, 4), (0x10, LOGICAL, 0)];
    same("the counts", counted(b, set_flat, &commands)?, vec![2, 2, 2, 2, 8])
}

fn cluster(b: &mut Bench<'_>) -> Checked {
    // Two clusters of two: 0x01, 0x02, 0x11, 0x12.
    fn prepare(a: &mut CodeAssembler) -> Checked {
        a.mov(dword_ptr(APIC + DFR), 0x0fff_ffff)?;
        a.mov(ecx, edi)?;
        a.and(ecx, 1)?;
        a.mov(eax, 1)?;
        a.shl(eax, cl)?;
        a.mov(ecx, edi)?;
        a.shr(ecx, 1)?;
        a.shl(ecx, 4)?;
        a.or(eax, ecx)?;
        a.shl(eax, 24)?;
        a.mov(dword_ptr(APIC + LDR), eax)?;
        Ok(())
    }
    let commands = [(0x03, LOGICAL, 2), (0x12, LOGICAL, 1), (0x1f, LOGICAL, 2), (0x23, LOGICAL, 0), (0xff, LOGICAL, 4)];
    same("the counts", counted(b, prepare, &commands)?, vec![2, 2, 2, 3, 9])
}

fn lowest(b: &mut Bench<'_>) -> Checked {
    // Processors 0 to 2 have a higher priority than 3.
    fn prepare(a: &mut CodeAssembler) -> Checked {
        let mut low = a.create_label();
        set_flat(a)?;
        a.cmp(edi, 3)?;
        a.je(low)?;
        a.mov(dword_ptr(APIC + 0x80), 0x20)?;
        a.set_label(&mut low)?;
        a.nop()?;
        Ok(())
    }
    let commands = [(0b1111, LOGICAL | LOWEST, 1), (0b1010, LOGICAL | LOWEST, 1), (0b0010, LOGICAL | LOWEST, 1)];
    same("the counts", counted(b, prepare, &commands)?, vec![0, 1, 0, 2, 3])
}

fn x2apic(b: &mut Bench<'_>) -> Checked {
    fn enter(a: &mut CodeAssembler) -> Checked {
        a.mov(ecx, msr::APIC_BASE)?;
        a.rdmsr()?;
        a.or(eax, 1 << 10)?;
        a.wrmsr()?;
        Ok(())
    }
    fn command(a: &mut CodeAssembler, destination: u32, low: u32) -> Checked {
        a.mov(ecx, 0x830)?;
        a.mov(edx, destination)?;
        a.mov(eax, low | u32::from(VECTOR))?;
        Ok(a.wrmsr()?)
    }
    let number = |a: &mut CodeAssembler| -> Checked {
        a.mov(ecx, 0x802)?;
        Ok(a.rdmsr()?)
    };
    let end = |a: &mut CodeAssembler| -> Checked {
        a.mov(ecx, 0x80b)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        Ok(a.wrmsr()?)
    };
    count_in(b, VECTOR, number, end)?;
    sleepers(b, enter)?;
    kernel(b, |a| {
        enter(a)?;
        wait_for(a, READY, COUNT as i32 - 1)?;
        a.sti()?;
        let broadcast = u32::MAX;
        let commands =
            [(2, 0, 1), (broadcast, 0, 4), (0b1010, LOGICAL, 2), (0x1_0001, LOGICAL, 0), (broadcast, LOGICAL, 4)];
        let mut total = 0;
        for (destination, low, times) in commands {
            command(a, destination, low)?;
            total += times;
            wait_for(a, ALL_TOGETHER, total)?;
        }
        command(a, 0, 3 << 18)?;
        wait_for(a, ALL_TOGETHER, total + 3)?;
        while_others_run(a)?;
        log_counts(a)
    })?;
    same("the counts", b.run()?.values(), vec![2, 4, 4, 4, 14])
}

fn nmi(b: &mut Bench<'_>) -> Checked {
    count_in(b, 2, number_of_xapic, |_| Ok(()))?;
    others(b, 2, |a| {
        // Not by HLT: an NMI that comes just before it would end no sleep.
        for n in 1..=2 {
            ready(a)?;
            wait_for(a, ALL_TOGETHER, n)?;
        }
        ready(a)
    })?;
    kernel(b, |a| {
        for n in 1..=2 {
            wait_for(a, READY, n)?;
            send(a, 1, 0x400)?;
            wait_for(a, ALL_TOGETHER, n)?;
        }
        wait_for(a, READY, 3)?;
        log_counts(a)
    })?;
    same("the counts", b.run()?.values(), vec![0, 2, 0, 0, 2])
}

/// Each interrupt of processor 0 has one of processor 1 as its answer.
fn ping_pong(b: &mut Bench<'_>) -> Checked {
    const ROUNDS: i32 = 500;
    let answer = |to: u32| {
        move |a: &mut CodeAssembler| -> Checked {
            a.inc(qword_ptr(word(30 + u64::from(to))))?;
            end_of_xapic(a)?;
            send(a, to, 0x42 - to)
        }
    };
    // Processor 1 takes 0x41 and answers to 0, which takes 0x42.
    handler(b, OWN, |a| {
        answer(0)(a)?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x41, Gate::to(OWN))?;
    handler(b, OWN + 0x100, |a| {
        let mut enough = a.create_label();
        a.inc(qword_ptr(word(31)))?;
        end_of_xapic(a)?;
        a.cmp(qword_ptr(word(31)), ROUNDS)?;
        a.jae(enough)?;
        send(a, 1, 0x41)?;
        a.set_label(&mut enough)?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x42, Gate::to(OWN + 0x100))?;
    others(b, 2, |a| {
        let mut again = a.create_label();
        ready(a)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)?;
        rest(a)
    })?;
    kernel(b, |a| {
        let (mut again, mut done) = (a.create_label(), a.create_label());
        wait_for(a, READY, 1)?;
        send(a, 1, 0x41)?;
        a.set_label(&mut again)?;
        a.cli()?;
        a.cmp(qword_ptr(word(31)), ROUNDS)?;
        a.je(done)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(again)?;
        a.set_label(&mut done)?;
        a.mov(rax, qword_ptr(word(30)))?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(word(31)))?;
        Ok(a.log(rax)?)
    })?;
    let run: Run = b.run()?;
    same("interrupts of each", run.values(), vec![ROUNDS as u64; 2])
}
