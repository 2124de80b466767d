//! Exceptions: which, and with what error code.

use super::{Emit, kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, End, Gate, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, cr4};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "exceptions without error code", manual: "vol. 3, 6.15", check: plain },
    Guest { name: "device not available", manual: "vol. 3, 6.15, interrupt 7; 2.5", check: no_fpu },
    Guest { name: "selector error codes", manual: "vol. 3, 6.13", check: selectors },
    Guest { name: "privileged instructions in ring 3", manual: "vol. 3, 5.9", check: privileged },
    Guest { name: "gates refuse software interrupts by DPL", manual: "vol. 3, 6.12.1.2", check: gate_privilege },
    Guest { name: "software interrupts push no error code", manual: "vol. 3, 6.13", check: software_no_code },
    Guest { name: "benign and contributory: one after the other", manual: "vol. 3, table 6-5", check: serial },
    Guest { name: "double fault of two contributory", manual: "vol. 3, table 6-5", check: double_contributory },
    Guest { name: "double fault of two page faults", manual: "vol. 3, table 6-5", check: double_page_fault },
    Guest { name: "page fault after a contributory exception", manual: "vol. 3, table 6-5", check: page_fault_second },
    Guest { name: "triple fault shuts down", manual: "vol. 3, 6.15, interrupt 8", check: triple_fault },
    Guest { name: "instructions of more than 15 bytes", manual: "vol. 2, 2.3.11", check: too_long },
    Guest { name: "LOCK where it is not allowed", manual: "vol. 2, LOCK", check: lock },
    Guest { name: "unmasked floating-point exceptions", manual: "vol. 3, 6.15, interrupts 16 and 19", check: floating },
];

fn plain(b: &mut Bench<'_>) -> Checked {
    let cases: [(u64, Emit); 7] = [
        (0, |a| a.div(r11d)),
        (0, |a| a.idiv(r11b)),
        (6, |a| a.ud2()),
        (6, |a| a.db(&[0x0f, 0x04])),
        // INTO is no instruction in 64-bit mode.
        (6, |a| a.db(&[0xce])),
        // MOV CS, EAX.
        (6, |a| a.db(&[0x8e, 0xc8])),
        // MOV EAX, CR1.
        (6, |a| a.db(&[0x0f, 0x20, 0xc8])),
    ];
    let (code, labels) = kernel(b, |a| {
        a.xor(r11d, r11d)?;
        Ok(cases.iter().map(|case| a.faulting(case.1)).collect::<Result<Vec<_>, _>>()?)
    })?;
    let run = b.run()?;
    same("the exceptions", run.faults(), cases.iter().map(|case| (case.0, 0)).collect::<Vec<_>>())?;
    for (trap, label) in run.traps().iter().zip(&labels) {
        same("RIP", trap.rip, code.at(label)?)?;
    }
    Ok(())
}

fn no_fpu(b: &mut Bench<'_>) -> Checked {
    b.state.cr0 |= cr0::TS;
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.faulting(|a| a.fninit())?;
        a.faulting(|a| a.pxor(xmm0, xmm0))?;
        a.faulting(|a| a.fxsave(ptr(rbx)))?;
        // WAIT heeds TS with MP; LDMXCSR and the cache instructions: the first does.
        a.faulting(|a| a.wait())?;
        a.faulting(|a| a.ldmxcsr(dword_ptr(rbx)))?;
        a.clflush(byte_ptr(rbx))?;
        a.prefetchnta(byte_ptr(rbx))?;
        a.sfence()?;
        a.clts()?;
        a.fninit()?;
        a.mov(rax, cr0)?;
        a.or(rax, cr0::EM as i32)?;
        a.mov(cr0, rax)?;
        a.faulting(|a| a.fninit())?;
        a.faulting(|a| a.pxor(xmm0, xmm0))?;
        Ok(())
    })?;
    let expected = vec![(7, 0), (7, 0), (7, 0), (7, 0), (7, 0), (7, 0), (6, 0)];
    same("the exceptions", b.run()?.faults(), expected)
}

