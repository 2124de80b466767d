//! What segment registers, LDTR and TR may be loaded with.

use crate::Guest;
use crate::bench::{Asm, Bench, Checked, descriptor, same};
use crate::guests::{protected, protected_user};
use crate::layout::legacy::*;
use crate::layout::{DATA, GDT, STACK, TSS, selector};
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "protected mode: loads of DS", manual: "vol. 2, MOV; vol. 3, 5.6", check: data },
    Guest { name: "protected mode: loads of SS", manual: "vol. 2, MOV; vol. 3, 5.7", check: stack },
    Guest { name: "protected mode: loads in ring 3", manual: "vol. 3, 5.6", check: in_ring3 },
    Guest { name: "protected mode: loads of CS by far jump", manual: "vol. 2, JMP; vol. 3, 5.8.1", check: code },
    Guest { name: "protected mode: conforming code in ring 3", manual: "vol. 3, 5.8.1.2", check: conforming },
    Guest { name: "protected mode: LDT", manual: "vol. 3, 3.5.1 and 5.6", check: local },
    Guest { name: "protected mode: loads of LDTR and TR", manual: "vol. 2, LLDT and LTR", check: system },
    Guest { name: "protected mode: accessed bits", manual: "vol. 3, 3.4.5.1", check: accessed },
    Guest { name: "protected mode: null selectors", manual: "vol. 3, 3.4.2", check: null },
    Guest { name: "protected mode: descriptor past the table's limit", manual: "vol. 3, 3.5.1", check: table_limit },
    Guest { name: "protected mode: LAR, LSL, VERR, VERW", manual: "vol. 2", check: inspection },
    Guest { name: "protected mode: ARPL", manual: "vol. 2, ARPL", check: arpl },
    Guest { name: "protected mode: failed loads change nothing", manual: "vol. 2, LDS and POP", check: unchanged },
];

/// Flat with these rights.
const fn flat(rights: u64) -> u64 {
    descriptor(0, 0xfffff, 0xc000 | rights)
}

/// Loads `segment` with selectors of descriptors of the test's own, and gives the faults. Those that load are
/// followed by a log of the selector.
fn try_loads(b: &mut Bench<'_>, segment: AsmRegisterSegment, cases: &[(u64, u16)]) -> Checked<Vec<(u64, u64)>> {
    protected(b, |a| {
        for index in 0..cases.len() as u16 {
            let rpl = cases.get(usize::from(index)).map_or(0, |case| case.1);
            a.mov(ecx, u32::from((FREE_SELECTOR + 8 * index) | rpl))?;
            a.faulting(|a| a.mov(segment, ecx))?;
            a.mov(ecx, u32::from(selector::DATA))?;
            a.mov(segment, ecx)?;
        }
        Ok(())
    })?;
    for (index, (value, _)) in (0..).zip(cases) {
        b.own(index, *value)?;
    }
    let run = b.run()?;
    Ok(run.faults().into_iter().map(|(vector, error)| (vector, error.wrapping_sub(FREE_SELECTOR.into()))).collect())
}

fn data(b: &mut Bench<'_>) -> Checked {
    // Descriptor and RPL; those that load come first.
    let cases = [
        (flat(0x93), 0),
        (flat(0x91), 0),
        (flat(0x95), 0),
        (flat(0x97), 0),
        (flat(0xf3), 3),
        (flat(0x9b), 0),
        // Conforming code that can be read: its DPL and the RPL do not count.
        (flat(0x9f), 3),
        // From here on they do not: index 7.
        (flat(0x93), 3),
        (flat(0x99), 0),
        (flat(0x9d), 0),
        (flat(0x13), 0),
        (flat(0x82), 0),
        (flat(0x8b), 0),
        (flat(0x8c), 0),
        (flat(0), 0),
        (flat(0x9b), 3),
        // Privilege before presence, type before privilege.
        (flat(0x13), 3),
        (flat(0x19), 3),
    ];
    let found = try_loads(b, ds, &cases)?;
    let gp = |index: u64| (13, 8 * index);
    let expected = vec![gp(7), gp(8), gp(9), (11, 80), gp(11), gp(12), gp(13), gp(14), gp(15), gp(16), gp(17)];
    same("the faults", found, expected)
}

