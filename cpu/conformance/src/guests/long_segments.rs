//! Segments, gates and tables under IA-32e mode that are not flat.

use super::{Emit, handler, kernel, legacy, user};
use crate::Guest;
use crate::bench::{Bench, Checked, descriptor, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "64-bit call gate from ring 3", manual: "vol. 3, 5.8.3.1 and 5.8.5.1", check: call_gate },
    Guest { name: "64-bit call gate within ring 0", manual: "vol. 3, 5.8.3.1", check: same_ring },
    Guest { name: "64-bit call gates: faults", manual: "vol. 2, CALL", check: bad_gates },
    Guest { name: "gates and TSSs that IA-32e mode has not", manual: "vol. 3, 3.5 and 6.14.1", check: no_such_types },
    Guest { name: "LLDT and LTR of 16 bytes", manual: "vol. 2, LLDT and LTR", check: system_descriptors },
    Guest { name: "limits and types in compatibility mode", manual: "vol. 3, 5.2.1 and 5.3", check: compatibility },
    Guest { name: "null SS in 64-bit rings", manual: "vol. 3, 5.4.1.1", check: null_stack },
    Guest { name: "LAR and LSL in IA-32e mode", manual: "vol. 2, LAR and LSL", check: inspection },
];

const OWN: u64 = HANDLERS + 0x8000;
/// The first of the descriptors that are the test's own; a gate or a table takes two.
const FREE_SELECTOR: u16 = 0x80;

/// Room for `count` more descriptors.
fn extend(b: &mut Bench<'_>, values: &[u64]) -> Checked {
    for (index, value) in (0..).zip(values) {
        b.write(GDT + u64::from(FREE_SELECTOR) + 8 * index, *value)?;
    }
    b.state.gdtr.limit = 0x1ff;
    Ok(())
}

/// The two halves of a call gate of 64-bit mode.
fn gate64(rights: u64, selector: u16, offset: u64) -> [u64; 2] {
    [crate::bench::gate(rights, selector, offset & 0xffff_ffff, 0), offset >> 32]
}

/// CALL m16:32 with the pointer at an address below 2 GiB.
fn far_call(a: &mut CodeAssembler, at: u64) -> Result<(), iced_x86::IcedError> {
    a.db(&[0xff, 0x1c, 0x25])?;
    a.dd(&[at as u32])
}

fn call_gate(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.mov(rbp, rsp)?;
        a.log(rbp)?;
        for slot in 0..4 {
            a.mov(rax, qword_ptr(rbp + 8 * slot))?;
            a.log(rax)?;
        }
        a.mov(eax, cs)?;
        a.log(rax)?;
        a.mov(eax, ss)?;
        a.log(rax)?;
        a.db(&[0x48, 0xcb]).map_err(Into::into)
    })?;
    let (code, after) = user(b, 2, |a| {
        far_call(a, USER_DATA)?;
        let mut after = a.create_label();
        a.set_label(&mut after)?;
        a.log(rsp)?;
        a.mov(eax, cs)?;
        a.log(rax)?;
        a.mov(eax, ss)?;
        a.log(rax)?;
        Ok(after)
    })?;
    extend(b, &gate64(0xec, selector::CODE, OWN))?;
    b.write(USER_DATA, u64::from(FREE_SELECTOR | 3) << 32 | 0x1234)?;
    let frame = [RSP0 - 32, code.at(&after)?, 0x33, USER_STACK, 0x2b, 8, 0];
    let behind = [USER_STACK, 0x33, 0x2b];
    same("RSP, frame, CS, SS; RSP, CS, SS", b.run()?.values(), [&frame[..], &behind].concat())
}

fn same_ring(b: &mut Bench<'_>) -> Checked {
    handler(b, OWN, |a| {
        a.log(rsp)?;
        a.mov(rax, qword_ptr(rsp + 8))?;
        a.log(rax)?;
        Ok(a.db(&[0x48, 0xcb])?)
    })?;
    kernel(b, |a| {
        far_call(a, DATA)?;
        a.log(rsp)?;
        Ok(())
    })?;
    extend(b, &gate64(0x8c, selector::CODE, OWN))?;
    b.write(DATA, u64::from(FREE_SELECTOR) << 32)?;
    same("RSP, CS; RSP", b.run()?.values(), vec![STACK - 16, 8, STACK])
}

