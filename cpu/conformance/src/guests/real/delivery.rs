//! Exceptions and interrupts in real-address mode.

use crate::Guest;
use crate::bench::{Asm, Bench, Checked, End, same};
use crate::board::{EXT_INT_VECTOR, port};
use crate::guests::{legacy, real};
use crate::layout::legacy::*;
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "real mode: stack frame of INT n", manual: "vol. 3, 20.1.4", check: frame },
    Guest { name: "real mode: software interrupts", manual: "vol. 3, 20.1.4", check: software },
    Guest { name: "real mode: faults push no error code", manual: "vol. 3, table 20-1", check: faults },
    Guest { name: "real mode: limit violations", manual: "vol. 3, table 20-1, interrupts 12 and 13", check: limits },
    Guest { name: "real mode: code past the limit", manual: "vol. 3, 20.1.1", check: past_the_limit },
    Guest { name: "real mode: IRET and IRETD", manual: "vol. 2, IRET", check: returns },
    Guest { name: "real mode: POPF and PUSHF", manual: "vol. 2, POPF", check: flags },
    Guest { name: "real mode: IDT moved by LIDT", manual: "vol. 3, 20.1.4", check: moved },
    Guest { name: "real mode: vector past the IDT's limit", manual: "vol. 3, 20.1.4", check: short_table },
    Guest { name: "real mode: IDT too short for a double fault", manual: "vol. 3, 20.1.4", check: no_table },
    Guest { name: "real mode: HLT and an interrupt", manual: "vol. 2, HLT", check: halted },
    Guest { name: "real mode: single step", manual: "vol. 3, 17.3.1.4", check: stepped },
    Guest { name: "real mode: interrupt pushes around the end of the stack", manual: "vol. 3, 20.1.1", check: wrapped },
];

/// A handler of a test's own, for `vector` of the IVT.
fn handler(b: &mut Bench<'_>, vector: u64, emit: impl FnOnce(&mut Asm) -> Result<(), IcedError>) -> Checked {
    legacy(b, (16, OWN, OWN), |a| Ok(emit(a)?))?;
    Ok(b.ram.write(Gpa(4 * vector), &((OWN << 12) as u32).to_le_bytes())?)
}

const SP: u64 = STACK - STACK_BASE;

fn frame(b: &mut Bench<'_>) -> Checked {
    let (code, after) = real(b, |a| {
        a.push(0x7202)?;
        a.popf()?;
        a.log_flags()?;
        a.int(0x81)?;
        let after = a.here()?;
        a.log(esp)?;
        a.log_flags()?;
        Ok(after)
    })?;
    handler(b, 0x81, |a| {
        a.pushfd()?;
        a.pop(ebx)?;
        a.mov(bp, sp)?;
        for word in 0..3 {
            a.movzx(eax, word_ptr(bp + 2 * word))?;
            a.log_eax()?;
        }
        a.log(ebx)?;
        a.movzx(eax, bp)?;
        a.log_eax()?;
        a.log_selector(cs)?;
        a.iret()
    })?;
    b.state.rflags |= rflags::AC;
    let before = 0x7202 | rflags::AC;
    // IF, TF and AC are cleared (vol. 2, INT n, REAL-ADDRESS-MODE), and IRET has no image of AC.
    let expected = vec![before, code.at(&after)?, CODE >> 4, 0x7202, 0x7002, SP - 6, OWN >> 4, SP, 0x7202];
    same("EFLAGS; IP, CS, FLAGS; EFLAGS, SP, CS inside; ESP, EFLAGS", b.run()?.values(), expected)
}

