//! Hardware task switches (SDM vol. 3, chapter 7).

use crate::Guest;
use crate::bench::{Bench, Checked, Paging, descriptor, gate, page, same};
use crate::guests::{legacy, protected, protected_user};
use crate::layout::legacy::*;
use crate::layout::{CODE, FRAMES, FREE, GDT, IST1, RSP0, STACK, TSS, USER_STACK, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "task switch by CALL and back by IRET", manual: "vol. 3, 7.3 and 7.4", check: call },
    Guest { name: "task switch by JMP", manual: "vol. 3, 7.3", check: jump },
    Guest {
        name: "task gate for an exception with an error code",
        manual: "vol. 3, 7.2.5 and 6.12.2",
        check: exception,
    },
    Guest { name: "task gate from ring 3", manual: "vol. 3, 7.2.5", check: from_ring3 },
    Guest { name: "task switch: what it refuses before", manual: "vol. 3, table 7-1", check: refused },
    Guest { name: "task switch: what faults in the new task", manual: "vol. 3, table 7-1", check: bad_contents },
    Guest { name: "task switch to a 16-bit TSS and back", manual: "vol. 3, 7.6", check: to_16_bit },
    Guest { name: "task switch with the T bit", manual: "vol. 3, 17.3.1.5", check: trap_bit },
    Guest { name: "double fault by a task gate", manual: "vol. 3, 6.15, interrupt 8", check: double_fault },
    Guest { name: "IRET with NT and a bad link", manual: "vol. 2, IRET", check: bad_link },
    Guest { name: "task switch: CR3 and LDTR", manual: "vol. 3, 7.5", check: address_space },
    Guest { name: "task switch to V86", manual: "vol. 3, 20.2.5", check: to_virtual86 },
    Guest { name: "task switch clears local breakpoints", manual: "vol. 3, 17.2.4", check: local_breakpoints },
];

/// Offsets in a 32-bit TSS.
mod field {
    pub const LINK: u64 = 0;
    pub const CR3: u64 = 0x1c;
    pub const EIP: u64 = 0x20;
    pub const EFLAGS: u64 = 0x24;
    pub const EAX: u64 = 0x28;
    pub const EBX: u64 = 0x34;
    pub const ESP: u64 = 0x38;
    pub const EDI: u64 = 0x44;
    pub const ES: u64 = 0x48;
    pub const CS: u64 = 0x4c;
    pub const SS: u64 = 0x50;
    pub const DS: u64 = 0x54;
    pub const LDT: u64 = 0x60;
    pub const TRAP: u64 = 0x64;
}

fn put(b: &Bench<'_>, at: u64, value: u64) -> Checked {
    Ok(b.ram.write(Gpa(at), &(value as u32).to_le_bytes())?)
}

fn get(b: &Bench<'_>, at: u64) -> Checked<u64> {
    Ok(b.read(at)? & 0xffff_ffff)
}

const fn tss(index: u16) -> u64 {
    TASKS + 0x100 * index as u64
}

const fn task_selector(index: u16) -> u16 {
    FREE_SELECTOR + 8 * index
}

/// A task of ring 0 that begins at `entry`, with a stack at IST1. Gives its selector.
fn task(b: &mut Bench<'_>, index: u16, entry: u64) -> Checked<u16> {
    let at = tss(index);
    b.ram.write(Gpa(at), &[0; 0x100])?;
    for (offset, value) in [
        (4, RSP0 - 0x800),
        (8, selector::DATA.into()),
        (field::EIP, entry),
        (field::EFLAGS, 2),
        (field::ESP, IST1 - 0x800 * u64::from(index)),
        (field::CS, selector::CODE.into()),
    ] {
        put(b, at + offset, value)?;
    }
    for offset in [field::ES, field::SS, field::DS, field::DS + 4, field::DS + 8] {
        put(b, at + offset, selector::DATA.into())?;
    }
    put(b, at + field::TRAP, 0x68 << 16)?;
    b.own(index, descriptor(at, 0x67, 0x89))
}

fn rights(b: &Bench<'_>, selector: u16) -> Checked<u64> {
    Ok(b.read(GDT + u64::from(selector & !7))? >> 40 & 0xff)
}

/// Logs CR0.TS.
fn log_ts(a: &mut crate::bench::Asm) -> Checked {
    a.mov(eax, cr0)?;
    a.and(eax, 8)?;
    Ok(a.log_eax()?)
}

