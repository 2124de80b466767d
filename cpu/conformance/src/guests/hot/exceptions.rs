//! Exceptions other than page faults that hot code begins to cause (SDM vol. 3, 6.5 and 6.15).

use super::case::{Case, Event};
use super::place::{AX, DX, EVERYWHERE, Place, SI, SP, each};
use super::rounds::{PAGES, run};
use crate::Guest;
use crate::bench::{Bench, Checked};
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, cr4, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot accesses become non-canonical", manual: "vol. 1, 3.3.7.1", check: non_canonical },
    Guest { name: "hot divisions overflow", manual: "vol. 2, DIV and IDIV", check: divisions },
    Guest { name: "hot vector code loses its state", manual: "vol. 3, 2.5 and table 13-1", check: unavailable },
    Guest { name: "hot vector code raises unmasked exceptions", manual: "vol. 1, 11.5", check: unmasked },
    Guest { name: "hot aligned vector accesses are misaligned", manual: "vol. 2, MOVAPS", check: misaligned },
    Guest { name: "hot accesses are checked for alignment", manual: "vol. 3, 6.15, interrupt 17", check: alignment },
];

const OPERAND: u64 = PAGES + 0x800;

/// The pointer is a bad one, and the handler makes it good.
fn bad(pointer: u64, fault: (u64, u64)) -> Vec<Event> {
    let calm = Event::calm(OPERAND);
    let event = Event { operand: pointer, fixed: OPERAND, fault: Some((fault.0, fault.1, None)), ..calm };
    vec![calm, calm, event]
}

fn non_canonical(b: &mut Bench<'_>) -> Checked {
    const DATA: &[Case] = &[
        Case::read("MOV from", 8, |h, m| h.mov(r9, qword_ptr(m))),
        Case::write("MOV to", 4, |h, m| h.mov(dword_ptr(m), eax)).at(10, 0),
        Case::write("LOCK XADD", 8, |h, m| h.lock().xadd(qword_ptr(m), r9)),
        Case::write("ADC to", 8, |h, m| h.adc(qword_ptr(m), r9)).at(SI, 0x40),
        Case::read("MOVUPS from", 16, |h, m| h.movups(xmm0, xmmword_ptr(m))),
        Case::read("LODSB", 1, |h, _| h.lodsb()).at(SI, 0),
        Case::read("CMOVcc that does not move", 4, |h, m| h.cmovae(eax, dword_ptr(m))),
        Case::read("PUSH m", 8, |h, m| h.push(qword_ptr(m))),
        Case::read("JMP m", 8, |h, m| h.go(m, false)).target(),
        Case::read("CALL m", 8, |h, m| h.go(m, true)).target(),
    ];
    const STACK: &[Case] = &[
        Case::write("PUSH", 8, |h, _| h.push(r9)).at(SP, 8),
        Case::read("POP", 8, |h, _| h.pop(r9)).at(SP, 0),
        Case::write("CALL", 8, |h, _| h.call_next()).at(SP, 8),
        Case::read("RET", 8, |h, _| h.ret()).at(SP, 0).target(),
        Case::read("MOV from [rsp]", 8, |h, _| h.mov(r9, qword_ptr(rsp))).at(SP, 0),
    ];
    each(b, &[Place::Kernel, Place::User], |b, place| {
        for pointer in [1 << 47, 0x7fff_0000_0000_0000, 0xffff_7fff_ffff_ff00] {
            run(b, (place, 2), DATA, |_| bad(pointer, (13, 0)))?;
            run(b, (place, 2), STACK, |_| bad(pointer, (12, 0)))?;
        }
        Ok(())
    })
}

fn divisions(b: &mut Bench<'_>) -> Checked {
    /// The divisor is in BX, or BL or BX.
    const BY_ZERO: &[Case] = &[
        Case::read("DIV r32", 4, |h, _| h.div(ebx)).set(&[(DX, 5)]),
        Case::read("IDIV r32", 4, |h, _| h.idiv(ebx)).set(&[(DX, 5)]),
    ];
    /// The quotient has no room: BX is 1 and -1.
    const OVERFLOWING: &[Case] = &[Case::read("DIV r32", 4, |h, _| h.div(ebx)).set(&[(DX, 1)])];
    const LEAST: &[Case] =
        &[Case::read("IDIV r32", 4, |h, _| h.idiv(ebx)).set(&[(AX, 0x8000_0000), (DX, 0xffff_ffff)])];
    each(b, EVERYWHERE, |b, place| {
        run(b, (place, 2), BY_ZERO, |_| bad(0, (0, 0)))?;
        run(b, (place, 2), OVERFLOWING, |_| bad(1, (0, 0)))?;
        run(b, (place, 2), LEAST, |_| bad(place.truncate(u64::MAX), (0, 0)))
    })
}

