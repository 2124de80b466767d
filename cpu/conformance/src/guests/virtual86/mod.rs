//! Virtual-8086 mode (SDM vol. 3, 20.2).

mod stepping;
mod vme;

pub(crate) use stepping::GUESTS as STEPPING;
pub(crate) use vme::GUESTS as VME;

use super::{Emit, legacy, protected_user, virtual86};
use crate::Guest;
use crate::bench::{Bench, Checked, End, Paging, descriptor, gate, page, same};
use crate::layout::legacy::*;
use crate::layout::{RSP0, TSS, USER_CODE, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "V86: entry by IRETD", manual: "vol. 3, 20.2.5", check: entry },
    Guest { name: "V86: frame of an interrupt", manual: "vol. 3, 20.3.1.1", check: frame },
    Guest { name: "V86: IOPL 3", manual: "vol. 3, 20.2.8.1", check: sensitive_allowed },
    Guest { name: "V86: IOPL 0", manual: "vol. 3, 20.2.8.1", check: sensitive_refused },
    Guest { name: "V86: INT3, INTO and INT1 do not look at IOPL", manual: "vol. 3, 20.3.3", check: breakpoints },
    Guest { name: "V86: gates to other than ring 0", manual: "vol. 2, INT n", check: bad_gates },
    Guest { name: "V86: privileged instructions", manual: "vol. 3, 20.2.8", check: privileged },
    Guest { name: "V86: instructions of protected mode", manual: "vol. 3, 20.2.8", check: unknown },
    Guest { name: "V86: I/O map counts whatever IOPL is", manual: "vol. 3, 20.2.8.2", check: io_map },
    Guest { name: "V86: limits", manual: "vol. 3, 20.2.1", check: limits },
    Guest { name: "V86: far transfers and segment loads", manual: "vol. 3, 20.2.1", check: transfers },
    Guest { name: "V86: pages", manual: "vol. 3, 20.2.4", check: pages },
    Guest { name: "V86: only ring 0 enters it", manual: "vol. 2, IRET and POPF", check: not_from_ring3 },
    Guest { name: "V86: shutdown", manual: "vol. 3, 6.15, interrupt 8", check: shutdown },
];

const IOPL3: u64 = 0x3002;
const CS: u64 = V86_CODE >> 4;
const SS: u64 = V86_STACK >> 4;
const DS: u64 = V86_DATA >> 4;

fn entry(b: &mut Bench<'_>) -> Checked {
    virtual86(b, IOPL3 | rflags::IF | rflags::AC, |a| {
        for segment in [cs, ss, ds, es, fs, gs] {
            a.log_selector(segment)?;
        }
        a.log(esp)?;
        // PUSHFD shows neither VM nor RF.
        a.log_flags()?;
        a.mov(eax, dword_ptr(0x10))?;
        a.log_eax()?;
        a.mov(word_ptr(0x20).fs(), 0x55)?;
        a.push(0x1234)?;
        Ok(())
    })?;
    b.write(V86_DATA + 0x10, 0x1234_5678)?;
    let flags = IOPL3 | rflags::IF | rflags::AC;
    same("the values", b.run()?.values(), vec![CS, SS, DS, DS, DS, DS, V86_SP, flags, 0x1234_5678])?;
    same("what was stored", b.read(V86_DATA + 0x20)? & 0xffff, 0x55)?;
    same("what was pushed", b.read(V86_STACK + V86_SP - 2)? & 0xffff, 0x1234)
}

fn frame(b: &mut Bench<'_>) -> Checked {
    let (code, after) = virtual86(b, IOPL3 | rflags::IF, |a| {
        a.mov(ax, 0x1111)?;
        a.mov(es, ax)?;
        a.int(0x81)?;
        let after = a.here()?;
        for segment in [es, ds, fs, gs, ss, cs] {
            a.log_selector(segment)?;
        }
        a.log(esp)?;
        a.log_flags()?;
        Ok(after)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        for word in 0..9 {
            a.mov(eax, dword_ptr(esp + 4 * word))?;
            a.log_eax()?;
        }
        for segment in [es, ds, fs, gs, ss, cs] {
            a.log_selector(segment)?;
        }
        a.log_flags()?;
        Ok(a.iretd()?)
    })?;
    b.gate32(0x81, gate(0xee, selector::CODE, OWN, 0))?;
    let flags = IOPL3 | rflags::IF;
    let image = [code.at(&after)?, CS, flags | rflags::VM, V86_SP, SS, 0x1111, DS, DS, DS];
    let inside = [0, 0, 0, 0, 0x10, 8, IOPL3];
    let behind = [0x1111, DS, DS, DS, SS, CS, V86_SP, flags];
    same("the values", b.run()?.values(), [&[RSP0 - 36][..], &image, &inside, &behind].concat())
}

