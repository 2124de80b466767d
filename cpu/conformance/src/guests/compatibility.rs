//! Compatibility mode: 32-bit code under a 64-bit system.

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
    Guest { name: "compatibility mode of ring 3", manual: "vol. 1, 3.1.1; vol. 3, 6.14.3", check: compatibility },
    Guest { name: "compatibility mode of ring 0 by far jump", manual: "vol. 3, 5.8.1", check: compatibility_ring0 },
    Guest { name: "segment bases in compatibility mode", manual: "vol. 3, 3.4.3", check: compatibility_bases },
    Guest { name: "system tables above 4 GiB in compatibility mode", manual: "vol. 3, 6.14", check: high_tables },
    Guest { name: "decimal adjustment and ARPL", manual: "vol. 2, AAA to DAS, ARPL", check: decimal },
];

const OWN: u64 = HANDLERS + 0x8000;

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

/// Where the pages below 1 GiB appear once more, as a kernel has them.
const UPPER: u64 = 0xffff_ffff_8000_0000;

/// GDT, IDT, TSS and the stack of ring 0 lie where 32-bit code has no addresses.
fn high_tables(b: &mut Bench<'_>) -> Checked {
    const PRESENT_WRITABLE: u64 = 3;
    const PAGE: u64 = 4096;
    for page in [GDT, IDT, TSS, TSS + PAGE, TSS + 2 * PAGE, RSP0 - PAGE] {
        b.map(UPPER + page, page, PRESENT_WRITABLE)?;
    }
    b.write(TSS + 4, UPPER + RSP0)?;
    // The same TSS, available, with its base in the upper half.
    let at = GDT + u64::from(selector::TASK);
    let descriptor = b.read(at)? & !(2 << 40) & !(0xff << 56);
    b.write(at, descriptor | 0x80 << 56)?;
    b.write(at + 8, UPPER >> 32)?;
    for (pointer, table) in [(DATA, GDT), (DATA + 0x10, IDT)] {
        b.ram.write(Gpa(pointer), &0x7fu16.to_le_bytes())?;
        b.ram.write(Gpa(pointer + 2), &(UPPER + table).to_le_bytes())?;
    }
    b.ram.write(Gpa(DATA + 0x10), &0xfffu16.to_le_bytes())?;
    kernel(b, |a| {
        a.lgdt(qword_ptr(DATA))?;
        a.lidt(qword_ptr(DATA + 0x10))?;
        a.mov(eax, i32::from(selector::TASK))?;
        a.ltr(ax)?;
        to_compatibility(a)
    })?;
    user32(b, |a, faults| {
        faults.emit(a, |a| a.ud2())?;
        faults.emit(a, |a| a.mov(eax, dword_ptr(0x3000_0000u32)))?;
        a.mov(eax, 7)?;
        log32(a)
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![7])?;
    same("the faults", run.faults(), vec![(6, 0), (14, 4)])
}

fn decimal(b: &mut Bench<'_>) -> Checked {
    // What AX is, what happens to AL first, and the instruction.
    const CASES: [(u32, &[u8], &[u8], u64); 8] = [
        (0x79, &[0x04, 0x35], &[0x27], 0x14),     // ADD AL, 35; DAA
        (0x35, &[0x2c, 0x47], &[0x2f], 0x88),     // SUB AL, 47; DAS
        (0x09, &[0x04, 0x08], &[0x37], 0x0107),   // ADD AL, 8; AAA
        (0x0204, &[0x2c, 0x07], &[0x3f], 0x0107), // SUB AL, 7; AAS
        (63, &[], &[0xd4, 10], 0x0603),           // AAM
        (0x0603, &[], &[0xd5, 10], 63),           // AAD
        (0, &[0xf9], &[0xd6], 0xff),              // STC; SALC
        (0x20, &[0xb3, 3], &[0x63, 0xd8], 0x23),  // MOV BL, 3; ARPL AX, BX
    ];
    kernel(b, to_compatibility)?;
    user32(b, |a, faults| {
        a.xor(ebx, ebx)?;
        for (before, first, instruction, _) in CASES {
            a.mov(eax, before)?;
            a.db(first)?;
            a.db(instruction)?;
            log32(a)?;
        }
        // AAM with a base of zero divides by it.
        faults.emit(a, |a| a.db(&[0xd4, 0]))
    })?;
    let run = b.run()?;
    same("the results", run.values(), CASES.map(|(.., after)| after).to_vec())?;
    same("the fault", run.faults(), vec![(0, 0)])
}
