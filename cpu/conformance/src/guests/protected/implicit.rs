//! Page faults of accesses that no operand names: tables, stacks of handlers, TSSs.

use crate::Guest;
use crate::bench::{Bench, Checked, End, Paging, descriptor, gate, page, same};
use crate::guests::{protected, protected_user};
use crate::layout::legacy::*;
use crate::layout::{FRAMES, FREE, GDT, IDT, RSP0, STACK, TSS, USER_CODE, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest {
        name: "page fault on the GDT in ring 3 is the supervisor's",
        manual: "vol. 3, 4.6 and 4.7",
        check: descriptor_page,
    },
    Guest { name: "page fault on the LDT, and its accessed bit", manual: "vol. 3, 4.6 and 3.4.5.1", check: ldt_page },
    Guest { name: "page fault on the I/O map", manual: "vol. 3, 4.6; vol. 1, 19.5.2", check: io_map_page },
    Guest {
        name: "page fault on the stack of ring 0 is a double fault at last",
        manual: "vol. 3, table 6-5",
        check: stack_page,
    },
    Guest { name: "page fault on the IDT", manual: "vol. 3, table 6-5", check: idt_page },
    Guest { name: "page faults of 32-bit accesses across pages", manual: "vol. 3, 4.7", check: crossing },
    Guest { name: "page faults of PUSHA, ENTER and far calls leave ESP", manual: "vol. 3, 6.6", check: restartable },
    Guest { name: "CR0 and CR4 in 32-bit code", manual: "vol. 3, 2.5", check: control_registers },
    Guest { name: "LSS loads both or none", manual: "vol. 2, LSS", check: load_stack },
    Guest { name: "far returns with 16-bit operands in 32-bit code", manual: "vol. 2, RET", check: small_returns },
];

/// Maps a table that is at `at` at [`FREE`] alone, and changes its page's entry with `change`.
fn alias(b: &mut Bench<'_>, at: u64, rights: u64) -> Checked {
    b.map(FREE, FRAMES, rights)?;
    for offset in (0..0x1000).step_by(8) {
        b.write(FRAMES + offset, b.read(at + offset)?)?;
    }
    Ok(())
}

fn descriptor_page(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        // The second page of the table is not there.
        a.mov(eax, 0x1003)?;
        a.faulting(|a| a.mov(gs, eax))?;
        a.faulting(|a| a.verr(ax))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    alias(b, GDT, page::KERNEL)?;
    b.map(FREE + 0x1000, 0, 0)?;
    b.state.gdtr.base = FREE;
    b.state.gdtr.limit = 0x1fff;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 0), (14, 0)])?;
    same("CR2", run.trap(0)?.cr2, FREE + 0x1000)
}

fn ldt_page(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        // The accessed bit has to be written, and the page is read-only: with WP a fault of the supervisor.
        a.mov(eax, 0x07)?;
        a.faulting(|a| a.mov(gs, eax))?;
        a.mov(eax, 0x0f)?;
        a.mov(gs, eax)?;
        a.log_selector(gs)?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE, FRAMES, page::P)?;
    b.write(FRAMES, descriptor(0, 0xfffff, 0xc0f2))?;
    b.write(FRAMES + 8, descriptor(0, 0xfffff, 0xc0f3))?;
    let ldtr = motu_x86::Segment { selector: LDT_SELECTOR, base: FREE, limit: 0xff, attributes: 0x82 };
    b.state.segments.ldtr = ldtr;
    let run = b.run()?;
    same("the fault", run.faults(), vec![(14, 3)])?;
    same("GS", run.values(), vec![0x0f])
}

fn io_map_page(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.mov(edx, 0x7c00)?;
        a.faulting(|a| a.in_(al, dx))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    // The TSS goes on over its first page, where the map of port 0x7c00 is: that page is not there.
    b.map(TSS + 0x1000, 0, 0)?;
    b.state.segments.tr.limit = 0x2100;
    let run = b.run()?;
    same("the fault", run.faults(), vec![(14, 0)])?;
    same("CR2", run.trap(0)?.cr2, TSS + IO_MAP + 0x7c00 / 8)
}

