//! SYSCALL, SYSENTER and their returns, SWAPGS, FSGSBASE.

use super::{handler, kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr4, efer, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "SYSCALL and SYSRET", manual: "vol. 2, SYSCALL and SYSRET", check: syscall },
    Guest { name: "SYSCALL without SCE", manual: "vol. 2, SYSCALL", check: no_sce },
    Guest { name: "SYSRET to a non-canonical address", manual: "vol. 2, SYSRET", check: bad_sysret },
    Guest { name: "SYSCALL, SYSRET and TF", manual: "vol. 2, SYSCALL and SYSRET", check: stepped },
    Guest { name: "SYSENTER and SYSEXIT", manual: "vol. 2, SYSENTER and SYSEXIT", check: sysenter },
    Guest { name: "SYSENTER and SYSEXIT without a segment", manual: "vol. 2, SYSENTER", check: no_sysenter },
    Guest { name: "SWAPGS", manual: "vol. 2, SWAPGS", check: swapgs },
    Guest { name: "FSGSBASE", manual: "vol. 2, RDFSBASE and WRFSBASE", check: fsgsbase },
];

const ENTRY: u64 = HANDLERS + 0x8000;

/// Logs selectors and attributes as LAR sees neither: CS, SS, then RFLAGS, RCX and R11.
fn log_entry(a: &mut CodeAssembler) -> Checked {
    // Flags first: they are what MOV does not change.
    a.mov(r10, rsp)?;
    a.mov(rsp, STACK)?;
    a.pushfq()?;
    a.pop(rax)?;
    a.log(rax)?;
    a.mov(eax, cs)?;
    a.log(rax)?;
    a.mov(eax, ss)?;
    a.log(rax)?;
    a.log(rcx)?;
    a.log(r11)?;
    a.mov(rsp, r10)?;
    Ok(())
}

fn prepare(b: &mut Bench<'_>, fmask: u64) {
    b.state.msrs.star = 0x23 << 48 | 0x0b << 32;
    b.state.msrs.lstar = ENTRY;
    b.state.msrs.fmask = fmask;
}

fn syscall(b: &mut Bench<'_>) -> Checked {
    prepare(b, rflags::IF | rflags::DF | rflags::TF);
    handler(b, ENTRY, |a| {
        log_entry(a)?;
        // What SYSRET takes from R11: all but RF, VM and the reserved bits.
        a.mov(r11, 0xffff_ffff_fff3_f0d7u64 & !(rflags::TF | rflags::NT | rflags::AC))?;
        Ok(a.sysretq()?)
    })?;
    let flags = (rflags::IF | rflags::DF | rflags::CF | rflags::FIXED_1) as i32;
    let (code, after) = user(b, flags, |a| {
        let mut after = a.create_label();
        a.mov(rbx, rsp)?;
        a.syscall()?;
        a.set_label(&mut after)?;
        a.mov(rbp, rsp)?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        a.mov(eax, cs)?;
        a.log(rax)?;
        a.mov(eax, ss)?;
        a.log(rax)?;
        a.log(rbp)?;
        // The stack segment is one that may be used.
        a.push(rax)?;
        a.pop(rax)?;
        Ok(after)
    })?;
    let returned = 0x3c_7fd7 & 0xfff3_f0d7 & !(rflags::TF | rflags::NT | rflags::AC) | rflags::FIXED_1;
    let run = b.run()?;
    let expected = vec![3, 0x08, 0x10, code.at(&after)?, flags as u64, returned, 0x33, 0x2b, USER_STACK];
    same("RFLAGS, CS, SS, RCX, R11; RFLAGS, CS, SS, RSP", run.values(), expected)
}

fn no_sce(b: &mut Bench<'_>) -> Checked {
    prepare(b, 0);
    b.state.msrs.efer &= !efer::SCE;
    kernel(b, |a| {
        a.faulting(|a| a.syscall())?;
        a.faulting(|a| a.sysretq())?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(6, 0), (6, 0)])
}

fn bad_sysret(b: &mut Bench<'_>) -> Checked {
    prepare(b, 0);
    kernel(b, |a| {
        a.mov(rcx, 1u64 << 47)?;
        a.mov(r11, 2u64)?;
        a.faulting(|a| a.sysretq())?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0)])?;
    // Before anything has changed: the fault is one of ring 0 on its own stack.
    same("CS and RSP", (run.trap(0)?.cs, run.trap(0)?.rsp), (8, STACK))
}

