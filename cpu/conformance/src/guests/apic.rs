//! The local APIC as a guest sees it.

use super::{handler, kernel, raise};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, same};
use crate::board::Event;
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::msr;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "the higher vector comes first", manual: "vol. 3, 11.8.3", check: order },
    Guest { name: "interrupts nest by priority class", manual: "vol. 3, 11.8.3", check: nesting },
    Guest { name: "CR8 holds classes off", manual: "vol. 3, 11.8.6", check: task_priority },
    Guest { name: "EOI of level-triggered interrupts is broadcast", manual: "vol. 3, 11.8.5", check: broadcast },
    Guest { name: "self-IPI by the ICR", manual: "vol. 3, 11.6.1", check: self_ipi },
    Guest { name: "software-disabled APIC takes nothing", manual: "vol. 3, 11.4.7.2", check: disabled },
    Guest { name: "APIC timer, one-shot", manual: "vol. 3, 11.5.4", check: one_shot },
    Guest { name: "APIC timer, periodic", manual: "vol. 3, 11.5.4", check: periodic },
    Guest { name: "APIC timer, TSC deadline", manual: "vol. 3, 11.5.4.1", check: deadline },
    Guest { name: "masked APIC timer counts and is silent", manual: "vol. 3, 11.5.1", check: masked_timer },
    Guest { name: "x2APIC mode", manual: "vol. 3, 11.12", check: x2apic },
];

const OWN: u64 = HANDLERS + 0x8000;

/// The APIC register at `offset` goes into the log.
fn log_register(a: &mut CodeAssembler, offset: u64) -> Checked {
    a.mov(eax, dword_ptr(APIC + offset))?;
    Ok(a.log(rax)?)
}

fn order(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        for vector in [0x41, 0x71, 0x51, 0x52] {
            raise(a, vector)?;
        }
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        Ok(())
    })?;
    let vectors: Vec<u64> = b.run()?.traps().iter().map(|trap| trap.vector).collect();
    same("the vectors", vectors, vec![0x71, 0x52, 0x51, 0x41])
}

fn nesting(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.log_number(0x85)?;
        log_register(a, 0xa0)?;
        raise(a, 0x82)?;
        raise(a, 0x61)?;
        a.sti()?;
        a.nop()?;
        // Neither a lower class nor the same one.
        a.log_number(1)?;
        raise_higher(a)?;
        a.nop()?;
        a.log_number(2)?;
        a.cli()?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    handler(b, OWN + 0x800, |a| {
        a.log_number(0x82)?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    handler(b, OWN + 0x1000, |a| {
        a.log_number(0x91)?;
        log_register(a, 0xa0)?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x85, Gate::to(OWN))?;
    b.gate(0x82, Gate::to(OWN + 0x800))?;
    b.gate(0x91, Gate::to(OWN + 0x1000))?;
    kernel(b, |a| {
        raise(a, 0x85)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x85, 0x80, 1, 0x91, 0x90, 2, 0x82])?;
    same("what the common handler took", run.faults(), vec![(0x61, 0)])
}

/// Sends 0x91 to oneself by the ICR and waits until it has been taken.
fn raise_higher(a: &mut CodeAssembler) -> Checked {
    let mut wait = a.create_label();
    a.mov(dword_ptr(APIC + 0x300), 0x4_4091)?;
    a.mov(ecx, 10_000)?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.loop_(wait)?;
    Ok(())
}

fn task_priority(b: &mut Bench<'_>) -> Checked {
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        a.mov(ecx, 5)?;
        a.mov(cr8, rcx)?;
        log_register(a, 0x80)?;
        log_register(a, 0xa0)?;
        raise(a, 0x5f)?;
        raise(a, 0x61)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.log_number(1)?;
        a.xor(ecx, ecx)?;
        a.mov(cr8, rcx)?;
        a.set_label(&mut at)?;
        a.cli()?;
        a.mov(dword_ptr(APIC + 0x80), 0x7c)?;
        a.mov(rax, cr8)?;
        a.log(rax)?;
        a.mov(ecx, 16)?;
        a.faulting(|a| a.mov(cr8, rcx))?;
        Ok(at)
    })?;
    let run = b.run()?;
    same("the traps", run.faults(), vec![(0x61, 0), (0x5f, 0), (13, 0)])?;
    same("RIP behind MOV CR8", run.trap(1)?.rip, code.at(&at)?)?;
    same("TPR, PPR; then CR8", run.values(), vec![0x50, 0x50, 1, 7])
}

fn broadcast(b: &mut Bench<'_>) -> Checked {
    const LEVEL: i32 = 0xc000;
    kernel(b, |a| {
        raise(a, 0x51 | LEVEL)?;
        log_register(a, 0x180 + 0x20)?;
        raise(a, 0x61)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        Ok(())
    })?;
    let run = b.run()?;
    same("TMR", run.values(), vec![1 << 0x11])?;
    let ended = |event: &Event| if let Event::Ended(vector) = event { Some(*vector) } else { None };
    same("the broadcasts", run.events.iter().filter_map(ended).collect::<Vec<_>>(), vec![0x51])
}

fn self_ipi(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(dword_ptr(APIC + 0x310), 0)?;
        a.mov(dword_ptr(APIC + 0x300), 0x51)?;
        a.mov(dword_ptr(APIC + 0x300), 0x4_0061)?;
        a.mov(dword_ptr(APIC + 0x300), 0xc_0071)?;
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.bt(dword_ptr(APIC + 0x220), 0x11)?;
        a.jnc(wait)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        Ok(())
    })?;
    same("the traps", b.run()?.faults(), vec![(0x61, 0), (0x51, 0)])
}

