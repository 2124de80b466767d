//! Single steps, breakpoints and interrupts outside of 64-bit mode.

use crate::Guest;
use crate::bench::{Bench, Checked, Run, descriptor, gate, same};
use crate::board::port;
use crate::guests::{legacy, protected, protected_user, real, virtual86};
use crate::layout::legacy::*;
use crate::layout::{DATA, TSS, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::{cr4, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "single step in V86", manual: "vol. 3, 17.3.1.4", check: v86 },
    Guest { name: "single step and redirected INT n in V86", manual: "vol. 3, 20.3.3", check: redirected },
    Guest { name: "single step and POP SS", manual: "vol. 3, 6.8.3", check: pop_ss },
    Guest { name: "single step and IRETD to ring 3", manual: "vol. 3, 17.3.1.4", check: outward },
    Guest { name: "breakpoints in 32-bit code", manual: "vol. 3, 17.2", check: protected_hits },
    Guest { name: "breakpoints are linear addresses", manual: "vol. 3, 17.2.1", check: linear },
    Guest { name: "breakpoints in real mode", manual: "vol. 3, 17.2 and table 20-1", check: real_hits },
    Guest { name: "NMI in real mode", manual: "vol. 3, 20.1.4 and 6.7", check: nmi },
    Guest { name: "external interrupt from V86", manual: "vol. 3, 20.3.1", check: external },
    Guest { name: "external interrupt by a task gate", manual: "vol. 3, 6.12.2", check: by_task },
    Guest { name: "single step into a task", manual: "vol. 3, 7.3", check: into_task },
];

fn places(run: &Run, start: u64) -> Vec<(u64, u64)> {
    run.traps().iter().map(|trap| (trap.vector, trap.rip.wrapping_sub(start))).collect()
}

fn v86(b: &mut Bench<'_>) -> Checked {
    virtual86(b, 0x3102, |a| {
        a.nop()?;
        a.int(0x81)?;
        a.nop()?;
        a.mov(ax, ss)?;
        a.mov(ss, ax)?;
        a.nop()?;
        a.push(2)?;
        a.popf()?;
        Ok(())
    })?;
    let run = b.run()?;
    let expected = vec![(1, 1), (0x81, 3), (1, 4), (1, 6), (1, 9), (1, 11), (1, 12)];
    same("the traps", places(&run, 0), expected)?;
    same("VM in each image", run.traps().iter().all(|trap| trap.flags & rflags::VM != 0), true)
}

fn redirected(b: &mut Bench<'_>) -> Checked {
    virtual86(b, 0x3102, |a| {
        a.nop()?;
        a.int(0x40)?;
        a.nop()?;
        a.push(2)?;
        a.popf()?;
        Ok(())
    })?;
    legacy(b, (16, OWN, OWN), |a| {
        a.nop()?;
        Ok(a.iret()?)
    })?;
    b.ram.write(Gpa(4 * 0x40), &((OWN << 12) as u32).to_le_bytes())?;
    b.state.cr4 |= cr4::VME;
    // TF is cleared on the way to the 8086 program's handler, and its IRET brings it back.
    same("the traps", places(&b.run()?, 0), vec![(1, 1), (1, 4), (1, 6), (1, 7)])
}

fn pop_ss(b: &mut Bench<'_>) -> Checked {
    let (code, start) = protected(b, |a| {
        a.push(ss)?;
        a.push(0x102)?;
        a.popfd()?;
        let start = a.here()?;
        a.pop(ss)?;
        a.nop()?;
        a.nop()?;
        a.push(2)?;
        a.popfd()?;
        Ok(start)
    })?;
    same("the traps", places(&b.run()?, code.at(&start)?), [2, 3, 5, 6].map(|at| (1, at)).to_vec())
}

fn outward(b: &mut Bench<'_>) -> Checked {
    let (code, start) = protected_user(b, 0x102, |a| {
        let start = a.here()?;
        a.nop()?;
        a.xor(ecx, ecx)?;
        a.push(2)?;
        a.popfd()?;
        Ok(start)
    })?;
    let run = b.run()?;
    same("the traps", places(&run, code.at(&start)?), [1, 3, 5, 6].map(|at| (1, at)).to_vec())?;
    same("CS", run.trap(0)?.cs, 0x33)
}

