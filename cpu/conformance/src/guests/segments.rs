//! Segment registers, descriptor tables, far transfers, and compatibility mode.

use super::{Emit, handler, kernel};
use crate::Guest;
use crate::bench::{Bench, Checked, Code, same};
use crate::board::register;
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "bases and limits in 64-bit mode", manual: "vol. 1, 3.3.4", check: flat },
    Guest { name: "FS and GS bases", manual: "vol. 3, 3.4.4", check: bases },
    Guest { name: "accessed bits of descriptors", manual: "vol. 3, 3.4.5.1", check: accessed },
    Guest { name: "LAR, LSL, VERR, VERW", manual: "vol. 2", check: inspection },
    Guest { name: "LGDT, SGDT, LIDT, SIDT, LTR, STR", manual: "vol. 2", check: tables },
    Guest { name: "far calls, jumps and returns", manual: "vol. 2, CALL, JMP, RET", check: far },
    Guest { name: "far transfers to what is not allowed", manual: "vol. 2, CALL, JMP", check: bad_far },
    Guest { name: "compatibility mode of ring 3", manual: "vol. 1, 3.1.1; vol. 3, 6.14.3", check: compatibility },
    Guest { name: "compatibility mode of ring 0 by far jump", manual: "vol. 3, 5.8.1", check: compatibility_ring0 },
    Guest { name: "segment bases in compatibility mode", manual: "vol. 3, 3.4.3", check: compatibility_bases },
];

const OWN: u64 = HANDLERS + 0x8000;

fn flat(b: &mut Bench<'_>) -> Checked {
    // DS with a base and a small limit; SS null.
    b.write(GDT + 0x68, 0x0000_9300_1000_000f)?;
    b.write(DATA, 0x77)?;
    kernel(b, |a| {
        a.mov(eax, 0x68)?;
        a.mov(ds, eax)?;
        a.mov(rax, qword_ptr(DATA))?;
        a.log(rax)?;
        a.xor(eax, eax)?;
        a.mov(ds, eax)?;
        a.mov(es, eax)?;
        a.mov(ss, eax)?;
        a.mov(rax, qword_ptr(DATA))?;
        a.log(rax)?;
        a.push(rax)?;
        a.pop(rcx)?;
        a.log(rcx)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x77, 0x77, 0x77])
}

fn bases(b: &mut Bench<'_>) -> Checked {
    // A data segment with base 0x8000.
    b.write(GDT + 0x68, 0x00cf_9300_8000_ffff)?;
    b.write(DATA, 0x11)?;
    b.write(DATA + 0x1000, 0x22)?;
    kernel(b, |a| {
        a.mov(eax, 0x68)?;
        a.mov(fs, eax)?;
        a.mov(rax, qword_ptr(0).fs())?;
        a.log(rax)?;
        a.mov(ecx, 0xc000_0100u32)?;
        a.rdmsr()?;
        a.log(rax)?;
        a.mov(eax, 0x9000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(rax, qword_ptr(0).fs())?;
        a.log(rax)?;
        a.mov(eax, fs)?;
        a.log(rax)?;
        // LEA knows no segments.
        a.lea(rax, qword_ptr(8).fs())?;
        a.log(rax)?;
        a.mov(eax, 0)?;
        a.mov(edx, 0x8000)?;
        a.faulting(|a| a.wrmsr())?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x11, 0x8000, 0x22, 0x68, 8])?;
    same("the fault", run.faults(), vec![(13, 0)])
}

fn accessed(b: &mut Bench<'_>) -> Checked {
    b.write(GDT + 0x68, 0x00cf_9200_0000_ffff)?;
    b.write(GDT + 0x70, 0x00cf_9200_0000_ffff)?;
    kernel(b, |a| {
        a.mov(eax, 0x68)?;
        a.mov(es, eax)?;
        a.mov(eax, 0x70)?;
        a.lar(ecx, eax)?;
        Ok(())
    })?;
    b.run()?;
    same("the descriptor that was loaded", b.read(GDT + 0x68)?, 0x00cf_9300_0000_ffff)?;
    same("the descriptor that was looked at", b.read(GDT + 0x70)?, 0x00cf_9200_0000_ffff)
}

fn inspection(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        for selector in [selector::DATA, selector::USER_CODE, selector::TASK, selector::BEYOND, 0, selector::ABSENT] {
            a.mov(eax, i32::from(selector))?;
            a.mov(ecx, 0x5555)?;
            a.lar(ecx, eax)?;
            a.log(rcx)?;
            a.mov(ecx, 0x5555)?;
            a.lsl(ecx, eax)?;
            a.log(rcx)?;
        }
        let probes: [Emit; 2] = [|a| a.verr(ax), |a| a.verw(ax)];
        for selector in [selector::DATA, selector::CODE, selector::READ_ONLY, selector::TASK] {
            for probe in probes {
                a.mov(eax, i32::from(selector))?;
                probe(a)?;
                a.setz(cl)?;
                a.movzx(ecx, cl)?;
                a.log(rcx)?;
            }
        }
        Ok(())
    })?;
    let rights = vec![
        [0x00cf_9300, 0xffff_ffff],
        [0x00af_fb00, 0xffff_ffff],
        [0x0000_8b00, 0x67],
        [0x5555, 0x5555],
        [0x5555, 0x5555],
        [0x00cf_1300, 0xffff_ffff],
    ];
    let probed = [1, 1, 1, 0, 1, 0, 0, 0];
    let expected: Vec<u64> = rights.into_iter().flatten().chain(probed).collect();
    same("the values", b.run()?.values(), expected)
}