fn stack(b: &mut Bench<'_>) -> Checked {
    let cases = [
        (flat(0x93), 0),
        (flat(0x97), 0),
        (flat(0x92), 0),
        (flat(0x91), 0),
        (flat(0x9b), 0),
        (flat(0xf3), 0),
        (flat(0xf3), 3),
        (flat(0x93), 3),
        (flat(0x82), 0),
        (flat(0x13), 0),
        (flat(0x33), 0),
    ];
    let found = try_loads(b, ss, &cases)?;
    let gp = |index: u64| (13, 8 * index);
    same("the faults", found, vec![gp(3), gp(4), gp(5), gp(6), gp(7), gp(8), (12, 72), gp(10)])?;
    // Null is never a stack in protected mode.
    protected(b, |a| {
        for value in [0, 1, 3] {
            a.mov(eax, value)?;
            a.faulting(|a| a.mov(ss, eax))?;
        }
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 3])
}

fn in_ring3(b: &mut Bench<'_>) -> Checked {
    let own = |index: u16| u32::from(FREE_SELECTOR + 8 * index);
    protected_user(b, 2, |a| {
        for selector in [own(0) | 3, own(1) | 3, own(2), own(3) | 3, own(0)] {
            a.mov(ecx, selector)?;
            a.faulting(|a| a.mov(gs, ecx))?;
        }
        // DPL 3 with RPL 0 loads: RPL and CPL need only be no greater than DPL.
        a.log_selector(gs)?;
        for selector in [own(0), own(1) | 3, own(4) | 3, own(4) | 2] {
            a.mov(ecx, selector)?;
            a.faulting(|a| a.mov(ss, ecx))?;
        }
        Ok(())
    })?;
    for (index, rights) in (0..).zip([0xf3, 0xd3, 0x93, 0x9f, 0xf3]) {
        b.own(index, flat(rights))?;
    }
    let run = b.run()?;
    let at = |index: u16| u64::from(own(index));
    let expected = vec![(13, at(1)), (13, at(2)), (13, at(0)), (13, at(1)), (13, at(4))];
    same("the faults", run.faults(), expected)?;
    same("GS", run.values(), vec![at(0)])
}

fn code(b: &mut Bench<'_>) -> Checked {
    let cases = [
        (flat(0x9b), 0),
        // The RPL may be greater for conforming code; CS has the CPL.
        (flat(0x9f), 3),
        (flat(0x99), 0),
        (flat(0x9b), 3),
        (flat(0xfb), 0),
        (flat(0xff), 0),
        (flat(0x93), 0),
        (flat(0x1b), 0),
        (flat(0x82), 0),
        (flat(0x8e), 0),
        // Offset past the limit.
        (descriptor(0, 0xfff, 0x409b), 0),
    ];
    protected(b, |a| {
        let selectors = (0..).zip(cases).map(|(index, case)| (FREE_SELECTOR + 8 * index) | case.1);
        for selector in selectors.chain([0, 3, BEYOND]) {
            a.mov(dword_ptr(DATA), OWN as u32)?;
            a.mov(word_ptr(DATA + 4), u32::from(selector))?;
            // CALL m16:32.
            a.faulting(|a| a.db(&[0xff, 0x1d, 0x00, 0x80, 0x00, 0x00]))?;
        }
        a.log(esp)?;
        Ok(())
    })?;
    for (index, (value, _)) in (0..).zip(cases) {
        b.own(index, value)?;
    }
    landing(b)?;
    let run = b.run()?;
    let at = |index: u16| u64::from(FREE_SELECTOR + 8 * index);
    same("CS, and ESP at last", run.values(), vec![at(0), at(1), at(2), STACK])?;
    let gp = |index| (13, at(index));
    let expected =
        vec![gp(3), gp(4), gp(5), gp(6), (11, at(7)), gp(8), gp(9), (13, 0), (13, 0), (13, 0), (13, BEYOND.into())];
    same("the faults", run.faults(), expected)
}

/// What far calls lead to: logs CS and goes back.
fn landing(b: &mut Bench<'_>) -> Checked {
    let mut a = Asm::new(32)?;
    a.log_selector(cs)?;
    a.db(&[0xcb])?;
    b.load_legacy(OWN, 0, a)?;
    Ok(())
}

