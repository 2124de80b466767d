//! Limits and types of segments at each access.

use crate::Guest;
use crate::bench::{Bench, Checked, descriptor, same};
use crate::guests::{Emit, legacy, protected};
use crate::layout::legacy::*;
use crate::layout::{DATA, STACK, USER_DATA, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "limits: bytes", manual: "vol. 3, 5.3", check: bytes },
    Guest { name: "limits: pages", manual: "vol. 3, 5.3", check: pages },
    Guest { name: "limits: expand-down segments", manual: "vol. 3, 5.3", check: expand_down },
    Guest { name: "limits: types refuse accesses", manual: "vol. 3, 5.5", check: types },
    Guest { name: "limits: stack segment", manual: "vol. 3, 6.15, interrupt 12", check: stack },
    Guest {
        name: "limits: calls and pushes past the stack's end",
        manual: "vol. 3, 6.15, interrupt 12",
        check: pushes,
    },
    Guest { name: "limits: 16-bit stack segment", manual: "vol. 1, 6.2.3", check: stack16 },
    Guest { name: "limits: base and offset wrap at 4 GiB", manual: "vol. 3, 3.4.3", check: bases },
    Guest { name: "limits: code", manual: "vol. 3, 5.3; vol. 2, JMP, CALL, RET", check: code },
    Guest { name: "limits: repeated string instructions", manual: "vol. 1, 7.3.9.2", check: strings },
    Guest { name: "limits: before paging", manual: "vol. 3, 6.9", check: before_paging },
    Guest { name: "limits: 16-bit protected mode", manual: "vol. 3, 22.2", check: mode16 },
];

/// Accesses at `EBX` in FS of 1, 2, 4, 8 and 16 bytes, and of 512.
const LOADS: [Emit; 5] = [
    |a| a.mov(al, byte_ptr(ebx).fs()),
    |a| a.mov(ax, word_ptr(ebx).fs()),
    |a| a.mov(eax, dword_ptr(ebx).fs()),
    |a| a.movq(xmm0, qword_ptr(ebx).fs()),
    |a| a.movups(xmm0, xmmword_ptr(ebx).fs()),
];
const STORES: [Emit; 5] = [
    |a| a.mov(byte_ptr(ebx).fs(), al),
    |a| a.mov(word_ptr(ebx).fs(), ax),
    |a| a.mov(dword_ptr(ebx).fs(), eax),
    |a| a.movq(qword_ptr(ebx).fs(), xmm0),
    |a| a.movups(xmmword_ptr(ebx).fs(), xmm0),
];

/// Loads FS with a descriptor, and for each offset and access logs whether it faults. Faults must be #GP(0).
fn probe(b: &mut Bench<'_>, value: u64, offsets: &[u32], accesses: &[Emit]) -> Checked<Vec<bool>> {
    let (code, places) = protected(b, |a| {
        let mut places = Vec::new();
        a.mov(eax, u32::from(FREE_SELECTOR))?;
        a.mov(fs, eax)?;
        for offset in offsets {
            for access in accesses {
                a.mov(ebx, *offset)?;
                places.push(a.faulting(access)?);
            }
        }
        Ok(places)
    })?;
    b.own(0, value)?;
    let run = b.run()?;
    for trap in run.traps() {
        same("vector and error code", (trap.vector, trap.error), (13, 0))?;
    }
    places.iter().map(|place| Ok(run.traps().iter().any(|trap| Ok(trap.rip) == code.at(place).map_err(drop)))).collect()
}

fn bytes(b: &mut Bench<'_>) -> Checked {
    // The last byte that is in the segment is DATA + 0x1ff.
    let segment = descriptor(DATA, 0x1ff, 0x4093);
    for (access, size) in LOADS.into_iter().chain(STORES).zip([1u32, 2, 4, 8, 16].into_iter().cycle()) {
        let faults = probe(b, segment, &[0x200 - size, 0x201 - size, 0x200, 0xffff_fff0], &[access])?;
        same(format!("that accesses of {size} bytes fault"), faults, vec![false, true, true, true])?;
    }
    // FXSAVE and LGDT have long operands too.
    let long: [Emit; 2] = [|a| a.fxsave(ptr(ebx).fs()), |a| a.sgdt(fword_ptr(ebx).fs())];
    let faults = probe(b, segment, &[0, 0x10, 0x1fa, 0x1fb], &long)?;
    same("that FXSAVE and SGDT fault", faults, vec![false, false, true, false, true, false, true, true])
}