fn software(b: &mut Bench<'_>) -> Checked {
    let (code, places) = real(b, |a| {
        let mut places = Vec::new();
        a.int3()?;
        places.push((3, a.here()?));
        a.nop()?;
        a.int(3)?;
        places.push((3, a.here()?));
        a.mov(al, 0x7f)?;
        // INTO: not without OF.
        a.db(&[0xce])?;
        a.inc(al)?;
        a.db(&[0xce])?;
        places.push((4, a.here()?));
        a.nop()?;
        a.int(0xff)?;
        places.push((0xff, a.here()?));
        // The privilege of software interrupts is nobody's here: INT 13 pushes no error code either.
        a.int(13)?;
        places.push((13, a.here()?));
        a.nop()?;
        Ok(places)
    })?;
    handler(b, 13, |a| {
        a.log_number(13)?;
        a.iret()
    })?;
    let run = b.run()?;
    let traps: Vec<_> = run.traps().iter().map(|trap| (trap.vector, trap.rip)).collect();
    let expected: Checked<Vec<_>> =
        places.iter().filter(|place| place.0 != 13).map(|(vector, at)| Ok((*vector, code.at(at)?))).collect();
    same("the traps", traps, expected?)?;
    same("the values", run.values(), vec![13])
}

fn faults(b: &mut Bench<'_>) -> Checked {
    let (code, places) = real(b, |a| {
        let mut places = Vec::new();
        a.xor(ecx, ecx)?;
        places.push(a.faulting(|a| a.div(cx))?);
        places.push(a.faulting(|a| a.ud2())?);
        a.mov(dword_ptr(DATA), 0x0005_0001)?;
        a.mov(bx, 6)?;
        // BOUND BX, [DATA].
        places.push(a.faulting(|a| a.db(&[0x62, 0x1e, 0x00, 0x80]))?);
        a.mov(bx, 5)?;
        a.db(&[0x62, 0x1e, 0x00, 0x80])?;
        // AAM 0.
        places.push(a.faulting(|a| a.db(&[0xd4, 0x00]))?);
        a.log(esp)?;
        Ok(places)
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![SP])?;
    let expected: Checked<Vec<_>> =
        [0, 6, 5, 0].into_iter().zip(&places).map(|(vector, at)| Ok((vector, code.at(at)?, SP))).collect();
    let found: Vec<_> = run.traps().iter().map(|trap| (trap.vector, trap.rip, trap.rsp)).collect();
    same("vector, IP, SP", found, expected?)
}

fn limits(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.mov(ebx, 0xffff)?;
        a.mov(al, byte_ptr(bx))?;
        a.faulting(|a| a.mov(ax, word_ptr(bx)))?;
        a.faulting(|a| a.mov(word_ptr(bx), ax))?;
        a.mov(bx, 0xfffe)?;
        a.mov(ax, word_ptr(bx))?;
        a.faulting(|a| a.mov(eax, dword_ptr(bx)))?;
        a.mov(ebx, 0x1_0000)?;
        a.faulting(|a| a.mov(al, byte_ptr(ebx)))?;
        a.mov(ebp, 0xffff)?;
        a.faulting(|a| a.mov(ax, word_ptr(bp)))?;
        a.faulting(|a| a.mov(ax, word_ptr(ebp + 1)))?;
        // POP with the word across the end of the segment.
        a.mov(edx, esp)?;
        a.mov(sp, 0xffff)?;
        a.faulting(|a| a.pop(ax))?;
        a.mov(sp, dx)?;
        // 16-bit addresses wrap before the base is added.
        a.mov(word_ptr(0x10), 0x1234)?;
        a.mov(bx, 0xfff0)?;
        a.movzx(eax, word_ptr(bx + 0x20))?;
        a.log_eax()?;
        // String instructions, at SI and at DI.
        a.mov(si, 0xffff)?;
        a.mov(di, 0x100)?;
        a.faulting(|a| a.movsw())?;
        a.mov(di, 0xffff)?;
        a.faulting(|a| a.stosw())?;
        Ok(())
    })?;
    let run = b.run()?;
    let vectors: Vec<_> = run.traps().iter().map(|trap| trap.vector).collect();
    same("the faults", vectors, vec![13, 13, 13, 13, 12, 12, 12, 13, 13])?;
    same("the value", run.values(), vec![0x1234])
}

