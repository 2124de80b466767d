//! Call gates, and returns to an outer ring.

use crate::Guest;
use crate::bench::{Bench, Checked, descriptor, gate, same};
use crate::guests::{legacy, protected, protected_user};
use crate::layout::legacy::*;
use crate::layout::{DATA, GDT, RSP0, STACK, TSS, USER_CODE, USER_STACK, selector};
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "call gate without a change of privilege", manual: "vol. 3, 5.8.4", check: same_privilege },
    Guest { name: "call gate to ring 0 with parameters", manual: "vol. 3, 5.8.5", check: inward },
    Guest { name: "call gate to ring 1", manual: "vol. 3, 5.8.5 and 5.8.6", check: to_ring1 },
    Guest { name: "16-bit call gate to ring 0", manual: "vol. 3, 5.8.5 and 22.2", check: inward16 },
    Guest { name: "call gate to conforming code", manual: "vol. 3, 5.8.4", check: to_conforming },
    Guest { name: "call gates: JMP", manual: "vol. 3, 5.8.4", check: jumps },
    Guest { name: "call gates: faults", manual: "vol. 2, CALL", check: faults },
    Guest { name: "call gates: bad stacks", manual: "vol. 2, CALL; vol. 3, 6.15, interrupt 10", check: bad_stacks },
    Guest { name: "RETF to ring 3 in protected mode", manual: "vol. 2, RET; vol. 3, 5.8.6", check: outward },
    Guest { name: "RETF to ring 3 in protected mode: faults", manual: "vol. 2, RET", check: bad_returns },
    Guest { name: "IRETD to ring 3: flags and segments", manual: "vol. 2, IRET", check: iret_outward },
    Guest { name: "IRETD: faults", manual: "vol. 2, IRET", check: bad_iret },
    Guest { name: "IRET with 16-bit operands", manual: "vol. 2, IRET", check: iret16 },
];

const GATE: u16 = FREE_SELECTOR;

fn same_privilege(b: &mut Bench<'_>) -> Checked {
    let (code, after) = protected(b, |a| {
        a.push(0x77)?;
        // The offset of the instruction is ignored; parameters are not copied.
        a.far_call(GATE, 0xffff_ffff)?;
        let after = a.here()?;
        a.log(esp)?;
        a.log_selector(cs)?;
        Ok(after)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        for word in 0..2 {
            a.mov(eax, dword_ptr(esp + 4 * word))?;
            a.log_eax()?;
        }
        a.log_selector(cs)?;
        Ok(a.db(&[0xcb])?)
    })?;
    b.own(0, gate(0x8c, selector::CODE, OWN, 5))?;
    let expected = vec![STACK - 12, code.at(&after)?, 8, 8, STACK - 4, 8];
    same("ESP, EIP, CS; CS; ESP, CS", b.run()?.values(), expected)
}

fn inward(b: &mut Bench<'_>) -> Checked {
    let (code, after) = protected_user(b, 2, |a| {
        a.push(0x11)?;
        a.push(0x22)?;
        a.push(0x33)?;
        a.far_call(GATE | 3, 0)?;
        let after = a.here()?;
        a.log(esp)?;
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log_selector(ds)?;
        a.log_selector(es)?;
        Ok(after)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        for word in 0..6 {
            a.mov(eax, dword_ptr(esp + 4 * word))?;
            a.log_eax()?;
        }
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        // A segment of ring 0 is taken away on the way out.
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(es, eax)?;
        Ok(a.db(&[0xca, 8, 0])?)
    })?;
    b.own(0, gate(0xec, selector::CODE, OWN, 2))?;
    let frame = [code.at(&after)?, 0x33, 0x33, 0x22, USER_STACK - 12, 0x2b];
    let expected = [&[RSP0 - 24][..], &frame, &[8, 0x10, USER_STACK - 4, 0x33, 0x2b, 0x2b, 0]].concat();
    same("ESP, frame, CS, SS; ESP, CS, SS, DS, ES", b.run()?.values(), expected)
}

