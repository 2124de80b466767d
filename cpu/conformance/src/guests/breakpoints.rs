//! Breakpoints by DR0 to DR3 (SDM vol. 3, chapter 17).

use super::{Emit, handler, kernel};
use crate::Guest;
use crate::bench::{Bench, Checked, Code, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr4, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "instruction breakpoints fault and RF passes them", manual: "vol. 3, 17.3.1.1", check: instruction },
    Guest { name: "instruction breakpoints go before other faults", manual: "vol. 3, table 6-2", check: before_faults },
    Guest { name: "RF of an IRET image holds for one instruction", manual: "vol. 3, 17.3.1.1", check: resume_flag },
    Guest { name: "write breakpoints by length", manual: "vol. 3, 17.2.5", check: writes },
    Guest { name: "read and write breakpoints", manual: "vol. 3, 17.2.4", check: reads },
    Guest { name: "breakpoint addresses are aligned by length", manual: "vol. 3, 17.2.5", check: alignment },
    Guest { name: "data breakpoints on read-modify-write and the stack", manual: "vol. 3, 17.3.1.2", check: modify },
    Guest { name: "data breakpoints on wide and crossing accesses", manual: "vol. 3, 17.2.5", check: wide },
    Guest { name: "data breakpoints on repeated strings", manual: "vol. 3, 17.3.1.2", check: strings },
    Guest { name: "two breakpoints at once, and a single step", manual: "vol. 3, 17.2.3", check: together },
    Guest { name: "DR6 is sticky, disabled breakpoints are silent", manual: "vol. 3, 17.2.3", check: sticky },
    Guest { name: "general detect", manual: "vol. 3, 17.3.1.3", check: general_detect },
    Guest { name: "I/O breakpoints", manual: "vol. 3, 17.3.1.2", check: ports },
    Guest { name: "DR4 and DR5 without DE", manual: "vol. 3, 17.2.2", check: aliases },
    Guest { name: "MOV SS holds breakpoints off", manual: "vol. 3, 6.8.3", check: mov_ss },
    Guest { name: "INT1 is a trap without DR6", manual: "vol. 2, INT1", check: icebp },
    Guest { name: "INT1 tells of what MOV SS held off", manual: "vol. 3, 6.8.3", check: icebp_behind_mov_ss },
    Guest { name: "a fault leaves a data breakpoint alone", manual: "vol. 3, 17.3.1.2", check: faulted },
];

const OWN: u64 = HANDLERS + 0x8000;
/// Bits of DR6 that the guests look at: B0 to B3, BD, BS, BT.
const DR6: u64 = 0xe00f;

const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const PORT: u64 = 2;
const ACCESS: u64 = 3;

/// DR7's bits for breakpoint `n`, enabled locally; `length` is 1, 2, 4 or 8 bytes.
fn enable(n: u64, kind: u64, length: u64) -> u64 {
    let code = match length {
        1 => 0,
        2 => 1,
        8 => 2,
        _ => 3,
    };
    1 << (2 * n) | kind << (16 + 4 * n) | code << (18 + 4 * n)
}

/// Has #DB log DR6 and RIP, clear DR6, and go on with RF set. It changes no register.
fn log_debug(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.push(rax)?;
        a.mov(rax, dr6)?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(rsp + 8))?;
        a.log(rax)?;
        a.or(dword_ptr(rsp + 24), rflags::RF as i32)?;
        a.mov(eax, 0xffff_0ff0u32)?;
        a.mov(dr6, rax)?;
        a.pop(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(1, Gate::to(OWN))
}

/// Runs the guest and gives DR6 and RIP of each #DB, the latter as an index of `places`; those that are not among
/// them are 99.
fn hits(b: &mut Bench<'_>, code: &Code, places: &[CodeLabel]) -> Checked<Vec<(u64, usize)>> {
    let values = b.run()?.values();
    let places: Vec<u64> = places.iter().map(|place| code.at(place)).collect::<Checked<_>>()?;
    let index = |rip: u64| places.iter().position(|place| *place == rip).unwrap_or(99);
    Ok(values.chunks(2).map(|pair| (pair[0] & DR6, index(*pair.get(1).unwrap_or(&0)))).collect())
}

