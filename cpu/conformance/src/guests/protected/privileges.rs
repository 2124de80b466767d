//! What ring 3 of 32-bit protected mode may do, and the ways in and out of it.

use crate::Guest;
use crate::bench::{Bench, Checked, descriptor, gate, same};
use crate::guests::{Emit, legacy, protected, protected_user};
use crate::layout::legacy::*;
use crate::layout::{GDT, STACK, TSS, USER_CODE, USER_DATA, USER_STACK, selector};
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::cr4;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "ring 3: privileged instructions", manual: "vol. 3, 5.9", check: privileged },
    Guest { name: "ring 3: POPF and IRET keep IOPL and IF", manual: "vol. 2, POPF and IRET", check: flags },
    Guest { name: "rings 1 and 2: IOPL decides", manual: "vol. 1, 19.5.1", check: inner_rings },
    Guest { name: "I/O map in 32-bit code", manual: "vol. 1, 19.5.2", check: io_map },
    Guest { name: "I/O map: the end of the TSS", manual: "vol. 1, 19.5.2", check: io_map_end },
    Guest { name: "I/O map: a 16-bit TSS has none", manual: "vol. 1, 19.5.2", check: io_map16 },
    Guest { name: "INS and OUTS: port, then memory", manual: "vol. 2, INS and OUTS", check: string_io },
    Guest { name: "SYSENTER and SYSEXIT in 32-bit code", manual: "vol. 2, SYSENTER and SYSEXIT", check: sysenter },
    Guest { name: "SYSENTER from V86", manual: "vol. 2, SYSENTER", check: sysenter_v86 },
    Guest { name: "SYSCALL is for 64-bit code", manual: "vol. 2, SYSCALL", check: syscall },
    Guest { name: "TSD and PCE in 32-bit code", manual: "vol. 2, RDTSC and RDPMC", check: counters },
    Guest { name: "a system of 16 bits: gates, TSS, rings", manual: "vol. 3, 22.2", check: system16 },
    Guest { name: "STI holds interrupts off in 32-bit code", manual: "vol. 2, STI", check: shadows },
];

fn privileged(b: &mut Bench<'_>) -> Checked {
    const CASES: [&[u8]; 17] = [
        &[0xf4],             // HLT
        &[0x0f, 0x06],       // CLTS
        &[0x0f, 0x08],       // INVD
        &[0x0f, 0x09],       // WBINVD
        &[0x0f, 0x30],       // WRMSR
        &[0x0f, 0x32],       // RDMSR
        &[0x0f, 0x20, 0xc0], // MOV EAX, CR0
        &[0x0f, 0x22, 0xe0], // MOV CR4, EAX
        &[0x0f, 0x21, 0xf8], // MOV EAX, DR7
        &[0x0f, 0x23, 0xc0], // MOV DR0, EAX
        &[0x0f, 0x01, 0x10], // LGDT [EAX]
        &[0x0f, 0x01, 0x18], // LIDT [EAX]
        &[0x0f, 0x01, 0xf0], // LMSW AX
        &[0x0f, 0x01, 0x38], // INVLPG [EAX]
        &[0x0f, 0x00, 0xd0], // LLDT AX
        &[0x0f, 0x00, 0xd8], // LTR AX
        &[0x0f, 0x01, 0xd1], // XSETBV
    ];
    protected_user(b, 0x3002, |a| {
        a.mov(eax, USER_DATA as u32)?;
        for bytes in CASES {
            a.faulting(|a| a.db(bytes))?;
        }
        // MOV to a control register that does not exist is #UD before all else.
        a.faulting(|a| a.db(&[0x0f, 0x22, 0xc8]))?;
        Ok(())
    })?;
    let expected = [vec![(13, 0); 17], vec![(6, 0)]].concat();
    same("the faults", b.run()?.faults(), expected)
}