fn conforming(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.far_call(selector::CONFORMING, OWN as u32)?;
        a.log_selector(cs)?;
        // Conforming code of a lower privilege, and what is not conforming.
        a.faulting(|a| {
            a.db(&[0x9a])?;
            a.dd(&[OWN as u32])?;
            a.dw(&[selector::CODE])
        })?;
        Ok(())
    })?;
    // The privilege stays 3 in conforming code: a privileged instruction faults there.
    let mut a = Asm::new(32)?;
    a.log_selector(cs)?;
    a.faulting(|a| a.hlt())?;
    a.db(&[0xcb])?;
    b.load_legacy(OWN, 0, a)?;
    let run = b.run()?;
    same("CS inside and behind", run.values(), vec![u64::from(selector::CONFORMING) | 3, 0x33])?;
    same("the faults", run.faults(), vec![(13, 0), (13, 8)])?;
    same("CS and SS of the first", run.trap(0).map(|trap| (trap.cs, trap.ss))?, (0x53, 0x2b))
}

fn local(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, u32::from(LDT_SELECTOR))?;
        // Without an LDT every selector of it is past its limit.
        a.mov(ecx, 4)?;
        a.faulting(|a| a.mov(ds, ecx))?;
        a.lldt(ax)?;
        for selector in [0x04, 0x0c, 0x14, 0x1c, 0x104, 0x1fc] {
            a.mov(ecx, selector)?;
            a.faulting(|a| a.mov(ds, ecx))?;
            a.log_selector(ds)?;
        }
        a.mov(ecx, u32::from(selector::DATA))?;
        a.mov(ds, ecx)?;
        a.mov(word_ptr(DATA + 4), 0x24)?;
        a.mov(dword_ptr(DATA), OWN as u32)?;
        a.db(&[0xff, 0x1d, 0x00, 0x80, 0x00, 0x00])?;
        a.sldt(ecx)?;
        a.log(ecx)?;
        // Without it again.
        a.xor(eax, eax)?;
        a.lldt(ax)?;
        a.mov(ecx, 4)?;
        a.faulting(|a| a.mov(es, ecx))?;
        a.sldt(ecx)?;
        a.log(ecx)?;
        Ok(())
    })?;
    landing(b)?;
    let rights = [0x93, 0x13, 0x99, 0x93, 0x9b];
    for (index, rights) in (0..).zip(rights) {
        b.write(LDT + 8 * index, flat(rights))?;
    }
    let run = b.run()?;
    let expected = vec![(13, 4), (11, 0xc), (13, 0x14), (13, 0x104), (13, 0x1fc), (13, 4)];
    same("the faults", run.faults(), expected)?;
    let ds_values = [4, 4, 4, 0x1c, 0x1c, 0x1c];
    same("DS; CS, LDTR", run.values(), [&ds_values[..], &[0x24, LDT_SELECTOR.into(), 0]].concat())
}

fn system(b: &mut Bench<'_>) -> Checked {
    let cases = [
        descriptor(LDT, 0xff, 0x82),
        descriptor(TSS, 0x67, 0x89),
        descriptor(TSS, 0x67, 0x8b),
        descriptor(TSS, 0x67, 0x81),
        descriptor(TSS, 0x67, 0x83),
        descriptor(LDT, 0xff, 0x02),
        descriptor(TSS, 0x67, 0x09),
        flat(0x93),
        descriptor(LDT, 0xff, 0xe2),
    ];
    protected(b, |a| {
        let selectors = (0..cases.len() as u16).map(|index| FREE_SELECTOR + 8 * index);
        for selector in selectors.chain([BEYOND, 0x14]) {
            a.mov(ecx, u32::from(selector))?;
            a.faulting(|a| a.lldt(cx))?;
            a.faulting(|a| a.ltr(cx))?;
        }
        a.str(ecx)?;
        a.log(ecx)?;
        a.sldt(ecx)?;
        a.log(ecx)?;
        a.xor(ecx, ecx)?;
        a.faulting(|a| a.ltr(cx))?;
        Ok(())
    })?;
    for (index, value) in (0..).zip(cases) {
        b.own(index, value)?;
    }
    let run = b.run()?;
    let at = |index: u16| u64::from(FREE_SELECTOR + 8 * index);
    let both = |error: u64| [(13, error), (13, error)];
    let mut expected = vec![(13, at(0)), (13, at(1))];
    expected.extend(both(at(2)));
    // A TSS of 16 bits can be loaded as well.
    expected.extend([(13, at(3)), (13, at(4)), (13, at(4)), (11, at(5)), (13, at(5)), (13, at(6)), (11, at(6))]);
    expected.extend(both(at(7)));
    expected.push((13, at(8)));
    expected.extend(both(BEYOND.into()));
    expected.extend(both(0x14));
    expected.push((13, 0));
    same("the faults", run.faults(), expected)?;
    same("TR, LDTR", run.values(), vec![at(3), at(8)])?;
    let kind = |b: &Bench<'_>, index: u16| -> Checked<u64> { Ok(b.read(GDT + at(index))? >> 40 & 0xff) };
    same("the busy bits", (kind(b, 1)?, kind(b, 3)?), (0x8b, 0x83))
}