fn stack_page(b: &mut Bench<'_>) -> Checked {
    for with_handler in [true, false] {
        protected_user(b, 2, |a| {
            a.faulting(|a| a.ud2())?;
            Ok(())
        })?;
        b.page_legacy(Paging::Bits32)?;
        b.map(RSP0 - 0x1000, 0, 0)?;
        // #UD, then #PF; that has no stack either: #DF, by a task with one.
        if with_handler {
            double_fault_task(b)?;
            same("the error code, and CR2", b.run()?.values(), vec![0, RSP0 - 4])?;
        } else {
            same("the end", b.run_anyhow()?.end, End::Shutdown)?;
        }
    }
    Ok(())
}

/// A task for #DF that logs the error code and CR2, and ends the guest.
fn double_fault_task(b: &mut Bench<'_>) -> Checked {
    b.ram.write(Gpa(TASKS), &[0; 0x100])?;
    let data = u64::from(selector::DATA);
    for (offset, value) in [
        (0x1c, b.state.cr3),
        (0x20, OWN),
        (0x24, 2),
        (0x38, 0x5_0000),
        (0x48, data),
        (0x4c, 8),
        (0x50, data),
        (0x54, data),
        (0x64, 0x68 << 16),
    ] {
        b.ram.write(Gpa(TASKS + offset), &(value as u32).to_le_bytes())?;
    }
    let task = b.own(0, descriptor(TASKS, 0x67, 0x89))?;
    b.gate32(8, gate(0x85, task, 0, 0))?;
    crate::guests::legacy(b, (32, OWN, 0), |a| {
        a.pop(eax)?;
        a.log_eax()?;
        a.mov(eax, cr2)?;
        Ok(a.log_eax()?)
    })?;
    Ok(())
}

fn idt_page(b: &mut Bench<'_>) -> Checked {
    // The gate of #UD lies in a page that is not there: #PF, whose own gate is in the page before.
    protected(b, |a| {
        a.faulting(|a| a.ud2())?;
        a.faulting(|a| a.int(0x81))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x1000, 0, 0)?;
    // Vectors from 16 on are past the page's end.
    let base = FREE + 0x1000 - 8 * 16;
    for vector in 0..16 {
        b.write(FRAMES + 0x1000 - 8 * 16 + 8 * vector, b.read(IDT + 8 * vector)?)?;
    }
    b.state.idtr.base = base;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(6, 0), (14, 0)])?;
    same("CR2", run.trap(1)?.cr2, base + 8 * 0x81)
}

fn crossing(b: &mut Bench<'_>) -> Checked {
    let end = FREE + 0x1000;
    protected_user(b, 2, |a| {
        a.mov(eax, -1)?;
        a.faulting(|a| a.mov(dword_ptr(end - 2), eax))?;
        a.faulting(|a| a.mov(eax, dword_ptr(end - 1)))?;
        a.faulting(|a| a.add(dword_ptr(end - 3), 1))?;
        a.mov(eax, dword_ptr(end - 4))?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE, FRAMES, page::USER)?;
    b.map(FREE + 0x1000, FRAMES + 0x1000, page::P)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 7), (14, 5), (14, 7)])?;
    let addresses: Vec<u64> = run.traps().iter().map(|trap| trap.cr2).collect();
    same("CR2", addresses, vec![end; 3])?;
    same("what was written", run.values(), vec![0])
}

fn restartable(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.mov(ebp, 0x1234)?;
        a.mov(esp, FREE as u32 + 8)?;
        a.faulting(|a| a.pushad())?;
        a.log(esp)?;
        a.mov(esp, FREE as u32)?;
        a.faulting(|a| a.db(&[0xc8, 0, 0, 0]))?;
        a.faulting(|a| {
            a.db(&[0x9a])?;
            a.dd(&[USER_CODE as u32])?;
            a.dw(&[selector::USER_CODE])
        })?;
        a.log(esp)?;
        a.log(ebp)?;
        a.log_selector(cs)?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE, FRAMES, page::USER)?;
    b.map(FREE - 0x1000, 0, 0)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 6); 3])?;
    same("ESP, ESP, EBP, CS", run.values(), vec![FREE + 8, FREE, 0x1234, 0x33])
}