fn tables(b: &mut Bench<'_>) -> Checked {
    b.write(GDT + 0x38, b.read(GDT + 0x38)? & !(2 << 40))?;
    b.ram.write(Gpa(DATA), &0x77u16.to_le_bytes())?;
    b.write(DATA + 2, 0xffff_8000_0000_1000)?;
    b.ram.write(Gpa(DATA + 16), &0xfffu16.to_le_bytes())?;
    b.write(DATA + 18, 1 << 47)?;
    kernel(b, |a| {
        a.sgdt(ptr(DATA + 0x20))?;
        a.sidt(ptr(DATA + 0x30))?;
        a.mov(ax, word_ptr(DATA + 0x20))?;
        a.movzx(eax, ax)?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(DATA + 0x22))?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(DATA + 0x32))?;
        a.log(rax)?;
        a.faulting(|a| a.lidt(ptr(DATA + 16)))?;
        a.mov(eax, i32::from(selector::TASK))?;
        a.ltr(ax)?;
        a.str(ecx)?;
        a.log(rcx)?;
        a.sldt(ecx)?;
        a.log(rcx)?;
        a.faulting(|a| a.ltr(ax))?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x7f, GDT, IDT, 0x38, 0])?;
    same("the faults", run.faults(), vec![(13, 0), (13, 0x38)])?;
    same("the type of the TSS", b.read(GDT + 0x38)? >> 40 & 0xf, 0xb)
}

fn far(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.log(rsp)?;
        a.mov(rax, qword_ptr(rsp + 8))?;
        a.log(rax)?;
        a.mov(eax, cs)?;
        a.log(rax)?;
        Ok(a.retf()?)
    })?;
    b.write(DATA, OWN)?;
    b.write(DATA + 8, selector::CONFORMING.into())?;
    kernel(b, |a| {
        // CALL m16:64 and JMP m16:64.
        a.db(&[0x48, 0xff, 0x1c, 0x25])?;
        a.dd(&[DATA as u32])?;
        let mut next = a.create_label();
        a.lea(rax, ptr(next))?;
        a.mov(qword_ptr(DATA), rax)?;
        a.db(&[0x48, 0xff, 0x2c, 0x25])?;
        a.dd(&[DATA as u32])?;
        a.set_label(&mut next)?;
        a.mov(eax, cs)?;
        a.log(rax)?;
        a.log(rsp)?;
        Ok(())
    })?;
    same("RSP, the old CS, the new CS; CS, RSP", b.run()?.values(), vec![STACK - 16, 8, 0x50, 0x50, STACK])
}