/// Code of ring 0 with a label before each instruction, and one behind them all.
fn labelled(b: &mut Bench<'_>, emit: &[Emit]) -> Checked<(Code, Vec<CodeLabel>)> {
    log_debug(b)?;
    kernel(b, |a| {
        let mut places = Vec::new();
        for each in emit {
            let mut place = a.create_label();
            a.set_label(&mut place)?;
            each(a)?;
            places.push(place);
        }
        let mut end = a.create_label();
        a.set_label(&mut end)?;
        a.nop()?;
        places.push(end);
        Ok(places)
    })
}

/// Places of #DB by data breakpoint 0.
fn data_hits(b: &mut Bench<'_>, address: u64, enabled: u64, emit: &[Emit]) -> Checked<Vec<usize>> {
    let (code, places) = labelled(b, emit)?;
    b.state.dr[0] = address;
    b.state.dr[7] = 0x400 | enabled;
    let found = hits(b, &code, &places)?;
    for (bits, _) in &found {
        same("DR6", *bits, 1)?;
    }
    Ok(found.into_iter().map(|hit| hit.1).collect())
}

fn instruction(b: &mut Bench<'_>) -> Checked {
    let (code, places) = labelled(b, &[|a| a.nop(), |a| a.mov(ecx, 3), |a| a.dec(ecx), |a| a.nop()])?;
    for (n, place) in [(0, 2), (3, 3)] {
        b.state.dr[n] = code.at(&places[place])?;
    }
    // One enabled locally, the other globally; one that is in the middle of an instruction.
    b.state.dr[1] = code.at(&places[1])? + 1;
    b.state.dr[7] = 0x400 | enable(0, EXECUTE, 1) | enable(1, EXECUTE, 1) | 1 << 7;
    same("DR6 and places", hits(b, &code, &places)?, vec![(1, 2), (8, 3)])
}

fn before_faults(b: &mut Bench<'_>) -> Checked {
    log_debug(b)?;
    let (code, place) = kernel(b, |a| a.faulting(|a| a.ud2()).map_err(Into::into))?;
    b.state.dr[0] = code.at(&place)?;
    b.state.dr[7] = 0x400 | enable(0, EXECUTE, 1);
    let run = b.run()?;
    same("the faults", run.faults(), vec![(6, 0)])?;
    same("RIP of #DB", run.values().get(1).copied(), Some(code.at(&place)?))?;
    // The image of #DB has RF as it was: clear. That of #UD has it set.
    same("RF of #UD", run.trap(0)?.flags & rflags::RF, rflags::RF)
}

fn resume_flag(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        // RF of the image, as it comes.
        a.push(rax)?;
        a.mov(rax, qword_ptr(rsp + 24))?;
        a.and(eax, rflags::RF as i32)?;
        a.log(rax)?;
        a.pop(rax)?;
        a.or(dword_ptr(rsp + 16), rflags::RF as i32)?;
        Ok(a.iretq()?)
    })?;
    b.gate(1, Gate::to(OWN))?;
    let (code, place) = kernel(b, |a| {
        let (mut place, mut again) = (a.create_label(), a.create_label());
        a.mov(ecx, 2)?;
        a.mov(rdx, rsp)?;
        a.push(i32::from(selector::DATA))?;
        a.push(rdx)?;
        a.push((rflags::RF | 2) as i32)?;
        a.push(i32::from(selector::CODE))?;
        a.lea(rax, ptr(place))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut again)?;
        a.nop()?;
        a.set_label(&mut place)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        // POPF does not set RF.
        a.push((rflags::RF | 2) as i32)?;
        a.popfq()?;
        a.pushfq()?;
        a.pop(rax)?;
        a.log(rax)?;
        Ok(place)
    })?;
    b.state.dr[0] = code.at(&place)?;
    b.state.dr[7] = 0x400 | enable(0, EXECUTE, 1);
    same("RF of the one #DB, RFLAGS", b.run()?.values(), vec![0, 2])
}

