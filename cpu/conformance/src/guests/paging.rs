//! Page faults: when they come, and their error codes.

use super::{kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr4, efer};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "page-fault codes of the supervisor", manual: "vol. 3, 4.7", check: supervisor_codes },
    Guest { name: "page-fault codes of the user", manual: "vol. 3, 4.7", check: user_codes },
    Guest { name: "page-fault codes of fetches", manual: "vol. 3, 4.6 and 4.7", check: fetch_codes },
    Guest { name: "page-fault codes without NXE and SMEP", manual: "vol. 3, 4.7", check: no_fetch_bit },
    Guest { name: "reserved bits of paging entries", manual: "vol. 3, tables 4-15 to 4-20", check: reserved_bits },
    Guest { name: "ignored bits of paging entries", manual: "vol. 3, tables 4-15 to 4-20", check: ignored_bits },
    Guest { name: "stores across pages write all or nothing", manual: "vol. 3, 4.7", check: crossing_stores },
    Guest { name: "loads across pages fault on the second", manual: "vol. 3, 4.7", check: crossing_loads },
    Guest { name: "instruction across pages", manual: "vol. 3, 4.7", check: crossing_fetch },
    Guest { name: "non-canonical addresses", manual: "vol. 1, 3.3.7.1", check: non_canonical },
    Guest { name: "non-canonical jump targets", manual: "vol. 2, JMP, CALL, RET", check: non_canonical_jumps },
];

fn supervisor_codes(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::P)?;
    let (code, labels) = kernel(b, |a| {
        a.mov(rbx, FREE + 0x1008)?;
        let mut labels = vec![a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?];
        labels.push(a.faulting(|a| a.mov(qword_ptr(rbx), rax))?);
        a.mov(rbx, FREE + 0x10)?;
        labels.push(a.faulting(|a| a.mov(qword_ptr(rbx), rax))?);
        labels.push(a.faulting(|a| a.add(dword_ptr(rbx), 1))?);
        labels.push(a.faulting(|a| a.lock().cmpxchg(qword_ptr(rbx), rcx))?);
        labels.push(a.faulting(|a| a.push(qword_ptr(rbx + 0x1000)))?);
        Ok(labels)
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 0), (14, 2), (14, 3), (14, 3), (14, 3), (14, 0)])?;
    let addresses: Vec<u64> = run.traps().iter().map(|trap| trap.cr2 - FREE).collect();
    same("CR2", addresses, vec![0x1008, 0x1008, 0x10, 0x10, 0x10, 0x1010])?;
    for (trap, label) in run.traps().iter().zip(&labels) {
        same("RIP", trap.rip, code.at(label)?)?;
    }
    Ok(())
}

fn user_codes(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x1000, FRAMES, page::P | page::U)?;
    user(b, 2, |a| {
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
        a.faulting(|a| a.mov(qword_ptr(rbx), rax))?;
        a.mov(rax, qword_ptr(rbx + 0x1000))?;
        a.faulting(|a| a.mov(qword_ptr(rbx + 0x1000), rax))?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbx + 0x2000)))?;
        a.faulting(|a| a.mov(qword_ptr(rbx + 0x2000), rax))?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(14, 5), (14, 7), (14, 7), (14, 4), (14, 6)])
}

fn fetch_codes(b: &mut Bench<'_>) -> Checked {
    b.ram.write(motu_x86::Gpa(FRAMES), &[0xc3])?;
    b.map(FREE, FRAMES, page::KERNEL | page::NX)?;
    b.map(FREE + 0x1000, FRAMES, page::USER)?;
    b.map(FREE + 0x3000, FRAMES, page::USER | page::NX)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        // The return address stays on the stack: each call gets as far as pushing it.
        a.faulting(|a| a.call(rbx))?;
        a.add(rbx, 0x1000)?;
        a.call(rbx)?;
        a.mov(rax, cr4)?;
        a.or(rax, cr4::SMEP as i32)?;
        a.mov(cr4, rax)?;
        a.faulting(|a| a.call(rbx))?;
        a.add(rbx, 0x1000)?;
        a.faulting(|a| a.call(rbx))?;
        a.to_user(USER_CODE, USER_STACK, 2)?;
        Ok(())
    })?;
    let mut a = b.assembler(64)?;
    a.mov(rbx, FREE)?;
    a.faulting(|a| a.call(rbx))?;
    a.faulting(|a| a.jmp(rbx))?;
    a.add(rbx, 0x1000)?;
    a.call(rbx)?;
    a.add(rbx, 0x1000)?;
    a.faulting(|a| a.call(rbx))?;
    a.add(rbx, 0x1000)?;
    a.faulting(|a| a.call(rbx))?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    let run = b.run()?;
    let expected = vec![(14, 0x11), (14, 0x11), (14, 0x10), (14, 0x15), (14, 0x15), (14, 0x14), (14, 0x15)];
    same("the faults", run.faults(), expected)?;
    for trap in run.traps() {
        same("RIP is the target", trap.rip, trap.cr2)?;
    }
    Ok(())
}