fn flags(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 0x202, |a| {
        a.push(0x3002)?;
        a.popfd()?;
        a.log_flags()?;
        a.faulting(|a| a.cli())?;
        a.faulting(|a| a.sti())?;
        // The word form too.
        a.db(&[0x66, 0x6a, 0x00, 0x66, 0x9d])?;
        a.log_flags()?;
        a.log(esp)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("EFLAGS, EFLAGS, ESP", run.values(), vec![0x202, 0x202, USER_STACK])?;
    same("the faults", run.faults(), vec![(13, 0); 2])?;
    protected_user(b, 0x3202, |a| {
        a.push(0x0002)?;
        a.popfd()?;
        a.log_flags()?;
        a.sti()?;
        a.log_flags()?;
        a.cli()?;
        a.log_flags()?;
        Ok(())
    })?;
    same("EFLAGS with IOPL 3", b.run()?.values(), vec![0x3002, 0x3202, 0x3002])
}

fn inner_rings(b: &mut Bench<'_>) -> Checked {
    for (ring, iopl, allowed) in [(1u16, 0u64, false), (1, 1, true), (2, 1, false), (2, 2, true)] {
        let code = FREE_SELECTOR | ring;
        let stack = (FREE_SELECTOR + 8) | ring;
        protected(b, |a| {
            a.push(i32::from(stack))?;
            a.push(USER_STACK as i32)?;
            a.push((iopl << 12 | 2) as i32)?;
            a.push(i32::from(code))?;
            a.push(USER_CODE as i32)?;
            Ok(a.iretd()?)
        })?;
        legacy(b, (32, USER_CODE, 0), |a| {
            a.faulting(|a| a.cli())?;
            a.mov(edx, 0x4000)?;
            a.faulting(|a| a.in_(al, dx))?;
            // Privileged instructions are ring 0's alone.
            a.faulting(|a| a.clts())?;
            Ok(())
        })?;
        let dpl = u64::from(ring) << 5;
        b.own(0, descriptor(0, 0xfffff, 0xc09b | dpl))?;
        b.own(1, descriptor(0, 0xfffff, 0xc093 | dpl))?;
        let count = if allowed { 1 } else { 3 };
        same(format!("the faults in ring {ring} with IOPL {iopl}"), b.run()?.faults(), vec![(13, 0); count])?;
    }
    Ok(())
}

fn io_map(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        for port in [0x310, 0x311, 0x312, 0x30e, 0x317] {
            a.mov(edx, port)?;
            a.faulting(|a| a.in_(al, dx))?;
            a.faulting(|a| a.in_(ax, dx))?;
            a.faulting(|a| a.in_(eax, dx))?;
        }
        Ok(())
    })?;
    // Ports 0x311 and 0x318 are closed.
    b.ram.write(Gpa(TSS + IO_MAP + 0x310 / 8), &[0b10, 1])?;
    // 310: word and double word; 311: all; 312: none; 30e: double word; 317: word and double word.
    same("the faults", b.run()?.faults(), vec![(13, 0); 2 + 3 + 1 + 2])
}

fn io_map_end(b: &mut Bench<'_>) -> Checked {
    // The map's last byte is for ports 0x308 to 0x30f, and the byte behind it is past the limit: two bytes are read.
    let limit = IO_MAP + 0x308 / 8;
    for (port, size, faults) in
        [(0x300u32, 1, 0), (0x307, 1, 0), (0x308, 1, 1), (0x30f, 1, 1), (0x310, 1, 1), (0x300, 4, 0), (0x306, 4, 0)]
    {
        protected_user(b, 2, |a| {
            a.mov(edx, port)?;
            a.faulting(|a| if size == 1 { a.in_(al, dx) } else { a.in_(eax, dx) })?;
            Ok(())
        })?;
        b.write(GDT + u64::from(selector::TASK), descriptor(TSS, limit, 0x8b))?;
        b.state.segments.tr.limit = limit as u32;
        let run = b.run()?;
        same(format!("the faults of port {port:#x}, {size} bytes"), run.faults(), vec![(13, 0); faults])?;
    }
    // The map begins past the limit, or with its last byte.
    for base in [limit, limit + 1, 0xffff] {
        protected_user(b, 2, |a| {
            a.xor(edx, edx)?;
            a.faulting(|a| a.in_(al, dx))?;
            a.int(0x81)?;
            Ok(())
        })?;
        b.ram.write(Gpa(TSS + 0x66), &(base as u16).to_le_bytes())?;
        b.state.segments.tr.limit = limit as u32;
        finish_in_ring0(b)?;
        same(format!("the faults with the map at {base:#x}"), b.run()?.faults(), vec![(13, 0)])?;
    }
    Ok(())
}

/// Gate 0x81 ends the guest, for code that may not use the board's ports.
fn finish_in_ring0(b: &mut Bench<'_>) -> Checked {
    legacy(b, (32, OWN, 0), |_| Ok(()))?;
    b.gate32(0x81, gate(0xee, selector::CODE, OWN, 0))
}

fn io_map16(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.xor(edx, edx)?;
        a.faulting(|a| a.in_(al, dx))?;
        a.int(0x81)?;
        Ok(())
    })?;
    // SP0 and SS0 of a 16-bit TSS.
    b.ram.write(Gpa(TSS + 2), &0x7000u16.to_le_bytes())?;
    b.ram.write(Gpa(TSS + 4), &selector::DATA.to_le_bytes())?;
    b.write(GDT + u64::from(selector::TASK), descriptor(TSS, TSS_LIMIT, 0x83))?;
    b.state.segments.tr.attributes = 0x83;
    finish_in_ring0(b)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0)])
}