fn accessed(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for index in 0..3u16 {
            a.mov(eax, u32::from(FREE_SELECTOR + 8 * index))?;
            a.mov(es, eax)?;
        }
        a.mov(eax, u32::from(FREE_SELECTOR + 24))?;
        a.mov(ss, eax)?;
        a.mov(eax, u32::from(FREE_SELECTOR + 32))?;
        a.faulting(|a| a.mov(es, eax))?;
        a.verr(ax)?;
        a.lar(ecx, eax)?;
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ss, eax)?;
        a.far_call(FREE_SELECTOR + 40, OWN as u32)?;
        Ok(())
    })?;
    landing(b)?;
    let before = [0x92, 0x90, 0x9a, 0x92, 0x12, 0x9a];
    for (index, rights) in (0..).zip(before) {
        b.own(index, flat(rights))?;
    }
    b.run()?;
    for (index, rights) in (0..).zip([0x93u64, 0x91, 0x9b, 0x93, 0x12, 0x9b]) {
        let found = b.read(GDT + u64::from(FREE_SELECTOR) + 8 * index)? >> 40 & 0xff;
        same(format!("the rights of descriptor {index}"), found, rights)?;
    }
    Ok(())
}

fn null(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for value in 0..4 {
            a.mov(eax, value)?;
            a.mov(es, eax)?;
            a.log_selector(es)?;
            a.faulting(|a| a.mov(al, byte_ptr(DATA).es()))?;
            a.faulting(|a| a.mov(byte_ptr(DATA).es(), al))?;
        }
        a.mov(edi, DATA as u32)?;
        a.faulting(|a| a.stosb())?;
        // REP with a count of zero touches nothing.
        a.xor(ecx, ecx)?;
        a.rep().stosb()?;
        a.lea(eax, dword_ptr(edi + 1).es())?;
        a.log_eax()?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 9])?;
    same("ES; EDI", run.values(), vec![0, 1, 2, 3, DATA + 1])
}

fn table_limit(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for limit in [0x87, 0x86, 0x80, 0x7f] {
            a.mov(word_ptr(DATA), limit)?;
            a.mov(dword_ptr(DATA + 2), GDT as u32)?;
            a.lgdt(fword_ptr(DATA as u32))?;
            a.mov(eax, u32::from(FREE_SELECTOR))?;
            a.faulting(|a| a.mov(fs, eax))?;
            a.lar(ecx, eax)?;
            a.setz(al)?;
            a.movzx(eax, al)?;
            a.log_eax()?;
        }
        Ok(())
    })?;
    b.own(0, flat(0x93))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, FREE_SELECTOR.into()); 3])?;
    same("ZF of LAR", run.values(), vec![1, 0, 0, 0])
}