fn call(b: &mut Bench<'_>) -> Checked {
    let (code, after) = protected(b, |a| {
        a.mov(ebx, 0x1111)?;
        a.mov(edi, 0x2222)?;
        a.push((rflags::IOPL | rflags::CF | 2) as i32)?;
        a.popfd()?;
        a.far_call(task_selector(0), 0xffff_ffff)?;
        let after = a.here()?;
        a.log(ebx)?;
        a.log(edi)?;
        a.log_flags()?;
        a.str(ecx)?;
        a.log(ecx)?;
        a.far_call(task_selector(0), 0)?;
        a.log(esp)?;
        Ok(after)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(ebx)?;
        a.log(esp)?;
        a.log_flags()?;
        a.str(ecx)?;
        a.log(ecx)?;
        log_ts(a)?;
        a.mov(ebx, 0x88)?;
        a.iretd()?;
        // The second call goes on where the task was left, with the registers that it had.
        a.log(ebx)?;
        Ok(a.iretd()?)
    })?;
    let selector = task(b, 0, OWN)?;
    put(b, tss(0) + field::EBX, 0x77)?;
    let run = b.run()?;
    let flags = rflags::IOPL | rflags::CF | 2;
    let main = u64::from(selector::TASK);
    let inside = [0x77, IST1, rflags::NT | 2, selector.into(), 8];
    let behind = [0x1111, 0x2222, flags, main, 0x88, STACK];
    same("the values", run.values(), [&inside[..], &behind].concat())?;
    same("the link", b.read(tss(0))? & 0xffff, main)?;
    same("NT in the TSS that IRET left", get(b, tss(0) + field::EFLAGS)? & rflags::NT, 0)?;
    same("the types of the TSSs", (rights(b, selector)?, rights(b, selector::TASK)?), (0x89, 0x8b))?;
    // What the last switch saved: the second call.
    same("EDI in the old TSS", get(b, TSS + field::EDI)?, 0x2222)?;
    same("that EIP was saved", get(b, TSS + field::EIP)? > code.at(&after)?, true)?;
    same(
        "CS and SS in the old TSS",
        (b.read(TSS + field::CS)? & 0xffff, b.read(TSS + field::SS)? & 0xffff),
        (8, 0x10),
    )?;
    same("ESP in the old TSS", get(b, TSS + field::ESP)?, STACK)
}

fn jump(b: &mut Bench<'_>) -> Checked {
    let (code, after) = protected(b, |a| {
        a.far_jump(task_selector(0), 0)?;
        let after = a.here()?;
        a.str(ecx)?;
        a.log(ecx)?;
        Ok(after)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_flags()?;
        a.str(ecx)?;
        a.log(ecx)?;
        a.movzx(eax, word_ptr(tss(0)))?;
        a.log_eax()?;
        // The types of both.
        for selector in [task_selector(0), selector::TASK] {
            a.movzx(eax, byte_ptr(GDT + u64::from(selector) + 5))?;
            a.log_eax()?;
        }
        Ok(a.far_jump(selector::TASK, 0)?)
    })?;
    let selector = task(b, 0, OWN)?;
    put(b, tss(0) + field::LINK, 0xaaaa)?;
    let run = b.run()?;
    let expected = vec![2, selector.into(), 0xaaaa, 0x8b, 0x89, selector::TASK.into()];
    same("EFLAGS, TR, link, types; TR", run.values(), expected)?;
    same("EIP in the old TSS", get(b, TSS + field::EIP)?, code.at(&after)?)?;
    same("the types at last", (rights(b, selector)?, rights(b, selector::TASK)?), (0x89, 0x8b))
}

fn exception(b: &mut Bench<'_>) -> Checked {
    let (code, place) = protected(b, |a| {
        a.mov(eax, u32::from(BEYOND))?;
        let place = a.here()?;
        // MOV DS, EAX: two bytes.
        a.mov(ds, eax)?;
        a.int(0x81)?;
        a.log(esp)?;
        Ok(place)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        a.pop(eax)?;
        a.log_eax()?;
        a.mov(eax, dword_ptr(TSS + field::EIP))?;
        a.log_eax()?;
        a.add(dword_ptr(TSS + field::EIP), 2)?;
        a.log_flags()?;
        a.iretd()?;
        // Of INT n there is no error code.
        a.log(esp)?;
        Ok(a.iretd()?)
    })?;
    let selector = task(b, 0, OWN)?;
    b.gate32(13, gate(0x85, selector, 0, 0))?;
    b.gate32(0x81, gate(0x85, selector, 0, 0))?;
    let expected = vec![IST1 - 4, BEYOND.into(), code.at(&place)?, rflags::NT | 2, IST1, STACK];
    let found: Vec<u64> = b.run()?.values();
    let found = found.iter().enumerate().map(|(n, value)| if n == 3 { value & !rflags::ARITHMETIC } else { *value });
    same("ESP, error code, EIP, EFLAGS; ESP; ESP", found.collect(), expected)
}