fn pages(b: &mut Bench<'_>) -> Checked {
    let offsets = [0xfff, 0x1000, 0x1ffd, 0x1fff, 0x2000];
    let one = probe(b, descriptor(USER_DATA, 0, 0xc093), &offsets, &LOADS[2..3])?;
    same("that loads fault with a limit of no page more", one, vec![true, true, true, true, true])?;
    let two = probe(b, descriptor(USER_DATA, 1, 0xc093), &offsets, &LOADS[..1])?;
    same("that loads fault with a limit of one page more", two, vec![false, false, false, false, true])?;
    let byte = probe(b, descriptor(USER_DATA, 0, 0x4093), &[0, 1], &LOADS[..2])?;
    same("that loads fault with a limit of zero bytes", byte, vec![false, true, true, true])
}

fn expand_down(b: &mut Bench<'_>) -> Checked {
    let offsets = [0, 0xfff, 0x1000, 0xfffe, 0xffff, 0x1_0000, 0x10_0000];
    // B decides about the upper end.
    let small = probe(b, descriptor(USER_DATA, 0xfff, 0x97), &offsets, &LOADS[1..2])?;
    same("that loads fault, B clear", small, vec![true, true, false, false, true, true, true])?;
    let big = probe(b, descriptor(USER_DATA, 0xfff, 0x4097), &offsets, &LOADS[1..2])?;
    same("that loads fault, B set", big, vec![true, true, false, false, false, false, false])?;
    let granular = probe(b, descriptor(USER_DATA, 0, 0xc097), &offsets, &STORES[..1])?;
    same("that stores fault, G set", granular, vec![true, true, false, false, false, false, false])?;
    // It is writable or not as any other.
    let fixed = probe(b, descriptor(USER_DATA, 0xfff, 0x4095), &[0x1000], &[LOADS[0], STORES[0]])?;
    same("that loads and stores fault, W clear", fixed, vec![false, true])?;
    // Everything is below the limit.
    let none = probe(b, descriptor(USER_DATA, 0xfffff, 0xc097), &[0, 0xffff_ffff], &LOADS[..1])?;
    same("that loads fault with no byte in the segment", none, vec![true, true])
}

fn types(b: &mut Bench<'_>) -> Checked {
    let accesses: [Emit; 5] = [
        LOADS[0],
        STORES[0],
        |a| a.add(byte_ptr(ebx).fs(), 0),
        |a| a.cmpxchg(byte_ptr(ebx).fs(), al),
        |a| a.test(byte_ptr(ebx).fs(), al),
    ];
    let writable = [false, false, false, false, false];
    let readable = [false, true, true, true, false];
    for (rights, expected) in [(0x93, writable), (0x91, readable), (0x9b, readable), (0x9f, readable)] {
        let found = probe(b, descriptor(0, 0xfffff, 0xc000 | rights), &[DATA as u32], &accesses)?;
        same(format!("the faults with rights {rights:#x}"), found, expected.to_vec())?;
    }
    // Code that cannot be read, by an override of CS; and no code can be written.
    protected(b, |a| {
        a.faulting(|a| a.mov(byte_ptr(DATA).cs(), al))?;
        a.mov(al, byte_ptr(DATA).cs())?;
        Ok(a.far_jump(FREE_SELECTOR, OWN as u32)?)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.faulting(|a| a.mov(al, byte_ptr(DATA).cs()))?;
        Ok(a.log_selector(cs)?)
    })?;
    b.own(0, descriptor(0, 0xfffff, 0xc099))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 2])?;
    same("CS", run.values(), vec![FREE_SELECTOR.into()])
}

