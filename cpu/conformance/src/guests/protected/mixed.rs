//! Modes and mechanisms together.

use crate::Guest;
use crate::bench::{Bench, Checked, End, Paging, descriptor, gate, page, same};
use crate::guests::{legacy, protected, protected16, real, virtual86};
use crate::layout::legacy::*;
use crate::layout::{DATA, FRAMES, FREE, GDT, IST1, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::{cr4, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "three tasks nested, and back", manual: "vol. 3, 7.4", check: nested_tasks },
    Guest { name: "task gate from V86 and back", manual: "vol. 3, 20.3.2 and 20.2.6", check: task_from_virtual86 },
    Guest { name: "INVLPG, CR3 and PGE in 32-bit paging and PAE", manual: "vol. 3, 4.10.4.1", check: invalidation },
    Guest {
        name: "entries of 4 GiB - 4 KiB, in 32-bit paging and PAE",
        manual: "vol. 3, 4.3 and 4.4",
        check: last_page,
    },
    Guest { name: "x87 environments of 14 and 28 bytes", manual: "vol. 1, 8.1.10", check: environments },
    Guest { name: "shutdown in 16-bit protected mode", manual: "vol. 3, 6.15, interrupt 8", check: shutdown16 },
    Guest { name: "shutdown in ring 3 and with paging", manual: "vol. 3, 6.15, interrupt 8", check: shutdown_in_ring3 },
    Guest { name: "LOCK in 16-bit and 32-bit code", manual: "vol. 2, LOCK", check: lock },
    Guest { name: "instructions of more than 15 bytes in 16-bit code", manual: "vol. 2, 2.3.11", check: too_long },
];

/// A task of ring 0 at `entry`, by the test's own descriptor `index`.
fn task(b: &mut Bench<'_>, index: u16, entry: u64) -> Checked<u16> {
    let at = TASKS + 0x100 * u64::from(index);
    let data = u64::from(selector::DATA);
    b.ram.write(Gpa(at), &[0; 0x100])?;
    for (offset, value) in [
        (0x20, entry),
        (0x24, 2),
        (0x38, IST1 - 0x800 * u64::from(index)),
        (0x48, data),
        (0x4c, 8),
        (0x50, data),
        (0x54, data),
        (0x64, 0x68 << 16),
    ] {
        b.ram.write(Gpa(at + offset), &(value as u32).to_le_bytes())?;
    }
    b.own(index, descriptor(at, 0x67, 0x89))
}

fn nested_tasks(b: &mut Bench<'_>) -> Checked {
    let own = |index: u16| FREE_SELECTOR + 8 * index;
    protected(b, |a| {
        a.far_call(own(0), 0)?;
        a.str(ecx)?;
        Ok(a.log(ecx)?)
    })?;
    for (index, entry) in [(0, OWN), (1, OWN + 0x100)] {
        legacy(b, (32, entry, 0), |a| {
            // A task that is waiting for this one is busy, and cannot be called.
            a.faulting(|a| {
                a.db(&[0x9a])?;
                a.dd(&[0])?;
                a.dw(&[if index == 0 { selector::TASK } else { own(0) }])
            })?;
            if index == 0 {
                a.far_call(own(1), 0)?;
            }
            a.str(ecx)?;
            a.log(ecx)?;
            a.log_flags()?;
            Ok(a.iretd()?)
        })?;
        task(b, index, entry)?;
    }
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, selector::TASK.into()), (13, own(0).into())])?;
    let nested = rflags::NT | 2;
    let found = run.values().iter().map(|value| if value & nested == nested { nested } else { *value }).collect();
    let expected = vec![own(1).into(), nested, own(0).into(), nested, selector::TASK.into()];
    same("TR and EFLAGS", found, expected)?;
    let types = [own(0), own(1), selector::TASK].map(|at| b.read(GDT + u64::from(at)).map(|value| value >> 40 & 0xff));
    same("the types", types.into_iter().collect::<Checked<Vec<_>>>()?, vec![0x89, 0x89, 0x8b])
}

