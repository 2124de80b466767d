//! Exceptions and interrupts through the IDT of protected mode.

use crate::Guest;
use crate::bench::{Bench, Checked, End, descriptor, gate, same};
use crate::board::{EXT_INT_VECTOR, port};
use crate::guests::{legacy, protected, protected_user};
use crate::layout::legacy::*;
use crate::layout::{RSP0, STACK, TSS, USER_CODE, USER_STACK, selector};
use iced_x86::code_asm::*;
use motu_x86::flags::rflags;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "32-bit gates: frame from ring 0", manual: "vol. 3, 6.12.1", check: frame },
    Guest { name: "32-bit gates: frame from ring 3", manual: "vol. 3, 6.12.1", check: frame_from_ring3 },
    Guest { name: "32-bit gates: to ring 1 and back", manual: "vol. 3, 6.12.1", check: to_ring1 },
    Guest { name: "32-bit gates: conforming handler", manual: "vol. 3, 6.12.1.2", check: conforming },
    Guest { name: "16-bit gates: frames", manual: "vol. 3, 6.12.1 and 22.2", check: frames16 },
    Guest { name: "32-bit gates: interrupt and trap gates", manual: "vol. 3, 6.12.1.3", check: kinds },
    Guest { name: "32-bit gates: error codes of faults on the way", manual: "vol. 3, 6.13", check: bad_gates },
    Guest { name: "32-bit gates: EXT", manual: "vol. 3, 6.13", check: external },
    Guest { name: "32-bit gates: bad stacks", manual: "vol. 3, 6.15, interrupts 10 and 12", check: bad_stacks },
    Guest { name: "32-bit gates: privilege of INT n, INT3, INTO, INT1", manual: "vol. 3, 6.12.1.2", check: privilege },
    Guest { name: "32-bit gates: BOUND, and vectors with error codes", manual: "vol. 3, 6.13", check: plain },
    Guest { name: "double and triple fault in protected mode", manual: "vol. 3, 6.15, interrupt 8", check: nested },
    Guest {
        name: "32-bit gates: no room on the stack of ring 0",
        manual: "vol. 3, 6.15, interrupts 8 and 12",
        check: no_room,
    },
    Guest { name: "32-bit gates: interrupt in ring 3", manual: "vol. 3, 6.12.1", check: interrupt },
    Guest { name: "32-bit gates: single step", manual: "vol. 3, 17.3.1.4", check: stepped },
];

fn frame(b: &mut Bench<'_>) -> Checked {
    let (code, after) = protected(b, |a| {
        a.push((rflags::IOPL | rflags::AC | rflags::CF | 2) as i32)?;
        a.popfd()?;
        a.int(0x81)?;
        let after = a.here()?;
        a.log(esp)?;
        a.log_flags()?;
        Ok(after)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        for word in 0..3 {
            a.mov(eax, dword_ptr(esp + 4 * word))?;
            a.log_eax()?;
        }
        a.log_selector(ss)?;
        Ok(a.iretd()?)
    })?;
    b.gate32(0x81, gate(0x8e, selector::CODE, OWN, 0))?;
    let flags = rflags::IOPL | rflags::AC | rflags::CF | 2;
    let expected = vec![STACK - 12, code.at(&after)?, 8, flags, 0x10, STACK, flags];
    same("ESP, EIP, CS, EFLAGS, SS; ESP, EFLAGS", b.run()?.values(), expected)
}