fn no_fetch_bit(b: &mut Bench<'_>) -> Checked {
    b.state.msrs.efer &= !efer::NXE;
    for linear in [BOARD, APIC] {
        let at = b.entry(linear, 1)?;
        b.write(at, b.read(at)? & !page::NX)?;
    }
    b.map(FREE, FRAMES, page::KERNEL | page::NX)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
        a.faulting(|a| a.mov(qword_ptr(rbx), rax))?;
        a.faulting(|a| a.call(rbx))?;
        a.add(rbx, 0x1000)?;
        a.faulting(|a| a.call(rbx))?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(14, 9), (14, 0xb), (14, 9), (14, 0)])
}

fn reserved_bits(b: &mut Bench<'_>) -> Checked {
    const HIGH: u64 = 1 << 40;
    const HIGHEST: u64 = 1 << 51;
    b.map(FREE, FRAMES | HIGH, page::KERNEL)?;
    b.map(FREE + 0x1000, FRAMES | HIGHEST, page::KERNEL)?;
    b.map_at(2, FREE + 0x20_0000, FRAMES | 1 << 13, page::KERNEL | page::PS)?;
    b.map_at(2, FREE + 0x40_0000, FRAMES | HIGH, page::KERNEL | page::PS)?;
    b.map_at(3, 2 * FREE, 1 << 29, page::KERNEL | page::PS)?;
    b.map(1 << 39, FRAMES, page::KERNEL)?;
    let top = b.entry(1 << 39, 4)?;
    b.write(top, b.read(top)? | page::PS)?;
    // Not present: the rest is ignored.
    b.map(FREE + 0x2000, FRAMES | HIGH, 0)?;
    b.map(FREE + 0x3000, FRAMES | HIGH, page::USER)?;
    kernel(b, |a| {
        for linear in [FREE, FREE + 0x1000, FREE + 0x20_0000, FREE + 0x40_0000, 2 * FREE, 1 << 39, FREE + 0x2000] {
            a.mov(rbx, linear)?;
            a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
        }
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(qword_ptr(rbx), rax))?;
        a.faulting(|a| a.call(rbx))?;
        a.to_user(USER_CODE, USER_STACK, 2)?;
        Ok(())
    })?;
    let mut a = b.assembler(64)?;
    a.mov(rbx, FREE + 0x3000)?;
    a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    let expected = [9, 9, 9, 9, 9, 9, 0, 0xb, 0x19, 0xd].map(|code| (14, code));
    same("the faults", b.run()?.faults(), expected.to_vec())
}

fn ignored_bits(b: &mut Bench<'_>) -> Checked {
    let ignored = 0x7ff << 52 | 7 << 9;
    b.map(FREE, FRAMES, page::KERNEL | ignored)?;
    for level in 2..=4 {
        let at = b.entry(FREE, level)?;
        // Bit 8 is ignored above the level that maps, bit 7 must stay zero.
        b.write(at, b.read(at)? | 0x7ff << 52 | 7 << 9 | 1 << 8 | 1 << 6)?;
    }
    b.write(FRAMES, 0x1234_5678_9abc_def0)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the value", b.run()?.values(), vec![0x1234_5678_9abc_def0])
}

fn crossing_stores(b: &mut Bench<'_>) -> Checked {
    const OLD: u64 = 0x1111_1111_1111_1111;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x2000, FRAMES + 0x2000, page::KERNEL)?;
    b.map(FREE + 0x3000, FRAMES + 0x3000, page::P)?;
    for at in [FRAMES + 0xff0, FRAMES + 0xff8, FRAMES + 0x2ff0, FRAMES + 0x2ff8, FRAMES + 0x3000] {
        b.write(at, OLD)?;
    }
    kernel(b, |a| {
        a.mov(rax, !0u64)?;
        a.pcmpeqd(xmm0, xmm0)?;
        for (offset, flags) in [(0xfff, 2), (0x2fff, 3)] {
            a.mov(rbx, FREE + offset)?;
            a.faulting(|a| a.mov(qword_ptr(rbx - 3), rax))?;
            a.faulting(|a| a.mov(word_ptr(rbx), ax))?;
            a.faulting(|a| a.mov(dword_ptr(rbx - 1), eax))?;
            a.faulting(|a| a.movups(xmmword_ptr(rbx - 7), xmm0))?;
            a.faulting(|a| a.add(qword_ptr(rbx - 3), 1))?;
            a.faulting(|a| a.xchg(qword_ptr(rbx - 3), rax))?;
            a.mov(rdi, rbx)?;
            a.faulting(|a| a.stosq())?;
            a.log(rdi)?;
            a.log_number(flags)?;
        }
        Ok(())
    })?;
    let run = b.run()?;
    let codes: Vec<u64> = run.faults().iter().map(|fault| fault.1).collect();
    same("the codes", codes, [[2; 7], [3; 7]].concat())?;
    for trap in run.traps() {
        same("the page of CR2", trap.cr2 & 0xfff, 0)?;
    }
    same("RDI", run.values(), vec![FREE + 0xfff, 2, FREE + 0x2fff, 3])?;
    for at in [FRAMES + 0xff0, FRAMES + 0xff8, FRAMES + 0x2ff0, FRAMES + 0x2ff8, FRAMES + 0x3000] {
        same(format!("memory at {at:#x}"), b.read(at)?, OLD)?;
    }
    Ok(())
}