fn inspection(b: &mut Bench<'_>) -> Checked {
    // Descriptor; LAR and LSL in ring 3 with RPL 3, zero where they fail; VERR, VERW.
    let cases = [
        (descriptor(0, 0x2345, 0xf3), [0xf300, 0x2345], [1, 1]),
        (descriptor(0, 0x2345, 0x80f1), [0x0080_f100, 0x0234_5fff], [1, 0]),
        (descriptor(0, 0xfff, 0xfb), [0xfb00, 0xfff], [1, 0]),
        (descriptor(0, 0xfff, 0xf9), [0xf900, 0xfff], [0, 0]),
        (descriptor(0, 0xfff, 0x9f), [0x9f00, 0xfff], [1, 0]),
        (descriptor(0, 0xfff, 0x93), [0, 0], [0, 0]),
        // Not present: LAR and LSL do not care, VERR and VERW do not either.
        (descriptor(0, 0xfff, 0x73), [0x7300, 0xfff], [1, 1]),
        (descriptor(0, 0x67, 0xe9), [0xe900, 0x67], [0, 0]),
        (descriptor(0, 0x2b, 0xe1), [0xe100, 0x2b], [0, 0]),
        (descriptor(0, 0xff, 0xe2), [0xe200, 0xff], [0, 0]),
        // Gates: LAR of call gates and task gates; LSL of none; neither of interrupt and trap gates.
        (descriptor(0, 0, 0xec), [0xec00, 0], [0, 0]),
        (descriptor(0, 0, 0xe4), [0xe400, 0], [0, 0]),
        (descriptor(0, 0, 0xe5), [0xe500, 0], [0, 0]),
        (descriptor(0, 0, 0xee), [0, 0], [0, 0]),
        (descriptor(0, 0, 0xe0), [0, 0], [0, 0]),
    ];
    protected_user(b, 2, |a| {
        for index in 0..cases.len() as u16 {
            a.mov(ebx, u32::from(FREE_SELECTOR + 8 * index) | 3)?;
            a.xor(ecx, ecx)?;
            a.lar(ecx, ebx)?;
            a.log(ecx)?;
            a.xor(ecx, ecx)?;
            a.lsl(ecx, ebx)?;
            a.log(ecx)?;
            a.xor(eax, eax)?;
            a.verr(bx)?;
            a.setz(al)?;
            a.log_eax()?;
            a.verw(bx)?;
            a.setz(al)?;
            a.log_eax()?;
        }
        Ok(())
    })?;
    for (index, (value, ..)) in (0..).zip(cases) {
        b.own(index, value)?;
    }
    let expected = cases.iter().flat_map(|(_, inspected, verified)| inspected.iter().chain(verified).copied());
    same("LAR, LSL, VERR, VERW", b.run()?.values(), expected.collect())
}

fn arpl(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        for (to, from) in [(0x10, 3), (0x13, 3), (0x12, 1), (0x11, 2)] {
            a.mov(ebx, to)?;
            a.mov(ecx, from)?;
            a.db(&[0x63, 0xcb])?;
            a.setz(cl)?;
            a.movzx(eax, cl)?;
            a.shl(eax, 16)?;
            a.or(eax, ebx)?;
            a.log_eax()?;
        }
        Ok(())
    })?;
    same("ZF and selector", b.run()?.values(), vec![0x1_0013, 0x13, 0x12, 0x1_0012])
}

fn unchanged(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(dword_ptr(DATA), 0x1234_5678)?;
        a.mov(word_ptr(DATA + 4), u32::from(selector::ABSENT))?;
        a.mov(ebx, 0x55)?;
        // LES, LFS: neither register changes.
        a.faulting(|a| a.db(&[0xc4, 0x1d, 0x00, 0x80, 0x00, 0x00]))?;
        a.faulting(|a| a.db(&[0x0f, 0xb4, 0x1d, 0x00, 0x80, 0x00, 0x00]))?;
        a.log(ebx)?;
        a.log_selector(es)?;
        // POP leaves ESP where it was, and so does RETF.
        a.push(i32::from(selector::ABSENT))?;
        a.faulting(|a| a.pop(fs))?;
        a.log(esp)?;
        a.mov(dword_ptr(esp), u32::from(selector::ABSENT_CODE))?;
        a.push(OWN as i32)?;
        a.faulting(|a| a.db(&[0xcb]))?;
        a.log(esp)?;
        a.log_selector(fs)?;
        // LES of a register does not exist.
        a.faulting(|a| a.db(&[0x62, 0xc3]))?;
        Ok(())
    })?;
    let run = b.run()?;
    let absent = u64::from(selector::ABSENT);
    let expected = vec![(11, absent), (11, absent), (11, absent), (11, selector::ABSENT_CODE.into()), (6, 0)];
    same("the faults", run.faults(), expected)?;
    same("the values", run.values(), vec![0x55, 0x10, STACK - 4, STACK - 8, 0x10])
}