fn sensitive_allowed(b: &mut Bench<'_>) -> Checked {
    virtual86(b, IOPL3 | rflags::IF, |a| {
        a.cli()?;
        a.log_flags()?;
        a.sti()?;
        a.log_flags()?;
        // IOPL cannot be changed, VM neither.
        a.db(&[0x66, 0x68])?;
        a.dd(&[0x003a_0002])?;
        a.popfd()?;
        a.log_flags()?;
        a.push(2)?;
        a.popf()?;
        // IRET as in real-address mode.
        let mut next = a.create_label();
        a.push(0x203)?;
        a.push(cs)?;
        a.call(next)?;
        a.log_flags()?;
        a.log(esp)?;
        let mut end = a.create_label();
        a.jmp(end)?;
        a.set_label(&mut next)?;
        a.iret()?;
        a.set_label(&mut end)?;
        Ok(a.nop()?)
    })?;
    let expected = vec![IOPL3, IOPL3 | 0x200, IOPL3 | rflags::ID, IOPL3 | rflags::ID | 0x201, V86_SP];
    same("EFLAGS, and ESP", b.run()?.values(), expected)
}

fn sensitive_refused(b: &mut Bench<'_>) -> Checked {
    const CASES: [Emit; 9] = [
        |a| a.cli(),
        |a| a.sti(),
        |a| a.pushf(),
        |a| a.pushfd(),
        |a| a.popf(),
        |a| a.popfd(),
        |a| a.int(0x81),
        |a| a.iret(),
        |a| a.iretd(),
    ];
    let (code, places) = virtual86(b, 0x202, |a| {
        let places = CASES.into_iter().map(|case| a.faulting(case)).collect::<Result<Vec<_>, _>>()?;
        a.log(esp)?;
        Ok(places)
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 9])?;
    same("ESP", run.values(), vec![V86_SP])?;
    for (index, place) in places.iter().enumerate() {
        let trap = run.trap(index)?;
        let expected = (code.at(place)?, CS, V86_SP, SS);
        same(format!("EIP, CS, ESP, SS of fault {index}"), (trap.rip, trap.cs, trap.rsp, trap.ss), expected)?;
        same("VM in the image", trap.flags & rflags::VM, rflags::VM)?;
    }
    Ok(())
}

fn breakpoints(b: &mut Bench<'_>) -> Checked {
    virtual86(b, 2, |a| {
        a.int3()?;
        a.mov(al, 0x7f)?;
        a.inc(al)?;
        a.db(&[0xce])?;
        a.db(&[0xf1])?;
        a.xor(ecx, ecx)?;
        a.faulting(|a| a.div(cx))?;
        a.faulting(|a| a.ud2())?;
        // The DPL of the gate counts for the first two.
        a.faulting(|a| a.db(&[0xcd, 0x81]))?;
        Ok(())
    })?;
    same("the traps", b.run()?.faults(), vec![(3, 0), (4, 0), (1, 0), (0, 0), (6, 0), (13, 0)])?;
    virtual86(b, 2, |a| {
        a.faulting(|a| a.int3())?;
        Ok(())
    })?;
    b.gate32(3, b.read(crate::layout::IDT + 8 * 3)? & !(3 << 45))?;
    same("the fault", b.run()?.faults(), vec![(13, 0x1a)])
}