fn string_io(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.mov(ecx, 2)?;
        a.mov(edi, 0x3000_0000)?;
        a.mov(esi, edi)?;
        // Neither the port nor the page: the port comes first. Then the page alone.
        a.mov(edx, 0x4000)?;
        a.faulting(|a| a.rep().insb())?;
        a.mov(edx, 0x310)?;
        a.faulting(|a| a.rep().insb())?;
        a.faulting(|a| a.rep().outsb())?;
        a.log(ecx)?;
        // With a count of zero nothing is looked at.
        a.xor(ecx, ecx)?;
        a.rep().insb()?;
        a.log(edi)?;
        a.mov(edi, USER_DATA as u32)?;
        a.mov(ecx, 2)?;
        a.rep().insw()?;
        a.log(edi)?;
        Ok(())
    })?;
    b.page_legacy(crate::bench::Paging::Bits32)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0), (14, 6), (14, 4)])?;
    same("ECX, EDI, EDI", run.values(), vec![2, 0x3000_0000, USER_DATA + 4])?;
    same("what was read", b.read(USER_DATA)? & 0xffff_ffff, 0xffff_ffff)
}

fn sysenter(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 0x3202, |a| {
        a.mov(edx, USER_CODE as u32 + 0x800)?;
        a.mov(ecx, USER_STACK as u32 - 0x100)?;
        Ok(a.sysenter()?)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.mov(ebx, esp)?;
        a.mov(ebp, eax)?;
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log(ebx)?;
        a.log_flags()?;
        Ok(a.sysexit()?)
    })?;
    legacy(b, (32, USER_CODE + 0x800, 0), |a| {
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log(esp)?;
        // Ring 3 cannot SYSEXIT.
        a.faulting(|a| a.sysexit())?;
        Ok(())
    })?;
    // CS, CS + 8 for SS; CS + 16 and CS + 24 for the way out. The descriptors are not read.
    b.state.msrs.sysenter_cs = u64::from(FREE_SELECTOR) | 3;
    b.state.msrs.sysenter_esp = 0x5_0000;
    b.state.msrs.sysenter_eip = OWN;
    for (index, rights) in [0xc09b, 0xc093, 0xc0fb, 0xc0f3].into_iter().enumerate() {
        b.own(index as u16, descriptor(0, 0xfffff, rights))?;
    }
    let run = b.run()?;
    let own = u64::from(FREE_SELECTOR);
    let expected = vec![own, own + 8, 0x5_0000, 0x3002, (own + 16) | 3, (own + 24) | 3, USER_STACK - 0x100];
    same("CS, SS, ESP, EFLAGS; CS, SS, ESP", run.values(), expected)?;
    same("the fault", run.faults(), vec![(13, 0)])?;
    // Without a selector both fault.
    protected(b, |a| {
        a.faulting(|a| a.sysenter())?;
        a.faulting(|a| a.sysexit())?;
        Ok(())
    })?;
    b.state.msrs.sysenter_cs = 3;
    same("the faults", b.run()?.faults(), vec![(13, 0); 2])
}

fn sysenter_v86(b: &mut Bench<'_>) -> Checked {
    crate::guests::virtual86(b, 0x3202, |a| Ok(a.db(&[0x0f, 0x34])?))?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_selector(cs)?;
        a.log_flags()?;
        a.log_selector(ds)?;
        Ok(())
    })?;
    b.state.msrs.sysenter_cs = 8;
    b.state.msrs.sysenter_esp = 0x5_0000;
    b.state.msrs.sysenter_eip = OWN;
    // VM and IF are cleared; the data segments are still those of the 8086 program.
    same("CS, EFLAGS, DS", b.run()?.values(), vec![8, 0x3002, V86_DATA >> 4])
}

fn syscall(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.faulting(|a| a.db(&[0x0f, 0x05]))?;
        a.faulting(|a| a.db(&[0x0f, 0x07]))?;
        // SWAPGS and CMPXCHG16B are 64-bit code's too; what is REX there is INC and DEC.
        a.faulting(|a| a.db(&[0x0f, 0x01, 0xf8]))?;
        a.mov(eax, 5)?;
        a.db(&[0x48, 0x48, 0x40])?;
        a.log_eax()?;
        Ok(())
    })?;
    b.state.msrs.efer = motu_x86::flags::efer::SCE;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(6, 0); 3])?;
    same("EAX", run.values(), vec![4])
}

