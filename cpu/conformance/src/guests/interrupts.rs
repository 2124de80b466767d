//! When interrupts come: flags, shadows, HLT, NMI.

use super::{Emit, handler, kernel, raise, user};
use crate::Guest;
use crate::bench::{Bench, Checked, Code, Gate, same};
use crate::board::{EXT_INT_VECTOR, Event, port};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "STI holds interrupts off for one instruction", manual: "vol. 2, STI", check: sti_shadow },
    Guest { name: "STI then CLI lets nothing in", manual: "vol. 2, STI", check: sti_cli },
    Guest { name: "STI then HLT wakes behind HLT", manual: "vol. 2, STI and HLT", check: sti_hlt },
    Guest { name: "STI with interrupts on has no shadow", manual: "vol. 2, STI", check: second_sti },
    Guest { name: "POPF lets interrupts in at once", manual: "vol. 3, 6.8.1", check: popf },
    Guest { name: "IRET lets interrupts in at once", manual: "vol. 3, 6.8.1", check: iret },
    Guest { name: "CLI, STI and POPF with IOPL in ring 3", manual: "vol. 3, 6.8.1", check: io_privilege },
    Guest { name: "HLT goes on behind itself", manual: "vol. 2, HLT", check: hlt },
    Guest { name: "interrupts between iterations", manual: "vol. 1, 7.3.9.2; vol. 3, 17.3.1.1", check: repeated },
    Guest { name: "NMI needs no IF and blocks itself until IRET", manual: "vol. 3, 6.7", check: nmi },
    Guest { name: "ExtINT through LINT0", manual: "vol. 3, 11.5.1", check: ext_int },
    Guest { name: "interrupts in ring 3 switch stacks", manual: "vol. 3, 6.12.1", check: from_user },
];

const VECTOR: i32 = 0x51;

fn sti_shadow(b: &mut Bench<'_>) -> Checked {
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        raise(a, VECTOR)?;
        a.sti()?;
        a.nop()?;
        a.set_label(&mut at)?;
        a.nop()?;
        a.cli()?;
        Ok(at)
    })?;
    let run = b.run()?;
    same("the interrupts", run.faults(), vec![(VECTOR as u64, 0)])?;
    same("RIP", run.trap(0)?.rip, code.at(&at)?)?;
    same("RFLAGS", run.trap(0)?.flags & (rflags::IF | rflags::RF), rflags::IF)
}

fn sti_cli(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        raise(a, VECTOR)?;
        for _ in 0..8 {
            a.sti()?;
            a.cli()?;
        }
        a.log_number(1)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the interrupts", run.faults(), vec![])?;
    same("the values", run.values(), vec![1])
}

/// Runs the guest: one interrupt comes, at the label.
fn interrupted_once(b: &mut Bench<'_>, code: &Code, at: &CodeLabel) -> Checked {
    let run = b.run()?;
    same("the interrupts", run.faults(), vec![(VECTOR as u64, 0)])?;
    same("RIP", run.trap(0)?.rip, code.at(at)?)
}

fn sti_hlt(b: &mut Bench<'_>) -> Checked {
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        raise(a, VECTOR)?;
        a.sti()?;
        a.hlt()?;
        a.set_label(&mut at)?;
        a.cli()?;
        Ok(at)
    })?;
    interrupted_once(b, &code, &at)
}

fn second_sti(b: &mut Bench<'_>) -> Checked {
    // CR8 lets the interrupt go while IF is on; the STI behind it must not hold it off again.
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        a.mov(ecx, 15)?;
        a.mov(cr8, rcx)?;
        raise(a, VECTOR)?;
        a.sti()?;
        a.xor(ecx, ecx)?;
        a.mov(cr8, rcx)?;
        a.set_label(&mut at)?;
        a.sti()?;
        a.nop()?;
        a.cli()?;
        Ok(at)
    })?;
    interrupted_once(b, &code, &at)
}

fn popf(b: &mut Bench<'_>) -> Checked {
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        raise(a, VECTOR)?;
        a.push(0x202)?;
        a.popfq()?;
        a.set_label(&mut at)?;
        a.cli()?;
        Ok(at)
    })?;
    same("RIP", b.run()?.trap(0)?.rip, code.at(&at)?)
}