fn frame_from_ring3(b: &mut Bench<'_>) -> Checked {
    let (code, at) = protected_user(b, 0x202, |a| {
        a.push(0)?;
        a.faulting(|a| a.hlt())?;
        let at = a.here()?;
        a.ud2()?;
        Ok(at)
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        for word in 0..6 {
            a.mov(eax, dword_ptr(esp + 4 * word))?;
            a.log_eax()?;
        }
        for segment in [cs, ss, ds, es] {
            a.log_selector(segment)?;
        }
        a.log_flags()?;
        Ok(a.finish()?)
    })?;
    b.gate32(13, gate(0x8e, selector::CODE, OWN, 0))?;
    // Data segments stay as they are (but for V86); the image has RF, as that of every fault.
    let flags = 0x202 | rflags::RF;
    let hlt = code.at(&at)? - 2;
    let expected = vec![RSP0 - 24, 0, hlt, 0x33, flags, USER_STACK - 4, 0x2b, 8, 0x10, 0x2b, 0x2b];
    let values = b.run()?.values();
    same("ESP, code, EIP, CS, EFLAGS, ESP, SS; CS, SS, DS, ES", values.get(..11).map(<[u64]>::to_vec), Some(expected))?;
    same("IF inside", values.last().map(|flags| flags & rflags::IF), Some(0))
}

fn to_ring1(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.int(0x81)?;
        a.log_selector(cs)?;
        a.log(esp)?;
        Ok(())
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log(esp)?;
        // Ring 1 may not go to ring 0's gates that are not for it; from here an exception goes to ring 0.
        a.faulting(|a| a.int(13))?;
        a.faulting(|a| a.cli())?;
        Ok(a.iretd()?)
    })?;
    let code = b.own(1, descriptor(0, 0xfffff, 0xc0bb))? | 1;
    let stack = b.own(2, descriptor(0, 0xfffff, 0xc0b3))? | 1;
    b.write(TSS + 12, 0x5_0000 | u64::from(stack) << 32)?;
    b.gate32(0x81, gate(0xee, code, OWN, 0))?;
    let run = b.run()?;
    let expected = vec![code.into(), stack.into(), 0x5_0000 - 20, 0x33, USER_STACK];
    same("CS, SS, ESP; CS, ESP", run.values(), expected)?;
    same("the faults", run.faults(), vec![(13, 13 * 8 + 2), (13, 0)])?;
    same("where they were", run.trap(0).map(|trap| (trap.cs, trap.rsp))?, (code.into(), 0x5_0000 - 20))
}

fn conforming(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| Ok(a.int(0x81)?))?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_selector(cs)?;
        a.log_selector(ss)?;
        a.log(esp)?;
        Ok(a.iretd()?)
    })?;
    b.gate32(0x81, gate(0xee, selector::CONFORMING, OWN, 0))?;
    same("CS, SS, ESP", b.run()?.values(), vec![0x53, 0x2b, USER_STACK - 12])
}

fn frames16(b: &mut Bench<'_>) -> Checked {
    const HANDLER: u64 = OWN & 0xffff;
    for from_user in [false, true] {
        let emit = |a: &mut crate::bench::Asm| {
            a.int(0x81)?;
            // A fault, whose error code is a word.
            a.faulting(|a| a.ud2())?;
            Ok(())
        };
        let _ = match from_user {
            true => protected_user(b, 2, emit)?,
            false => protected(b, emit)?,
        };
        let code16 = b.own(0, descriptor(OWN - HANDLER, 0xffff, 0x9b))?;
        legacy(b, (16, OWN, OWN - HANDLER), |a| {
            // The stack segment is of 32 bits.
            for word in 0..if from_user { 6 } else { 4 } {
                a.movzx(eax, word_ptr(esp + 2 * word))?;
                a.log_eax()?;
            }
            a.log(esp)?;
            Ok(a.finish()?)
        })?;
        b.gate32(0x81, gate(0xe6, code16, HANDLER, 0))?;
        let (cs_image, ip, sp_image, top) = if from_user {
            (0x33, USER_CODE + 2, USER_STACK, RSP0)
        } else {
            (8, crate::layout::CODE + 2, STACK, STACK)
        };
        let values = b.run()?.values();
        let flags = values.get(2).copied().unwrap_or(0) & !rflags::ARITHMETIC;
        let expected = match from_user {
            true => vec![ip & 0xffff, cs_image, 2, sp_image & 0xffff, 0x2b],
            false => vec![ip & 0xffff, cs_image, 2],
        };
        let mut found = values.get(..expected.len()).unwrap_or_default().to_vec();
        if let Some(image) = found.get_mut(2) {
            *image = flags;
        }
        let size = 2 * expected.len() as u64;
        same("the frame", found, expected)?;
        same("ESP", values.last().copied(), Some(top - size))?;
        // The error code of an exception.
        b.gate32(6, gate(0x87, selector::ABSENT_CODE, HANDLER, 0))?;
        b.gate32(11, gate(0x87, code16, HANDLER, 0))?;
        b.gate32(0x81, b.read(crate::layout::IDT + 8 * 0x82)?)?;
        let values = b.run()?.values();
        same("the error code", values.first().copied(), Some(u64::from(selector::ABSENT_CODE) | 1))?;
        same("CS of the frame", values.get(2).copied(), Some(cs_image))?;
        same("ESP", values.last().copied(), Some(top - size - 2))?;
    }
    Ok(())
}