fn counters(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 0x3002, |a| {
        a.faulting(|a| a.rdtsc())?;
        a.xor(ecx, ecx)?;
        a.faulting(|a| a.rdpmc())?;
        Ok(())
    })?;
    b.state.cr4 |= cr4::TSD;
    same("the faults", b.run()?.faults(), vec![(13, 0); 2])
}

fn system16(b: &mut Bench<'_>) -> Checked {
    const RING3: u64 = 0x6_0000;
    const KERNEL: u64 = OWN & 0xffff;
    let user_code = FREE_SELECTOR | 3;
    let user_stack = (FREE_SELECTOR + 8) | 3;
    let kernel_code = FREE_SELECTOR + 16;
    crate::guests::protected16(b, |a| {
        a.push(i32::from(user_stack))?;
        a.push(0x1000)?;
        // IOPL 3, as a 16-bit TSS has no I/O map.
        a.push(0x3002)?;
        a.push(i32::from(user_code))?;
        a.push(0)?;
        Ok(a.iret()?)
    })?;
    let (code, (after_int, fault)) = legacy(b, (16, RING3, RING3), |a| {
        a.int(0x81)?;
        let after = a.here()?;
        a.log_selector(ss)?;
        a.movzx(eax, sp)?;
        a.log_eax()?;
        let mut fault = a.create_label();
        a.set_label(&mut fault)?;
        a.hlt()?;
        Ok((after, fault))
    })?;
    let frame = |count: i32| {
        move |a: &mut crate::bench::Asm| -> Checked {
            a.mov(bp, sp)?;
            for word in 0..count {
                a.movzx(eax, word_ptr(bp + 2 * word))?;
                a.log_eax()?;
            }
            a.movzx(eax, bp)?;
            Ok(a.log_eax()?)
        }
    };
    legacy(b, (16, OWN, OWN - KERNEL), |a| {
        frame(5)(a)?;
        Ok(a.iret()?)
    })?;
    legacy(b, (16, OWN + 0x200, OWN - KERNEL), frame(6))?;
    b.own(0, descriptor(RING3, 0xffff, 0xfb))?;
    b.own(1, descriptor(0x7_0000, 0xffff, 0xf3))?;
    b.own(2, descriptor(OWN - KERNEL, 0xffff, 0x9b))?;
    b.ram.write(Gpa(TSS + 2), &0x7000u16.to_le_bytes())?;
    b.ram.write(Gpa(TSS + 4), &STACK16.to_le_bytes())?;
    b.write(GDT + u64::from(selector::TASK), descriptor(TSS, 0x2b, 0x83))?;
    b.state.segments.tr.attributes = 0x83;
    b.state.segments.tr.limit = 0x2b;
    b.gate32(0x81, gate(0xe6, kernel_code, KERNEL, 0))?;
    b.gate32(13, gate(0x86, kernel_code, KERNEL + 0x200, 0))?;
    let user_cs = u64::from(user_code);
    let user_ss = u64::from(user_stack);
    let first = [code.at(&after_int)?, user_cs, 0x3002, 0x1000, user_ss, 0x7000 - 10];
    let between = [user_ss, 0x1000];
    let second = [0, code.at(&fault)?, user_cs, 0x3002, 0x1000, user_ss, 0x7000 - 12];
    same("the frames", b.run()?.values(), [&first[..], &between, &second].concat())
}

fn shadows(b: &mut Bench<'_>) -> Checked {
    let raise: Emit = |a| {
        a.mov(edx, u32::from(crate::board::port::EXT_INT))?;
        a.mov(eax, 1)?;
        a.out(dx, eax)
    };
    let (code, places) = protected(b, |a| {
        let mut places = Vec::new();
        raise(a)?;
        a.sti()?;
        a.nop()?;
        places.push(a.here()?);
        a.nop()?;
        // With interrupts on it comes behind OUT.
        raise(a)?;
        places.push(a.here()?);
        a.nop()?;
        // STI and CLI let none in, POPFD lets it in at once.
        a.cli()?;
        raise(a)?;
        a.sti()?;
        a.cli()?;
        a.push(0x202)?;
        a.popfd()?;
        places.push(a.here()?);
        a.nop()?;
        Ok(places)
    })?;
    b.state.lapic.registers[0x35] = 0x700;
    let run = b.run()?;
    let expected: Vec<u64> = places.iter().map(|place| code.at(place)).collect::<Checked<_>>()?;
    let found: Vec<u64> = run.traps().iter().map(|trap| trap.rip).collect();
    same("where the interrupts came", found, expected)?;
    same("ESP at last", run.traps().last().map(|trap| trap.rsp), Some(STACK))
}