/// Code and stack of ring 1 in the test's descriptors 1 and 2, and in the TSS.
fn ring1(b: &mut Bench<'_>) -> Checked<(u16, u16)> {
    let code = b.own(1, descriptor(0, 0xfffff, 0xc0bb))? | 1;
    let stack = b.own(2, descriptor(0, 0xfffff, 0xc0b3))? | 1;
    b.write(TSS + 12, 0x5_0000 | u64::from(stack) << 32)?;
    Ok((code, stack))
}

fn to_ring1(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.far_call(GATE | 3, 0)?;
        a.log_selector(cs)?;
        a.log_selector(fs)?;
        a.log_selector(gs)?;
        Ok(())
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log(esp)?;
        // In ring 1: HLT faults and comes back here; a page of the supervisor is open.
        a.faulting(|a| a.hlt())?;
        a.mov(eax, u32::from((FREE_SELECTOR + 16) | 1))?;
        a.mov(fs, eax)?;
        a.mov(eax, u32::from(selector::USER_DATA))?;
        a.mov(gs, eax)?;
        Ok(a.db(&[0xcb])?)
    })?;
    let (code, stack) = ring1(b)?;
    b.own(0, gate(0xec, code, OWN, 0))?;
    let run = b.run()?;
    let expected = vec![code.into(), stack.into(), 0x5_0000 - 16, 0x33, 0, 0x2b];
    same("CS, SS, ESP; CS, FS, GS", run.values(), expected)?;
    let trap = run.trap(0)?;
    same(
        "the fault in ring 1",
        (trap.vector, trap.cs, trap.ss, trap.rsp),
        (13, code.into(), stack.into(), 0x5_0000 - 16),
    )
}

fn inward16(b: &mut Bench<'_>) -> Checked {
    const HANDLER: u64 = OWN & 0xffff;
    let (code, after) = protected_user(b, 2, |a| {
        a.db(&[0x66, 0x68, 0x11, 0x11])?;
        a.db(&[0x66, 0x68, 0x22, 0x22])?;
        a.far_call(GATE | 3, 0)?;
        let after = a.here()?;
        a.log(esp)?;
        Ok(after)
    })?;
    // IP of 16 bits returns to the first 64 KiB of the code segment: one that begins at USER_CODE.
    let user = b.own(3, descriptor(USER_CODE, 0xfffff, 0xc0fb))? | 3;
    legacy(b, (32, CODE_START, 0), |a| {
        a.mov(eax, u32::from(selector::USER_DATA))?;
        a.mov(ds, eax)?;
        a.push(eax)?;
        a.push(USER_STACK as i32)?;
        a.push(2)?;
        a.push(i32::from(user))?;
        a.push(0)?;
        Ok(a.iretd()?)
    })?;
    legacy(b, (16, OWN, OWN - HANDLER), |a| {
        a.log(esp)?;
        a.mov(bp, sp)?;
        for word in 0..6 {
            a.movzx(eax, word_ptr(bp + 2 * word))?;
            a.log_eax()?;
        }
        Ok(a.db(&[0xca, 4, 0])?)
    })?;
    let code16 = b.own(1, descriptor(OWN - HANDLER, 0xffff, 0x9b))?;
    let stack16 = b.own(2, descriptor(STACK_BASE, 0xffff, 0x93))?;
    b.own(0, gate(0xe4, code16, HANDLER, 2))?;
    b.write(TSS + 4, 0x9000 | u64::from(stack16) << 32)?;
    let ip = code.at(&after)? - USER_CODE;
    // The words of the old stack are copied; SP of the old stack is what fits in 16 bits.
    let pushed = USER_STACK - 4;
    let expected = vec![0x9000 - 12, ip, user.into(), 0x2222, 0x1111, pushed & 0xffff, 0x2b, USER_STACK & 0xffff];
    let values = b.run()?.values();
    // The upper halves of ESP are nobody's.
    same("SP and the frame; SP", values.iter().map(|value| value & 0xffff).collect(), expected)
}

const CODE_START: u64 = crate::layout::CODE;