fn kinds(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.push(0x202)?;
        a.popfd()?;
        for vector in 0x81..0x85 {
            a.int(vector)?;
        }
        a.log_flags()?;
        Ok(())
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log_flags()?;
        Ok(a.iretd()?)
    })?;
    legacy(b, (16, OWN + 0x100, OWN & !0xffff), |a| {
        a.log_flags()?;
        Ok(a.db(&[0xcf])?)
    })?;
    // 16-bit gates return to the first 64 KiB; the way back is that of the 32-bit handler.
    let code16 = b.own(0, descriptor(OWN & !0xffff, 0xffff, 0x409b))?;
    b.gate32(0x81, gate(0x8e, selector::CODE, OWN, 0))?;
    b.gate32(0x82, gate(0x8f, selector::CODE, OWN, 0))?;
    b.gate32(0x83, gate(0x8e, code16, OWN & 0xffff, 0))?;
    b.gate32(0x84, gate(0x8f, code16, OWN & 0xffff, 0))?;
    let flags: Vec<u64> = b.run()?.values().iter().map(|flags| flags & rflags::IF).collect();
    same("IF", flags, vec![0, 0x200, 0, 0x200, 0x200])
}

fn bad_gates(b: &mut Bench<'_>) -> Checked {
    let gates = [
        // A hole, a call gate, a data segment, an interrupt gate of 64 bits would be one of 32.
        (0, (13, 0x402)),
        (gate(0xec, selector::CODE, OWN, 0), (13, 0x402)),
        (descriptor(0, 0xfffff, 0xc0f3), (13, 0x402)),
        (descriptor(TSS, 0x67, 0xe9), (13, 0x402)),
        (gate(0x6e, selector::CODE, OWN, 0), (11, 0x402)),
        (gate(0xee, 0, OWN, 0), (13, 0)),
        (gate(0xee, 3, OWN, 0), (13, 0)),
        (gate(0xee, BEYOND, OWN, 0), (13, BEYOND.into())),
        (gate(0xee, 0x0c, OWN, 0), (13, 0x0c)),
        (gate(0xee, selector::DATA, OWN, 0), (13, 0x10)),
        (gate(0xee, selector::USER_CODE, OWN, 0), (13, 0x30)),
        (gate(0xee, selector::ABSENT_CODE, OWN, 0), (11, 0x58)),
        (gate(0xee, FREE_SELECTOR, OWN, 0), (13, 0)),
        // The gate's own DPL does not count in ring 0; a task gate to what is no TSS.
        (gate(0xe5, selector::DATA, 0, 0), (13, 0x10)),
        (gate(0x65, selector::TASK, 0, 0), (11, 0x402)),
    ];
    for (value, fault) in gates {
        protected(b, |a| {
            a.faulting(|a| a.int(0x80))?;
            a.log(esp)?;
            Ok(())
        })?;
        b.own(0, descriptor(0, 0xfff, 0x409b))?;
        b.gate32(0x80, value)?;
        let run = b.run()?;
        same(format!("the fault of gate {value:x}"), run.faults(), vec![fault])?;
        same("ESP", run.values(), vec![STACK])?;
    }
    // The IDT's limit, by a byte.
    protected(b, |a| {
        a.faulting(|a| a.int(0x20))?;
        Ok(())
    })?;
    b.state.idtr.limit = 8 * 0x21 - 2;
    same("the fault past the limit", b.run()?.faults(), vec![(13, 0x102)])
}

