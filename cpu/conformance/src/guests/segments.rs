//! Segment registers, descriptor tables and far transfers.

use super::{Emit, handler, kernel};
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "bases and limits in 64-bit mode", manual: "vol. 1, 3.3.4", check: flat },
    Guest { name: "FS and GS bases", manual: "vol. 3, 3.4.4", check: bases },
    Guest { name: "accessed bits of descriptors", manual: "vol. 3, 3.4.5.1", check: accessed },
    Guest { name: "LAR, LSL, VERR, VERW", manual: "vol. 2", check: inspection },
    Guest { name: "LGDT, SGDT, LIDT, SIDT, LTR, STR", manual: "vol. 2", check: tables },
    Guest { name: "far calls, jumps and returns", manual: "vol. 2, CALL, JMP, RET", check: far },
    Guest { name: "far transfers to what is not allowed", manual: "vol. 2, CALL, JMP", check: bad_far },
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