fn task_from_virtual86(b: &mut Bench<'_>) -> Checked {
    virtual86(b, 0x3202, |a| {
        a.mov(cx, 0x77)?;
        a.int(0x81)?;
        a.movzx(eax, cx)?;
        a.log_eax()?;
        for segment in [cs, ds, ss] {
            a.log_selector(segment)?;
        }
        a.log_flags()?;
        Ok(())
    })?;
    let mut a = crate::bench::Asm::new(32)?;
    a.log_selector(cs)?;
    a.mov(eax, dword_ptr(crate::layout::TSS + 0x24))?;
    a.log_eax()?;
    a.movzx(eax, word_ptr(crate::layout::TSS + 0x54))?;
    a.log_eax()?;
    a.iretd()?;
    b.load_legacy(OWN, 0, a)?;
    let selector = task(b, 0, OWN)?;
    b.gate32(0x81, gate(0xe5, selector, 0, 0))?;
    let (code, data, stack) = (V86_CODE >> 4, V86_DATA >> 4, V86_STACK >> 4);
    let expected = vec![8, 0x3202 | rflags::VM, data, 0x77, code, data, stack, 0x3202];
    same("CS, EFLAGS and DS of the 8086 task; CX, CS, DS, SS, EFLAGS", b.run()?.values(), expected)
}

fn invalidation(b: &mut Bench<'_>) -> Checked {
    for paging in [Paging::Bits32, Paging::Pae] {
        for (global, by) in [(0, 0), (0, 1), (page::G, 0), (page::G, 2)] {
            protected(b, |a| {
                a.mov(esi, dword_ptr(DATA))?;
                a.mov(eax, dword_ptr(FREE))?;
                a.log_eax()?;
                a.add(dword_ptr(esi), 0x1000)?;
                match by {
                    0 => a.invlpg(ptr(FREE))?,
                    1 => {
                        a.mov(eax, cr3)?;
                        a.mov(cr3, eax)?;
                    }
                    _ => {
                        a.mov(eax, cr4)?;
                        a.xor(eax, cr4::PGE as i32)?;
                        a.mov(cr4, eax)?;
                    }
                }
                a.mov(eax, dword_ptr(FREE))?;
                a.log_eax()?;
                Ok(())
            })?;
            b.page_legacy(paging)?;
            b.map(FREE, FRAMES, page::KERNEL | global)?;
            b.write(FRAMES, 0x11)?;
            b.write(FRAMES + 0x1000, 0x22)?;
            let entry = b.entry(FREE, 1)?;
            b.write(DATA, entry)?;
            same(format!("the values, {paging:?}, G {global:#x}, way {by}"), b.run()?.values(), vec![0x11, 0x22])?;
        }
    }
    Ok(())
}

fn last_page(b: &mut Bench<'_>) -> Checked {
    for paging in [Paging::Bits32, Paging::Pae] {
        protected(b, |a| {
            a.mov(eax, dword_ptr(0xffff_fffcu32))?;
            a.log_eax()?;
            a.mov(eax, dword_ptr(0xffff_f000u32))?;
            a.log_eax()?;
            a.faulting(|a| a.mov(eax, dword_ptr(0xffff_effcu32)))?;
            Ok(())
        })?;
        b.page_legacy(paging)?;
        b.map(0xffff_f000, FRAMES, page::KERNEL)?;
        b.write(FRAMES, 1)?;
        b.write(FRAMES + 0xff8, 2 << 32)?;
        let run = b.run()?;
        same("the values", run.values(), vec![2, 1])?;
        same("CR2", run.trap(0)?.cr2, 0xffff_effc)?;
    }
    Ok(())
}