fn past_the_limit(b: &mut Bench<'_>) -> Checked {
    // At the end of a segment: NOP, whose successor wraps to no place, and a jump that does not fit.
    const SEGMENT: u64 = 0x5_0000;
    real(b, |a| {
        a.far_jump((SEGMENT >> 4) as u16, 0xfffd)?;
        Ok(())
    })?;
    b.ram.write(Gpa(SEGMENT + 0xfffd), &[0x90, 0x90, 0xb0, 0x12])?;
    handler(b, 13, |a| {
        a.mov(bp, sp)?;
        a.movzx(eax, word_ptr(bp))?;
        a.log_eax()?;
        a.movzx(eax, word_ptr(bp + 2))?;
        a.log_eax()?;
        a.log(esp)?;
        a.finish()
    })?;
    same("IP, CS, SP", b.run()?.values(), vec![0xffff, SEGMENT >> 4, SP - 6])
}

fn returns(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        let mut inside = a.create_label();
        let mut second = a.create_label();
        a.pushfd()?;
        a.pop(ebx)?;
        a.push(0x3602)?;
        a.push(cs)?;
        a.call(inside)?;
        a.log_flags()?;
        a.log(esp)?;
        a.cli()?;
        // IRETD: VM, VIF and VIP of the image are left alone, AC and ID are taken.
        a.db(&[0x66, 0x68])?;
        a.dd(&[0x003e_0ed7])?;
        a.mov(eax, cs)?;
        a.push(eax)?;
        a.call(second)?;
        a.log_flags()?;
        a.log(esp)?;
        a.cld()?;
        let mut end = a.create_label();
        a.jmp(end)?;
        a.set_label(&mut inside)?;
        a.iret()?;
        a.set_label(&mut second)?;
        // The call pushed a word: make it a double word.
        a.pop(ax)?;
        a.movzx(eax, ax)?;
        a.push(eax)?;
        a.iretd()?;
        a.set_label(&mut end)?;
        Ok(a.nop()?)
    })?;
    let expected = vec![0x3602, SP, 0x24_0ed7, SP];
    same("EFLAGS and ESP", b.run()?.values(), expected)
}

fn flags(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.push(-1)?;
        a.popf()?;
        a.pushf()?;
        a.pop(cx)?;
        a.push(2)?;
        a.popf()?;
        a.movzx(eax, cx)?;
        a.log_eax()?;
        a.db(&[0x66, 0x68])?;
        a.dd(&[0xffff_feff])?;
        a.popfd()?;
        a.pushfd()?;
        a.pop(ebx)?;
        a.push(2)?;
        a.popf()?;
        a.log(ebx)?;
        a.log_flags()?;
        Ok(())
    })?;
    let run = b.run()?;
    // VIF, VIP, VM and RF do not change; 16-bit POPF leaves AC and ID. PUSHF logs TF, and the traps come from
    // the instruction behind POPF on.
    same("FLAGS, EFLAGS", run.values(), vec![0x7fd7, 0x24_7ed7, 0x24_0002])?;
    same("the traps", run.faults(), vec![(1, 0); 4])
}

fn moved(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.mov(word_ptr(DATA), 0x3ff)?;
        a.mov(dword_ptr(DATA + 2), 0x9000)?;
        a.mov(dword_ptr(0x9000 + 4 * 0x81), (OWN << 12) as u32)?;
        // LIDT with a 16-bit operand loads 24 bits of the base.
        a.mov(byte_ptr(DATA + 5), 0xff)?;
        a.db(&[0x0f, 0x01, 0x1e, 0x00, 0x80])?;
        a.int(0x81)?;
        a.mov(dword_ptr(DATA + 8), -1)?;
        a.mov(dword_ptr(DATA + 12), -1)?;
        a.db(&[0x0f, 0x01, 0x0e, 0x08, 0x80])?;
        a.mov(eax, dword_ptr(DATA + 10))?;
        a.log_eax()?;
        Ok(())
    })?;
    handler(b, 0x81, |a| {
        a.log_number(0x81)?;
        a.iret()
    })?;
    b.ram.write(Gpa(4 * 0x81), &[0; 4])?;
    // SIDT stores zero in the fourth byte or the base; 24 bits were loaded, so it is the same.
    same("the values", b.run()?.values(), vec![0x81, 0x9000])
}