fn selectors(b: &mut Bench<'_>) -> Checked {
    let load = |selector: u16| i32::from(selector);
    kernel(b, |a| {
        for (into, selector) in [
            (ds, selector::BEYOND | 3),
            (es, selector::ABSENT),
            (fs, 0x0c),
            (gs, selector::TASK),
            (ss, selector::READ_ONLY),
            (ss, selector::ABSENT),
            (ss, selector::CODE),
            (ss, selector::USER_DATA),
            (ss, 3),
        ] {
            a.mov(eax, load(selector))?;
            a.faulting(|a| a.mov(into, eax))?;
        }
        a.mov(eax, load(selector::TASK))?;
        a.faulting(|a| a.ltr(ax))?;
        a.mov(eax, load(selector::CODE))?;
        a.faulting(|a| a.lldt(ax))?;
        a.xor(eax, eax)?;
        a.faulting(|a| a.ltr(ax))?;
        a.mov(ss, eax)?;
        Ok(())
    })?;
    let expected = vec![
        (13, 0x80),
        (11, 0x48),
        (13, 0x0c),
        (13, 0x38),
        (13, 0x60),
        (12, 0x48),
        (13, 0x08),
        (13, 0x28),
        (13, 0),
        (13, 0x38),
        (13, 0x08),
        (13, 0),
    ];
    same("the exceptions", b.run()?.faults(), expected)
}

fn privileged(b: &mut Bench<'_>) -> Checked {
    let cases: [Emit; 16] = [
        |a| a.hlt(),
        |a| a.cli(),
        |a| a.sti(),
        |a| a.mov(rax, cr0),
        |a| a.mov(cr3, rax),
        |a| a.mov(rax, cr8),
        |a| a.mov(rax, dr7),
        |a| a.rdmsr(),
        |a| a.wrmsr(),
        |a| a.invlpg(byte_ptr(rax)),
        |a| a.wbinvd(),
        |a| a.clts(),
        |a| a.lgdt(ptr(rax)),
        |a| a.ltr(ax),
        |a| a.swapgs(),
        |a| a.in_(al, dx),
    ];
    user(b, 2, |a| {
        a.xor(eax, eax)?;
        for case in cases {
            a.faulting(case)?;
        }
        a.faulting(|a| a.sysretq())?;
        a.faulting(|a| a.xsetbv())?;
        Ok(())
    })?;
    same("the exceptions", b.run()?.faults(), vec![(13, 0); cases.len() + 2])
}

fn gate_privilege(b: &mut Bench<'_>) -> Checked {
    b.state.idtr.limit = 16 * 0x90 - 1;
    let stub = |b: &Bench<'_>, vector: u64| b.read(IDT + 16 * vector).map(|low| low & 0xffff | low >> 32 & 0xffff_0000);
    let target = stub(b, 0x81)?;
    b.gate(0x81, Gate { dpl: 3, ..Gate::to(target) })?;
    b.gate(0x82, Gate { dpl: 3, present: false, ..Gate::to(target) })?;
    b.gate(0x83, Gate { dpl: 3, selector: selector::USER_CODE, ..Gate::to(target) })?;
    b.gate(0x84, Gate { dpl: 3, selector: selector::CODE32, ..Gate::to(target) })?;
    b.gate(0x85, Gate { dpl: 3, selector: 0, ..Gate::to(target) })?;
    b.gate(0x86, Gate { dpl: 3, selector: selector::ABSENT_CODE, ..Gate::to(target) })?;
    user(b, 2, |a| {
        for vector in [0x80, 0x81, 0x82, 0x84, 0x85, 0x86, 0x90] {
            a.faulting(|a| a.int(vector))?;
        }
        a.faulting(|a| a.int3())?;
        a.faulting(|a| a.int(13))?;
        Ok(())
    })?;
    let expected =
        vec![(13, 0x402), (0x81, 0), (11, 0x412), (13, 0x18), (13, 0), (11, 0x58), (13, 0x482), (13, 0x1a), (13, 0x6a)];
    same("the exceptions", b.run()?.faults(), expected)
}