fn writes(b: &mut Bench<'_>) -> Checked {
    const ACCESSES: [Emit; 9] = [
        |a| a.mov(byte_ptr(DATA + 7), al),
        |a| a.mov(byte_ptr(DATA + 8), al),
        |a| a.mov(byte_ptr(DATA + 9), al),
        |a| a.mov(byte_ptr(DATA + 11), al),
        |a| a.mov(byte_ptr(DATA + 12), al),
        |a| a.mov(byte_ptr(DATA + 16), al),
        |a| a.mov(word_ptr(DATA + 7), ax),
        |a| a.mov(qword_ptr(DATA + 1), rax),
        |a| a.mov(rax, qword_ptr(DATA + 8)),
    ];
    for (length, expected) in
        [(1, vec![2, 7, 8]), (2, vec![2, 3, 7, 8]), (4, vec![2, 3, 4, 7, 8]), (8, vec![2, 3, 4, 5, 7, 8])]
    {
        let found = data_hits(b, DATA + 8, enable(0, WRITE, length), &ACCESSES)?;
        same(format!("the places of {length} bytes"), found, expected)?;
    }
    Ok(())
}

fn reads(b: &mut Bench<'_>) -> Checked {
    let found = data_hits(
        b,
        DATA + 8,
        enable(0, ACCESS, 4),
        &[
            |a| a.mov(al, byte_ptr(DATA + 8)),
            |a| a.mov(dword_ptr(DATA + 8), eax),
            |a| a.cmp(byte_ptr(DATA + 11), 0),
            |a| a.mov(al, byte_ptr(DATA + 12)),
            // What only makes an address does not access it.
            |a| a.lea(rax, ptr(DATA + 8)),
            |a| a.prefetcht0(ptr(DATA + 8)),
            |a| a.push(qword_ptr(DATA + 8)),
            |a| a.pop(rax),
        ],
    )?;
    same("the places", found, vec![1, 2, 3, 7])
}

fn alignment(b: &mut Bench<'_>) -> Checked {
    const ACCESSES: [Emit; 4] = [
        |a| a.mov(byte_ptr(DATA + 3), al),
        |a| a.mov(byte_ptr(DATA + 4), al),
        |a| a.mov(byte_ptr(DATA + 7), al),
        |a| a.mov(byte_ptr(DATA + 8), al),
    ];
    let four = data_hits(b, DATA + 6, enable(0, WRITE, 4), &ACCESSES)?;
    same("the places of 4 bytes", four, vec![2, 3])?;
    let eight = data_hits(b, DATA + 6, enable(0, WRITE, 8), &ACCESSES)?;
    same("the places of 8 bytes", eight, vec![1, 2, 3])
}

fn modify(b: &mut Bench<'_>) -> Checked {
    let found = data_hits(
        b,
        DATA + 8,
        enable(0, WRITE, 8),
        &[
            |a| a.inc(dword_ptr(DATA + 8)),
            |a| a.lock().xadd(dword_ptr(DATA + 8), eax),
            // CMPXCHG writes whatever it finds.
            |a| a.cmpxchg(dword_ptr(DATA + 8), ecx),
            |a| a.test(dword_ptr(DATA + 8), eax),
            |a| a.bt(dword_ptr(DATA + 8), 1),
            |a| a.bts(dword_ptr(DATA + 8), 1),
            |a| a.mov(rdx, rsp),
            |a| a.mov(rsp, DATA + 16),
            |a| a.push(rax),
            |a| a.add(rsp, 8),
            // CALL to the next instruction.
            |a| a.db(&[0xe8, 0, 0, 0, 0]),
            |a| a.mov(rsp, rdx),
        ],
    )?;
    same("the places", found, vec![1, 2, 3, 6, 9, 11])
}

