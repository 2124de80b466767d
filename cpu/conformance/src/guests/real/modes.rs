//! Into protected mode and back, what stays of it, and what real-address mode has not.

use crate::Guest;
use crate::bench::{Bench, Checked, descriptor, same};
use crate::guests::{Emit, legacy, real};
use crate::layout::legacy::*;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "real mode: addresses past 1 MiB", manual: "vol. 3, 20.1.1 and 8.7.13.4", check: past_the_megabyte },
    Guest { name: "real mode: to protected mode and back", manual: "vol. 3, 9.9", check: there_and_back },
    Guest { name: "real mode: PE without a far jump", manual: "vol. 3, 9.9.1", check: near_code },
    Guest { name: "real mode: limits of protected mode stay", manual: "vol. 3, 9.9.2", check: unreal },
    Guest { name: "real mode: 32-bit stack", manual: "vol. 3, 9.9.2", check: big_stack },
    Guest { name: "real mode: operand size of LGDT and SGDT", manual: "vol. 2, LGDT", check: table_sizes },
    Guest { name: "real mode: 32-bit operands and addresses", manual: "vol. 1, 3.6", check: prefixes },
    Guest { name: "real mode: far calls, jumps and returns", manual: "vol. 2, CALL, JMP, RET", check: far },
    Guest { name: "real mode: near transfers past the limit", manual: "vol. 2, CALL, JMP, RET", check: near_limits },
    Guest { name: "real mode: instructions of protected mode", manual: "vol. 3, 20.1.3", check: unknown },
    Guest { name: "real mode: VEX", manual: "vol. 2, 2.3.2", check: vex },
    Guest { name: "real mode: SMSW and LMSW", manual: "vol. 2, LMSW", check: machine_status },
    Guest { name: "real mode: segment loads", manual: "vol. 3, 20.1.1", check: loads },
    Guest { name: "real mode: control registers", manual: "vol. 3, 2.5", check: control_registers },
];

const SP: u64 = STACK - STACK_BASE;

/// CLI; CR0.PE set or cleared. Changes EAX.
const SET_PE: Emit = |a| {
    a.mov(eax, cr0)?;
    a.or(al, 1)?;
    a.mov(cr0, eax)
};
const CLEAR_PE: Emit = |a| {
    a.mov(eax, cr0)?;
    a.and(al, -2)?;
    a.mov(cr0, eax)
};

fn past_the_megabyte(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.mov(ax, 0xffff)?;
        a.mov(ds, ax)?;
        a.mov(eax, dword_ptr(0x10))?;
        a.log_eax()?;
        a.mov(word_ptr(0xfffe), 0x5678)?;
        a.mov(ax, 0)?;
        a.mov(ds, ax)?;
        a.mov(eax, dword_ptr(0))?;
        a.cmp(eax, 0x1234)?;
        a.sete(al)?;
        a.movzx(eax, al)?;
        a.log_eax()?;
        Ok(())
    })?;
    b.ram.write(Gpa(0x10_0000), &0x1234u32.to_le_bytes())?;
    same("the word at 1 MiB, whether it is that at 0", b.run()?.values(), vec![0x1234, 0])?;
    same("the last word", b.read(0x10_ffee)? & 0xffff, 0x5678)
}

fn there_and_back(b: &mut Bench<'_>) -> Checked {
    const PROTECTED: u64 = 0x1_8000;
    const BACK: u64 = 0x1_9000;
    const REAL: u64 = 0x1_9800;
    real(b, |a| {
        SET_PE(a)?;
        a.db(&[0x66, 0xea])?;
        a.dd(&[PROTECTED as u32])?;
        a.dw(&[selector::CODE])?;
        Ok(())
    })?;
    legacy(b, (32, PROTECTED, 0), |a| {
        a.log_selector(cs)?;
        // The segment registers are still those of real-address mode.
        a.log_selector(ss)?;
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ss, eax)?;
        a.mov(ds, eax)?;
        a.mov(eax, dword_ptr(USER_DATA as u32))?;
        a.log_eax()?;
        a.mov(eax, u32::from(DATA16))?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        Ok(a.far_jump(CODE16, (BACK - CODE) as u32)?)
    })?;
    legacy(b, (16, BACK, CODE), |a| {
        a.log_selector(cs)?;
        CLEAR_PE(a)?;
        Ok(a.far_jump((REAL >> 4) as u16, 0)?)
    })?;
    legacy(b, (16, REAL, REAL), |a| {
        a.mov(ax, (STACK_BASE >> 4) as u32)?;
        a.mov(ss, ax)?;
        a.mov(esp, SP as u32)?;
        a.log_selector(cs)?;
        // SS has the limit of a 16-bit segment again, and an interrupt comes by the IVT.
        a.int(0x81)?;
        Ok(())
    })?;
    b.write(USER_DATA, 0x1234)?;
    let run = b.run()?;
    let (real_ss, real_cs) = (STACK_BASE >> 4, REAL >> 4);
    same("selectors and a word above 1 MiB", run.values(), vec![8, real_ss, 0x1234, CODE16.into(), real_cs])?;
    same("the interrupt", run.trap(0).map(|trap| (trap.vector, trap.cs, trap.rsp))?, (0x81, real_cs, SP))
}