fn iret(b: &mut Bench<'_>) -> Checked {
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        raise(a, VECTOR)?;
        a.mov(rcx, rsp)?;
        a.push(i32::from(selector::DATA))?;
        a.push(rcx)?;
        a.push(0x202)?;
        a.push(i32::from(selector::CODE))?;
        a.lea(rax, ptr(at))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut at)?;
        a.cli()?;
        Ok(at)
    })?;
    same("RIP", b.run()?.trap(0)?.rip, code.at(&at)?)
}

fn io_privilege(b: &mut Bench<'_>) -> Checked {
    let log_flags: Emit = |a| {
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)
    };
    user(b, 0x202, |a| {
        a.faulting(|a| a.cli())?;
        a.faulting(|a| a.sti())?;
        a.push(0x3002)?;
        a.popfq()?;
        log_flags(a)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults with IOPL 0", run.faults(), vec![(13, 0), (13, 0)])?;
    same("RFLAGS with IOPL 0", run.values(), vec![0x202])?;
    user(b, 0x3202, |a| {
        a.cli()?;
        log_flags(a)?;
        a.sti()?;
        log_flags(a)?;
        a.push(2)?;
        a.popfq()?;
        log_flags(a)?;
        Ok(())
    })?;
    same("RFLAGS with IOPL 3", b.run()?.values(), vec![0x3002, 0x3202, 0x3002])
}

fn hlt(b: &mut Bench<'_>) -> Checked {
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        // The timer, once, in a millisecond.
        a.mov(dword_ptr(APIC + 0x3e0), 0xb)?;
        a.mov(dword_ptr(APIC + 0x320), VECTOR)?;
        a.mov(dword_ptr(APIC + 0x380), 25_000)?;
        a.sti()?;
        a.hlt()?;
        a.set_label(&mut at)?;
        a.log_number(1)?;
        a.cli()?;
        Ok(at)
    })?;
    let run = b.run()?;
    same("RIP", run.trap(0)?.rip, code.at(&at)?)?;
    same("the values", run.values(), vec![1])
}

fn repeated(b: &mut Bench<'_>) -> Checked {
    const COUNT: u64 = 0x40_0000;
    let (code, at) = kernel(b, |a| {
        let (mut at, mut again) = (a.create_label(), a.create_label());
        a.mov(dword_ptr(APIC + 0x3e0), 0xb)?;
        a.mov(dword_ptr(APIC + 0x320), VECTOR)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut again)?;
        a.mov(rcx, COUNT - 0x1000)?;
        a.mov(rsi, 0x1000u64)?;
        a.mov(dword_ptr(APIC + 0x380), 5_000)?;
        a.sti()?;
        a.nop()?;
        a.set_label(&mut at)?;
        a.rep().lodsb()?;
        a.cli()?;
        a.test(ebp, ebp)?;
        a.jz(again)?;
        a.log(rsi)?;
        a.log(rcx)?;
        Ok(at)
    })?;
    // Only the first interrupt counts that comes after some iterations and before the last.
    handler(b, HANDLERS + 0x8000, |a| {
        let (mut out, mut rearm) = (a.create_label(), a.create_label());
        a.test(ebp, ebp)?;
        a.jnz(out)?;
        a.jrcxz(out)?;
        a.cmp(rcx, COUNT as i32 - 0x1000)?;
        a.je(rearm)?;
        a.inc(ebp)?;
        a.log(rsi)?;
        a.log(rcx)?;
        a.mov(rbx, qword_ptr(rsp))?;
        a.log(rbx)?;
        a.mov(rbx, qword_ptr(rsp + 16))?;
        a.log(rbx)?;
        a.jmp(out)?;
        a.set_label(&mut rearm)?;
        a.mov(dword_ptr(APIC + 0x380), 5_000)?;
        a.set_label(&mut out)?;
        a.end_of_interrupt()?;
        Ok(a.iretq()?)
    })?;
    b.gate(VECTOR as u8, Gate::to(HANDLERS + 0x8000))?;
    let values = b.run()?.values();
    let [source, count, rip, flags, rest @ ..] = values.as_slice() else {
        return same("what the handler logs", values, vec![]);
    };
    same("RIP", *rip, code.at(&at)?)?;
    same("RSI and RCX together", source + count, COUNT)?;
    same("RF between iterations", flags & rflags::RF, rflags::RF)?;
    same("RSI and RCX at the end", rest.to_vec(), vec![COUNT, 0])
}