fn bad_gates(b: &mut Bench<'_>) -> Checked {
    let own = u64::from(FREE_SELECTOR);
    let cases = [
        (gate64(0x8c, selector::CODE, 1 << 47), (13, 0)),
        (gate64(0x0c, selector::CODE, OWN), (11, own)),
        (gate64(0x8c, 0, OWN), (13, 0)),
        (gate64(0x8c, selector::DATA, OWN), (13, 0x10)),
        (gate64(0x8c, selector::ABSENT_CODE, OWN), (11, 0x58)),
        // Code that is not of 64 bits.
        (gate64(0x8c, selector::CODE32, OWN), (13, 0x18)),
        (gate64(0x8c, 0x1f8, OWN), (13, 0x1f8)),
        // The second half has a type.
        ([gate64(0x8c, selector::CODE, OWN)[0], 1 << 40], (13, own)),
        // Gates of 16 bits, task gates.
        (gate64(0x84, selector::CODE, OWN), (13, own)),
        (gate64(0x85, selector::TASK, OWN), (13, own)),
    ];
    for (value, fault) in cases {
        kernel(b, |a| {
            a.faulting(|a| far_call(a, DATA))?;
            a.log(rsp)?;
            Ok(())
        })?;
        extend(b, &value)?;
        b.write(DATA, own << 32)?;
        let run = b.run()?;
        same(format!("the fault of {value:x?}"), run.faults(), vec![fault])?;
        same("RSP", run.values(), vec![STACK])?;
    }
    Ok(())
}

fn no_such_types(b: &mut Bench<'_>) -> Checked {
    // A far jump to a TSS or an LDT; interrupts through gates of 16 bits, a task gate and a call gate.
    for rights in [0x89, 0x82] {
        kernel(b, |a| {
            a.faulting(|a| far_call(a, DATA))?;
            Ok(())
        })?;
        extend(b, &[descriptor(TSS, 0x67, rights), 0])?;
        b.write(DATA, u64::from(FREE_SELECTOR) << 32)?;
        same("the fault", b.run()?.faults(), vec![(13, FREE_SELECTOR.into())])?;
    }
    for kind in [0x84u64, 0x85, 0x86, 0x87, 0x8c, 0x80, 0x92] {
        kernel(b, |a| {
            a.faulting(|a| a.int(0x81))?;
            Ok(())
        })?;
        let at = IDT + 16 * 0x81;
        b.write(at, b.read(at)? & !(0xff << 40) | kind << 40)?;
        same(format!("the fault of a gate of type {kind:#x}"), b.run()?.faults(), vec![(13, 0x81 * 8 + 2)])?;
    }
    Ok(())
}

fn system_descriptors(b: &mut Bench<'_>) -> Checked {
    let table = USER_DATA;
    let ldt = descriptor(table, 0xff, 0x82);
    let tss = descriptor(TSS, 0x67, 0x89);
    let values = [
        ldt,
        0,
        // Not canonical.
        ldt,
        0x8000,
        // The second half has a type.
        ldt,
        1 << 40,
        tss,
        0x8000,
        // A TSS of 16 bits.
        descriptor(TSS, 0x67, 0x81),
        0,
        tss,
        0,
    ];
    kernel(b, |a| {
        let own = |index: u16| i32::from(FREE_SELECTOR + 16 * index);
        let load: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError> = |a| a.lldt(ax);
        for index in [1, 2, 3] {
            a.mov(eax, own(index))?;
            a.faulting(load)?;
        }
        for index in [3, 4, 0] {
            a.mov(eax, own(index))?;
            a.faulting(|a| a.ltr(ax))?;
        }
        a.mov(eax, own(0))?;
        a.lldt(ax)?;
        a.mov(eax, 0x0c)?;
        a.mov(fs, eax)?;
        a.mov(eax, dword_ptr(0u64).fs())?;
        a.log(rax)?;
        a.mov(eax, own(5))?;
        a.ltr(ax)?;
        a.str(ecx)?;
        a.log(rcx)?;
        // The second half past the table's limit.
        a.mov(eax, 0x1f8)?;
        a.faulting(load)?;
        Ok(())
    })?;
    extend(b, &values)?;
    b.write(GDT + 0x1f8, ldt)?;
    b.write(table + 8, descriptor(DATA, 0xfff, 0x4093))?;
    b.write(DATA, 0x1234)?;
    let run = b.run()?;
    let own = |index: u64| u64::from(FREE_SELECTOR) + 16 * index;
    let expected: Vec<_> =
        [own(1), own(2), own(3), own(3), own(4), own(0), 0x1f8].into_iter().map(|error| (13, error)).collect();
    same("the faults", run.faults(), expected)?;
    same("a word by the LDT, TR", run.values(), vec![0x1234, own(5)])
}