fn near_code(b: &mut Bench<'_>) -> Checked {
    // With PE set the code goes on as it was, in 16 bits, with the bases that it had.
    real(b, |a| {
        let mut called = a.create_label();
        let mut end = a.create_label();
        SET_PE(a)?;
        a.log_selector(cs)?;
        a.call(called)?;
        a.push(0x1234)?;
        a.pop(cx)?;
        a.movzx(eax, cx)?;
        a.log_eax()?;
        // A load in between is one of protected mode.
        a.mov(ax, u32::from(selector::DATA))?;
        a.mov(es, ax)?;
        CLEAR_PE(a)?;
        a.mov(ebx, USER_DATA as u32)?;
        a.mov(eax, dword_ptr(ebx).es())?;
        a.log_eax()?;
        a.log_selector(es)?;
        a.jmp(end)?;
        a.set_label(&mut called)?;
        a.mov(eax, 7)?;
        a.log_eax()?;
        a.ret()?;
        a.set_label(&mut end)?;
        Ok(a.nop()?)
    })?;
    b.write(USER_DATA, 0x4321)?;
    same("the values", b.run()?.values(), vec![CODE >> 4, 7, 0x1234, 0x4321, 0x10])
}

fn unreal(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.mov(ebx, 0x1_0000)?;
        a.faulting(|a| a.mov(al, byte_ptr(ebx)))?;
        SET_PE(a)?;
        a.mov(ax, u32::from(selector::DATA))?;
        a.mov(ds, ax)?;
        CLEAR_PE(a)?;
        // A load in real-address mode changes the base and nothing else.
        a.mov(ax, 0x100)?;
        a.mov(ds, ax)?;
        a.mov(ebx, (USER_DATA - 0x1000) as u32)?;
        a.mov(eax, dword_ptr(ebx))?;
        a.log_eax()?;
        a.mov(dword_ptr(ebx + 4), 0x77)?;
        a.mov(ax, 0)?;
        a.mov(ds, ax)?;
        a.mov(ebx, USER_DATA as u32)?;
        a.mov(eax, dword_ptr(ebx + 4))?;
        a.log_eax()?;
        // 16-bit addresses stay within 64 KiB.
        a.mov(word_ptr(4), 0x55)?;
        a.mov(bx, 0xfffe)?;
        a.movzx(eax, word_ptr(bx + 6))?;
        a.log_eax()?;
        a.mov(ax, word_ptr(bx + 1))?;
        // The other segments have their limits.
        a.faulting(|a| a.mov(al, byte_ptr(ebx + 0x10000).es()))?;
        // A small limit stays as well.
        SET_PE(a)?;
        a.mov(ax, u32::from(FREE_SELECTOR))?;
        a.mov(gs, ax)?;
        CLEAR_PE(a)?;
        a.mov(ax, 0)?;
        a.mov(gs, ax)?;
        a.mov(al, byte_ptr(0xfff).gs())?;
        a.faulting(|a| a.mov(al, byte_ptr(0x1000).gs()))?;
        Ok(())
    })?;
    b.own(0, descriptor(0, 0xfff, 0x93))?;
    b.write(USER_DATA, 0x1234)?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x1234, 0x77, 0x55])?;
    same("the faults", run.faults(), vec![(13, 0); 3])
}