fn crossing_loads(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0xffc)?;
        a.mov(rax, 5u64)?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
        a.faulting(|a| a.add(rax, qword_ptr(rbx)))?;
        a.faulting(|a| a.movups(xmm0, xmmword_ptr(rbx)))?;
        a.log(rax)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 0); 3])?;
    for trap in run.traps() {
        same("CR2", trap.cr2, FREE + 0x1000)?;
    }
    same("RAX", run.values(), vec![5])
}

fn crossing_fetch(b: &mut Bench<'_>) -> Checked {
    // mov eax, 0x12345678; ret: three bytes before the page's end.
    b.ram.write(motu_x86::Gpa(FRAMES + 0xffd), &[0xb8, 0x78, 0x56])?;
    b.ram.write(motu_x86::Gpa(FRAMES + 0x1000), &[0x34, 0x12, 0xc3])?;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x1000, FRAMES + 0x1000, 0)?;
    let entry = b.entry(FREE + 0x1000, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0xffd)?;
        a.faulting(|a| a.call(rbx))?;
        a.or(qword_ptr(entry), 1)?;
        a.call(rbx)?;
        a.log(rax)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the fault", run.faults(), vec![(14, 0x10)])?;
    same("CR2", run.trap(0)?.cr2, FREE + 0x1000)?;
    same("RIP", run.trap(0)?.rip, FREE + 0xffd)?;
    same("EAX", run.values(), vec![0x1234_5678])
}

fn non_canonical(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rbp, rsp)?;
        a.mov(rbx, 1u64 << 47)?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
        a.faulting(|a| a.mov(qword_ptr(rbx), rax))?;
        a.faulting(|a| a.mov(eax, dword_ptr(rbx - 2)))?;
        a.faulting(|a| a.mov(eax, dword_ptr(rbx).fs()))?;
        // The prefix means nothing in 64-bit mode.
        a.faulting(|a| a.mov(eax, dword_ptr(rbx).ss()))?;
        a.mov(rcx, rbp)?;
        a.mov(rbp, rbx)?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbp)))?;
        // A segment override takes the operand away from SS.
        a.faulting(|a| a.mov(rax, qword_ptr(rbp).fs()))?;
        a.mov(rbp, rcx)?;
        Ok(())
    })?;
    let expected = vec![(13, 0), (13, 0), (13, 0), (13, 0), (13, 0), (12, 0), (13, 0)];
    same("the faults", b.run()?.faults(), expected)?;
    // The stack itself: the frame goes to an IST stack.
    for vector in [12, 13] {
        let at = IDT + 16 * vector;
        b.write(at, b.read(at)? | 1 << 32)?;
    }
    kernel(b, |a| {
        a.mov(rcx, rsp)?;
        a.mov(rsp, 1u64 << 47)?;
        a.faulting(|a| a.pop(rax))?;
        a.faulting(|a| a.push(qword_ptr(rsp)))?;
        a.mov(rsp, (1u64 << 47) + 8)?;
        a.faulting(|a| a.push(rax))?;
        a.faulting(|a| a.ret())?;
        a.faulting(|a| a.pushfq())?;
        a.log(rsp)?;
        a.mov(rsp, rcx)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the stack's faults", run.faults(), vec![(12, 0); 5])?;
    same("RSP", run.values(), vec![(1 << 47) + 8])
}

fn non_canonical_jumps(b: &mut Bench<'_>) -> Checked {
    let (code, labels) = kernel(b, |a| {
        a.mov(rbx, 1u64 << 47)?;
        a.mov(rcx, rsp)?;
        let mut labels = vec![a.faulting(|a| a.jmp(rbx))?, a.faulting(|a| a.call(rbx))?];
        a.push(rbx)?;
        labels.push(a.faulting(|a| a.ret())?);
        a.log(rsp)?;
        a.sub(rcx, rsp)?;
        a.log(rcx)?;
        Ok(labels)
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 3])?;
    for (trap, label) in run.traps().iter().zip(&labels) {
        same("RIP", trap.rip, code.at(label)?)?;
    }
    same("RSP", run.values(), vec![STACK - 8, 8])
}