fn external(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.faulting(|a| a.ud2())?;
        a.faulting(|a| a.int(6))?;
        a.faulting(|a| a.int3())?;
        a.faulting(|a| a.db(&[0xf1]))?;
        Ok(())
    })?;
    for vector in [1, 3, 6] {
        b.gate32(vector, gate(0x0e, selector::CODE, OWN, 0))?;
    }
    let run = b.run()?;
    // INT1 is no software interrupt: it has EXT (vol. 2, INT1).
    same("the faults", run.faults(), vec![(11, 0x33), (11, 0x32), (11, 0x1a), (11, 0x0b)])?;
    // A selector's error code has it too.
    protected(b, |a| {
        a.faulting(|a| a.ud2())?;
        Ok(())
    })?;
    b.gate32(6, gate(0x8e, selector::DATA, OWN, 0))?;
    same("the fault", b.run()?.faults(), vec![(13, 0x11)])?;
    protected(b, |a| {
        a.faulting(|a| a.ud2())?;
        Ok(())
    })?;
    b.gate32(6, gate(0x8e, 0, OWN, 0))?;
    same("the fault", b.run()?.faults(), vec![(13, 1)])
}

fn bad_stacks(b: &mut Bench<'_>) -> Checked {
    let flat = |rights: u64| descriptor(0, 0xfffff, 0xc000 | rights);
    let own = u64::from(FREE_SELECTOR) + 16;
    // Ring 1's stack selector and its descriptor; the fault of INT 0x81, and of #UD with EXT.
    let cases = [
        (0, 0, 10, 0),
        (own, flat(0xb3), 10, own),
        (own | 1, flat(0x93), 10, own),
        (own | 1, flat(0xb1), 10, own),
        (own | 1, flat(0xbb), 10, own),
        (own | 1, flat(0x33), 12, own),
        (own | 1, descriptor(0, 0xfff, 0x40b3), 12, own),
        (BEYOND as u64 | 1, 0, 10, BEYOND as u64),
    ];
    for (index, (stack, value, vector, error)) in cases.into_iter().enumerate() {
        protected_user(b, 2, |a| {
            a.faulting(|a| a.int(0x81))?;
            a.faulting(|a| a.ud2())?;
            Ok(())
        })?;
        let code = b.own(1, flat(0xbb))? | 1;
        b.own(2, value)?;
        b.write(TSS + 12, 0x5_0000 | stack << 32)?;
        b.gate32(0x81, gate(0xee, code, OWN, 0))?;
        b.gate32(6, gate(0x8e, code, OWN, 0))?;
        let run = b.run()?;
        same(format!("the faults of stack {index}"), run.faults(), vec![(vector, error), (vector, error | 1)])?;
    }
    Ok(())
}

fn privilege(b: &mut Bench<'_>) -> Checked {
    let (code, place) = protected_user(b, 2, |a| {
        a.faulting(|a| a.int(0x81))?;
        a.faulting(|a| a.int3())?;
        a.mov(al, 0x7f)?;
        a.inc(al)?;
        // INTO: to a gate of ring 0.
        a.faulting(|a| a.db(&[0xce]))?;
        // INT1 and exceptions do not look at the gate's DPL.
        a.db(&[0xf1])?;
        let place = a.here()?;
        a.nop()?;
        a.int(0x82)?;
        Ok(place)
    })?;
    for vector in [0x81u8, 3, 4] {
        let value = b.read(crate::layout::IDT + 8 * u64::from(vector))?;
        b.gate32(vector, value & !(3 << 45))?;
    }
    let run = b.run()?;
    same("the traps", run.faults(), vec![(13, 0x40a), (13, 0x1a), (13, 0x22), (1, 0), (0x82, 0)])?;
    same("EIP behind INT1", run.trap(3)?.rip, code.at(&place)?)
}