fn control_registers(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        // PE cleared with PG set; NW without CD; reserved bits of CR4 and CR0's upper half is none here.
        a.mov(eax, cr0)?;
        a.and(eax, -2)?;
        a.faulting(|a| a.mov(cr0, eax))?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x2000_0000)?;
        a.faulting(|a| a.mov(cr0, eax))?;
        a.mov(eax, cr4)?;
        a.or(eax, 1 << 30)?;
        a.faulting(|a| a.mov(cr4, eax))?;
        // PCIDE is for IA-32e mode.
        a.mov(eax, cr4)?;
        a.or(eax, 1 << 17)?;
        a.faulting(|a| a.mov(cr4, eax))?;
        // CR0.ET cannot be cleared, reserved bits of CR0 are ignored.
        a.mov(eax, cr0)?;
        a.mov(ebx, eax)?;
        a.and(eax, !0x10)?;
        a.or(eax, 0x40)?;
        a.mov(cr0, eax)?;
        a.mov(eax, cr0)?;
        a.sub(eax, ebx)?;
        a.log_eax()?;
        // LMSW cannot clear PE.
        a.mov(eax, ebx)?;
        a.and(eax, 0xfffe)?;
        a.lmsw(ax)?;
        a.mov(eax, cr0)?;
        a.and(eax, 1)?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 4])?;
    same("the difference, PE", run.values(), vec![0, 1])
}

fn load_stack(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(dword_ptr(0x9000), 0x3_4000)?;
        a.mov(word_ptr(0x9004), u32::from(FREE_SELECTOR))?;
        // LSS ESP, [0x9000].
        a.db(&[0x0f, 0xb2, 0x25, 0x00, 0x90, 0x00, 0x00])?;
        a.log_selector(ss)?;
        a.log(esp)?;
        a.mov(word_ptr(0x9004), 0)?;
        a.mov(dword_ptr(0x9000), 0x1234)?;
        a.faulting(|a| a.db(&[0x0f, 0xb2, 0x25, 0x00, 0x90, 0x00, 0x00]))?;
        a.log_selector(ss)?;
        a.log(esp)?;
        Ok(())
    })?;
    b.own(0, descriptor(0, 0xfffff, 0xc093))?;
    let run = b.run()?;
    let own = u64::from(FREE_SELECTOR);
    same("the values", run.values(), vec![own, 0x3_4000, own, 0x3_4000])?;
    same("the fault", run.faults(), vec![(13, 0)])
}

fn small_returns(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        // RETF with words: to 16-bit code, where EIP's upper half is zero.
        a.db(&[0x66, 0x68])?;
        a.dw(&[FREE_SELECTOR])?;
        a.db(&[0x66, 0x68])?;
        a.dw(&[0x20])?;
        Ok(a.db(&[0x66, 0xcb])?)
    })?;
    crate::guests::legacy(b, (16, OWN + 0x20, OWN), |a| {
        a.log_selector(cs)?;
        a.log(esp)?;
        // RET with a double word from 16-bit code, past the limit.
        a.db(&[0x66, 0x68])?;
        a.dd(&[0x1_0020])?;
        a.faulting(|a| a.db(&[0x66, 0xc3]))?;
        a.log(esp)?;
        Ok(())
    })?;
    b.own(0, descriptor(OWN, 0xffff, 0x9b))?;
    let run = b.run()?;
    same("CS, ESP, ESP", run.values(), vec![FREE_SELECTOR.into(), STACK, STACK - 4])?;
    same("the fault", run.faults(), vec![(13, 0)])
}