fn to_conforming(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.push(0x11)?;
        a.far_call(GATE | 3, 0)?;
        Ok(a.log(esp)?)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log(esp)?;
        Ok(a.db(&[0xcb])?)
    })?;
    // Neither privilege nor stack change, and parameters are not copied.
    b.own(0, gate(0xec, selector::CONFORMING, OWN, 1))?;
    let expected = vec![u64::from(selector::CONFORMING) | 3, 0x2b, USER_STACK - 12, USER_STACK - 4];
    same("CS, SS, ESP; ESP", b.run()?.values(), expected)
}

fn jumps(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        // To nonconforming code of another privilege only a CALL goes.
        a.faulting(|a| {
            a.db(&[0xea])?;
            a.dd(&[0])?;
            a.dw(&[GATE | 3])
        })?;
        Ok(a.far_jump((GATE + 8) | 3, 0)?)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_selector(cs)?;
        Ok(a.log(esp)?)
    })?;
    b.own(0, gate(0xec, selector::CODE, OWN, 0))?;
    b.own(1, gate(0xec, selector::USER_CODE, OWN, 0))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 8)])?;
    same("CS, ESP", run.values(), vec![0x33, USER_STACK])
}

fn faults(b: &mut Bench<'_>) -> Checked {
    let ring3_code = descriptor(0, 0xfffff, 0xc0fb);
    let small = FREE_SELECTOR + 8 * 20;
    // The gate, the RPL of the selector, and the fault; errors that are below 16 are the gate's own selector.
    let own = 1u64;
    let cases = [
        (gate(0x8c, selector::CODE, OWN, 0), 0, (13, own)),
        (gate(0xcc, selector::CODE, OWN, 0), 0, (13, own)),
        (gate(0x6c, selector::CODE, OWN, 0), 0, (11, own)),
        // Privilege before presence.
        (gate(0x0c, selector::CODE, OWN, 0), 3, (13, own)),
        (gate(0xec, 0, OWN, 0), 3, (13, 0)),
        (gate(0xec, 3, OWN, 0), 3, (13, 0)),
        (gate(0xec, BEYOND, OWN, 0), 3, (13, BEYOND.into())),
        (gate(0xec, selector::DATA, OWN, 0), 3, (13, 0x10)),
        (gate(0xec, selector::TASK, OWN, 0), 3, (13, 0x38)),
        (gate(0xec, selector::ABSENT_CODE, OWN, 0), 3, (11, 0x58)),
        (gate(0xec, small, OWN, 0), 3, (13, 0)),
        (gate(0xee, selector::CODE, OWN, 0), 3, (13, own)),
        (gate(0xef, selector::CODE, OWN, 0), 3, (13, own)),
    ];
    protected_user(b, 2, |a| {
        for (index, (_, rpl, _)) in (0u16..).zip(cases) {
            a.mov(word_ptr(DATA + 4), u32::from((FREE_SELECTOR + 8 * index) | rpl))?;
            a.faulting(|a| a.db(&[0xff, 0x1d, 0x00, 0x80, 0x00, 0x00]))?;
        }
        Ok(a.log(esp)?)
    })?;
    for (index, (value, ..)) in (0..).zip(cases) {
        b.own(index, value)?;
    }
    b.own(19, ring3_code)?;
    b.own(20, descriptor(0, 0xfff, 0x409b))?;
    let run = b.run()?;
    let expected: Vec<_> = (0u64..)
        .zip(cases)
        .map(|(index, (.., (vector, error)))| {
            (vector, if error == own { u64::from(FREE_SELECTOR) + 8 * index } else { error })
        })
        .collect();
    same("the faults", run.faults(), expected)?;
    same("ESP", run.values(), vec![USER_STACK])?;
    for trap in run.traps() {
        same("where it was", (trap.cs, trap.rsp), (0x33, USER_STACK))?;
    }
    Ok(())
}