fn stepped(b: &mut Bench<'_>) -> Checked {
    prepare(b, rflags::TF);
    handler(b, ENTRY, |a| {
        a.nop()?;
        a.nop()?;
        Ok(a.sysretq()?)
    })?;
    let (code, (start, after)) = user(b, (rflags::TF | rflags::FIXED_1) as i32, |a| {
        let (mut start, mut after) = (a.create_label(), a.create_label());
        a.set_label(&mut start)?;
        a.nop()?;
        a.syscall()?;
        a.set_label(&mut after)?;
        a.nop()?;
        a.push(2)?;
        a.popfq()?;
        Ok((start, after))
    })?;
    let run = b.run()?;
    let (start, after) = (code.at(&start)?, code.at(&after)?);
    let places: Vec<(u64, u64)> = run.traps().iter().map(|trap| (trap.vector, trap.rip)).collect();
    same("the traps", places, vec![(1, start + 1), (1, after), (1, after + 1), (1, after + 3), (1, after + 4)])
}

fn sysenter(b: &mut Bench<'_>) -> Checked {
    b.state.msrs.sysenter_cs = 0x0b;
    b.state.msrs.sysenter_eip = ENTRY;
    b.state.msrs.sysenter_esp = RSP0;
    handler(b, ENTRY, |a| {
        a.mov(rbp, rsp)?;
        a.log(rbp)?;
        log_entry(a)?;
        a.mov(rdx, USER_CODE + 0x100)?;
        a.mov(rcx, USER_STACK - 0x40)?;
        Ok(a.sysexitq()?)
    })?;
    kernel(b, |a| {
        a.mov(ecx, 0x11)?;
        a.mov(r11, 0x22u64)?;
        Ok(a.to_user(USER_CODE, USER_STACK, 0x203)?)
    })?;
    let mut a = b.assembler(64)?;
    a.sysenter()?;
    b.load(USER_CODE, &mut a)?;
    let mut a = b.assembler(64)?;
    a.pushfq()?;
    a.pop(rax)?;
    a.log(rax)?;
    a.mov(eax, cs)?;
    a.log(rax)?;
    a.mov(eax, ss)?;
    a.log(rax)?;
    a.log(rsp)?;
    a.finish()?;
    b.load(USER_CODE + 0x100, &mut a)?;
    // SYSEXIT leaves IF as it is.
    let expected = vec![RSP0, 3, 0x08, 0x10, 0x11, 0x22, 3, 0x2b, 0x33, USER_STACK - 0x40];
    same("RSP, RFLAGS, CS, SS, RCX, R11; RFLAGS, CS, SS, RSP", b.run()?.values(), expected)
}

fn no_sysenter(b: &mut Bench<'_>) -> Checked {
    b.state.msrs.sysenter_cs = 3;
    kernel(b, |a| {
        a.faulting(|a| a.sysexit())?;
        a.faulting(|a| a.sysenter())?;
        Ok(a.to_user(USER_CODE, USER_STACK, 2)?)
    })?;
    let mut a = b.assembler(64)?;
    a.faulting(|a| a.sysenter())?;
    a.faulting(|a| a.sysexit())?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 4])
}

fn swapgs(b: &mut Bench<'_>) -> Checked {
    b.state.msrs.kernel_gs_base = DATA;
    b.state.segments.gs.base = DATA + 0x1000;
    b.write(DATA, 0x11)?;
    b.write(DATA + 0x1000, 0x22)?;
    kernel(b, |a| {
        for _ in 0..3 {
            a.mov(rax, qword_ptr(0).gs())?;
            a.log(rax)?;
            a.swapgs()?;
        }
        a.mov(ecx, 0xc000_0102u32)?;
        a.rdmsr()?;
        a.mov(eax, eax)?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x22, 0x11, 0x22, DATA + 0x1000])
}

fn fsgsbase(b: &mut Bench<'_>) -> Checked {
    b.write(USER_DATA + 8, 0x33)?;
    b.gate(0x80, Gate { dpl: 3, ..Gate::to(ENTRY) })?;
    handler(b, ENTRY, |a| {
        a.mov(rcx, cr4)?;
        a.and(rcx, !(cr4::FSGSBASE as i32))?;
        a.mov(cr4, rcx)?;
        Ok(a.iretq()?)
    })?;
    user(b, 2, |a| {
        a.mov(rbx, USER_DATA)?;
        a.wrfsbase(rbx)?;
        a.mov(rax, qword_ptr(8).fs())?;
        a.log(rax)?;
        a.mov(rax, 0xffff_8000_1234_5678u64)?;
        a.wrgsbase(rax)?;
        a.rdgsbase(rcx)?;
        a.log(rcx)?;
        a.rdgsbase(ecx)?;
        a.log(rcx)?;
        a.wrgsbase(eax)?;
        a.rdgsbase(rcx)?;
        a.log(rcx)?;
        a.mov(rax, 1u64 << 47)?;
        a.faulting(|a| a.wrgsbase(rax))?;
        a.int(0x80)?;
        a.faulting(|a| a.rdgsbase(rcx))?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x33, 0xffff_8000_1234_5678, 0x1234_5678, 0x1234_5678])?;
    same("the faults", run.faults(), vec![(13, 0), (6, 0)])
}
