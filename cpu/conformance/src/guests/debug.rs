//! Single-stepping.

use super::{handler, kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, Run, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "single step over ordinary instructions", manual: "vol. 3, 17.3.1.4", check: ordinary },
    Guest { name: "single step and POPF", manual: "vol. 3, 17.3.1.4", check: popf },
    Guest { name: "single step and MOV SS", manual: "vol. 3, 6.8.3", check: mov_ss },
    Guest { name: "single step and STI", manual: "vol. 3, 17.3.1.4", check: sti },
    Guest { name: "single step of each iteration", manual: "vol. 3, 17.3.1.4", check: iterations },
    Guest { name: "single step and software interrupts", manual: "vol. 3, 17.3.1.4", check: software },
    Guest { name: "single step and faults", manual: "vol. 3, 17.3.1.4", check: faults },
    Guest { name: "single step and IRET", manual: "vol. 3, 17.3.1.4", check: iret },
    Guest { name: "single step in ring 3", manual: "vol. 3, 17.3.1.4", check: ring3 },
    Guest { name: "debug registers", manual: "vol. 3, 17.2", check: registers },
];

const TF: i32 = rflags::TF as i32 | 2;

/// Single-stepping begins behind the next instruction.
fn step(a: &mut CodeAssembler) -> Checked {
    a.push(TF)?;
    Ok(a.popfq()?)
}

/// Ends single-stepping: its POPFQ is stepped over as well, and its PUSH.
fn stop_stepping(a: &mut CodeAssembler) -> Checked {
    a.push(2)?;
    Ok(a.popfq()?)
}

/// Where each trap came, relative to `start`.
fn places(run: &Run, start: u64) -> Vec<(u64, u64)> {
    run.traps().iter().map(|trap| (trap.vector, trap.rip.wrapping_sub(start))).collect()
}

fn ordinary(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        a.mov(rbx, DATA)?;
        step(a)?;
        a.set_label(&mut start)?;
        a.nop()?;
        a.add(qword_ptr(rbx), 1)?;
        let mut over = a.create_label();
        a.jmp(over)?;
        a.nop()?;
        a.set_label(&mut over)?;
        a.xor(eax, eax)?;
        stop_stepping(a)?;
        a.mov(rax, dr6)?;
        a.log(rax)?;
        Ok(start)
    })?;
    let run = b.run()?;
    let start = code.at(&start)?;
    same("the traps", places(&run, start), [1, 5, 8, 10, 12, 13].map(|at| (1, at)).to_vec())?;
    same("DR6", run.values(), vec![0xffff_4ff0])?;
    let last = run.traps().last().map_or(0, |trap| trap.flags & rflags::TF);
    same("TF in the image behind POPFQ", last, 0)
}

fn popf(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        a.push(TF)?;
        a.popfq()?;
        a.set_label(&mut start)?;
        a.push(2)?;
        a.popfq()?;
        a.nop()?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), vec![(1, 2), (1, 3)])
}

fn mov_ss(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        a.mov(eax, ss)?;
        step(a)?;
        a.set_label(&mut start)?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.nop()?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), [3, 4, 6, 7].map(|at| (1, at)).to_vec())
}

fn sti(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        step(a)?;
        a.set_label(&mut start)?;
        a.sti()?;
        a.cli()?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), [1, 2, 4, 5].map(|at| (1, at)).to_vec())
}

fn iterations(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        a.mov(rsi, DATA)?;
        a.mov(rdi, DATA + 0x100)?;
        a.mov(ecx, 3)?;
        step(a)?;
        a.set_label(&mut start)?;
        a.rep().movsb()?;
        a.rep().stosb()?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), [0, 0, 2, 4, 6, 7].map(|at| (1, at)).to_vec())?;
    let resume: Vec<u64> = run.traps().iter().take(3).map(|trap| trap.flags & rflags::RF).collect();
    same("RF between the iterations", resume, vec![rflags::RF, rflags::RF, 0])
}

fn software(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        step(a)?;
        a.set_label(&mut start)?;
        a.int(0x81)?;
        a.nop()?;
        a.int3()?;
        a.nop()?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    let expected = vec![(0x81, 2), (1, 3), (3, 4), (1, 5), (1, 7), (1, 8)];
    same("the traps", places(&run, code.at(&start)?), expected)
}

fn faults(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let (mut start, mut next) = (a.create_label(), a.create_label());
        // R15 before stepping: the idiom would be stepped over.
        a.lea(r15, ptr(next))?;
        a.mov(rbx, FREE)?;
        a.push(TF)?;
        a.mov(qword_ptr(RESUME), r15)?;
        a.popfq()?;
        a.set_label(&mut start)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.set_label(&mut next)?;
        a.nop()?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), vec![(14, 0), (1, 3), (1, 5), (1, 6)])
}

fn iret(b: &mut Bench<'_>) -> Checked {
    let (code, start) = kernel(b, |a| {
        let mut start = a.create_label();
        a.mov(rcx, rsp)?;
        a.push(i32::from(selector::DATA))?;
        a.push(rcx)?;
        a.push(TF)?;
        a.push(i32::from(selector::CODE))?;
        a.lea(rax, ptr(start))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut start)?;
        a.nop()?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), vec![(1, 1), (1, 3), (1, 4)])
}

fn ring3(b: &mut Bench<'_>) -> Checked {
    let (code, start) = user(b, TF, |a| {
        let mut start = a.create_label();
        a.set_label(&mut start)?;
        a.nop()?;
        a.xor(eax, eax)?;
        stop_stepping(a)?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), [1, 3, 5, 6].map(|at| (1, at)).to_vec())?;
    same("CS", run.trap(0)?.cs, selector::USER_CODE.into())
}

fn registers(b: &mut Bench<'_>) -> Checked {
    handler(b, HANDLERS + 0x8000, |a| Ok(a.iretq()?))?;
    b.gate(1, Gate::to(HANDLERS + 0x8000))?;
    kernel(b, |a| {
        a.mov(rax, 0x1234_5678_9abcu64)?;
        a.mov(dr0, rax)?;
        a.mov(rbx, dr0)?;
        a.log(rbx)?;
        a.xor(eax, eax)?;
        a.mov(dr6, rax)?;
        a.mov(rbx, dr6)?;
        a.log(rbx)?;
        a.mov(dr7, rax)?;
        a.mov(rbx, dr7)?;
        a.log(rbx)?;
        a.mov(rax, 1u64 << 32)?;
        a.faulting(|a| a.mov(dr6, rax))?;
        a.faulting(|a| a.mov(dr7, rax))?;
        // With CR4.DE set there is no DR4.
        a.faulting(|a| a.db(&[0x0f, 0x21, 0xe0]))?;
        Ok(())
    })?;
    let run = b.run()?;
    same("DR0, DR6, DR7", run.values(), vec![0x1234_5678_9abc, 0xffff_0ff0, 0x400])?;
    same("the faults", run.faults(), vec![(13, 0), (13, 0), (6, 0)])
}