fn wide(b: &mut Bench<'_>) -> Checked {
    let found = data_hits(
        b,
        DATA + 0x1000,
        enable(0, WRITE, 1),
        &[
            |a| a.movups(xmmword_ptr(DATA + 0xff0), xmm0),
            |a| a.movups(xmmword_ptr(DATA + 0xff1), xmm0),
            |a| a.mov(qword_ptr(DATA + 0xff9), rax),
            |a| a.mov(qword_ptr(DATA + 0xff8), rax),
            |a| a.movups(xmm0, xmmword_ptr(DATA + 0xff8)),
            |a| a.fxsave(ptr(DATA + 0xf00)),
        ],
    )?;
    same("the places", found, vec![2, 3, 6])
}

fn strings(b: &mut Bench<'_>) -> Checked {
    let emit: [Emit; 6] = [
        |a| a.mov(rsi, DATA + 0x100),
        |a| a.mov(rdi, DATA),
        |a| a.mov(ecx, 3),
        |a| a.rep().movsb(),
        |a| a.mov(ecx, 2),
        |a| a.rep().stosb(),
    ];
    // On the second of three bytes: between two iterations; on the last: behind the instruction.
    same("the places", data_hits(b, DATA + 1, enable(0, WRITE, 1), &emit)?, vec![3])?;
    same("the places", data_hits(b, DATA + 2, enable(0, WRITE, 1), &emit)?, vec![4])?;
    same("the places", data_hits(b, DATA + 4, enable(0, WRITE, 1), &emit)?, vec![6])?;
    same("the places", data_hits(b, DATA + 0x100, enable(0, ACCESS, 1), &emit)?, vec![3])
}

fn together(b: &mut Bench<'_>) -> Checked {
    let (code, places) = labelled(
        b,
        &[
            |a| a.mov(qword_ptr(DATA), rax),
            |a| a.push(0x102),
            |a| a.popfq(),
            |a| a.mov(qword_ptr(DATA), rax),
            |a| a.push(2),
            |a| a.popfq(),
        ],
    )?;
    b.state.dr[0] = DATA;
    b.state.dr[2] = DATA + 4;
    b.state.dr[7] = 0x400 | enable(0, WRITE, 4) | enable(2, ACCESS, 4);
    let expected = vec![(5, 1), (0x4005, 4), (0x4000, 5), (0x4000, 6)];
    same("DR6 and places", hits(b, &code, &places)?, expected)
}

fn sticky(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.push(rax)?;
        a.mov(rax, dr6)?;
        a.log(rax)?;
        a.pop(rax)?;
        Ok(a.iretq()?)
    })?;
    b.gate(1, Gate::to(OWN))?;
    kernel(b, |a| {
        for offset in [0, 8, 16] {
            a.mov(byte_ptr(DATA + offset), al)?;
        }
        Ok(())
    })?;
    for (n, address) in [DATA, DATA + 8, DATA + 16].into_iter().enumerate() {
        b.state.dr[n] = address;
    }
    // The third is not enabled. BS was there before.
    b.state.dr[6] = 0xffff_4ff0;
    b.state.dr[7] = 0x400 | enable(0, WRITE, 1) | enable(1, WRITE, 1) | (enable(2, WRITE, 1) & !0xff);
    // B0 may be cleared by the second.
    let values: Vec<u64> = b.run()?.values().iter().map(|value| value & DR6 & !1).collect();
    same("DR6", values, vec![0x4000, 0x4002])
}

fn general_detect(b: &mut Bench<'_>) -> Checked {
    let (code, places) = labelled(
        b,
        &[
            |a| a.mov(eax, 0x2400),
            |a| a.mov(dr7, rax),
            |a| a.mov(rcx, dr0),
            |a| a.mov(rcx, dr7),
            |a| a.mov(dr7, rax),
            |a| a.mov(dr3, rax),
        ],
    )?;
    // GD is cleared when the handler is entered, so that the handler can use them; and what it goes back to.
    same("DR6 and places", hits(b, &code, &places)?, vec![(0x2000, 2), (0x2000, 5)])
}

