//! The way into handlers and back: stacks, images of the flags, IRET.

use super::{Emit, handler, kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "stack frame from ring 0", manual: "vol. 3, 6.14.2", check: from_ring0 },
    Guest { name: "stack frame from ring 3", manual: "vol. 3, 6.14.4", check: from_ring3 },
    Guest { name: "interrupt stack table", manual: "vol. 3, 6.14.5", check: stack_table },
    Guest { name: "interrupt and trap gates", manual: "vol. 3, 6.12.1.3", check: gates_and_flags },
    Guest { name: "resume flag of faults and traps", manual: "vol. 3, 17.3.1.1", check: resume_flag },
    Guest { name: "IRET to ring 3 and back", manual: "vol. 2, IRET", check: round_trip },
    Guest { name: "IRET to what is not allowed", manual: "vol. 2, IRET", check: bad_iret },
    Guest { name: "IRET with NT", manual: "vol. 2, IRET", check: nested_task },
    Guest { name: "IRET from ring 3 keeps IOPL and IF", manual: "vol. 2, IRET", check: iret_in_ring3 },
    Guest { name: "RETF to ring 3", manual: "vol. 2, RET", check: retf },
];

const OWN: u64 = HANDLERS + 0x8000;

fn from_ring0(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.log(rsp)?;
        for slot in 0..5 {
            a.mov(rax, qword_ptr(rsp + 8 * slot))?;
            a.log(rax)?;
        }
        a.mov(eax, ss)?;
        a.log(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x81, Gate::to(OWN))?;
    let (code, label) = kernel(b, |a| {
        let mut after = a.create_label();
        a.sub(rsp, 5)?;
        a.int(0x81)?;
        a.set_label(&mut after)?;
        a.add(rsp, 5)?;
        Ok(after)
    })?;
    let values = b.run()?.values();
    let flags = values.get(3).copied().unwrap_or(0);
    let expected = vec![STACK - 16 - 40, code.at(&label)?, selector::CODE.into(), flags, STACK - 5, 0x10, 0x10];
    same("RSP, RIP, CS, RFLAGS, RSP, SS; SS", values, expected)?;
    same("reserved bits of RFLAGS", flags & !rflags::ARITHMETIC, rflags::FIXED_1)
}

fn from_ring3(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.log(rsp)?;
        for slot in 0..6 {
            a.mov(rax, qword_ptr(rsp + 8 * slot))?;
            a.log(rax)?;
        }
        a.mov(eax, ss)?;
        a.log(rax)?;
        a.mov(eax, cs)?;
        a.log(rax)?;
        Ok(a.finish()?)
    })?;
    b.gate(13, Gate::to(OWN))?;
    let (code, label) = user(b, 0x202, |a| {
        let mut at = a.create_label();
        a.push(0)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut at)?;
        a.hlt()?;
        Ok(at)
    })?;
    let expected = vec![
        RSP0 - 48,
        0,
        code.at(&label)?,
        selector::USER_CODE.into(),
        // ZF and PF of the XOR, IF, and RF of a fault.
        0x1_0246,
        USER_STACK - 8,
        selector::USER_DATA.into(),
        0,
        selector::CODE.into(),
    ];
    same("RSP, code, RIP, CS, RFLAGS, RSP, SS; SS, CS", b.run()?.values(), expected)
}

fn stack_table(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.log(rsp)?;
        a.mov(eax, ss)?;
        a.log(rax)?;
        Ok(a.iretq()?)
    })?;
    b.write(TSS + 0x24, IST1 - 3)?;
    b.gate(0x81, Gate { ist: 1, dpl: 3, ..Gate::to(OWN) })?;
    b.gate(0x82, Gate { ist: 2, dpl: 3, ..Gate::to(OWN) })?;
    b.gate(0x83, Gate { dpl: 3, ..Gate::to(OWN) })?;
    kernel(b, |a| {
        a.int(0x81)?;
        a.int(0x82)?;
        a.log(rsp)?;
        a.to_user(USER_CODE, USER_STACK, 2)?;
        Ok(())
    })?;
    let mut a = b.assembler(64)?;
    a.int(0x82)?;
    a.int(0x83)?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    let (first, second) = (IST1 - 16 - 40, IST2 - 40);
    let expected = vec![first, 0x10, second, 0x10, STACK, second, 0, RSP0 - 40, 0];
    same("RSP and SS", b.run()?.values(), expected)
}

fn gates_and_flags(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x81, Gate::to(OWN))?;
    b.gate(0x82, Gate { trap: true, ..Gate::to(OWN) })?;
    let all = (rflags::IF | rflags::DF | rflags::NT | rflags::AC | rflags::ID | rflags::IOPL | rflags::CF) as i32;
    handler(b, OWN + 0x800, |a| {
        // NT would have IRET fault: it is taken out of the image.
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        a.and(qword_ptr(rsp + 16), !(rflags::NT as i32))?;
        Ok(a.iretq()?)
    })?;
    b.gate(0x83, Gate::to(OWN + 0x800))?;
    kernel(b, |a| {
        a.push(0x202)?;
        a.popfq()?;
        a.int(0x81)?;
        a.int(0x82)?;
        a.push(all)?;
        a.popfq()?;
        a.int(0x83)?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        Ok(())
    })?;
    let kept = rflags::DF | rflags::AC | rflags::ID | rflags::IOPL | rflags::CF | rflags::FIXED_1;
    same("RFLAGS", b.run()?.values(), vec![2, 0x202, kept, kept | rflags::IF])
}