fn stack(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, u32::from(FREE_SELECTOR))?;
        a.mov(ss, eax)?;
        a.mov(ebp, 0x8_0000)?;
        a.mov(ebx, ebp)?;
        // By EBP and ESP, or by an override, it is #SS; by an override of the other it is #GP.
        a.faulting(|a| a.mov(al, byte_ptr(ebp)))?;
        a.faulting(|a| a.mov(al, byte_ptr(ebx).ss()))?;
        a.faulting(|a| a.mov(al, byte_ptr(esp + ebx)))?;
        a.mov(al, byte_ptr(ebp).ds())?;
        a.faulting(|a| a.mov(byte_ptr(ebp - 0x4_0000), al))?;
        a.mov(byte_ptr(ebp - 0x4_0001), al)?;
        a.mov(eax, u32::from(FREE_SELECTOR + 8))?;
        a.mov(fs, eax)?;
        a.faulting(|a| a.mov(al, byte_ptr(ebp).fs()))?;
        // EBP as an index does not choose the segment.
        a.mov(al, byte_ptr(ebx + ebp * 1))?;
        Ok(())
    })?;
    b.own(0, descriptor(0, 0x3_ffff, 0x4093))?;
    b.own(1, descriptor(0, 0x3_ffff, 0x4093))?;
    same("the faults", b.run()?.faults(), vec![(12, 0), (12, 0), (12, 0), (12, 0), (13, 0)])
}

fn pushes(b: &mut Bench<'_>) -> Checked {
    // In ring 3, so that the handlers have a stack of their own.
    let cases: [Emit; 8] = [
        |a| a.push(eax),
        |a| a.push(dword_ptr(DATA)),
        |a| a.pushad(),
        |a| a.pushfd(),
        |a| a.db(&[0xe8, 0, 0, 0, 0]),
        |a| a.db(&[0xc8, 0, 0, 0]),
        |a| a.db(&[0xff, 0xd0]),
        |a| a.push(ds),
    ];
    protected(b, |a| Ok(a.to_ring3(crate::layout::USER_CODE, 2)?))?;
    let (code, places) = legacy(b, (32, crate::layout::USER_CODE, 0), |a| {
        let mut places = Vec::new();
        a.mov(eax, u32::from(FREE_SELECTOR | 3))?;
        a.mov(ss, eax)?;
        for case in cases {
            a.mov(ebp, 0x1234)?;
            a.mov(esp, 0x1002)?;
            places.push(a.faulting(case)?);
            a.log(esp)?;
        }
        // POP past the other end.
        a.mov(eax, u32::from((FREE_SELECTOR + 8) | 3))?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x1ffe)?;
        for case in
            [(|a| a.pop(eax)) as Emit, |a| a.popfd(), |a| a.popad(), |a| a.ret(), |a| a.db(&[0xcb]), |a| a.iretd()]
        {
            places.push(a.faulting(case)?);
        }
        a.log(esp)?;
        a.log(ebp)?;
        Ok(places)
    })?;
    b.own(0, descriptor(0, 0xfff, 0x40f7))?;
    b.own(1, descriptor(0, 0x1fff, 0x40f3))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(12, 0); 14])?;
    for (index, place) in places.iter().enumerate() {
        same(format!("EIP of fault {index}"), run.trap(index)?.rip, code.at(place)?)?;
    }
    let expected = [vec![0x1002; 8], vec![0x1ffe, 0x1234]].concat();
    same("ESP, and EBP", run.values(), expected)
}