fn from_ring3(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 0x202, |a| {
        a.far_call(task_selector(1) | 3, 0)?;
        a.log_selector(cs)?;
        a.log(esp)?;
        a.int(0x81)?;
        a.log_flags()?;
        // The TSS itself is only for ring 0, whatever the RPL is; so is the other gate.
        for selector in [task_selector(0), task_selector(2) | 3] {
            a.faulting(|a| {
                a.db(&[0x9a])?;
                a.dd(&[0])?;
                a.dw(&[selector])
            })?;
        }
        Ok(())
    })?;
    legacy(b, (32, OWN, 0), |a| {
        let again = a.here()?;
        a.log_selector(cs)?;
        a.iretd()?;
        Ok(a.jmp(again)?)
    })?;
    let selector = task(b, 0, OWN)?;
    b.own(1, gate(0xe5, selector, 0, 0))?;
    b.own(2, gate(0x85, selector, 0, 0))?;
    b.gate32(0x81, gate(0xe5, selector, 0, 0))?;
    let run = b.run()?;
    same("the values", run.values(), vec![8, 0x33, USER_STACK, 8, 0x202])?;
    same("the faults", run.faults(), vec![(13, task_selector(0).into()), (13, task_selector(2).into())])
}

fn refused(b: &mut Bench<'_>) -> Checked {
    let at = tss(0);
    let own = u64::from(task_selector(1));
    // The descriptor that is called, and the fault; one for a TSS that is no better behind a gate.
    let cases = [
        (descriptor(at, 0x67, 0x8b), (13, own)),
        (descriptor(at, 0x67, 0x09), (11, own)),
        (descriptor(at, 0x66, 0x89), (10, own)),
        (descriptor(at, 0x2a, 0x81), (10, own)),
        (gate(0x05, task_selector(0), 0, 0), (11, own)),
        (gate(0x85, task_selector(0) | 4, 0, 0), (13, u64::from(task_selector(0)) | 4)),
        (gate(0x85, selector::DATA, 0, 0), (13, 0x10)),
        (gate(0x85, BEYOND, 0, 0), (13, BEYOND.into())),
        (gate(0x85, selector::TASK, 0, 0), (13, 0x38)),
    ];
    for (value, fault) in cases {
        protected(b, |a| {
            a.faulting(|a| {
                a.db(&[0x9a])?;
                a.dd(&[0])?;
                a.dw(&[task_selector(1)])
            })?;
            a.str(ecx)?;
            a.log(ecx)?;
            a.log(esp)?;
            Ok(())
        })?;
        task(b, 0, OWN)?;
        b.own(1, value)?;
        let run = b.run()?;
        same(format!("the fault of {value:x}"), run.faults(), vec![fault])?;
        same("TR and ESP", run.values(), vec![selector::TASK.into(), STACK])?;
    }
    // By an interrupt: with EXT if it is an exception.
    protected(b, |a| {
        a.faulting(|a| a.int(0x80))?;
        a.faulting(|a| a.ud2())?;
        Ok(())
    })?;
    b.gate32(0x80, gate(0x85, selector::TASK, 0, 0))?;
    b.gate32(6, gate(0x85, selector::TASK, 0, 0))?;
    same("the faults", b.run()?.faults(), vec![(13, 0x38), (13, 0x39)])
}

fn bad_contents(b: &mut Bench<'_>) -> Checked {
    let absent_ldt = task_selector(2);
    let cases = [
        (field::LDT, u64::from(selector::DATA), (10, 0x10)),
        (field::LDT, absent_ldt.into(), (10, absent_ldt.into())),
        (field::LDT, 0x44, (10, 0x44)),
        (field::CS, 0, (10, 0)),
        (field::CS, 0x10, (10, 0x10)),
        (field::CS, 0x30, (10, 0x30)),
        (field::CS, 0x0b, (10, 0x08)),
        (field::CS, selector::ABSENT_CODE.into(), (11, 0x58)),
        (field::SS, 0, (10, 0)),
        (field::SS, selector::READ_ONLY.into(), (10, 0x60)),
        (field::SS, selector::USER_DATA.into(), (10, 0x28)),
        (field::SS, selector::ABSENT.into(), (12, 0x48)),
        (field::DS, BEYOND.into(), (10, BEYOND.into())),
        (field::DS, selector::ABSENT.into(), (11, 0x48)),
        (field::ES, selector::TASK.into(), (10, 0x38)),
        (field::DS + 8, 0x13, (10, 0x10)),
    ];
    for (offset, value, (vector, error)) in cases {
        protected(b, |a| Ok(a.far_call(task_selector(0), 0)?))?;
        // The handlers are a task of their own, so that whatever the new task lacks does not matter.
        legacy(b, (32, OWN, 0), |a| {
            a.pop(eax)?;
            a.log_eax()?;
            a.movzx(eax, word_ptr(tss(1)))?;
            a.log_eax()?;
            Ok(a.finish()?)
        })?;
        task(b, 0, CODE)?;
        task(b, 1, OWN)?;
        b.own(2, descriptor(LDT, 0xff, 0x02))?;
        put(b, tss(0) + offset, value)?;
        b.gate32(vector, gate(0x85, task_selector(1), 0, 0))?;
        let values = b.run()?.values();
        let what = format!("error code and task of {value:x} at {offset:x}");
        same(what, values, vec![error, task_selector(0).into()])?;
    }
    Ok(())
}

