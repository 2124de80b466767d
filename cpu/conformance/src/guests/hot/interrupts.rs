//! Interrupts in hot loops, and hot ways between rings (SDM vol. 3, 6.12 and 10.6).

use super::super::{handler, kernel, user};
use super::repeat;
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "interrupts that a hot loop sends itself", manual: "vol. 3, 10.6.1", check: to_itself },
    Guest { name: "timer interrupts in a hot loop of ring 0", manual: "vol. 3, 11.5.4", check: timer_in_ring0 },
    Guest { name: "timer interrupts in a hot loop of ring 3", manual: "vol. 3, 11.5.4", check: timer_in_ring3 },
    Guest { name: "hot SYSCALL and SYSRET", manual: "vol. 2, SYSCALL and SYSRET", check: system_calls },
    Guest { name: "hot INT and IRET between rings", manual: "vol. 3, 6.12.1", check: software_interrupts },
];

const OWN: u64 = HANDLERS + 0x8000;
/// Interrupts that the handler has counted.
const COUNT: u64 = USER_DATA;
/// Registers of the loop, and what is added to each in a round.
const REGISTERS: [AsmRegister64; 12] = [rax, rbx, rdx, rsi, rdi, rbp, r8, r9, r10, r12, r13, r14];

fn step(n: usize) -> u64 {
    0x1_0001 * (n as u64 + 1) + 0x11
}

/// A round in which each register changes, by itself or by what its neighbour is.
fn round(a: &mut CodeAssembler) -> Checked {
    for (n, register) in REGISTERS.into_iter().enumerate() {
        a.lea(register, ptr(register + step(n) as i32))?;
    }
    Ok(())
}

fn clear(a: &mut CodeAssembler) -> Checked {
    for register in REGISTERS {
        a.mov(register, 0u64)?;
    }
    Ok(())
}

fn log_all(a: &mut CodeAssembler) -> Checked {
    REGISTERS.into_iter().try_for_each(|register| Ok(a.log(register)?))
}

/// What the registers are after so many rounds.
fn after(rounds: u64) -> Vec<u64> {
    (0..REGISTERS.len()).map(|n| step(n) * rounds).collect()
}

fn to_itself(b: &mut Bench<'_>) -> Checked {
    const ROUNDS: u32 = 512;
    kernel(b, |a| {
        clear(a)?;
        a.sti()?;
        repeat(a, ROUNDS, |a| {
            let mut quiet = a.create_label();
            round(a)?;
            a.test(ecx, 31)?;
            a.jnz(quiet)?;
            a.mov(dword_ptr(APIC + 0x300), 0x4_4051)?;
            a.set_label(&mut quiet)?;
            Ok(a.nop()?)
        })?;
        a.cli()?;
        log_all(a)
    })?;
    let run = b.run()?;
    same("the interrupts", run.faults(), vec![(0x51, 0); ROUNDS as usize / 32])?;
    same("the registers", run.values(), after(ROUNDS.into()))
}

/// The handler counts; the loop goes on until it has counted enough, counting its rounds in R11.
fn timer(b: &mut Bench<'_>, in_user: bool) -> Checked {
    const ENOUGH: i32 = 50;
    handler(b, OWN, |a| {
        a.inc(dword_ptr(COUNT))?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x41, Gate::to(OWN))?;
    let start = |a: &mut CodeAssembler| -> Checked {
        a.mov(dword_ptr(APIC + 0x3e0), 0xb)?;
        a.mov(dword_ptr(APIC + 0x320), 0x2_0041)?;
        Ok(a.mov(dword_ptr(APIC + 0x380), 1_000)?)
    };
    let work = |a: &mut CodeAssembler| -> Checked {
        let mut again = a.create_label();
        clear(a)?;
        a.xor(r11d, r11d)?;
        a.set_label(&mut again)?;
        round(a)?;
        a.inc(r11)?;
        a.cmp(dword_ptr(COUNT), ENOUGH)?;
        a.jb(again)?;
        log_all(a)?;
        Ok(a.log(r11)?)
    };
    b.write(COUNT, 0)?;
    if in_user {
        user(b, (rflags::IF | rflags::FIXED_1) as i32, work)?;
        kernel(b, |a| {
            start(a)?;
            Ok(a.to_user(USER_CODE, USER_STACK, (rflags::IF | rflags::FIXED_1) as i32)?)
        })?;
    } else {
        kernel(b, |a| {
            start(a)?;
            a.sti()?;
            work(a)?;
            Ok(a.cli()?)
        })?;
    }
    let mut values = b.run()?.values();
    let rounds = values.pop().unwrap_or_default();
    same("the registers", values, after(rounds))
}

fn timer_in_ring0(b: &mut Bench<'_>) -> Checked {
    timer(b, false)
}

fn timer_in_ring3(b: &mut Bench<'_>) -> Checked {
    timer(b, true)
}

/// A hot loop of ring 3 that calls ring 0 in each round, which adds RDX to RBX and leaves the rest alone.
fn calls(b: &mut Bench<'_>, call: fn(&mut CodeAssembler) -> Checked) -> Checked {
    const ROUNDS: u32 = 400;
    user(b, rflags::FIXED_1 as i32, |a| {
        a.xor(ebx, ebx)?;
        a.xor(esi, esi)?;
        a.mov(rbp, rsp)?;
        repeat(a, ROUNDS, |a| {
            a.mov(edi, ecx)?;
            a.mov(edx, ecx)?;
            // Flags survive: CF is set here.
            a.stc()?;
            call(a)?;
            a.adc(rsi, 0)?;
            a.push(rsi)?;
            a.pop(rsi)?;
            Ok(a.mov(ecx, edi)?)
        })?;
        a.sub(rbp, rsp)?;
        for register in [rbx, rsi, rbp] {
            a.log(register)?;
        }
        Ok(())
    })?;
    let rounds = u64::from(ROUNDS);
    same("sum, carries, RSP", b.run()?.values(), vec![rounds * (rounds + 1) / 2, rounds, 0])
}

fn system_calls(b: &mut Bench<'_>) -> Checked {
    b.state.msrs.star = 0x23 << 48 | 0x0b << 32;
    b.state.msrs.lstar = OWN;
    b.state.msrs.fmask = rflags::IF | rflags::DF | rflags::TF;
    handler(b, OWN, |a| {
        a.swapgs()?;
        a.mov(r10, rsp)?;
        a.mov(rsp, RSP0)?;
        a.push(rcx)?;
        a.push(r11)?;
        a.add(rbx, rdx)?;
        a.pop(r11)?;
        a.pop(rcx)?;
        a.mov(rsp, r10)?;
        a.swapgs()?;
        Ok(a.sysretq()?)
    })?;
    calls(b, |a| Ok(a.syscall()?))
}

fn software_interrupts(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.add(rbx, rdx)?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x80, Gate { dpl: 3, ..Gate::to(OWN) })?;
    calls(b, |a| Ok(a.int(0x80)?))
}
