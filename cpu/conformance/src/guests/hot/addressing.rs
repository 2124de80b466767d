//! Hot accesses by segments whose bases change and by 32-bit addresses, and hot branches to no address.

use super::super::kernel;
use super::repeat;
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot accesses by FS and GS whose bases change", manual: "vol. 3, 3.4.4", check: segments },
    Guest { name: "hot accesses by 32-bit addresses", manual: "vol. 1, 3.3.7", check: short_addresses },
    Guest { name: "hot branches to non-canonical addresses", manual: "vol. 2, JMP, CALL and RET", check: branches },
];

fn segments(b: &mut Bench<'_>) -> Checked {
    b.state.segments.gs.base = DATA + 0x400;
    b.write(DATA + 8, 3)?;
    b.write(DATA + 0x108, 0x1_0000_0000)?;
    kernel(b, |a| {
        a.xor(esi, esi)?;
        a.mov(r8, DATA)?;
        a.mov(r9, DATA ^ (DATA + 0x100))?;
        repeat(a, 200, |a| {
            a.push(rcx)?;
            a.mov(ecx, 0xc000_0100u32)?;
            a.mov(eax, r8d)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.mov(edi, 1)?;
            a.mov(rax, qword_ptr(8).fs())?;
            a.add(qword_ptr(0x18).gs(), rax)?;
            a.add(rsi, qword_ptr(rdi * 8).fs())?;
            a.mov(qword_ptr(rdi * 8 + 0x18).fs(), rsi)?;
            a.xor(r8, r9)?;
            Ok(a.pop(rcx)?)
        })?;
        a.log(rsi)?;
        for at in [DATA + 0x418, DATA + 0x20, DATA + 0x120] {
            a.mov(rax, qword_ptr(at))?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    let sum = 100 * 0x1_0000_0003;
    same("the sums", b.run()?.values(), vec![sum, sum, sum - 0x1_0000_0000, sum])
}

fn short_addresses(b: &mut Bench<'_>) -> Checked {
    for n in 0..8 {
        b.write(DATA + 8 * n, n + 1)?;
    }
    kernel(b, |a| {
        a.xor(esi, esi)?;
        a.mov(rbx, 0xffff_ffff_0000_0000u64 | DATA)?;
        a.mov(rdx, 0x1_0000_0002u64)?;
        a.mov(r10, 0x7777_7777_ffff_fff0u64)?;
        repeat(a, 300, |a| {
            a.add(rsi, qword_ptr(ebx + edx * 4))?;
            a.add(rsi, qword_ptr(ebx))?;
            // Beyond 4 GiB the address begins again.
            a.add(rsi, qword_ptr(r10d + (DATA as i32 + 0x20)))?;
            a.add(qword_ptr(ebx + edx * 8 + 0x20), 1)?;
            Ok(a.nop()?)
        })?;
        a.log(rsi)?;
        a.mov(rax, qword_ptr(DATA + 0x30))?;
        Ok(a.log(rax)?)
    })?;
    same("the sums", b.run()?.values(), vec![300 * (2 + 1 + 3), 7 + 300])
}

/// What branches to the address in RAX, and by how much RSP is lower then.
type Branch = (fn(&mut CodeAssembler) -> Checked, fn(&mut CodeAssembler) -> Checked, bool);

fn branches(b: &mut Bench<'_>) -> Checked {
    const NOTHING: fn(&mut CodeAssembler) -> Checked = |_| Ok(());
    const BRANCHES: [Branch; 5] = [
        (NOTHING, |a| Ok(a.jmp(rax)?), false),
        (NOTHING, |a| Ok(a.call(rax)?), true),
        (|a| Ok(a.mov(qword_ptr(DATA), rax)?), |a| Ok(a.jmp(qword_ptr(DATA))?), false),
        (|a| Ok(a.mov(qword_ptr(DATA), rax)?), |a| Ok(a.call(qword_ptr(DATA))?), true),
        (|a| Ok(a.push(rax)?), |a| Ok(a.ret()?), false),
    ];
    // #GP has a stack of its own, so that it leaves the word below alone.
    b.ram.write(Gpa(IDT + 16 * 13 + 4), &[1])?;
    for target in [1 << 47, 0xffff_7fff_ffff_ffffu64] {
        let (code, sites) = kernel(b, |a| {
            let mut sites = Vec::new();
            for (before, branch, calls) in BRANCHES {
                let (mut site, mut good) = (a.create_label(), a.create_label());
                let (mut again, mut next) = (a.create_label(), a.create_label());
                a.resume_at(next)?;
                a.mov(edi, 200)?;
                a.mov(rcx, target)?;
                a.mov(rbp, rsp)?;
                a.mov(qword_ptr(rsp - 8), 0x77)?;
                a.set_label(&mut again)?;
                a.lea(rax, ptr(good))?;
                a.dec(edi)?;
                a.cmovz(rax, rcx)?;
                before(a)?;
                a.set_label(&mut site)?;
                branch(a)?;
                a.set_label(&mut good)?;
                if calls {
                    a.lea(rsp, rsp + 8)?;
                    a.mov(qword_ptr(rsp - 8), 0x77)?;
                }
                a.jmp(again)?;
                a.set_label(&mut next)?;
                a.mov(rax, qword_ptr(rbp - 8))?;
                a.sub(rbp, rsp)?;
                a.log(rbp)?;
                a.log(rax)?;
                a.add(rsp, rbp)?;
                sites.push(site);
            }
            Ok(sites)
        })?;
        let run = b.run()?;
        let places = sites.iter().map(|site| code.at(site)).collect::<Checked<Vec<_>>>()?;
        let rips: Vec<u64> = run.traps().iter().map(|trap| trap.rip).collect();
        same("where #GP comes", rips, places)?;
        same("the faults", run.faults(), vec![(13, 0); 5])?;
        // The stack is as before, and what lies under it for a call.
        same("RSP and the word below", run.values(), vec![0, 0x77, 0, 0x77, 0, 0x77, 0, 0x77, 8, target])?;
    }
    Ok(())
}