fn to_16_bit(b: &mut Bench<'_>) -> Checked {
    let at = tss(0);
    protected(b, |a| {
        a.mov(ebx, 0x1234_5678)?;
        a.far_jump(task_selector(0), 0)?;
        a.log(ebx)?;
        a.log(esp)?;
        a.log_selector(fs)?;
        Ok(())
    })?;
    legacy(b, (16, OWN, OWN), |a| {
        for register in [ax, sp, di] {
            a.movzx(eax, register)?;
            a.log_eax()?;
        }
        for segment in [cs, ss, ds, es, fs, gs] {
            a.log_selector(segment)?;
        }
        a.log_flags()?;
        a.str(cx)?;
        a.mov(bx, 0x4321)?;
        Ok(a.far_jump(selector::TASK, 0)?)
    })?;
    b.ram.write(Gpa(at), &[0; 0x100])?;
    let code16 = b.own(1, descriptor(OWN, 0xffff, 0x9b))?;
    b.own(0, descriptor(at, 0x2b, 0x81))?;
    // IP, FLAGS, AX, SP, DI, ES, CS, SS, DS, LDT.
    let stack16 = u64::from(STACK16);
    for (offset, value) in [
        (0x0e, 0),
        (0x10, 0x3003),
        (0x12, 0xaaaa),
        (0x1a, 0x6000),
        (0x20, 0xdddd),
        (0x22, DATA16.into()),
        (0x24, code16.into()),
        (0x26, stack16),
        (0x28, DATA16.into()),
        (0x2a, 0),
    ] {
        b.ram.write(Gpa(at + offset), &(value as u16).to_le_bytes())?;
    }
    let run = b.run()?;
    let data = u64::from(DATA16);
    let expected =
        vec![0xaaaa, 0x6000, 0xdddd, code16.into(), stack16, data, data, 0, 0, 0x3003, 0x1234_5678, STACK, 0x10];
    let found = run.values().iter().enumerate().map(|(n, v)| if n == 9 { v & 0x3fff } else { *v }).collect();
    same("the values", found, expected)?;
    let words = [0x18, 0x1a].map(|offset| b.read(at + offset).map(|value| value & 0xffff));
    let [bx_saved, sp_saved] = words;
    same("BX and SP in the 16-bit TSS", (bx_saved?, sp_saved?), (0x4321, 0x6000))
}

fn trap_bit(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| Ok(a.far_jump(task_selector(0), 0)?))?;
    legacy(b, (32, OWN, 0), |a| {
        a.mov(eax, dr6)?;
        a.log_eax()?;
        Ok(a.finish()?)
    })?;
    task(b, 0, OWN)?;
    put(b, tss(0) + field::TRAP, 0x68 << 16 | 1)?;
    let run = b.run()?;
    let trap = run.trap(0)?;
    same("vector and EIP", (trap.vector, trap.rip), (1, OWN))?;
    same("DR6", run.values(), vec![0xffff_8ff0])
}

fn double_fault(b: &mut Bench<'_>) -> Checked {
    let (code, place) = protected(b, |a| {
        a.mov(esp, 8)?;
        let place = a.here()?;
        a.push(0)?;
        Ok(place)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.pop(eax)?;
        a.log_eax()?;
        a.log(esp)?;
        a.mov(eax, dword_ptr(TSS + field::EIP))?;
        a.log_eax()?;
        a.mov(eax, dword_ptr(TSS + field::ESP))?;
        a.log_eax()?;
        Ok(a.finish()?)
    })?;
    let selector = task(b, 0, OWN)?;
    b.gate32(8, gate(0x85, selector, 0, 0))?;
    // Expand-down: nothing below this is the stack's.
    b.state.segments.ss.attributes |= 4;
    b.state.segments.ss.limit = 0x2_ffff;
    same("error code, ESP; EIP, ESP", b.run()?.values(), vec![0, IST1, code.at(&place)?, 8])
}