fn environments(b: &mut Bench<'_>) -> Checked {
    let fill: fn(&mut crate::bench::Asm) -> Checked = |a| {
        a.fninit()?;
        a.fld1()?;
        for offset in (0..0x80).step_by(4) {
            a.mov(dword_ptr(DATA + offset), 0x5555_5555)?;
        }
        Ok(())
    };
    // FNSTENV by the operand's size, then FNSAVE: 14, 28, 94 and 108 bytes.
    let stores: [(&[u8], u64); 4] = [(&[0xd9], 14), (&[0x66, 0xd9], 28), (&[0xdd], 94), (&[0x66, 0xdd], 108)];
    for (bytes, size) in stores {
        real(b, |a| {
            fill(a)?;
            a.db(bytes)?;
            Ok(a.db(&[0x36, 0x00, 0x80])?)
        })?;
        b.run()?;
        check_size(b, size, bytes.len() == 2)?;
        // In 32-bit code it is the other way around.
        protected(b, |a| {
            fill(a)?;
            if bytes.len() == 1 {
                a.db(&[0x66])?;
            }
            a.db(bytes.get(bytes.len() - 1..).unwrap_or_default())?;
            Ok(a.db(&[0x35, 0x00, 0x80, 0x00, 0x00])?)
        })?;
        b.run()?;
        check_size(b, size, bytes.len() == 2)?;
    }
    Ok(())
}

/// Whether that many bytes at [`DATA`] were written, with control, status and tag word where they belong.
fn check_size(b: &Bench<'_>, size: u64, wide: bool) -> Checked {
    let word = |at: u64| -> Checked<u64> { Ok(b.read(DATA + at)? & 0xffff) };
    let step = if wide { 4 } else { 2 };
    same("FCW, FSW, FTW", [word(0)?, word(step)?, word(2 * step)?], [0x37f, 0x3800, 0x3fff])?;
    same(format!("the word at {size}"), word(size)?, 0x5555)?;
    same(format!("whether the word before {size} is there"), word(size - 2)? == 0x5555, false)
}

fn shutdown16(b: &mut Bench<'_>) -> Checked {
    protected16(b, |a| {
        a.log_number(1)?;
        a.ud2()?;
        a.log_number(2)?;
        Ok(())
    })?;
    b.state.idtr.limit = 0;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("the values", run.values(), vec![1])
}

fn shutdown_in_ring3(b: &mut Bench<'_>) -> Checked {
    crate::guests::protected_user(b, 2, |a| {
        a.log_number(1)?;
        a.mov(al, byte_ptr(FREE))?;
        a.log_number(2)?;
        Ok(())
    })?;
    b.page_legacy(Paging::Pae)?;
    // No page for the IDT: #PF, #PF, #DF, #PF.
    b.state.idtr.base = FREE + 0x10_0000;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("the values", run.values(), vec![1])?;
    same("CR2", run.report.state.cr2, FREE + 0x10_0000 + 8 * 8)
}

fn lock(b: &mut Bench<'_>) -> Checked {
    // With a register, with what is not to be locked, and with a load.
    const CASES: [&[u8]; 5] =
        [&[0xf0, 0x01, 0xc0], &[0xf0, 0x90], &[0xf0, 0xa4], &[0xf0, 0x8b, 0x07], &[0xf0, 0x39, 0x07]];
    let emit = |a: &mut crate::bench::Asm| -> Checked {
        a.mov(edi, DATA as u32)?;
        a.mov(ebx, edi)?;
        for bytes in CASES {
            a.faulting(|a| a.db(bytes))?;
        }
        // LOCK INC of a byte at EDI or BX.
        Ok(a.db(&[0xf0, 0xfe, 0x07])?)
    };
    protected(b, emit)?;
    same("the faults in 32-bit code", b.run()?.faults(), vec![(6, 0); 5])?;
    real(b, emit)?;
    same("the faults in real mode", b.run()?.faults(), vec![(6, 0); 5])
}

fn too_long(b: &mut Bench<'_>) -> Checked {
    const PREFIXES: [u8; 14] = [0x26; 14];
    real(b, |a| {
        // 14 prefixes and NOP are 15 bytes; one more is too many.
        a.db(&PREFIXES)?;
        a.nop()?;
        a.faulting(|a| {
            a.db(&PREFIXES)?;
            a.db(&[0x26, 0x90])
        })?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(13, 0)])
}