fn disabled(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(dword_ptr(APIC + 0x320), 0x41)?;
        a.mov(dword_ptr(APIC + 0xf0), 0xff)?;
        // Every LVT entry is masked, and stays so.
        log_register(a, 0x320)?;
        a.mov(dword_ptr(APIC + 0x320), 0x42)?;
        log_register(a, 0x320)?;
        a.mov(dword_ptr(APIC + 0x300), 0x4_0051)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        log_register(a, 0x220)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x1_0041, 0x1_0042, 0])?;
    same("the traps", run.faults(), vec![])
}

/// Sets the timer's LVT entry and starts it; a count is 40 ns.
fn start_timer(a: &mut CodeAssembler, entry: i32, count: i32) -> Checked {
    a.mov(dword_ptr(APIC + 0x3e0), 0xb)?;
    a.mov(dword_ptr(APIC + 0x320), entry)?;
    Ok(a.mov(dword_ptr(APIC + 0x380), count)?)
}

fn one_shot(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        start_timer(a, 0x41, 5_000)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        log_register(a, 0x390)?;
        log_register(a, 0x380)?;
        // Writing zero stops it.
        start_timer(a, 0x41, i32::MAX)?;
        a.mov(dword_ptr(APIC + 0x380), 0)?;
        log_register(a, 0x390)?;
        log_register(a, 0x220)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the traps", run.faults(), vec![(0x41, 0)])?;
    same("the values", run.values(), vec![0, 5_000, 0, 0])
}

/// Waits by the TSC.
fn wait_ticks(a: &mut CodeAssembler, ticks: i32) -> Checked {
    let mut wait = a.create_label();
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.lea(rdi, ptr(rax + rdx + ticks))?;
    a.set_label(&mut wait)?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.cmp(rax, rdi)?;
    a.jb(wait)?;
    Ok(())
}

fn periodic(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.inc(ebx)?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x91, Gate::to(OWN))?;
    kernel(b, |a| {
        let mut again = a.create_label();
        a.xor(ebx, ebx)?;
        start_timer(a, 0x2_0091, 5_000)?;
        a.set_label(&mut again)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.cmp(ebx, 4)?;
        a.jb(again)?;
        a.mov(dword_ptr(APIC + 0x380), 0)?;
        log_register(a, 0x390)?;
        Ok(())
    })?;
    // On a busy host a period may be over before the processor sleeps again: more than four may come.
    same("the count after four periods", b.run()?.values(), vec![0])
}