fn stack16(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, u32::from(STACK16))?;
        a.mov(ss, eax)?;
        // SP alone is used, wraps, and the rest of ESP stays.
        a.mov(esp, 0xabcd_0000u32)?;
        a.push(0x1234)?;
        a.mov(ebx, esp)?;
        a.log(ebx)?;
        a.pop(ecx)?;
        a.log(ecx)?;
        a.mov(ebx, esp)?;
        a.log(ebx)?;
        // ENTER and LEAVE use BP.
        a.mov(esp, 0xabcd_8000u32)?;
        a.mov(ebp, 0xabcd_7000u32)?;
        a.db(&[0xc8, 0x10, 0, 0])?;
        a.mov(ebx, esp)?;
        a.log(ebx)?;
        a.log(ebp)?;
        a.db(&[0xc9])?;
        a.mov(ebx, esp)?;
        a.log(ebx)?;
        a.log(ebp)?;
        // Operands at ESP use all of it.
        a.mov(esp, 0x8000)?;
        a.push(0x77)?;
        a.mov(eax, dword_ptr(esp))?;
        a.log_eax()?;
        Ok(())
    })?;
    let run = b.run()?;
    let expected = vec![0xabcd_fffc, 0x1234, 0xabcd_0000, 0xabcd_7fec, 0xabcd_7ffc, 0xabcd_8000, 0xabcd_7000, 0x77];
    same("the values", run.values(), expected)
}

fn bases(b: &mut Bench<'_>) -> Checked {
    let found = probe(b, descriptor(0xffff_f000, 0xfffff, 0xc093), &[(0x1000 + DATA) as u32], &STORES[2..3])?;
    same("that a store beyond 4 GiB faults", found, vec![false])?;
    protected(b, |a| {
        a.mov(eax, u32::from(FREE_SELECTOR))?;
        a.mov(fs, eax)?;
        a.mov(dword_ptr((0x1000 + DATA) as u32).fs(), 0x1234)?;
        a.mov(eax, dword_ptr(DATA as u32))?;
        a.log_eax()?;
        // Base and index wrap among themselves as well.
        a.mov(ebx, 0xffff_0000u32)?;
        a.mov(ecx, DATA as u32 + 0x1_0000)?;
        a.mov(eax, dword_ptr(ebx + ecx))?;
        a.log_eax()?;
        // 16-bit addresses in 32-bit code.
        a.mov(ebx, 0x1234_8000)?;
        a.mov(eax, dword_ptr(bx))?;
        a.log_eax()?;
        a.mov(bx, 0xffff)?;
        a.mov(eax, dword_ptr(bx + (DATA as i32 & 0x7fff) + 1 - 0x8000))?;
        a.log_eax()?;
        Ok(())
    })?;
    b.own(0, descriptor(0xffff_f000, 0xfffff, 0xc093))?;
    same("the values", b.run()?.values(), vec![0x1234; 4])
}

fn code(b: &mut Bench<'_>) -> Checked {
    // 128 bytes; the handlers are in another segment.
    const SMALL: u64 = OWN + 0x800;
    const CUT: u64 = 0x7d;
    protected(b, |a| {
        a.mov(ebx, 0x80)?;
        a.cmp(ebx, ebx)?;
        Ok(a.far_jump(FREE_SELECTOR, 0)?)
    })?;
    let (code, (places, next)) = legacy(b, (32, SMALL, SMALL), |a| {
        // JMP, JZ, JMP EBX, CALL EBX and RET to the first byte past the limit: the branch itself faults.
        let mut places = vec![
            a.faulting(|a| a.db(&[0xeb, 0x7e]))?,
            a.faulting(|a| a.db(&[0x0f, 0x84, 0x77, 0x00, 0x00, 0x00]))?,
            a.faulting(|a| a.db(&[0xff, 0xe3]))?,
            a.faulting(|a| a.db(&[0xff, 0xd3]))?,
        ];
        a.push(ebx)?;
        places.push(a.faulting(|a| a.db(&[0xc3]))?);
        a.pop(ecx)?;
        a.log(esp)?;
        // A branch that is not taken does not fault.
        a.inc(ebx)?;
        a.db(&[0x0f, 0x84, 0x77, 0x00, 0x00, 0x00])?;
        // An instruction that begins in the segment and ends past it faults as a whole.
        a.mov(ebx, CUT as u32)?;
        a.db(&[0xff, 0xe3])?;
        Ok((places, a.here()?))
    })?;
    let next = code.at(&next)?;
    same("that there is room", next < 0x60, true)?;
    b.expect_fault(CUT, next)?;
    b.ram.write(Gpa(SMALL + CUT), &[0xb8, 1, 2, 3, 4])?;
    b.own(0, descriptor(SMALL, 0x7f, 0x409b))?;
    let run = b.run()?;
    same("ESP", run.values(), vec![STACK])?;
    same("the faults", run.faults(), vec![(13, 0); 6])?;
    for (index, place) in places.iter().enumerate() {
        same(format!("EIP of fault {index}"), run.trap(index)?.rip, code.at(place)?)?;
    }
    same("EIP of the last", run.trap(5)?.rip, CUT)
}