fn bad_far(b: &mut Bench<'_>) -> Checked {
    let cases = [
        (0u64, CODE, (13, 0)),
        (selector::BEYOND.into(), CODE, (13, 0x80)),
        (selector::DATA.into(), CODE, (13, 0x10)),
        (selector::ABSENT_CODE.into(), CODE, (11, 0x58)),
        (selector::USER_CODE.into(), CODE, (13, 0x30)),
        (selector::CODE.into(), 1 << 47, (13, 0)),
    ];
    for (n, (selector, offset, _)) in (0..).zip(cases) {
        b.write(DATA + 16 * n, offset)?;
        b.write(DATA + 16 * n + 8, selector)?;
    }
    kernel(b, |a| {
        for n in 0..cases.len() as u32 {
            a.faulting(|a| {
                a.db(&[0x48, 0xff, 0x2c, 0x25])?;
                a.dd(&[DATA as u32 + 16 * n])
            })?;
        }
        a.faulting(|a| {
            a.db(&[0x48, 0xff, 0x1c, 0x25])?;
            a.dd(&[DATA as u32 + 16])
        })?;
        a.log(rsp)?;
        Ok(())
    })?;
    let run = b.run()?;
    let expected: Vec<_> = cases.iter().map(|case| case.2).chain([(13, 0x80)]).collect();
    same("the faults", run.faults(), expected)?;
    same("RSP", run.values(), vec![STACK])
}

/// Enters 32-bit code of ring 3 at [`USER_CODE`].
fn to_compatibility(a: &mut CodeAssembler) -> Checked {
    a.mov(eax, i32::from(selector::USER_DATA))?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.push(i32::from(selector::USER_DATA))?;
    a.mov(rax, USER_STACK)?;
    a.push(rax)?;
    a.push(2)?;
    a.push(i32::from(selector::USER_CODE32))?;
    a.mov(rax, USER_CODE)?;
    a.push(rax)?;
    Ok(a.iretq()?)
}

/// Logs EAX in 32-bit code.
fn log32(a: &mut CodeAssembler) -> Checked {
    Ok(a.mov(dword_ptr(BOARD + register::LOG), eax)?)
}

/// Instructions of 32-bit code that are to fault. Code of that size cannot ask where it is, so it is
/// assembled twice, and knows the second time.
#[derive(Default)]
struct Faulting32 {
    known: Vec<u64>,
    labels: Vec<CodeLabel>,
}

impl Faulting32 {
    fn emit(&mut self, a: &mut CodeAssembler, emit: Emit) -> Checked {
        let mut next = a.create_label();
        let address = self.known.get(self.labels.len()).copied().unwrap_or(0);
        a.mov(edx, address as u32)?;
        a.mov(dword_ptr(RESUME), edx)?;
        emit(a)?;
        a.set_label(&mut next)?;
        a.nop()?;
        self.labels.push(next);
        Ok(())
    }
}

/// Puts 32-bit code of ring 3 in place that ends the guest, content, behind what `emit` gives.
fn user32<T>(
    b: &mut Bench<'_>,
    emit: impl Fn(&mut CodeAssembler, &mut Faulting32) -> Checked<T>,
) -> Checked<(Code, T)> {
    let mut faults = Faulting32::default();
    let mut assemble = |faults: &mut Faulting32| -> Checked<(Code, T)> {
        let mut a = b.assembler(32)?;
        let made = emit(&mut a, faults)?;
        a.mov(dword_ptr(BOARD + register::END), 0)?;
        a.stop()?;
        Ok((b.load(USER_CODE, &mut a)?, made))
    };
    let (code, _) = assemble(&mut faults)?;
    let known = std::mem::take(&mut faults.labels).iter().map(|label| code.at(label)).collect::<Checked<_>>()?;
    assemble(&mut Faulting32 { known, labels: Vec::new() })
}