fn bad_stacks(b: &mut Bench<'_>) -> Checked {
    // Ring 1's stack is bad, so that the faults themselves have ring 0's.
    let own = FREE_SELECTOR + 8 * 4;
    let flat = |rights: u64| descriptor(0, 0xfffff, 0xc000 | rights);
    let cases = [
        (0, 0, (10, 0)),
        (own, flat(0xb3), (10, own)),
        (own | 1, flat(0x93), (10, own)),
        (own | 1, flat(0xb1), (10, own)),
        (own | 1, flat(0xbb), (10, own)),
        (own | 1, flat(0x33), (12, own)),
        (own | 1, descriptor(0, 0xfff, 0x40b3), (12, own)),
        (BEYOND | 1, 0, (10, BEYOND)),
    ];
    for (index, (selector, value, (vector, error))) in cases.into_iter().enumerate() {
        protected_user(b, 2, |a| {
            a.faulting(|a| {
                a.db(&[0x9a])?;
                a.dd(&[0])?;
                a.dw(&[GATE | 3])
            })?;
            Ok(())
        })?;
        let (code, _) = ring1(b)?;
        b.own(0, gate(0xec, code, OWN, 0))?;
        b.own(4, value)?;
        b.write(TSS + 12, 0x5_0000 | u64::from(selector) << 32)?;
        let run = b.run()?;
        same(format!("the fault of stack {index}"), run.faults(), vec![(vector, error.into())])?;
        same("CS", run.trap(0)?.cs, 0x33)?;
    }
    // A TSS that ends before the stack of ring 1, by a byte; it has no I/O map either.
    protected_user(b, 0x3002, |a| {
        a.faulting(|a| {
            a.db(&[0x9a])?;
            a.dd(&[0])?;
            a.dw(&[GATE | 3])
        })?;
        Ok(())
    })?;
    let (code, _) = ring1(b)?;
    b.own(0, gate(0xec, code, OWN, 0))?;
    b.state.segments.tr.limit = 16;
    b.write(GDT + u64::from(selector::TASK), descriptor(TSS, 16, 0x8b))?;
    same("the fault of a short TSS", b.run()?.faults(), vec![(10, selector::TASK.into())])
}

fn outward(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for selector in [selector::USER_DATA, selector::DATA, selector::CONFORMING, 0] {
            a.push(i32::from(selector))?;
        }
        a.pop(gs)?;
        a.pop(fs)?;
        a.pop(es)?;
        a.pop(ds)?;
        a.push(i32::from(selector::USER_DATA))?;
        a.push(USER_STACK as i32)?;
        a.push(0x11)?;
        a.push(0x22)?;
        a.push(i32::from(selector::USER_CODE))?;
        a.push(USER_CODE as i32)?;
        Ok(a.db(&[0xca, 8, 0])?)
    })?;
    legacy(b, (32, USER_CODE, 0), |a| {
        for segment in [cs, ss, ds, es, fs, gs] {
            a.log_selector(segment)?;
        }
        Ok(a.log(esp)?)
    })?;
    // Data of ring 0 is taken away, conforming code is not. Parameters are released on both stacks.
    let expected = vec![0x33, 0x2b, 0x2b, 0, selector::CONFORMING.into(), 0, USER_STACK + 8];
    same("CS, SS, DS, ES, FS, GS, ESP", b.run()?.values(), expected)
}

fn bad_returns(b: &mut Bench<'_>) -> Checked {
    let (code, user, data) =
        (u32::from(selector::CODE), u32::from(selector::USER_CODE), u32::from(selector::USER_DATA));
    let absent_stack = u32::from(FREE_SELECTOR) | 3;
    let absent_code = u32::from(FREE_SELECTOR + 8) | 3;
    // SS, CS and the fault.
    let cases = [
        (data, 0, (13, 0)),
        (data, u32::from(BEYOND), (13, BEYOND.into())),
        (data, u32::from(selector::DATA), (13, 0x10)),
        // The RPL must be the DPL of nonconforming code.
        (data, code | 3, (13, 8)),
        (data, 0x30, (13, 0x30)),
        (data, absent_code, (11, (absent_code & !7).into())),
        (0, user, (13, 0)),
        (data & !3, user, (13, 0x28)),
        (u32::from(selector::DATA) | 3, user, (13, 0x10)),
        (user, user, (13, 0x30)),
        (absent_stack, user, (12, (absent_stack & !7).into())),
    ];
    protected(b, |a| {
        for (stack, to, _) in cases {
            a.push(stack as i32)?;
            a.push(USER_STACK as i32)?;
            a.push(to as i32)?;
            a.push(USER_CODE as i32)?;
            a.faulting(|a| a.db(&[0xcb]))?;
            a.log(esp)?;
            a.add(esp, 16)?;
        }
        Ok(())
    })?;
    b.own(0, descriptor(0, 0xfffff, 0xc073))?;
    b.own(1, descriptor(0, 0xfffff, 0xc07b))?;
    let run = b.run()?;
    same("the faults", run.faults(), cases.map(|case| case.2).to_vec())?;
    same("ESP", run.values(), vec![STACK - 16; cases.len()])
}