fn strings(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, u32::from(FREE_SELECTOR))?;
        a.mov(es, eax)?;
        a.mov(esi, DATA as u32)?;
        a.mov(edi, 0xf9)?;
        a.mov(ecx, 4)?;
        a.faulting(|a| a.rep().movsd())?;
        // What was done is done, and the registers say how far it came.
        for register in [ecx, esi, edi] {
            a.log(register)?;
        }
        a.std()?;
        a.mov(ecx, 3)?;
        a.mov(edi, 2)?;
        a.faulting(|a| a.rep().stosw())?;
        a.log(ecx)?;
        a.log(edi)?;
        a.cld()?;
        // The first element faults: nothing is done.
        a.mov(ecx, 5)?;
        a.mov(edi, 0x100)?;
        a.faulting(|a| a.repne().scasb())?;
        a.log(ecx)?;
        Ok(())
    })?;
    b.own(0, descriptor(USER_DATA, 0xff, 0x4093))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 3])?;
    same("ECX, ESI, EDI; ECX, EDI; ECX", run.values(), vec![3, DATA + 4, 0xfd, 1, 0xffff_fffe, 5])
}

fn before_paging(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, u32::from(FREE_SELECTOR))?;
        a.mov(fs, eax)?;
        // The address is in no page, and past the limit; then only in no page.
        a.faulting(|a| a.mov(al, byte_ptr(0x1000).fs()))?;
        a.faulting(|a| a.mov(al, byte_ptr(0xfff).fs()))?;
        a.faulting(|a| a.mov(byte_ptr(0xffe).fs(), al))?;
        Ok(())
    })?;
    b.page_legacy(crate::bench::Paging::Bits32)?;
    b.own(0, descriptor(0x800_0000, 0xfff, 0x4093))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0), (14, 0), (14, 2)])?;
    same("CR2", run.trap(1)?.cr2, 0x800_0fff)
}

fn mode16(b: &mut Bench<'_>) -> Checked {
    crate::guests::protected16(b, |a| {
        a.log_selector(cs)?;
        a.push(0x1234)?;
        a.log(esp)?;
        a.pop(cx)?;
        a.mov(ebx, 0xffff)?;
        a.faulting(|a| a.mov(ax, word_ptr(bx)))?;
        a.mov(ebx, 0x1_0000)?;
        a.faulting(|a| a.mov(al, byte_ptr(ebx)))?;
        a.faulting(|a| a.mov(al, byte_ptr(ebx).ss()))?;
        // A segment of 4 GiB is within reach by 32-bit addresses.
        a.mov(ax, u32::from(selector::DATA))?;
        a.mov(es, ax)?;
        a.mov(ebx, USER_DATA as u32)?;
        a.mov(eax, dword_ptr(ebx).es())?;
        a.log_eax()?;
        // Gates and handlers are of 32 bits: the frame too.
        a.int(0x81)?;
        a.log(esp)?;
        Ok(())
    })?;
    b.write(USER_DATA, 0x1234_5678)?;
    let run = b.run()?;
    let top = STACK - STACK_BASE;
    same("the values", run.values(), vec![CODE16.into(), top - 2, 0x1234_5678, top])?;
    same("the traps", run.faults(), vec![(13, 0), (13, 0), (12, 0), (0x81, 0)])?;
    same("CS of the traps", run.trap(3)?.cs, CODE16.into())
}