fn compatibility(b: &mut Bench<'_>) -> Checked {
    let gate = b.read(IDT + 16 * 0x80)?;
    b.write(IDT + 16 * 0x80, gate | 3 << 45)?;
    let gate = b.read(IDT + 16 * 4)?;
    b.write(IDT + 16 * 4, gate | 3 << 45)?;
    kernel(b, to_compatibility)?;
    let (code, after) = user32(b, |a, faults| {
        let mut after = a.create_label();
        a.mov(eax, cs)?;
        log32(a)?;
        // What would be REX.W is DEC EAX here.
        a.mov(eax, 5)?;
        a.db(&[0x48])?;
        log32(a)?;
        a.push(0x1234_5678)?;
        a.mov(eax, esp)?;
        log32(a)?;
        a.pop(eax)?;
        // Addresses wrap at 4 GiB.
        a.mov(ebx, 0xffff_ff00u32)?;
        a.mov(eax, dword_ptr(ebx + (USER_STACK as i32 - 4 + 0x100)))?;
        log32(a)?;
        a.int(0x80)?;
        a.set_label(&mut after)?;
        a.mov(eax, 0x7fff_ffff)?;
        a.inc(eax)?;
        // INTO.
        a.db(&[0xce])?;
        // SYSCALL is no instruction here on this processor.
        faults.emit(a, |a| a.syscall())?;
        Ok(after)
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x23, 4, USER_STACK - 4, 0x1234_5678])?;
    same("the traps", run.faults(), vec![(0x80, 0), (4, 0), (6, 0)])?;
    let trap = run.trap(0)?;
    same("RIP, CS, SS, RSP", (trap.rip, trap.cs, trap.ss, trap.rsp), (code.at(&after)?, 0x23, 0x2b, USER_STACK))
}

fn compatibility_ring0(b: &mut Bench<'_>) -> Checked {
    let mut a = b.assembler(32)?;
    a.mov(eax, cs)?;
    log32(&mut a)?;
    a.pushfd()?;
    a.pop(eax)?;
    log32(&mut a)?;
    // Back: JMP ptr16:32.
    a.db(&[0xea])?;
    a.dd(&[OWN as u32])?;
    a.dw(&[selector::CODE])?;
    b.load(OWN + 0x800, &mut a)?;
    handler(b, OWN, |a| {
        a.mov(eax, cs)?;
        a.log(rax)?;
        a.log(rsp)?;
        Ok(a.finish()?)
    })?;
    b.write(DATA, (OWN + 0x800) | (u64::from(selector::CODE32) << 32))?;
    kernel(b, |a| {
        // JMP m16:32.
        a.db(&[0xff, 0x2c, 0x25])?;
        a.dd(&[DATA as u32])?;
        Ok(())
    })?;
    same("CS, EFLAGS, CS, RSP", b.run()?.values(), vec![0x18, rflags::FIXED_1, 8, STACK])
}

fn compatibility_bases(b: &mut Bench<'_>) -> Checked {
    // Data of ring 3 at USER_DATA, and code of ring 3 at USER_CODE + 0x1000.
    b.write(GDT + 0x68, 0x0040_f322_0000_ffff)?;
    b.write(GDT + 0x70, 0x0040_fb20_1000_ffff)?;
    b.write(USER_DATA + 0xfc, 0x1234)?;
    b.ram.write(Gpa(USER_CODE + 0x1010), &[0x8c, 0xc8, 0xcb])?;
    kernel(b, to_compatibility)?;
    user32(b, |a, _| {
        a.mov(eax, 0x6b)?;
        a.mov(fs, eax)?;
        a.mov(eax, dword_ptr(0xfcu32).fs())?;
        log32(a)?;
        // CALL 0x73:0x10: MOV EAX, CS; RETF.
        a.db(&[0x9a])?;
        a.dd(&[0x10])?;
        a.dw(&[0x73])?;
        log32(a)?;
        a.mov(eax, cs)?;
        log32(a)
    })?;
    same("the values", b.run()?.values(), vec![0x1234, 0x73, 0x23])
}