fn bad_gates(b: &mut Bench<'_>) -> Checked {
    let ring1 = FREE_SELECTOR | 1;
    for (value, fault) in [
        (gate(0xee, ring1, OWN, 0), (13, u64::from(FREE_SELECTOR))),
        (gate(0xee, selector::CONFORMING, OWN, 0), (13, selector::CONFORMING.into())),
        (gate(0xee, selector::USER_CODE, OWN, 0), (13, 0x30)),
        (gate(0x8e, selector::CODE, OWN, 0), (13, 0x40a)),
        (gate(0x6e, selector::CODE, OWN, 0), (11, 0x40a)),
    ] {
        virtual86(b, IOPL3, |a| {
            a.faulting(|a| a.int(0x81))?;
            Ok(())
        })?;
        b.own(0, descriptor(0, 0xfffff, 0xc0bb))?;
        b.gate32(0x81, value)?;
        same(format!("the fault of gate {value:x}"), b.run()?.faults(), vec![fault])?;
    }
    Ok(())
}

fn privileged(b: &mut Bench<'_>) -> Checked {
    const CASES: [&[u8]; 12] = [
        &[0xf4],                         // HLT
        &[0x0f, 0x06],                   // CLTS
        &[0x0f, 0x08],                   // INVD
        &[0x0f, 0x09],                   // WBINVD
        &[0x0f, 0x30],                   // WRMSR
        &[0x0f, 0x32],                   // RDMSR
        &[0x0f, 0x20, 0xc0],             // MOV EAX, CR0
        &[0x0f, 0x22, 0xd8],             // MOV CR3, EAX
        &[0x0f, 0x21, 0xf8],             // MOV EAX, DR7
        &[0x0f, 0x01, 0x16, 0x00, 0x00], // LGDT
        &[0x0f, 0x01, 0xf0],             // LMSW AX
        &[0x0f, 0x01, 0x3e, 0x00, 0x00], // INVLPG
    ];
    virtual86(b, IOPL3, |a| {
        for bytes in CASES {
            a.faulting(|a| a.db(bytes))?;
        }
        // SMSW is anybody's.
        a.db(&[0x0f, 0x01, 0xe0])?;
        a.and(eax, 1)?;
        a.log_eax()?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 12])?;
    same("PE", run.values(), vec![1])
}

fn unknown(b: &mut Bench<'_>) -> Checked {
    const CASES: [&[u8]; 10] = [
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x00, 0xe0],
        &[0x0f, 0x00, 0xe8],
        &[0x0f, 0x02, 0xc0],
        &[0x0f, 0x03, 0xc0],
        &[0x63, 0xc0],
        // VEX does not exist.
        &[0xc5, 0xf8, 0x57, 0xc0],
    ];
    b.contract = "v3-2026";
    virtual86(b, IOPL3, |a| {
        for bytes in CASES {
            a.faulting(|a| a.db(bytes))?;
        }
        Ok(())
    })?;
    b.state.cr4 |= motu_x86::flags::cr4::OSXSAVE;
    b.state.xcr0 = 7;
    same("the faults", b.run()?.faults(), vec![(6, 0); 10])
}

fn io_map(b: &mut Bench<'_>) -> Checked {
    virtual86(b, IOPL3, |a| {
        a.mov(dx, 0x310)?;
        a.in_(al, dx)?;
        a.faulting(|a| a.in_(ax, dx))?;
        a.faulting(|a| a.in_(eax, dx))?;
        a.inc(dx)?;
        a.faulting(|a| a.out(dx, al))?;
        a.inc(dx)?;
        a.out(dx, al)?;
        // Past the map.
        a.mov(dx, 0x4000)?;
        a.faulting(|a| a.in_(al, dx))?;
        a.mov(di, 0)?;
        a.mov(dx, 0x311)?;
        a.faulting(|a| a.insb())?;
        Ok(())
    })?;
    b.ram.write(Gpa(TSS + IO_MAP + 0x310 / 8), &[0b10])?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 5])
}