fn ports(b: &mut Bench<'_>) -> Checked {
    const ACCESSES: [Emit; 7] = [
        |a| a.mov(edx, 0x312),
        |a| a.in_(al, dx),
        |a| a.out(dx, al),
        |a| a.inc(edx),
        |a| a.out(dx, al),
        |a| a.mov(edx, 0x30f),
        |a| a.in_(eax, dx),
    ];
    b.state.cr4 |= cr4::DE;
    same("the places of a byte", data_hits(b, 0x312, enable(0, PORT, 1), &ACCESSES)?, vec![2, 3, 7])?;
    same("the places of a word", data_hits(b, 0x312, enable(0, PORT, 2), &ACCESSES)?, vec![2, 3, 5, 7])
}

fn aliases(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(eax, 0xffff_0ff1u32)?;
        a.mov(dr6, rax)?;
        // MOV RCX, DR4 and MOV RCX, DR5.
        a.db(&[0x0f, 0x21, 0xe1])?;
        a.log(rcx)?;
        a.db(&[0x0f, 0x21, 0xe9])?;
        a.log(rcx)?;
        // MOV DR5, RAX.
        a.mov(eax, 0x0400)?;
        a.db(&[0x0f, 0x23, 0xe8])?;
        Ok(())
    })?;
    b.state.cr4 &= !cr4::DE;
    same("DR6, DR7", b.run()?.values(), vec![0xffff_0ff1, 0x400])
}

fn mov_ss(b: &mut Bench<'_>) -> Checked {
    // A data breakpoint of the load itself waits for the next instruction.
    let emit: [Emit; 4] =
        [|a| a.mov(word_ptr(DATA), i32::from(selector::DATA)), |a| a.mov(ss, word_ptr(DATA)), |a| a.nop(), |a| a.nop()];
    let (code, places) = labelled(b, &emit)?;
    b.state.dr[0] = DATA;
    b.state.dr[7] = 0x400 | enable(0, ACCESS, 1);
    same("DR6 and places", hits(b, &code, &places)?, vec![(1, 1), (1, 3)])?;
    // An instruction breakpoint right behind it does not hit; one further on does.
    b.state.dr[0] = code.at(&places[2])?;
    b.state.dr[1] = code.at(&places[3])?;
    b.state.dr[7] = 0x400 | enable(0, EXECUTE, 1) | enable(1, EXECUTE, 1);
    same("DR6 and places", hits(b, &code, &places)?, vec![(2, 3)])
}

fn icebp(b: &mut Bench<'_>) -> Checked {
    let (code, places) = labelled(b, &[|a| a.nop(), |a| a.db(&[0xf1]), |a| a.nop()])?;
    same("DR6 and places", hits(b, &code, &places)?, vec![(0, 2)])
}

fn icebp_behind_mov_ss(b: &mut Bench<'_>) -> Checked {
    // One exception, not another one on the handler's first instruction.
    let emit: [Emit; 4] = [
        |a| a.mov(word_ptr(DATA), i32::from(selector::DATA)),
        |a| a.mov(ss, word_ptr(DATA)),
        |a| a.db(&[0xf1]),
        |a| a.nop(),
    ];
    let (code, places) = labelled(b, &emit)?;
    b.state.dr[0] = DATA;
    b.state.dr[7] = 0x400 | enable(0, ACCESS, 1);
    same("DR6 and places", hits(b, &code, &places)?, vec![(1, 1), (1, 3)])
}

fn faulted(b: &mut Bench<'_>) -> Checked {
    log_debug(b)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(qword_ptr(RESUME), 0)?;
        a.mov(rsi, DATA)?;
        a.mov(rdi, rbx)?;
        // The load is of the breakpoint, the store faults.
        a.faulting(|a| a.movsb())?;
        a.push(2)?;
        a.faulting(|a| a.pop(qword_ptr(rbx)))?;
        a.pop(rax)?;
        Ok(())
    })?;
    b.state.dr[0] = DATA;
    b.state.dr[7] = 0x400 | enable(0, ACCESS, 1);
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 2), (14, 2)])?;
    same("the breakpoints", run.values(), vec![])
}