fn big_stack(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        SET_PE(a)?;
        a.mov(ax, u32::from(selector::DATA))?;
        a.mov(ss, ax)?;
        a.mov(esp, USER_STACK as u32)?;
        CLEAR_PE(a)?;
        // SS.B stays: the stack is at ESP, with SS's base as it was loaded.
        a.push(0x1234)?;
        a.mov(ebx, esp)?;
        a.log(ebx)?;
        a.mov(eax, dword_ptr(esp).ss())?;
        a.movzx(eax, ax)?;
        a.log_eax()?;
        a.mov(ax, (STACK_BASE >> 4) as u32)?;
        a.mov(ss, ax)?;
        a.mov(esp, 0x1_0002)?;
        a.push(0x5678)?;
        a.push(0x5679)?;
        a.log(esp)?;
        Ok(())
    })?;
    same("ESP, the word, ESP", b.run()?.values(), vec![USER_STACK - 2, 0x1234, 0xfffe])?;
    same("what was pushed", b.read(USER_STACK - 2)? & 0xffff, 0x1234)?;
    same("what was pushed", b.read(STACK_BASE + 0xfffe)? & 0xffff_ffff, 0x5678_5679)
}

fn table_sizes(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        for prefix in [&[][..], &[0x66]] {
            // LGDT [DATA] and SGDT [DATA + 0x10], the latter always with 32 bits; LIDT and SIDT.
            for (load, store) in [(0x16, 0x06), (0x1e, 0x0e)] {
                a.mov(dword_ptr(DATA + 0x12), 0)?;
                a.db(prefix)?;
                a.db(&[0x0f, 0x01, load, 0x00, 0x80])?;
                a.db(&[0x66, 0x0f, 0x01, store, 0x10, 0x80])?;
                a.movzx(eax, word_ptr(DATA + 0x10))?;
                a.log_eax()?;
                a.mov(eax, dword_ptr(DATA + 0x12))?;
                a.log_eax()?;
            }
        }
        Ok(())
    })?;
    b.write(DATA, 0x9a12_3456 << 16 | 0x0177)?;
    let expected = [0x12_3456, 0x12_3456, 0x9a12_3456, 0x9a12_3456].map(|base| [0x177, base]).concat();
    same("limits and bases", b.run()?.values(), expected)
}

fn prefixes(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        a.mov(eax, 0x1234_5678)?;
        a.mov(ebx, eax)?;
        a.add(bx, 0x1111)?;
        a.log(ebx)?;
        a.mov(ecx, DATA as u32 - 0x40)?;
        a.mov(edx, 8)?;
        a.mov(dword_ptr(ecx + edx * 8), ebx)?;
        a.mov(eax, dword_ptr(DATA as u32))?;
        a.log_eax()?;
        // PUSH and POP with a prefix move four bytes; the stack pointer keeps 16 bits.
        a.mov(esp, 0xabcd_0000u32 + SP as u32)?;
        a.push(ebx)?;
        a.mov(ecx, esp)?;
        a.log(ecx)?;
        a.pop(edx)?;
        a.log(edx)?;
        a.movzx(esp, sp)?;
        // REP MOVSB with CX, and with ECX.
        a.mov(ecx, 0x1_0002)?;
        a.mov(si, DATA as u32)?;
        a.mov(edi, 0x7_9000)?;
        a.and(edi, 0xffff)?;
        a.cld()?;
        a.rep().movsb()?;
        a.log(ecx)?;
        a.mov(ecx, 2)?;
        a.mov(edi, 0x9010)?;
        a.mov(esi, DATA as u32)?;
        a.db(&[0x67, 0xf3, 0xa4])?;
        a.log(edi)?;
        // LOOP counts CX; with the address size prefix ECX.
        a.mov(ecx, 0x1_0001)?;
        a.db(&[0xe2, 0x00])?;
        a.log(ecx)?;
        a.db(&[0x67, 0xe3, 0x06])?;
        a.log_number(1)?;
        // Of a near jump with a 32-bit operand the upper half of EIP must be zero: past the limit.
        a.faulting(|a| a.db(&[0x66, 0xe9, 0, 0, 1, 0]))?;
        Ok(())
    })?;
    let run = b.run()?;
    let expected = vec![0x1234_6789, 0x1234_6789, 0xabcd_0000 + SP - 4, 0x1234_6789, 0x1_0000, 0x9012, 0x1_0000, 1];
    same("the values", run.values(), expected)?;
    same("the fault", run.faults(), vec![(13, 0)])
}