const VECTORS: &[Case] = &[
    Case::read("MOVUPS from", 16, |h, m| h.movups(xmm0, xmmword_ptr(m))),
    Case::write("MOVAPS to", 16, |h, m| h.movaps(xmmword_ptr(m), xmm0)),
    Case::read("PADDD", 16, |h, _| h.paddd(xmm0, xmm0)),
    Case::read("PXOR behind an ADD", 16, |h, _| {
        h.add(eax, edx)?;
        h.mark()?;
        h.pxor(xmm0, xmm0)
    })
    .set(&[(AX, 1), (DX, 2)])
    .at_fault(&[(AX, 3)]),
    Case::read("UCOMISS", 4, |h, m| h.ucomiss(xmm0, dword_ptr(m))),
];

fn unavailable(b: &mut Bench<'_>) -> Checked {
    each(b, EVERYWHERE, |b, place| {
        let (good0, good4) = (b.state.cr0, b.state.cr4);
        let calm = Event::calm(OPERAND);
        let fault = |vector| Some((vector, 0, None));
        run(b, (place, 2), VECTORS, |_| {
            vec![
                calm,
                calm,
                Event { cr0: good0 | cr0::TS, fault: fault(7), ..calm },
                Event { cr0: good0 | cr0::EM, fault: fault(6), ..calm },
                Event { cr4: good4 & !cr4::OSFXSR, fault: fault(6), ..calm },
                // #UD goes before #NM.
                Event { cr0: good0 | cr0::TS | cr0::EM, fault: fault(6), ..calm },
            ]
        })
    })
}

fn unmasked(b: &mut Bench<'_>) -> Checked {
    const INEXACT: &[Case] = &[
        Case::read("SQRTSS", 4, |h, m| h.sqrtss(xmm0, dword_ptr(m))),
        Case::read("DIVSS", 4, |h, m| h.divss(xmm0, dword_ptr(m))),
        Case::read("CVTSD2SI", 8, |h, m| h.cvtsd2si(eax, qword_ptr(m))),
    ];
    each(b, EVERYWHERE, |b, place| {
        let calm = Event::calm(OPERAND);
        let event = Event { mxcsr: 0x0f80, fault: Some((19, 0, None)), ..calm };
        run(b, (place, 2), INEXACT, |_| vec![calm, calm, event])
    })
}

fn misaligned(b: &mut Bench<'_>) -> Checked {
    const ALIGNED: &[Case] = &[
        Case::read("MOVAPS from", 16, |h, m| h.movaps(xmm0, xmmword_ptr(m))),
        Case::write("MOVAPS to", 16, |h, m| h.movaps(xmmword_ptr(m), xmm0)).at(SI, 0x30),
        Case::read("PADDD", 16, |h, m| h.paddd(xmm0, xmmword_ptr(m))),
        Case::write("MOVNTPS", 16, |h, m| h.movntps(xmmword_ptr(m), xmm0)),
    ];
    each(b, EVERYWHERE, |b, place| {
        run(b, (place, 2), ALIGNED, |_| bad(OPERAND + 8, (13, 0)))?;
        run(b, (place, 2), ALIGNED, |_| bad(OPERAND + 0x7f8, (13, 0)))
    })
}

fn alignment(b: &mut Bench<'_>) -> Checked {
    const MISALIGNED: &[Case] = &[
        Case::read("MOV from", 4, |h, m| h.mov(eax, dword_ptr(m))),
        Case::write("MOV to", 2, |h, m| h.mov(word_ptr(m), ax)),
        Case::write("ADC to", 4, |h, m| h.adc(dword_ptr(m), ecx)),
        Case::write("PUSH", 0, |h, _| h.push_wide(DX)).at(SP, 1),
        Case::read("POP", 0, |h, _| h.pop_wide(DX)).at(SP, 0),
    ];
    each(b, &[Place::User, Place::User32], |b, place| {
        let calm = Event::calm(OPERAND + 1);
        let checked = Event { cr0: b.state.cr0 | cr0::AM, fault: Some((17, 0, None)), ..calm };
        run(b, (place, rflags::AC | 2), MISALIGNED, |_| vec![calm, calm, checked])
    })
}
