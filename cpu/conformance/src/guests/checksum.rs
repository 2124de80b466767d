//! A checksum over everything that a program can see of its CPU, while timer interrupts come: what an engine loses of a CPU's
//! state when it is interrupted, or moved, makes another one.

use super::{handler, kernel};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::xcr0;

pub(crate) const GUESTS: &[Guest] = &[Guest {
    name: "checksum over every register and interrupts",
    manual: "vol. 1, 3.4, 8.1, 10.2 and 14.1; vol. 3, 6.6",
    check: checksum,
}];

const CONTRACT: &str = "v3-2026";
const OWN: u64 = HANDLERS + 0x8000;
/// Interrupts that the handler has counted.
const COUNT: u64 = USER_DATA;
/// Rounds that are left.
const ROUNDS: u64 = USER_DATA + 8;
/// The checksum of what is no general register.
const SUM: u64 = USER_DATA + 16;
/// The last value of the TSC.
const LAST: u64 = USER_DATA + 24;
/// The LVT entry of the timer.
const ENTRY: u64 = USER_DATA + 32;
/// Two numbers for the x87's sums.
const REALS: u64 = USER_DATA + 40;
/// Where vectors are put.
const VECTORS: u64 = USER_DATA + 64;
const MOST: u64 = 1000;
/// Interrupts that are waited for behind the rounds.
const ENOUGH: u32 = 5;
/// The TSC went back.
const BACKWARD: u32 = 0xbac;

/// Registers with a value from round to round. RAX, RCX and RDX are for use within one; R15 is the idioms'.
const REGISTERS: [AsmRegister64; 11] = [rbx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14];

/// Each register becomes a sum with its neighbour and the carry of the one before.
fn mix_registers(a: &mut CodeAssembler) -> Checked {
    a.rcr(rbx, 1)?;
    for (one, next) in REGISTERS.into_iter().zip(REGISTERS.into_iter().cycle().skip(1)) {
        a.adc(one, next)?;
    }
    a.rcl(r14, 3)?;
    // The flags of an addition.
    a.adc(rbx, r14)?;
    a.pushfq()?;
    a.pop(rax)?;
    a.and(eax, 0x8d5)?;
    Ok(a.add(qword_ptr(SUM), rax)?)
}

fn mix_x87(a: &mut CodeAssembler) -> Checked {
    a.fmul(qword_ptr(REALS))?;
    a.fadd(qword_ptr(REALS + 8))?;
    a.fxch(st0, st1)?;
    a.fst(qword_ptr(VECTORS))?;
    a.mov(rax, qword_ptr(VECTORS))?;
    Ok(a.add(qword_ptr(SUM), rax)?)
}

fn mix_vectors(a: &mut CodeAssembler) -> Checked {
    a.movq(xmm0, rbx)?;
    a.vpbroadcastq(ymm0, xmm0)?;
    a.vpaddq(ymm1, ymm1, ymm0)?;
    a.vpxor(ymm15, ymm15, ymm1)?;
    a.vpsrlq(ymm2, ymm15, 3)?;
    a.vpaddq(ymm1, ymm1, ymm2)?;
    a.vmovdqu(ymmword_ptr(VECTORS), ymm1)?;
    for word in 0..4 {
        a.mov(rax, qword_ptr(VECTORS + 8 * word))?;
        a.add(qword_ptr(SUM), rax)?;
    }
    Ok(())
}

/// Registers of the system: debug address, CR2, the base of GS, and a time that never goes back.
fn mix_system(a: &mut CodeAssembler) -> Checked {
    let mut later = a.create_label();
    a.mov(dr1, rbx)?;
    a.mov(rax, dr1)?;
    a.mov(rcx, cr2)?;
    a.lea(rax, ptr(rax + rcx + 1))?;
    a.mov(cr2, rax)?;
    a.add(qword_ptr(SUM), rax)?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.cmp(rax, qword_ptr(LAST))?;
    a.jae(later)?;
    a.log(rax)?;
    a.mov(rax, qword_ptr(LAST))?;
    a.log(rax)?;
    a.mov(dword_ptr(BOARD + crate::board::register::END), BACKWARD)?;
    a.stop()?;
    a.set_label(&mut later)?;
    Ok(a.mov(qword_ptr(LAST), rax)?)
}

fn program(a: &mut CodeAssembler) -> Checked {
    let (mut again, mut wait, mut enough) = (a.create_label(), a.create_label(), a.create_label());
    for (n, register) in REGISTERS.into_iter().enumerate() {
        a.mov(register, 0x0123_4567_89ab_cdef_u64.rotate_left(5 * n as u32))?;
    }
    a.fninit()?;
    a.fld1()?;
    a.fldpi()?;
    a.vpxor(ymm1, ymm1, ymm1)?;
    a.vpxor(ymm15, ymm15, ymm15)?;
    a.mov(dword_ptr(APIC + 0x3e0), 0xb)?;
    a.mov(eax, dword_ptr(ENTRY))?;
    a.mov(dword_ptr(APIC + 0x320), eax)?;
    a.mov(dword_ptr(APIC + 0x380), 1_000)?;
    a.sti()?;
    a.set_label(&mut again)?;
    mix_registers(a)?;
    mix_x87(a)?;
    mix_vectors(a)?;
    mix_system(a)?;
    a.dec(qword_ptr(ROUNDS))?;
    a.jnz(again)?;
    // None is lost, however fast the rounds were.
    a.set_label(&mut wait)?;
    a.bt(dword_ptr(ENTRY), 16)?;
    a.jc(enough)?;
    a.cmp(dword_ptr(COUNT), ENOUGH)?;
    a.jb(wait)?;
    a.set_label(&mut enough)?;
    a.cli()?;
    a.mov(dword_ptr(APIC + 0x320), 0x1_0000)?;
    a.mov(rax, qword_ptr(SUM))?;
    for register in [rax].into_iter().chain(REGISTERS) {
        a.log(register)?;
    }
    Ok(())
}

/// The values that it ends with, and how many interrupts there were.
fn run(b: &mut Bench<'_>, entry: u64) -> Checked<(Vec<u64>, u64)> {
    let start = [(COUNT, 0), (ROUNDS, MOST), (SUM, 0), (LAST, 0), (ENTRY, entry)];
    start.into_iter().try_for_each(|(at, value)| b.write(at, value))?;
    b.write(REALS, 0.999_f64.to_bits())?;
    b.write(REALS + 8, 1.25_f64.to_bits())?;
    let values = b.run()?.values();
    Ok((values, b.read(COUNT)?))
}

fn checksum(b: &mut Bench<'_>) -> Checked {
    b.contract = CONTRACT;
    b.state.xcr0 |= xcr0::AVX;
    handler(b, OWN, |a| {
        a.inc(dword_ptr(COUNT))?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x41, Gate::to(OWN))?;
    kernel(b, program)?;
    let (alone, none) = run(b, 0x1_0041)?;
    same("interrupts of a masked timer", none, 0)?;
    let (interrupted, some) = run(b, 0x2_0041)?;
    same("whether interrupts came", some >= ENOUGH.into(), true)?;
    same("checksum and registers with interrupts", interrupted, alone)
}