fn far(b: &mut Bench<'_>) -> Checked {
    const OTHER: u64 = 0x5_0000;
    let (code, back) = real(b, |a| {
        a.far_call((OTHER >> 4) as u16, 0x20)?;
        let back = a.here()?;
        a.log(esp)?;
        // CALL m16:32 by a prefix: two double words are pushed.
        a.mov(dword_ptr(DATA), 0x80)?;
        a.mov(word_ptr(DATA + 4), (OTHER >> 4) as u32)?;
        a.db(&[0x66, 0xff, 0x1e, 0x00, 0x80])?;
        a.log(esp)?;
        a.push(0)?;
        a.push(cs)?;
        let mut last = a.create_label();
        a.call(last)?;
        a.log(esp)?;
        let mut end = a.create_label();
        a.jmp(end)?;
        a.set_label(&mut last)?;
        // RETF 2 releases a word.
        a.db(&[0xca, 2, 0])?;
        a.set_label(&mut end)?;
        Ok(back)
    })?;
    for (offset, size) in [(0x20, 2), (0x80, 4)] {
        legacy(b, (16, OTHER + offset, OTHER), |a| {
            a.log_selector(cs)?;
            a.mov(bp, sp)?;
            if size == 2 {
                a.movzx(eax, word_ptr(bp))?;
                a.log_eax()?;
                a.movzx(eax, word_ptr(bp + 2))?;
                a.log_eax()?;
                return Ok(a.db(&[0xcb])?);
            }
            a.movzx(eax, word_ptr(bp + 4))?;
            a.log_eax()?;
            a.log(esp)?;
            Ok(a.db(&[0x66, 0xcb])?)
        })?;
    }
    let other = OTHER >> 4;
    let expected = vec![other, code.at(&back)?, CODE >> 4, SP, other, CODE >> 4, SP - 8, SP, SP];
    same("the values", b.run()?.values(), expected)
}

fn near_limits(b: &mut Bench<'_>) -> Checked {
    let (code, places) = real(b, |a| {
        let mut places = Vec::new();
        a.mov(ebx, 0x1_0000)?;
        // JMP EBX, CALL EBX, and RET with a 32-bit operand: the fault is the transfer's.
        places.push(a.faulting(|a| a.db(&[0x66, 0xff, 0xe3]))?);
        places.push(a.faulting(|a| a.db(&[0x66, 0xff, 0xd3]))?);
        a.push(ebx)?;
        places.push(a.faulting(|a| a.db(&[0x66, 0xc3]))?);
        a.pop(ecx)?;
        a.log(ecx)?;
        // A far jump to an offset past the limit.
        places.push(a.faulting(|a| {
            a.db(&[0x66, 0xea])?;
            a.dd(&[0x1_0000])?;
            a.dw(&[0x1000])
        })?);
        a.log(esp)?;
        // 16-bit transfers wrap: a jump over the end of the segment.
        a.db(&[0xe9, 0x00, 0xf0])?;
        Ok(places)
    })?;
    // Where the jump from around 0x40 with -0x1000 leads.
    for at in (0xf000u64..0xf100).step_by(2) {
        b.ram.write(Gpa(CODE + at), &[0x90, 0x90])?;
    }
    legacy(b, (16, CODE + 0xf100, CODE), |a| Ok(a.log_number(0x99)?))?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x1_0000, SP, 0x99])?;
    for (index, place) in places.iter().enumerate() {
        let trap = run.trap(index)?;
        same("vector and IP", (trap.vector, trap.rip), (13, code.at(place)?))?;
    }
    Ok(())
}

fn unknown(b: &mut Bench<'_>) -> Checked {
    // SLDT, STR, LLDT, LTR, VERR, VERW of AX; LAR and LSL; ARPL.
    const CASES: [&[u8]; 9] = [
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x00, 0xe0],
        &[0x0f, 0x00, 0xe8],
        &[0x0f, 0x02, 0xc0],
        &[0x0f, 0x03, 0xc0],
        &[0x63, 0xc0],
    ];
    real(b, |a| {
        for bytes in CASES {
            a.faulting(|a| a.db(bytes))?;
        }
        // SYSENTER and SYSEXIT give #GP (vol. 2).
        a.faulting(|a| a.db(&[0x0f, 0x34]))?;
        a.faulting(|a| a.db(&[0x0f, 0x35]))?;
        Ok(())
    })?;
    let expected: Vec<_> = CASES.iter().map(|_| (6, 0)).chain([(13, 0), (13, 0)]).collect();
    same("the faults", b.run()?.faults(), expected)
}