fn iret_outward(b: &mut Bench<'_>) -> Checked {
    let all = rflags::CF | rflags::DF | rflags::IF | rflags::IOPL | rflags::AC | rflags::ID;
    protected(b, |a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(fs, eax)?;
        Ok(a.to_ring3(USER_CODE, (all | 2) as i32)?)
    })?;
    legacy(b, (32, USER_CODE, 0), |a| {
        a.log_flags()?;
        a.cld()?;
        // In ring 3 with IOPL 3 IF is taken, IOPL is not; VIF, VIP and VM are not.
        a.push((2 | rflags::VIF | rflags::VIP | rflags::NT) as i32)?;
        a.popfd()?;
        a.log_flags()?;
        // IRETD within ring 3, with IOPL 0 in the image.
        let mut next = a.create_label();
        a.push(0x202)?;
        a.push(cs)?;
        a.call(next)?;
        a.log_flags()?;
        a.log(esp)?;
        for segment in [ds, fs] {
            a.log_selector(segment)?;
        }
        let mut end = a.create_label();
        a.jmp(end)?;
        a.set_label(&mut next)?;
        // NT of before would have IRET switch tasks.
        a.pushfd()?;
        a.and(dword_ptr(esp), !(rflags::NT as i32))?;
        a.popfd()?;
        a.iretd()?;
        a.set_label(&mut end)?;
        Ok(a.nop()?)
    })?;
    let expected = vec![all | 2, 0x7002, 0x3202, USER_STACK, 0x2b, 0];
    same("EFLAGS three times, ESP, DS, FS", b.run()?.values(), expected)
}

fn bad_iret(b: &mut Bench<'_>) -> Checked {
    let (user, data) = (u32::from(selector::USER_CODE), u32::from(selector::USER_DATA));
    let cases = [
        (data, 0, (13, 0)),
        (data, 3, (13, 0)),
        (data, u32::from(selector::USER_DATA), (13, 0x28)),
        (data, u32::from(selector::CODE) | 3, (13, 8)),
        (data, 0x30, (13, 0x30)),
        (data, u32::from(selector::ABSENT_CODE), (11, 0x58)),
        (0, user, (13, 0)),
        (0x28, user, (13, 0x28)),
        (0x13, user, (13, 0x10)),
    ];
    protected(b, |a| {
        for (stack, to, _) in cases {
            a.push(stack as i32)?;
            a.push(USER_STACK as i32)?;
            a.push(2)?;
            a.push(to as i32)?;
            a.push(USER_CODE as i32)?;
            a.faulting(|a| a.iretd())?;
            a.log(esp)?;
            a.add(esp, 20)?;
        }
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), cases.map(|case| case.2).to_vec())?;
    same("ESP", run.values(), vec![STACK - 20; cases.len()])
}

fn iret16(b: &mut Bench<'_>) -> Checked {
    // IRET pops words: EIP's upper half becomes zero, and that of EFLAGS stays.
    protected(b, |a| {
        a.push((rflags::AC | 2) as i32)?;
        a.popfd()?;
        for word in [0x0203u16, selector::CODE, 0x9100] {
            a.db(&[0x66, 0x68])?;
            a.dw(&[word])?;
        }
        Ok(a.db(&[0x66, 0xcf])?)
    })?;
    legacy(b, (32, 0x9100, 0), |a| {
        a.log_flags()?;
        Ok(a.log(esp)?)
    })?;
    same("EFLAGS, ESP", b.run()?.values(), vec![rflags::AC | 0x203, STACK])
}