fn short_table(b: &mut Bench<'_>) -> Checked {
    let (code, at) = real(b, |a| {
        let at = a.faulting(|a| a.int(0x20))?;
        a.int(0x1f)?;
        Ok(at)
    })?;
    handler(b, 0x1f, |a| {
        a.log_number(0x1f)?;
        a.iret()
    })?;
    b.state.idtr.limit = 0x7f;
    let run = b.run()?;
    let traps: Vec<_> = run.traps().iter().map(|trap| (trap.vector, trap.rip)).collect();
    same("the trap", traps, vec![(13, code.at(&at)?)])?;
    same("the value", run.values(), vec![0x1f])
}

fn no_table(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.log_number(1)?;
        a.int(0x20)?;
        a.log_number(2)?;
        Ok(())
    })?;
    // #GP has no vector, nor has #DF.
    b.state.idtr.limit = 4 * 8 - 1;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("the values", run.values(), vec![1])?;
    // With a vector for #DF it is delivered.
    b.state.idtr.limit = 4 * 9 - 1;
    handler(b, 8, |a| {
        a.log_number(8)?;
        a.finish()
    })?;
    same("the values", b.run()?.values(), vec![1, 8])
}

fn halted(b: &mut Bench<'_>) -> Checked {
    let (code, after) = real(b, |a| {
        a.mov(edx, u32::from(port::EXT_INT))?;
        a.mov(eax, 1)?;
        a.out(dx, eax)?;
        a.sti()?;
        a.hlt()?;
        let after = a.here()?;
        a.log_flags()?;
        Ok(after)
    })?;
    external(b);
    let run = b.run()?;
    let trap = run.trap(0)?;
    same("vector and IP", (trap.vector, trap.rip), (EXT_INT_VECTOR.into(), code.at(&after)?))?;
    same("IF behind", run.values(), vec![0x202])
}

/// The 8259 pair gets through to the processor.
fn external(b: &mut Bench<'_>) {
    b.state.lapic.registers[0x35] = 0x700;
    b.state.lapic.registers[0x0f] = 0x1ff;
}

fn stepped(b: &mut Bench<'_>) -> Checked {
    let (code, start) = real(b, |a| {
        a.mov(ax, ss)?;
        a.push(0x102)?;
        a.popf()?;
        let start = a.here()?;
        a.nop()?;
        a.mov(ss, ax)?;
        a.nop()?;
        a.int(0x81)?;
        a.nop()?;
        a.push(2)?;
        a.popf()?;
        Ok(start)
    })?;
    let run = b.run()?;
    let start = code.at(&start)?;
    let found: Vec<_> = run.traps().iter().map(|trap| (trap.vector, trap.rip - start)).collect();
    same("the traps", found, vec![(1, 1), (1, 4), (0x81, 6), (1, 7), (1, 9), (1, 10)])?;
    same(
        "TF in the images",
        run.traps().iter().all(|trap| trap.flags & rflags::TF != 0 || trap.rip == start + 10),
        true,
    )
}

fn wrapped(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        // Words that do not cross the end: SP 2 and 4 give a frame on both ends of the segment.
        a.mov(sp, 4)?;
        a.int(0x81)?;
        a.log(esp)?;
        a.mov(sp, SP as i32)?;
        Ok(())
    })?;
    handler(b, 0x81, |a| {
        a.log(esp)?;
        a.iret()
    })?;
    same("SP", b.run()?.values(), vec![0xfffe, 4])?;
    // A word that crosses it cannot be pushed, and neither can the frames of #SS and #DF.
    real(b, |a| {
        a.mov(sp, 1)?;
        a.log_number(1)?;
        a.int(0x81)?;
        Ok(())
    })?;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("the values", run.values(), vec![1])
}