fn software_no_code(b: &mut Bench<'_>) -> Checked {
    super::handler(b, HANDLERS + 0x8000, |a| {
        a.log(rsp)?;
        a.pop(rax)?;
        a.log(rax)?;
        a.push(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(13, Gate::to(HANDLERS + 0x8000))?;
    let (code, after) = kernel(b, |a| {
        let mut after = a.create_label();
        a.int(13)?;
        a.set_label(&mut after)?;
        a.nop()?;
        Ok(after)
    })?;
    same("RSP and what it points to", b.run()?.values(), vec![STACK - 40, code.at(&after)?])
}

fn serial(b: &mut Bench<'_>) -> Checked {
    b.gate(6, Gate { present: false, ..Gate::to(HANDLERS) })?;
    kernel(b, |a| {
        a.faulting(|a| a.ud2())?;
        Ok(())
    })?;
    same("the exceptions", b.run()?.faults(), vec![(11, 6 * 8 + 3)])
}

fn double_contributory(b: &mut Bench<'_>) -> Checked {
    b.gate(13, Gate { present: false, ..Gate::to(HANDLERS) })?;
    let (code, label) = kernel(b, |a| {
        a.mov(eax, i32::from(selector::BEYOND))?;
        Ok(a.faulting(|a| a.mov(ds, eax))?)
    })?;
    let run = b.run()?;
    same("the exceptions", run.faults(), vec![(8, 0)])?;
    same("RIP", run.trap(0)?.rip, code.at(&label)?)
}

/// Makes the gate of `vector` use a stack that is not there.
fn break_stack(b: &mut Bench<'_>, vector: u64) -> Checked {
    b.write(TSS + 0x24, FREE + 0x1000)?;
    let at = IDT + 16 * vector;
    b.write(at, b.read(at)? | 1 << 32)
}

fn double_page_fault(b: &mut Bench<'_>) -> Checked {
    break_stack(b, 14)?;
    let (code, label) = kernel(b, |a| {
        a.mov(rbx, FREE + 0x5000)?;
        Ok(a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?)
    })?;
    let run = b.run()?;
    same("the exceptions", run.faults(), vec![(8, 0)])?;
    same("RIP", run.trap(0)?.rip, code.at(&label)?)?;
    same("the page in CR2", run.trap(0)?.cr2 & !0xfff, FREE)
}

fn page_fault_second(b: &mut Bench<'_>) -> Checked {
    break_stack(b, 13)?;
    b.map(FREE + 0x1000, FRAMES, page::KERNEL)?;
    kernel(b, |a| {
        a.mov(eax, i32::from(selector::BEYOND))?;
        a.faulting(|a| a.mov(ds, eax))?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the exceptions", run.faults(), vec![(14, 2)])?;
    same("the page in CR2", run.trap(0)?.cr2 & !0xfff, FREE)
}

fn triple_fault(b: &mut Bench<'_>) -> Checked {
    for vector in [6, 8, 11] {
        b.gate(vector, Gate { present: false, ..Gate::to(HANDLERS) })?;
    }
    let (code, at) = kernel(b, |a| {
        let mut at = a.create_label();
        a.mov(eax, 0x1234)?;
        a.set_label(&mut at)?;
        a.ud2()?;
        Ok(at)
    })?;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("RIP", run.report.state.rip, code.at(&at)?)?;
    same("RAX", run.report.state.gpr[0], 0x1234)?;
    same("the activity", run.report.state.activity, motu_x86::Activity::Shutdown)?;
    let last = run.report.recent.last().map(|instruction| instruction.text.clone());
    same("the last instruction of the report", last, Some("ud2".into()))
}

fn too_long(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.db(&[0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e])?;
        a.nop()?;
        a.faulting(|a| {
            a.db(&[0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e])?;
            a.nop()
        })?;
        Ok(())
    })?;
    same("the exceptions", b.run()?.faults(), vec![(13, 0)])
}

fn lock(b: &mut Bench<'_>) -> Checked {
    let cases: [&[u8]; 5] = [
        &[0xf0, 0x90],
        // lock mov [rbx], eax; lock add eax, [rbx]; lock add eax, ebx; lock bt [rbx], 1
        &[0xf0, 0x89, 0x03],
        &[0xf0, 0x03, 0x03],
        &[0xf0, 0x01, 0xd8],
        &[0xf0, 0x0f, 0xba, 0x23, 0x01],
    ];
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.lock().add(dword_ptr(rbx), eax)?;
        for bytes in cases {
            a.faulting(|a| a.db(bytes))?;
        }
        Ok(())
    })?;
    same("the exceptions", b.run()?.faults(), vec![(6, 0); cases.len()])
}

fn floating(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.mov(dword_ptr(rbx), 0x1d80)?;
        a.ldmxcsr(dword_ptr(rbx))?;
        a.mov(eax, 0x3f80_0000)?;
        a.movd(xmm0, eax)?;
        a.pxor(xmm1, xmm1)?;
        a.faulting(|a| a.divss(xmm0, xmm1))?;
        a.mov(rax, cr4)?;
        a.and(rax, !(cr4::OSXMMEXCPT as i32))?;
        a.mov(cr4, rax)?;
        a.faulting(|a| a.divss(xmm0, xmm1))?;
        // The x87 tells the next waiting instruction.
        a.fninit()?;
        a.mov(word_ptr(rbx), 0x037b)?;
        a.fldcw(word_ptr(rbx))?;
        a.fld1()?;
        a.fldz()?;
        a.fdivp(st1, st0)?;
        a.faulting(|a| a.fld1())?;
        a.fnclex()?;
        a.fld1()?;
        Ok(())
    })?;
    same("the exceptions", b.run()?.faults(), vec![(19, 0), (6, 0), (16, 0)])
}