/// Has #DB log DR6's lowest bits and EIP, clear DR6, and go on with RF set.
fn log_debug(b: &mut Bench<'_>) -> Checked {
    let mut a = crate::bench::Asm::new(32)?;
    a.push(eax)?;
    a.mov(eax, dr6)?;
    a.and(eax, 0xe00f)?;
    a.log_eax()?;
    a.xor(eax, eax)?;
    a.mov(dr6, eax)?;
    a.mov(eax, dword_ptr(esp + 4))?;
    a.log_eax()?;
    a.or(dword_ptr(esp + 12), rflags::RF as i32)?;
    a.pop(eax)?;
    a.iretd()?;
    b.load_legacy(OWN, 0, a)?;
    b.gate32(1, gate(0x8e, selector::CODE, OWN, 0))
}

fn protected_hits(b: &mut Bench<'_>) -> Checked {
    // A stack that no handler has written to yet.
    const ELSEWHERE: u64 = 0x3_6000;
    let (code, (execute, store, push)) = protected(b, |a| {
        a.nop()?;
        let execute = a.here()?;
        a.mov(eax, 5)?;
        a.mov(dword_ptr(DATA), eax)?;
        let store = a.here()?;
        a.mov(eax, dword_ptr(DATA))?;
        a.mov(esp, ELSEWHERE as u32)?;
        a.push(eax)?;
        let push = a.here()?;
        a.pop(eax)?;
        Ok((execute, store, push))
    })?;
    log_debug(b)?;
    let execute = code.at(&execute)?;
    b.state.dr[..3].copy_from_slice(&[execute, DATA, ELSEWHERE - 4]);
    // Execution; writes of 4 bytes; writes of 4 bytes; all enabled globally.
    b.state.dr[7] = 0x400 | 0x2a | 0xd << 20 | 0xd << 24;
    let expected = vec![1, execute, 2, code.at(&store)?, 4, code.at(&push)?];
    same("DR6 and EIP", b.run()?.values(), expected)
}

fn linear(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, u32::from(FREE_SELECTOR))?;
        a.mov(fs, eax)?;
        a.mov(byte_ptr(0x10).fs(), al)?;
        a.mov(byte_ptr(DATA), al)?;
        Ok(a.far_jump(FREE_SELECTOR + 8, 0)?)
    })?;
    log_debug(b)?;
    legacy(b, (32, OWN + 0x100, OWN + 0x100), |a| {
        a.nop()?;
        a.nop()?;
        Ok(a.log_selector(cs)?)
    })?;
    b.own(0, descriptor(DATA - 0x10, 0xfff, 0x4093))?;
    b.own(1, descriptor(OWN + 0x100, 0xfff, 0x409b))?;
    b.state.dr[..2].copy_from_slice(&[DATA, OWN + 0x101]);
    b.state.dr[7] = 0x400 | 0xa | 1 << 16;
    let values = b.run()?.values();
    let found: Vec<u64> = values.chunks(2).map(|pair| pair[0]).collect();
    same("DR6 twice for the data, once for the code; CS", found, vec![1, 1, 2, u64::from(FREE_SELECTOR) + 8])?;
    same("EIP of the code's", values.get(5).copied(), Some(1))
}

fn real_hits(b: &mut Bench<'_>) -> Checked {
    let (code, (execute, store)) = real(b, |a| {
        a.mov(ax, 0x100)?;
        a.mov(es, ax)?;
        a.mov(byte_ptr(0x8010).es(), al)?;
        let store = a.here()?;
        a.nop()?;
        let execute = a.here()?;
        a.nop()?;
        Ok((execute, store))
    })?;
    let execute = code.at(&execute)?;
    // The handler goes on with RF set, which takes an IRETD.
    let mut a = crate::bench::Asm::new(16)?;
    a.push(eax)?;
    a.push(bp)?;
    a.mov(bp, sp)?;
    a.movzx(eax, word_ptr(bp + 6))?;
    a.log_eax()?;
    a.mov(eax, dr6)?;
    a.and(eax, 0xf)?;
    a.log_eax()?;
    a.mov(eax, 0)?;
    a.mov(dr6, eax)?;
    a.mov(bp, word_ptr(bp))?;
    a.add(sp, 2)?;
    a.pop(eax)?;
    // IP, CS, FLAGS are words; double words of them, with RF.
    a.db(&[0x66, 0x68])?;
    a.dd(&[(rflags::RF | 2) as u32])?;
    a.mov(bp, sp)?;
    a.movzx(eax, word_ptr(bp + 6))?;
    a.push(eax)?;
    a.movzx(eax, word_ptr(bp + 4))?;
    a.push(eax)?;
    a.iretd()?;
    b.load_legacy(OWN, OWN, a)?;
    b.ram.write(Gpa(4), &((OWN << 12) as u32).to_le_bytes())?;
    b.state.dr[..2].copy_from_slice(&[0x9010, crate::layout::CODE + execute]);
    b.state.dr[7] = 0x400 | 0xa | 1 << 16;
    same("IP and DR6", b.run()?.values(), vec![code.at(&store)?, 1, execute, 2])
}