fn resume_flag(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.faulting(|a| a.ud2())?;
        a.int3()?;
        a.int(0x81)?;
        Ok(())
    })?;
    let flags: Vec<u64> = b.run()?.traps().iter().map(|trap| trap.flags & rflags::RF).collect();
    same("RF", flags, vec![rflags::RF, 0, 0])
}

fn round_trip(b: &mut Bench<'_>) -> Checked {
    b.gate(0x81, Gate { dpl: 3, ..Gate::to(OWN) })?;
    handler(b, OWN, |a| {
        for segment in [ds, es, fs, gs] {
            a.mov(eax, segment)?;
            a.log(rax)?;
        }
        Ok(a.finish()?)
    })?;
    let (code, after) = user(b, 0x202 | rflags::IOPL as i32, |a| {
        let mut after = a.create_label();
        a.mov(eax, cs)?;
        a.log(rax)?;
        a.mov(eax, ss)?;
        a.log(rax)?;
        a.log(rsp)?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        a.int(0x80)?;
        a.set_label(&mut after)?;
        a.int(0x81)?;
        Ok(after)
    })?;
    let low = b.read(IDT + 16 * 0x80)?;
    b.write(IDT + 16 * 0x80, low | 3 << 45)?;
    let run = b.run()?;
    // Segments of ring 0 were taken away on the way out (vol. 3, 5.8.6).
    same("what ring 3 saw", run.values(), vec![0x33, 0x2b, USER_STACK, 0x3202, 0, 0, 0, 0])?;
    let trap = run.trap(0)?;
    same("RIP of the trap", trap.rip, code.at(&after)?)?;
    same("CS, SS, RSP of the trap", (trap.cs, trap.ss, trap.rsp), (0x33, 0x2b, USER_STACK))
}

fn bad_iret(b: &mut Bench<'_>) -> Checked {
    /// SS, RSP, CS, RIP.
    const CASES: [([u64; 4], (u64, u64)); 11] = [
        ([0x2b, USER_STACK, 0, USER_CODE], (13, 0)),
        ([0x2b, USER_STACK, 0x83, USER_CODE], (13, 0x80)),
        ([0x2b, USER_STACK, 0x28 | 3, USER_CODE], (13, 0x28)),
        ([0x2b, USER_STACK, 0x30, USER_CODE], (13, 0x30)),
        ([0x2b, USER_STACK, 0x0b, USER_CODE], (13, 0x08)),
        ([0x10, USER_STACK, 0x58, USER_CODE], (11, 0x58)),
        ([0x10, USER_STACK, 0x33, USER_CODE], (13, 0x10)),
        ([0, USER_STACK, 0x23, USER_CODE], (13, 0)),
        ([3, USER_STACK, 0x33, USER_CODE], (13, 0)),
        ([0x48, USER_STACK, 0x08, CODE], (12, 0x48)),
        ([0x2b, USER_STACK, 0x33, 1 << 47], (13, 0)),
    ];
    kernel(b, |a| {
        for (frame, _) in CASES {
            a.mov(rbp, rsp)?;
            let [ss_image, rsp_image, cs_image, rip_image] = frame;
            for value in [ss_image, rsp_image, 2, cs_image, rip_image] {
                a.mov(rax, value)?;
                a.push(rax)?;
            }
            a.faulting(|a| a.iretq())?;
            a.sub(rbp, rsp)?;
            a.log(rbp)?;
            a.add(rsp, 40)?;
        }
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), CASES.map(|case| case.1).to_vec())?;
    same("how far RSP moved", run.values(), vec![40; CASES.len()])?;
    for trap in run.traps() {
        same("the CS that faulted", trap.cs, 8)?;
    }
    Ok(())
}

fn nested_task(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.push(0x4002)?;
        a.popfq()?;
        a.faulting(|a| a.iretq())?;
        Ok(())
    })?;
    b.gate(13, Gate::to(OWN))?;
    // The image has NT, with which the common handler's own IRETQ would return to it.
    handler(b, OWN, |a| {
        a.mov(rax, qword_ptr(rsp + 24))?;
        a.log(rax)?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        Ok(a.finish()?)
    })?;
    let values: Vec<u64> = b.run()?.values().iter().map(|flags| flags & rflags::NT).collect();
    same("NT in the image and in the handler", values, vec![rflags::NT, 0])
}

fn iret_in_ring3(b: &mut Bench<'_>) -> Checked {
    user(b, 0x202, |a| {
        let mut next = a.create_label();
        a.mov(rcx, rsp)?;
        a.push(i32::from(selector::USER_DATA))?;
        a.push(rcx)?;
        a.push(0x3803)?;
        a.push(i32::from(selector::USER_CODE))?;
        a.lea(rax, ptr(next))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut next)?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        a.push(0x3002)?;
        a.popfq()?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        Ok(())
    })?;
    same("RFLAGS after IRETQ and POPFQ", b.run()?.values(), vec![0xa03, 0x202])
}

fn retf(b: &mut Bench<'_>) -> Checked {
    let emit: Emit = |a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.mov(rax, USER_STACK)?;
        a.push(rax)?;
        // Parameters that RETF releases on both stacks.
        a.push(0)?;
        a.push(0)?;
        a.push(i32::from(selector::USER_CODE))?;
        a.mov(rax, USER_CODE)?;
        a.push(rax)?;
        a.db(&[0x48, 0xca, 0x10, 0x00])
    };
    kernel(b, |a| Ok(emit(a)?))?;
    let mut a = b.assembler(64)?;
    a.mov(eax, cs)?;
    a.log(rax)?;
    a.mov(eax, ss)?;
    a.log(rax)?;
    a.log(rsp)?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    same("CS, SS, RSP", b.run()?.values(), vec![0x33, 0x2b, USER_STACK + 16])
}