fn limits(b: &mut Bench<'_>) -> Checked {
    virtual86(b, IOPL3, |a| {
        a.mov(ebx, 0xffff)?;
        a.mov(al, byte_ptr(bx))?;
        a.faulting(|a| a.mov(ax, word_ptr(bx)))?;
        a.mov(ebx, 0x1_0000)?;
        a.faulting(|a| a.mov(al, byte_ptr(ebx)))?;
        a.mov(ebp, 0xffff)?;
        a.faulting(|a| a.mov(word_ptr(bp), ax))?;
        a.mov(ecx, esp)?;
        a.mov(sp, 1)?;
        a.faulting(|a| a.push(ax))?;
        a.mov(sp, cx)?;
        // Over the end of the first MiB.
        a.mov(ax, 0xffff)?;
        a.mov(es, ax)?;
        a.mov(eax, dword_ptr(0x10).es())?;
        a.log_eax()?;
        Ok(())
    })?;
    b.write(0x10_0000, 0x1234)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0), (13, 0), (12, 0), (12, 0)])?;
    same("the word at 1 MiB", run.values(), vec![0x1234])
}

fn transfers(b: &mut Bench<'_>) -> Checked {
    const OTHER: u64 = 0x5_0000;
    virtual86(b, IOPL3, |a| {
        a.far_call((OTHER >> 4) as u16, 0x20)?;
        a.log(esp)?;
        // Selectors are what they are: null, one of a ring, one past any table.
        for selector in [0, 3, 0xffff] {
            a.mov(eax, selector)?;
            a.mov(gs, ax)?;
            a.log_selector(gs)?;
        }
        a.mov(dword_ptr(0), 0x5000_1234)?;
        a.db(&[0xc4, 0x1e, 0x00, 0x00])?;
        a.log_selector(es)?;
        a.mov(byte_ptr(0).es(), 0x66)?;
        a.log_selector(cs)?;
        Ok(())
    })?;
    legacy(b, (16, OTHER + 0x20, OTHER), |a| {
        a.log_selector(cs)?;
        Ok(a.db(&[0xcb])?)
    })?;
    same("the values", b.run()?.values(), vec![0x5000, V86_SP, 0, 3, 0xffff, 0x5000, CS])?;
    same("what was stored", b.read(0x5_0000)? & 0xff, 0x66)
}

fn pages(b: &mut Bench<'_>) -> Checked {
    virtual86(b, IOPL3, |a| {
        a.mov(ax, 0x9000)?;
        a.mov(es, ax)?;
        a.mov(eax, dword_ptr(0).es())?;
        a.log_eax()?;
        a.faulting(|a| a.mov(byte_ptr(0).es(), al))?;
        a.faulting(|a| a.mov(al, byte_ptr(0x1000).es()))?;
        a.faulting(|a| a.mov(al, byte_ptr(0x2000).es()))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    for base in [V86_CODE, V86_STACK, V86_DATA] {
        for offset in (0..0x1_0000).step_by(0x1000) {
            b.map(base + offset, base + offset, page::USER)?;
        }
    }
    b.map(0x9_0000, 0x40_0000, page::P | page::U)?;
    b.map(0x9_1000, 0x40_0000, page::KERNEL)?;
    b.map(0x9_2000, 0, 0)?;
    b.write(0x40_0000, 0x1234)?;
    let run = b.run()?;
    same("the value", run.values(), vec![0x1234])?;
    same("the faults", run.faults(), vec![(14, 7), (14, 5), (14, 4)])?;
    same("CR2", run.trap(2)?.cr2, 0x9_2000)
}

fn not_from_ring3(b: &mut Bench<'_>) -> Checked {
    protected_user(b, IOPL3 as i32, |a| {
        let mut next = a.create_label();
        a.push((rflags::VM | 2) as i32)?;
        a.popfd()?;
        a.push((rflags::VM | 2) as i32)?;
        a.push(cs)?;
        a.call(next)?;
        a.log_selector(cs)?;
        a.int(0x81)?;
        let mut end = a.create_label();
        a.jmp(end)?;
        a.set_label(&mut next)?;
        a.iretd()?;
        a.set_label(&mut end)?;
        Ok(a.nop()?)
    })?;
    let run = b.run()?;
    same("CS", run.values(), vec![0x33])?;
    same("VM", run.trap(0)?.flags & rflags::VM, 0)?;
    same("that it is ring 3's code", run.trap(0)?.rip > USER_CODE, true)
}

fn shutdown(b: &mut Bench<'_>) -> Checked {
    virtual86(b, 2, |a| {
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