fn nmi(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.mov(edx, u32::from(port::MSI))?;
        a.mov(eax, 0x400)?;
        a.out(dx, eax)?;
        a.nop()?;
        a.log_number(1)?;
        Ok(())
    })?;
    let mut a = crate::bench::Asm::new(16)?;
    a.log_number(2)?;
    // A second one waits for IRET.
    a.mov(edx, u32::from(port::MSI))?;
    a.cmp(byte_ptr(DATA), 0)?;
    let (mut done, mut back) = (a.create_label(), a.create_label());
    a.jne(done)?;
    a.inc(byte_ptr(DATA))?;
    a.mov(eax, 0x400)?;
    a.out(dx, eax)?;
    a.nop()?;
    a.log_number(3)?;
    a.jmp(back)?;
    a.set_label(&mut done)?;
    a.log_number(4)?;
    a.set_label(&mut back)?;
    a.iret()?;
    b.load_legacy(OWN, OWN, a)?;
    b.ram.write(Gpa(8), &((OWN << 12) as u32).to_le_bytes())?;
    b.write(DATA, 0)?;
    same("the order", b.run()?.values(), vec![2, 3, 2, 4, 1])
}

fn external(b: &mut Bench<'_>) -> Checked {
    let (code, after) = virtual86(b, 0x202, |a| {
        a.mov(edx, u32::from(port::EXT_INT))?;
        a.mov(eax, 1)?;
        a.out(dx, eax)?;
        let after = a.here()?;
        a.nop()?;
        a.log_selector(ds)?;
        Ok(after)
    })?;
    b.state.lapic.registers[0x35] = 0x700;
    let run = b.run()?;
    let trap = run.trap(0)?;
    let expected = (u64::from(crate::board::EXT_INT_VECTOR), code.at(&after)?, V86_CODE >> 4);
    same("vector, EIP, CS", (trap.vector, trap.rip, trap.cs), expected)?;
    same("DS", run.values(), vec![V86_DATA >> 4])
}

/// A task of ring 0 at [`OWN`] with these flags, as the test's own descriptor 0.
fn task(b: &mut Bench<'_>, flags: u64) -> Checked<u16> {
    b.ram.write(Gpa(TASKS), &[0; 0x100])?;
    let data = u64::from(selector::DATA);
    for (offset, value) in [
        (0x20, OWN),
        (0x24, flags),
        (0x38, 0x5_0000),
        (0x48, data),
        (0x4c, 8),
        (0x50, data),
        (0x54, data),
        (0x64, 0x68 << 16),
    ] {
        b.ram.write(Gpa(TASKS + offset), &(value as u32).to_le_bytes())?;
    }
    b.own(0, descriptor(TASKS, 0x67, 0x89))
}

fn by_task(b: &mut Bench<'_>) -> Checked {
    let (code, after) = protected(b, |a| {
        a.mov(edx, u32::from(port::EXT_INT))?;
        a.mov(eax, 1)?;
        a.sti()?;
        a.nop()?;
        a.out(dx, eax)?;
        let after = a.here()?;
        a.nop()?;
        a.log_flags()?;
        a.log(esp)?;
        Ok(after)
    })?;
    let mut a = crate::bench::Asm::new(32)?;
    a.log(esp)?;
    a.mov(eax, dword_ptr(TSS + 0x20))?;
    a.log_eax()?;
    a.iretd()?;
    b.load_legacy(OWN, 0, a)?;
    let selector = task(b, 2)?;
    b.gate32(crate::board::EXT_INT_VECTOR, gate(0x85, selector, 0, 0))?;
    b.state.lapic.registers[0x35] = 0x700;
    let expected = vec![0x5_0000, code.at(&after)?, 0x202, crate::layout::STACK];
    same("ESP, EIP of the old task; EFLAGS, ESP", b.run()?.values(), expected)
}

fn into_task(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| Ok(a.far_jump(FREE_SELECTOR, 0)?))?;
    legacy(b, (32, OWN, 0), |a| {
        a.nop()?;
        a.nop()?;
        a.push(2)?;
        a.popfd()?;
        Ok(())
    })?;
    task(b, 0x102)?;
    // TF of the new task: the first trap is behind its first instruction.
    same("the traps", places(&b.run()?, OWN), vec![(1, 1), (1, 2), (1, 4), (1, 5)])
}