fn vex(b: &mut Bench<'_>) -> Checked {
    b.contract = "v3-2026";
    real(b, |a| {
        a.mov(eax, cr4)?;
        a.or(eax, 1 << 18)?;
        a.mov(cr4, eax)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 7)?;
        a.xsetbv()?;
        // VXORPS XMM0, XMM0, XMM0, ANDN EAX, EAX, EAX and VZEROUPPER; LES is what C4 is with another ModRM.
        a.faulting(|a| a.db(&[0xc5, 0xf8, 0x57, 0xc0]))?;
        a.faulting(|a| a.db(&[0xc4, 0xe2, 0x78, 0xf2, 0xc0]))?;
        a.faulting(|a| a.db(&[0xc5, 0xf8, 0x77]))?;
        a.mov(dword_ptr(DATA), 0x0123_4567)?;
        a.db(&[0xc4, 0x1e, 0x00, 0x80])?;
        a.movzx(eax, bx)?;
        a.log_eax()?;
        a.log_selector(es)?;
        // SSE works.
        a.mov(eax, 0x55)?;
        a.movd(xmm0, eax)?;
        a.movd(ecx, xmm0)?;
        a.log(ecx)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(6, 0); 3])?;
    same("the values", run.values(), vec![0x4567, 0x123, 0x55])
}

fn machine_status(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        // SMSW AX, SMSW EAX.
        a.mov(eax, -1)?;
        a.db(&[0x0f, 0x01, 0xe0])?;
        a.log_eax()?;
        a.mov(eax, 0xe)?;
        // LMSW sets TS, EM, MP and PE, and does not clear PE.
        a.db(&[0x0f, 0x01, 0xf0])?;
        a.mov(eax, cr0)?;
        a.log_eax()?;
        a.mov(eax, 1)?;
        a.db(&[0x0f, 0x01, 0xf0])?;
        a.mov(eax, 0)?;
        a.db(&[0x0f, 0x01, 0xf0])?;
        a.mov(eax, cr0)?;
        a.log_eax()?;
        CLEAR_PE(a)?;
        a.log_eax()?;
        Ok(())
    })?;
    b.state.cr0 = 0x1_0012;
    same("MSW, CR0", b.run()?.values(), vec![0xffff_0012, 0x1_001e, 0x1_0011, 0x1_0010])
}

fn loads(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        // LDS, LES, LSS, LFS, LGS; POP; nothing is checked, null is a segment as any other.
        a.mov(dword_ptr(0x9000), 0x0011_0022)?;
        a.db(&[0x0f, 0xb4, 0x1e, 0x00, 0x90])?;
        a.log_selector(fs)?;
        a.mov(dword_ptr(0x110), 0x1234)?;
        a.mov(eax, dword_ptr(0).fs())?;
        a.log_eax()?;
        a.push(0x11)?;
        a.pop(gs)?;
        a.mov(bx, 0)?;
        a.mov(eax, dword_ptr(bx).gs())?;
        a.log_eax()?;
        a.db(&[0x0f, 0xb2, 0x26, 0x08, 0x90])?;
        a.log(esp)?;
        a.log_selector(ss)?;
        a.push(0x77)?;
        // MOV to CS does not exist.
        a.faulting(|a| a.db(&[0x8e, 0xc8]))?;
        a.faulting(|a| a.db(&[0x8e, 0xf0]))?;
        Ok(())
    })?;
    b.write(0x9008, 0x3800_0100)?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x11, 0x1234, 0x1234, 0x100, 0x3800])?;
    same("what was pushed", b.read(0x3_80fe)? & 0xffff, 0x77)?;
    same("the faults", run.faults(), vec![(6, 0); 2])
}

fn control_registers(b: &mut Bench<'_>) -> Checked {
    real(b, |a| {
        // PG without PE, NW without CD.
        a.mov(eax, 0x8000_0010u32)?;
        a.faulting(|a| a.mov(cr0, eax))?;
        a.mov(eax, 0x2000_0010)?;
        a.faulting(|a| a.mov(cr0, eax))?;
        a.mov(eax, cr4)?;
        a.or(eax, 1 << 31)?;
        a.faulting(|a| a.mov(cr4, eax))?;
        // Privileged instructions are anybody's.
        a.mov(ecx, 0x277)?;
        a.rdmsr()?;
        a.log_eax()?;
        a.clts()?;
        a.mov(eax, 0x1234_5678)?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr3)?;
        a.log_eax()?;
        a.mov(eax, 0x10)?;
        a.mov(cr0, eax)?;
        a.mov(eax, cr0)?;
        a.log_eax()?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 3])?;
    same("PAT, CR3, CR0", run.values(), vec![0x0007_0406, 0x1234_5678, 0x10])
}