fn compatibility(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(eax, i32::from(FREE_SELECTOR + 8))?;
        a.mov(fs, eax)?;
        a.mov(eax, i32::from(selector::DATA))?;
        a.mov(ds, eax)?;
        // 64-bit code does not look at the limit.
        a.mov(al, byte_ptr(DATA + 0x1000).fs())?;
        a.lea(r15, ptr(DATA))?;
        // JMP m16:32 to 32-bit code.
        a.db(&[0xff, 0x2c, 0x25])?;
        Ok(a.dd(&[DATA as u32])?)
    })?;
    // The common handler resumes where RESUME says, which 32-bit code writes.
    let (mut places, mut known): (Vec<CodeLabel>, Vec<u64>) = (Vec::new(), vec![0; 5]);
    for _ in 0..2 {
        places.clear();
        let (code, _) = legacy(b, (32, OWN, 0), |a| {
            let cases: [Emit; 5] = [
                |a| a.mov(al, byte_ptr(0x1000u32).fs()),
                |a| a.mov(dword_ptr(0xffdu32).fs(), eax),
                |a| a.mov(byte_ptr(DATA).cs(), al),
                |a| a.mov(al, byte_ptr(0u32).gs()),
                |a| a.db(&[0xff, 0xe3]),
            ];
            a.mov(ebx, 0x30_0000)?;
            a.mov(al, byte_ptr(0xfffu32).fs())?;
            for (case, next) in cases.into_iter().zip(&known) {
                a.mov(dword_ptr(RESUME as u32), *next as u32)?;
                case(a)?;
                places.push(a.here()?);
                a.nop()?;
            }
            Ok(())
        })?;
        known = places.iter().map(|place| code.at(place)).collect::<Checked<_>>()?;
    }
    // Code up to 0x2fffff, and data of a page; GS is null.
    extend(b, &[descriptor(0, 0x2ff, 0xc09b), descriptor(DATA, 0xfff, 0x4093)])?;
    b.ram.write(Gpa(DATA), &(OWN | u64::from(FREE_SELECTOR) << 32).to_le_bytes())?;
    b.state.segments.gs = motu_x86::Segment::null();
    same("the faults", b.run()?.faults(), vec![(13, 0); 5])
}

fn null_stack(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        // Ring 0 may have a null SS, with its own RPL.
        a.xor(eax, eax)?;
        a.mov(ss, eax)?;
        a.push(rax)?;
        a.pop(rcx)?;
        a.mov(eax, 3)?;
        a.faulting(|a| a.mov(ss, eax))?;
        a.mov(eax, i32::from(selector::DATA))?;
        a.mov(ss, eax)?;
        a.to_user(USER_CODE, USER_STACK, 2)?;
        Ok(())
    })?;
    let mut a = b.assembler(64)?;
    for value in [0, 3] {
        a.mov(eax, value)?;
        a.faulting(|a| a.mov(ss, eax))?;
    }
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 3])
}

fn inspection(b: &mut Bench<'_>) -> Checked {
    // Types 2, 9, B and C are left for LAR, the first three for LSL.
    let kinds = [0x81u64, 0x82, 0x83, 0x84, 0x85, 0x86, 0x89, 0x8b, 0x8c, 0x8e, 0x8f];
    kernel(b, |a| {
        for index in 0..kinds.len() as u16 {
            a.mov(eax, i32::from(FREE_SELECTOR + 16 * index))?;
            a.lar(ecx, eax)?;
            a.setz(cl)?;
            a.lsl(edx, eax)?;
            a.setz(ch)?;
            a.movzx(eax, cx)?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    let values: Vec<u64> = kinds.iter().flat_map(|kind| [descriptor(0, 0xff, *kind), 0]).collect();
    extend(b, &values)?;
    let (both, one, none) = (0x101, 1, 0);
    let expected = vec![none, both, none, none, none, none, both, both, one, none, none];
    same("ZF of LAR and LSL", b.run()?.values(), expected)
}