fn nmi(b: &mut Bench<'_>) -> Checked {
    const NMI: i32 = 0x400;
    handler(b, HANDLERS + 0x8000, |a| {
        let mut second = a.create_label();
        a.inc(rbx)?;
        a.log(rbx)?;
        a.cmp(rbx, 1)?;
        a.jne(second)?;
        a.mov(edx, u32::from(port::MSI))?;
        a.mov(eax, NMI)?;
        a.out(dx, eax)?;
        // A second one in the meantime is the same one.
        a.out(dx, eax)?;
        for _ in 0..20 {
            a.pause()?;
        }
        a.set_label(&mut second)?;
        a.log_number(0x100)?;
        Ok(a.iretq()?)
    })?;
    b.gate(2, Gate::to(HANDLERS + 0x8000))?;
    kernel(b, |a| {
        let mut wait = a.create_label();
        a.xor(ebx, ebx)?;
        a.mov(edx, u32::from(port::MSI))?;
        a.mov(eax, NMI)?;
        a.out(dx, eax)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(rbx, 2)?;
        a.jb(wait)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![1, 0x100, 2, 0x100])
}

fn ext_int(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        let mut wait = a.create_label();
        // LINT0 is masked first.
        a.mov(edx, u32::from(port::EXT_INT))?;
        a.mov(eax, 1)?;
        a.out(dx, eax)?;
        a.sti()?;
        for _ in 0..20 {
            a.pause()?;
        }
        a.cli()?;
        a.log_number(1)?;
        a.mov(dword_ptr(APIC + 0x350), 0x700)?;
        a.log_number(2)?;
        a.lea(rax, ptr(wait))?;
        a.mov(qword_ptr(RESUME), rax)?;
        a.sti()?;
        let mut spin = a.create_label();
        a.set_label(&mut spin)?;
        a.pause()?;
        a.jmp(spin)?;
        a.set_label(&mut wait)?;
        a.cli()?;
        // Nothing in the APIC is in service.
        for register in 0..8u64 {
            a.mov(eax, dword_ptr(APIC + 0x100 + 0x10 * register))?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    let run = b.run()?;
    same("the interrupts", run.faults(), vec![(EXT_INT_VECTOR.into(), 0)])?;
    same("the values", run.values(), vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 0])?;
    let acknowledged: Vec<usize> =
        (0..run.events.len()).filter(|&n| run.events.get(n) == Some(&Event::Acknowledged)).collect();
    same("where the acknowledge cycle came", acknowledged, vec![2])
}

fn from_user(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        raise(a, VECTOR)?;
        a.to_user(USER_CODE, USER_STACK, 0x202)?;
        Ok(())
    })?;
    handler(b, HANDLERS + 0x8000, |a| {
        a.log(rsp)?;
        for slot in 0..5 {
            a.mov(rax, qword_ptr(rsp + 8 * slot))?;
            a.log(rax)?;
        }
        a.end_of_interrupt()?;
        Ok(a.finish()?)
    })?;
    b.gate(VECTOR as u8, Gate::to(HANDLERS + 0x8000))?;
    let mut a = b.assembler(64)?;
    a.stop()?;
    b.load(USER_CODE, &mut a)?;
    let values = b.run()?.values();
    let flags = values.get(3).copied().unwrap_or(0) & (rflags::IF | rflags::RF);
    same("IF and RF", flags, rflags::IF)?;
    let place: Vec<u64> = [0, 1, 2, 4, 5].iter().filter_map(|&n: &usize| values.get(n).copied()).collect();
    same("RSP, RIP, CS, RSP, SS", place, vec![RSP0 - 40, USER_CODE, 0x33, USER_STACK, 0x2b])
}