fn plain(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(dword_ptr(0x9000), 1)?;
        a.mov(dword_ptr(0x9004), 5)?;
        for value in [1, 5] {
            a.mov(ebx, value)?;
            a.db(&[0x62, 0x1d, 0x00, 0x90, 0x00, 0x00])?;
        }
        for value in [0, 6, -1] {
            a.mov(ebx, value)?;
            a.faulting(|a| a.db(&[0x62, 0x1d, 0x00, 0x90, 0x00, 0x00]))?;
        }
        // INT 14 pushes no error code.
        a.int(14)?;
        a.log(esp)?;
        Ok(())
    })?;
    legacy(b, (32, OWN, 0), |a| {
        a.log(esp)?;
        Ok(a.iretd()?)
    })?;
    b.gate32(14, gate(0x8e, selector::CODE, OWN, 0))?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(5, 0); 3])?;
    same("ESP", run.values(), vec![STACK - 12, STACK])
}

fn nested(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        // The gate of #GP is not present: #NP, with #GP, is a double fault.
        a.faulting(|a| a.db(&[0x8e, 0xd8]))?;
        Ok(())
    })?;
    b.state.gpr[0] = u64::from(BEYOND);
    b.gate32(13, gate(0x0e, selector::CODE, OWN, 0))?;
    let run = b.run()?;
    same("the fault", run.faults(), vec![(8, 0)])?;
    // A benign exception first: #UD, then #NP.
    protected(b, |a| {
        a.faulting(|a| a.ud2())?;
        Ok(())
    })?;
    b.gate32(6, gate(0x0e, selector::CODE, OWN, 0))?;
    same("the fault", b.run()?.faults(), vec![(11, 0x33)])?;
    // No gate for #DF either.
    b.gate32(11, 0)?;
    b.gate32(13, 0)?;
    b.gate32(8, 0)?;
    same("the end", b.run_anyhow()?.end, End::Shutdown)
}

fn no_room(b: &mut Bench<'_>) -> Checked {
    // In ring 0: #SS cannot be pushed either, and neither can #DF.
    protected(b, |a| {
        a.log_number(1)?;
        a.mov(esp, 8)?;
        a.int(0x81)?;
        Ok(())
    })?;
    b.state.segments.ss.attributes |= 4;
    b.state.segments.ss.limit = 0x2_ffff;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("the values", run.values(), vec![1])
}

fn interrupt(b: &mut Bench<'_>) -> Checked {
    let (code, place) = protected_user(b, 0x3202, |a| {
        a.mov(edx, u32::from(port::EXT_INT))?;
        a.mov(eax, 1)?;
        a.cli()?;
        a.out(dx, eax)?;
        a.mov(ecx, 4)?;
        a.sti()?;
        a.nop()?;
        let place = a.here()?;
        a.nop()?;
        a.log_flags()?;
        Ok(place)
    })?;
    b.state.lapic.registers[0x35] = 0x700;
    let run = b.run()?;
    let trap = run.trap(0)?;
    let expected = (u64::from(EXT_INT_VECTOR), code.at(&place)?, 0x33, USER_STACK, 0x2b);
    same("vector, EIP, CS, ESP, SS", (trap.vector, trap.rip, trap.cs, trap.rsp, trap.ss), expected)?;
    same("EFLAGS behind", run.values(), vec![0x3202])
}

fn stepped(b: &mut Bench<'_>) -> Checked {
    let (code, start) = protected_user(b, 0x102, |a| {
        let start = a.here()?;
        a.nop()?;
        a.int(0x81)?;
        a.nop()?;
        a.faulting(|a| a.hlt())?;
        a.push(2)?;
        a.popfd()?;
        Ok(start)
    })?;
    let run = b.run()?;
    let start = code.at(&start)?;
    let found: Vec<_> = run.traps().iter().map(|trap| (trap.vector, trap.rip - start)).collect();
    same("the traps", found, vec![(1, 1), (0x81, 3), (1, 4), (13, 4), (1, 6), (1, 8), (1, 9)])
}