fn deadline(b: &mut Bench<'_>) -> Checked {
    let read_deadline = |a: &mut CodeAssembler| -> Checked {
        a.mov(ecx, msr::TSC_DEADLINE)?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        Ok(a.log(rax)?)
    };
    // Sets a deadline so many ticks ahead, and leaves it in RBX.
    let set_deadline = |a: &mut CodeAssembler, ahead: u64| -> Checked {
        a.mov(ecx, msr::TSC_DEADLINE)?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.mov(rbx, ahead)?;
        a.add(rbx, rax)?;
        a.mov(rax, rbx)?;
        a.mov(rdx, rbx)?;
        a.shr(rdx, 32)?;
        Ok(a.wrmsr()?)
    };
    kernel(b, |a| {
        a.mov(dword_ptr(APIC + 0x320), 0x4_0041)?;
        set_deadline(a, 1 << 50)?;
        read_deadline(a)?;
        a.log(rbx)?;
        set_deadline(a, 300_000)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.cmp(rax, rbx)?;
        a.setae(al)?;
        a.movzx(eax, al)?;
        a.log(rax)?;
        read_deadline(a)?;
        // One in the past fires at once; zero disarms.
        a.mov(ecx, msr::TSC_DEADLINE)?;
        a.xor(edx, edx)?;
        a.mov(eax, 1)?;
        a.wrmsr()?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        read_deadline(a)?;
        // Initial counts are ignored in this mode.
        a.mov(dword_ptr(APIC + 0x380), 1_000)?;
        log_register(a, 0x390)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the traps", run.faults(), vec![(0x41, 0); 2])?;
    let values = run.values();
    same("the deadline as it was written", values.first(), values.get(1))?;
    same("late enough; then the deadlines", values.get(2..).unwrap_or(&[]), &[1, 0, 0, 0])
}

fn masked_timer(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        start_timer(a, 0x1_0041, 1_000)?;
        wait_ticks(a, 100_000)?;
        log_register(a, 0x390)?;
        log_register(a, 0x220)?;
        a.mov(dword_ptr(APIC + 0x320), 0x41)?;
        wait_ticks(a, 100_000)?;
        log_register(a, 0x220)?;
        Ok(())
    })?;
    same("the count, and IRR", b.run()?.values(), vec![0, 0, 0])
}

fn x2apic(b: &mut Bench<'_>) -> Checked {
    fn read(a: &mut CodeAssembler, number: u32) -> Checked {
        a.mov(ecx, number)?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        Ok(a.log(rax)?)
    }
    kernel(b, |a| {
        a.mov(ecx, 0x802)?;
        a.faulting(|a| a.rdmsr())?;
        a.mov(ecx, msr::APIC_BASE)?;
        a.rdmsr()?;
        a.log(rax)?;
        a.or(eax, 1 << 10)?;
        a.wrmsr()?;
        read(a, msr::APIC_BASE)?;
        read(a, 0x802)?;
        // The register page is memory of the board now.
        a.mov(eax, dword_ptr(APIC + 0x20))?;
        a.log(rax)?;
        a.mov(ecx, 0x83f)?;
        a.mov(eax, 0x91)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        read(a, 0x824)?;
        // Read-only and reserved registers; back to xAPIC mode in one step.
        a.mov(ecx, 0x802)?;
        a.faulting(|a| a.wrmsr())?;
        a.mov(ecx, 0x831)?;
        a.faulting(|a| a.rdmsr())?;
        a.mov(ecx, 0x80b)?;
        a.mov(eax, 1)?;
        a.faulting(|a| a.wrmsr())?;
        a.mov(ecx, msr::APIC_BASE)?;
        a.mov(eax, 0xfee0_0900u32)?;
        a.faulting(|a| a.wrmsr())?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 5])?;
    same("the values", run.values(), vec![0xfee0_0900, 0xfee0_0d00, 0, 0xffff_ffff, 1 << 0x11])
}
