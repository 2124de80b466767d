//! Alignment checks (SDM vol. 3, 6.15, interrupt 17).

use super::{Emit, kernel, protected_user, user, virtual86};
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "alignment checks by size", manual: "vol. 3, table 6-7", check: sizes },
    Guest { name: "alignment checks need AM, AC and ring 3", manual: "vol. 3, 6.15, interrupt 17", check: conditions },
    Guest { name: "alignment checks of the stack", manual: "vol. 3, 6.15, interrupt 17", check: stack },
    Guest { name: "alignment checks and page faults", manual: "vol. 3, table 6-2", check: priority },
    Guest { name: "alignment checks of 32-bit code and V86", manual: "vol. 3, 6.15, interrupt 17", check: legacy_code },
    Guest { name: "alignment of vector operands is #GP", manual: "vol. 2, MOVAPS", check: vectors },
];

const AC: i32 = rflags::AC as i32 | 2;

fn sizes(b: &mut Bench<'_>) -> Checked {
    /// At RBX, and the alignment that each needs.
    const CASES: [(Emit, u64); 12] = [
        (|a| a.mov(al, byte_ptr(rbx)), 1),
        (|a| a.mov(ax, word_ptr(rbx)), 2),
        (|a| a.mov(dword_ptr(rbx), eax), 4),
        (|a| a.mov(rax, qword_ptr(rbx)), 8),
        (|a| a.fld(dword_ptr(rbx)), 4),
        (|a| a.fld(qword_ptr(rbx)), 8),
        (|a| a.fld(tbyte_ptr(rbx)), 8),
        (|a| a.fstcw(word_ptr(rbx)), 2),
        (|a| a.movq(xmm0, qword_ptr(rbx)), 8),
        (|a| a.xchg(dword_ptr(rbx), eax), 4),
        (|a| a.movnti(dword_ptr(rbx), eax), 4),
        (|a| a.lodsw(), 2),
    ];
    user(b, AC, |a| {
        for offset in [1, 2, 4, 8] {
            for (case, _) in CASES {
                a.mov(rbx, USER_DATA + offset)?;
                a.mov(rsi, rbx)?;
                a.faulting(case)?;
                a.fninit()?;
                a.log_number(1)?;
            }
        }
        Ok(())
    })?;
    b.state.cr0 |= cr0::AM;
    let run = b.run()?;
    let mut expected = 0;
    for offset in [1u64, 2, 4, 8] {
        expected += CASES.iter().filter(|(_, alignment)| offset % alignment != 0).count();
    }
    same("the faults", run.faults(), vec![(17, 0); expected])
}

fn conditions(b: &mut Bench<'_>) -> Checked {
    let load: Emit = |a| {
        a.mov(rbx, USER_DATA + 1)?;
        a.mov(eax, dword_ptr(rbx))
    };
    for (flags, am, faults) in [(AC, true, 1), (2, true, 0), (AC, false, 0)] {
        user(b, flags, |a| {
            a.mov(rbx, USER_DATA + 1)?;
            a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?;
            Ok(())
        })?;
        b.state.cr0 = b.state.cr0 & !cr0::AM | if am { cr0::AM } else { 0 };
        same(format!("the faults with flags {flags:#x}, AM {am}"), b.run()?.faults(), vec![(17, 0); faults])?;
    }
    kernel(b, |a| {
        a.push(AC)?;
        a.popfq()?;
        Ok(load(a)?)
    })?;
    b.state.cr0 |= cr0::AM;
    same("the faults in ring 0", b.run()?.faults(), vec![])
}

fn stack(b: &mut Bench<'_>) -> Checked {
    user(b, AC, |a| {
        a.mov(rbp, rsp)?;
        a.sub(rsp, 4)?;
        a.faulting(|a| a.push(rax))?;
        a.faulting(|a| a.db(&[0xe8, 0, 0, 0, 0]))?;
        a.faulting(|a| a.pop(rax))?;
        // The way into the handler is not checked, though TF and everything else is as it was.
        a.int3()?;
        a.mov(rsp, rbp)?;
        a.push(rax)?;
        Ok(())
    })?;
    b.state.cr0 |= cr0::AM;
    // A gate for ring 3.
    b.write(IDT + 48, b.read(IDT + 48)? | 3 << 45)?;
    same("the traps", b.run()?.faults(), vec![(17, 0), (17, 0), (17, 0), (3, 0)])
}

fn priority(b: &mut Bench<'_>) -> Checked {
    user(b, AC, |a| {
        // Not canonical and misaligned, misaligned in no page, aligned in no page.
        a.mov(rbx, 1u64 << 63 | 1)?;
        a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?;
        a.mov(rbx, FREE + 1)?;
        a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?;
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?;
        Ok(())
    })?;
    b.state.cr0 |= cr0::AM;
    same("the faults", b.run()?.faults(), vec![(13, 0), (17, 0), (14, 4)])
}

fn legacy_code(b: &mut Bench<'_>) -> Checked {
    protected_user(b, AC, |a| {
        a.mov(ebx, USER_DATA as u32 + 2)?;
        a.faulting(|a| a.mov(eax, dword_ptr(ebx)))?;
        a.mov(ax, word_ptr(ebx))?;
        // LES of 6 bytes is aligned by 4, BOUND's bounds by 4.
        a.faulting(|a| a.db(&[0xc4, 0x03]))?;
        Ok(())
    })?;
    b.state.cr0 |= cr0::AM;
    same("the faults", b.run()?.faults(), vec![(17, 0), (17, 0)])?;
    // Virtual-8086 mode has privilege 3.
    virtual86(b, rflags::AC | 0x3002, |a| {
        a.mov(bx, 1)?;
        a.faulting(|a| a.mov(ax, word_ptr(bx)))?;
        Ok(())
    })?;
    b.state.cr0 |= cr0::AM;
    same("the faults", b.run()?.faults(), vec![(17, 0)])
}

fn vectors(b: &mut Bench<'_>) -> Checked {
    user(b, AC, |a| {
        a.mov(rbx, USER_DATA + 8)?;
        a.faulting(|a| a.movaps(xmm0, xmmword_ptr(rbx)))?;
        a.mov(rbx, USER_DATA + 16)?;
        a.movaps(xmm0, xmmword_ptr(rbx))?;
        Ok(())
    })?;
    b.state.cr0 |= cr0::AM;
    same("the faults", b.run()?.faults(), vec![(13, 0)])
}