fn bad_link(b: &mut Bench<'_>) -> Checked {
    let links = [
        (0, 10),
        (0x3c, 10),
        (BEYOND, 10),
        (selector::DATA, 10),
        // A TSS that is not busy; one that is not present.
        (task_selector(0), 10),
        (task_selector(1), 11),
    ];
    protected(b, |a| {
        a.push((rflags::NT | 2) as i32)?;
        a.popfd()?;
        for (link, _) in links {
            a.mov(word_ptr(TSS), u32::from(link))?;
            a.faulting(|a| a.iretd())?;
        }
        a.log(esp)?;
        Ok(())
    })?;
    task(b, 0, OWN)?;
    b.own(1, descriptor(tss(1), 0x67, 0x0b))?;
    let run = b.run()?;
    same("the faults", run.faults(), links.map(|(link, vector)| (vector, link.into())).to_vec())?;
    same("ESP", run.values(), vec![STACK])
}

fn address_space(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, dword_ptr(FREE as u32))?;
        a.log_eax()?;
        a.far_call(task_selector(0), 0)?;
        a.mov(eax, dword_ptr(FREE as u32))?;
        a.log_eax()?;
        a.sldt(ecx)?;
        a.log(ecx)?;
        Ok(())
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.mov(eax, dword_ptr(FREE as u32))?;
        a.log_eax()?;
        a.sldt(ecx)?;
        a.log(ecx)?;
        a.log_selector(ds)?;
        Ok(a.iretd()?)
    })?;
    task(b, 0, OWN)?;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE, FRAMES, page::KERNEL)?;
    let first = b.state.cr3;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE, FRAMES + 0x1000, page::KERNEL)?;
    put(b, tss(0) + field::CR3, b.state.cr3)?;
    put(b, TSS + field::CR3, first)?;
    b.state.cr3 = first;
    b.write(LDT, descriptor(0, 0xfffff, 0xc093))?;
    put(b, tss(0) + field::LDT, LDT_SELECTOR.into())?;
    put(b, tss(0) + field::DS, 4)?;
    put(b, FRAMES, 0x11)?;
    put(b, FRAMES + 0x1000, 0x22)?;
    same("the values", b.run()?.values(), vec![0x11, 0x22, LDT_SELECTOR.into(), 4, 0x11, 0])
}

fn to_virtual86(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| Ok(a.far_jump(task_selector(0), 0)?))?;
    legacy(b, (16, V86_CODE, V86_CODE), |a| {
        a.log_selector(cs)?;
        a.log_selector(ds)?;
        a.log(esp)?;
        a.log_flags()?;
        a.int(0x81)?;
        a.faulting(|a| a.hlt())?;
        Ok(())
    })?;
    task(b, 0, 0)?;
    let at = tss(0);
    for (offset, value) in [
        (field::EFLAGS, rflags::VM | 0x3202),
        (field::CS, V86_CODE >> 4),
        (field::SS, V86_STACK >> 4),
        (field::ESP, V86_SP),
        (field::DS, V86_DATA >> 4),
        (field::ES, 0xffff),
    ] {
        put(b, at + offset, value)?;
    }
    put(b, at + 0xf0, 0xff)?;
    b.own(0, descriptor(at, 0xf0, 0x89))?;
    let run = b.run()?;
    same("CS, DS, ESP, EFLAGS", run.values(), vec![V86_CODE >> 4, V86_DATA >> 4, V86_SP, 0x3202])?;
    same("the traps", run.faults(), vec![(0x81, 0), (13, 0)])?;
    let trap = run.trap(0)?;
    same("VM, CS, SS", (trap.flags & rflags::VM, trap.cs, trap.ss), (rflags::VM, V86_CODE >> 4, V86_STACK >> 4))
}

fn local_breakpoints(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, 0x10_0000)?;
        a.mov(dr0, eax)?;
        a.mov(dr1, eax)?;
        // L0, G1 and LE.
        a.mov(eax, 0x509)?;
        a.mov(dr7, eax)?;
        Ok(a.far_jump(task_selector(0), 0)?)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.mov(eax, dr7)?;
        a.log_eax()?;
        Ok(a.finish()?)
    })?;
    task(b, 0, OWN)?;
    same("DR7", b.run()?.values(), vec![0x408])?;
    same("EAX in the old TSS", get(b, TSS + field::EAX)?, 0x509)
}
