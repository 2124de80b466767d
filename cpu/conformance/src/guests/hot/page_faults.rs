//! A page goes away, or a right on it, under every kind of memory operand in hot code, also where the operand
//! lies across two pages (SDM vol. 3, 4.7 and 6.5; vol. 3, 6.15, interrupt 14).

use super::case::{Access, Case, Event};
use super::place::{AX, BP, BX, CX, DI, DX, EVERYWHERE, Place, SI, SP, each};
use super::rounds::{GOOD, PAGES, SECOND, entry, run};
use crate::Guest;
use crate::bench::{Bench, Checked, page};
use iced_x86::code_asm::*;
use motu_x86::flags::xcr0;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "page faults of hot moves", manual: MANUAL, check: |b| everywhere(b, MOVES, LONG_MOVES) },
    Guest {
        name: "page faults of hot arithmetic",
        manual: MANUAL,
        check: |b| everywhere(b, ARITHMETIC, LONG_ARITHMETIC),
    },
    Guest { name: "page faults of hot bit instructions", manual: MANUAL, check: |b| everywhere(b, BITS, LONG_BITS) },
    Guest { name: "page faults of the hot stack", manual: MANUAL, check: |b| everywhere(b, STACK, LONG_STACK) },
    Guest { name: "page faults of hot strings", manual: MANUAL, check: |b| everywhere(b, STRINGS, LONG_STRINGS) },
    Guest { name: "page faults of hot vector instructions", manual: MANUAL, check: |b| everywhere(b, VECTORS, &[]) },
    Guest { name: "page faults of hot AVX, BMI and MOVBE", manual: MANUAL, check: avx },
    Guest {
        name: "page faults behind other instructions",
        manual: MANUAL,
        check: |b| everywhere(b, BEHIND, LONG_BEHIND),
    },
];

const MANUAL: &str = "vol. 3, 6.5 and 6.15, interrupt 14";
/// Error code bits of page faults.
const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;

/// What happens to an operand: each page in turn is not present, read-only or the supervisor's.
pub fn page_events(place: Place, case: &Case) -> Vec<Event> {
    let size = case.size(place);
    let operand = PAGES + 0x800;
    let across = if case.crosses && size > 1 { Some(SECOND - size / 2) } else { None };
    let write = if case.access == Access::Write { W } else { 0 };
    let user = if place.user() { U } else { 0 };
    let mut events = vec![Event::calm(operand), Event::calm(across.unwrap_or(operand))];
    let mut add = |at: u64, page: usize, without: u64, error: u64| {
        let mut entries = [0; 2];
        entries[page] = entry(place, page, without);
        let address = if page == 1 { SECOND } else { at };
        let fault = Some((14, error | write | user, Some(address)));
        // Half of a repeated instruction's elements lie on either page.
        let through = if page == 1 && case.element != 0 { size / 2 / case.element } else { 0 };
        events.push(Event { entries, fault, through, ..Event::calm(at) });
    };
    for (at, page) in [(Some(operand), 0), (across, 1), (across, 0)] {
        let Some(at) = at else { continue };
        add(at, page, page::P, 0);
        if write != 0 {
            add(at, page, page::W, P);
        }
        if place.user() {
            add(at, page, page::U, P);
        }
    }
    events
}

/// Runs the cases where they can be run.
fn in_place(b: &mut Bench<'_>, place: Place, cases: &[Case]) -> Checked {
    // Ring 0 of protected mode takes a fault on the stack that it came from.
    let cases: Vec<Case> = cases.iter().filter(|case| place != Place::Kernel32 || case.at != SP).copied().collect();
    run(b, (place, 2), &cases, |case| page_events(place, case))
}

fn everywhere(b: &mut Bench<'_>, cases: &[Case], long: &[Case]) -> Checked {
    each(b, EVERYWHERE, |b, place| {
        in_place(b, place, cases)?;
        if place.long() { in_place(b, place, long) } else { Ok(()) }
    })
}

const MOVES: &[Case] = &[
    Case::read("MOV r8, m8", 1, |h, m| h.mov(al, byte_ptr(m))),
    Case::read("MOV high r8, m8", 1, |h, m| h.mov(ch, byte_ptr(m))),
    Case::read("MOV r16, m16", 2, |h, m| h.mov(cx, word_ptr(m))),
    Case::read("MOV r32, m32", 4, |h, m| h.mov(edx, dword_ptr(m))),
    Case::read("MOV to its own pointer", 4, |h, m| h.mov(esi, dword_ptr(m))).at(SI, 4).overwrites(),
    Case::write("MOV m8, r8", 1, |h, m| h.mov(byte_ptr(m), cl)),
    Case::write("MOV m8, high r8", 1, |h, m| h.mov(byte_ptr(m), dh)),
    Case::write("MOV m16, r16", 2, |h, m| h.mov(word_ptr(m), ax)),
    Case::write("MOV m32, r32", 4, |h, m| h.mov(dword_ptr(m), edi)),
    Case::write("MOV m32, imm32", 4, |h, m| h.mov(dword_ptr(m), 0x1234_5678)),
    Case::read("MOVZX r32, m8", 1, |h, m| h.movzx(eax, byte_ptr(m))),
    Case::read("MOVSX r32, m16", 2, |h, m| h.movsx(eax, word_ptr(m))),
    Case::read("CMOVcc that moves", 4, |h, m| h.cmovb(eax, dword_ptr(m))),
    Case::read("CMOVcc that does not", 4, |h, m| h.cmovae(eax, dword_ptr(m))),
    Case::write("SETcc that sets", 1, |h, m| h.setb(byte_ptr(m))),
    Case::write("SETcc that clears", 1, |h, m| h.sete(byte_ptr(m))),
    Case::write("XCHG m8", 1, |h, m| h.xchg(byte_ptr(m), al)),
    Case::write("XCHG m32", 4, |h, m| h.xchg(dword_ptr(m), eax)),
    Case::write("MOVNTI", 4, |h, m| h.movnti(dword_ptr(m), eax)),
    Case::read("XLATB", 1, |h, _| h.xlatb()).at(BX, -0x34).set(&[(AX, 0x1234)]),
];

const LONG_MOVES: &[Case] = &[
    Case::read("MOV r64, m64", 8, |h, m| h.mov(r9, qword_ptr(m))),
    Case::read("MOV r15, [r15]", 8, |h, m| h.mov(r14, qword_ptr(m))).at(15, 8),
    Case::write("MOV m64, r64", 8, |h, m| h.mov(qword_ptr(m), r10)),
    Case::write("MOV m64, imm32", 8, |h, m| h.mov(qword_ptr(m), -2)),
    Case::write("MOV m64, rsp", 8, |h, m| h.mov(qword_ptr(m), rsp)).at(12, 0),
    Case::read("MOVSXD", 4, |h, m| h.movsxd(r11, dword_ptr(m))).at(13, 0),
    Case::read("CMOVcc r64 that does not move", 8, |h, m| h.cmove(r8, qword_ptr(m))),
    Case::write("XCHG m64", 8, |h, m| h.xchg(qword_ptr(m), r11)),
    Case::write("MOVNTI m64", 8, |h, m| h.movnti(qword_ptr(m), r10)).at(9, 0x80),
    Case::write("MOV with an index", 8, |h, _| h.mov(qword_ptr(r9 + r10 * 8 - 0x40), r11)).at(9, 0).set(&[(10, 8)]),
    Case::read("MOV by a 32-bit address", 8, |h, _| h.mov(rax, qword_ptr(ebx))),
];

const ARITHMETIC: &[Case] = &[
    Case::read("ADD r32, m32", 4, |h, m| h.add(eax, dword_ptr(m))),
    Case::read("ADC r32, m32", 4, |h, m| h.adc(eax, dword_ptr(m))),
    Case::read("SBB r8, m8", 1, |h, m| h.sbb(dl, byte_ptr(m))),
    Case::read("CMP r16, m16", 2, |h, m| h.cmp(dx, word_ptr(m))),
    Case::read("CMP m32, imm", 4, |h, m| h.cmp(dword_ptr(m), 0x77)),
    Case::read("TEST m8, imm", 1, |h, m| h.test(byte_ptr(m), 0x77)),
    Case::read("TEST m32, r32", 4, |h, m| h.test(dword_ptr(m), ecx)),
    Case::write("ADD m32, r32", 4, |h, m| h.add(dword_ptr(m), ecx)),
    Case::write("LOCK ADD m32, imm", 4, |h, m| h.lock().add(dword_ptr(m), 0x1_0001)),
    Case::write("ADC m32, r32", 4, |h, m| h.adc(dword_ptr(m), ecx)),
    Case::write("SBB m16, imm", 2, |h, m| h.sbb(word_ptr(m), 5)),
    Case::write("AND m8, r8", 1, |h, m| h.and(byte_ptr(m), dl)),
    Case::write("OR m32, imm", 4, |h, m| h.or(dword_ptr(m), 0x700)),
    Case::write("XOR m32, r32", 4, |h, m| h.xor(dword_ptr(m), ebp)),
    Case::write("INC m32", 4, |h, m| h.inc(dword_ptr(m))),
    Case::write("DEC m8", 1, |h, m| h.dec(byte_ptr(m))),
    Case::write("LOCK DEC m16", 2, |h, m| h.lock().dec(word_ptr(m))),
    Case::write("NEG m32", 4, |h, m| h.neg(dword_ptr(m))),
    Case::write("NOT m32", 4, |h, m| h.not(dword_ptr(m))),
    Case::write("XADD m32", 4, |h, m| h.xadd(dword_ptr(m), edx)),
    Case::write("LOCK XADD m8", 1, |h, m| h.lock().xadd(byte_ptr(m), dh)),
    Case::write("CMPXCHG m32 that fails", 4, |h, m| h.cmpxchg(dword_ptr(m), ecx)),
    Case::write("CMPXCHG m8 that succeeds", 1, |h, m| h.lock().cmpxchg(byte_ptr(m), cl)).set(&[(AX, 0x1234_5615)]),
    Case::write("LOCK CMPXCHG8B", 8, |h, m| h.lock().cmpxchg8b(qword_ptr(m))).at(SI, 0),
    Case::read("MUL m32", 4, |h, m| h.mul(dword_ptr(m))),
    Case::read("IMUL m8", 1, |h, m| h.imul(byte_ptr(m))),
    Case::read("IMUL r32, m32", 4, |h, m| h.imul_2(edi, dword_ptr(m))),
    Case::read("IMUL r32, m32, imm", 4, |h, m| h.imul_3(edi, dword_ptr(m), 77)),
    Case::read("DIV m32", 4, |h, m| h.div(dword_ptr(m))).set(&[(DX, 5)]),
    Case::read("IDIV m16", 2, |h, m| h.idiv(word_ptr(m))).set(&[(DX, 5)]),
    Case::read("a chain of ADC", 4, |h, m| {
        h.stc()?;
        h.adc(eax, dword_ptr(GOOD))?;
        h.mark()?;
        h.adc(edx, dword_ptr(m))?;
        h.adc(ecx, dword_ptr(GOOD + 8))
    })
    .set(&[(AX, 0x7000_0000)])
    .at_fault(&[(AX, 0x7302_0101)]),
];

const LONG_ARITHMETIC: &[Case] = &[
    Case::read("SUB r64, m64", 8, |h, m| h.sub(r9, qword_ptr(m))),
    Case::write("ADC m64, r64", 8, |h, m| h.adc(qword_ptr(m), r11)).at(10, 0x7f),
    Case::write("LOCK XADD m64", 8, |h, m| h.lock().xadd(qword_ptr(m), r9)),
    Case::write("LOCK CMPXCHG m64", 8, |h, m| h.lock().cmpxchg(qword_ptr(m), r10)),
    Case::write("LOCK CMPXCHG16B", 16, |h, m| h.lock().cmpxchg16b(xmmword_ptr(m))).at(8, 0).aligned(),
    Case::read("MUL m64", 8, |h, m| h.mul(qword_ptr(m))),
    Case::read("DIV m64", 8, |h, m| h.div(qword_ptr(m))).set(&[(DX, 3)]),
    Case::write("NEG m64", 8, |h, m| h.neg(qword_ptr(m))).at(15, 0),
];

const BITS: &[Case] = &[
    Case::read("BT m32, imm", 4, |h, m| h.bt(dword_ptr(m), 7)),
    Case::read("BT m32, r32 far away", 4, |h, m| h.bt(dword_ptr(m + 0x20), eax)).set(&[(AX, -0x100i64 as u64 + 3)]),
    Case::write("BTS m32, imm", 4, |h, m| h.bts(dword_ptr(m), 7)),
    Case::write("LOCK BTR m32, r32", 4, |h, m| h.lock().btr(dword_ptr(m - 0x20), eax)).set(&[(AX, 0x109)]),
    Case::write("BTC m16, r16", 2, |h, m| h.btc(word_ptr(m), ax)).set(&[(AX, 0x5500_0003)]),
    Case::write("SHL m32, 1", 4, |h, m| h.shl(dword_ptr(m), 1)),
    Case::write("SAR m16, imm", 2, |h, m| h.sar(word_ptr(m), 3)),
    Case::write("ROL m8, cl", 1, |h, m| h.rol(byte_ptr(m), cl)).set(&[(CX, 0x1103)]),
    Case::write("RCR m32, 1", 4, |h, m| h.rcr(dword_ptr(m), 1)),
    Case::write("RCL m32, cl", 4, |h, m| h.rcl(dword_ptr(m), cl)).set(&[(CX, 7)]),
    Case::write("SHLD m32, r32, imm", 4, |h, m| h.shld(dword_ptr(m), edx, 5)),
    Case::write("SHRD m16, r16, cl", 2, |h, m| h.shrd(word_ptr(m), dx, cl)).set(&[(CX, 3)]),
    Case::read("BSF r32, m32", 4, |h, m| h.bsf(ecx, dword_ptr(m))),
    Case::read("BSR r16, m16", 2, |h, m| h.bsr(cx, word_ptr(m))),
    Case::read("POPCNT r32, m32", 4, |h, m| h.popcnt(ecx, dword_ptr(m))),
    Case::read("CRC32 r32, m8", 1, |h, m| h.crc32(ecx, byte_ptr(m))),
];

const LONG_BITS: &[Case] = &[
    Case::read("BT m64, r64 far away", 8, |h, m| h.bt(qword_ptr(m + 0x40), r10)).set(&[(10, -0x200i64 as u64 + 60)]),
    Case::write("LOCK BTS m64, r64", 8, |h, m| h.lock().bts(qword_ptr(m), r10)).set(&[(10, 33)]),
    Case::write("SHLD m64, r64, cl", 8, |h, m| h.shld(qword_ptr(m), r12, cl)).set(&[(CX, 40)]),
    Case::write("SHR m64, imm", 8, |h, m| h.shr(qword_ptr(m), 9)).at(14, -8),
];

const STACK: &[Case] = &[
    Case::write("PUSH r", 0, |h, _| h.push_wide(CX)).at(SP, 1),
    Case::write("PUSH imm", 0, |h, _| h.push(-5)).at(SP, 1),
    Case::write("PUSH of good memory", 0, |h, _| h.push_memory(ptr(GOOD))).at(SP, 1),
    Case::write("PUSH r16", 2, |h, _| h.push(cx)).at(SP, 2),
    Case::write("PUSHF", 0, |h, _| h.push_flags()).at(SP, 1),
    Case::write("CALL", 0, |h, _| h.call_next()).at(SP, 1),
    Case::write("ENTER", 0, |h, _| h.enter(0x20, 0)).at(SP, 1).moved(&[BP]),
    Case::read("POP r", 0, |h, _| h.pop_wide(CX)).at(SP, 0),
    Case::read("POP r16", 2, |h, _| h.pop(cx)).at(SP, 0),
    Case::read("POP to good memory", 0, |h, _| h.pop_memory(ptr(GOOD + 0x80))).at(SP, 0),
    Case::read("POP of the stack pointer", 0, |h, _| h.pop_wide(SP)).at(SP, 0).overwrites(),
    Case::read("RET", 0, |h, _| h.ret()).at(SP, 0).target(),
    Case::read("RET imm16", 0, |h, _| h.ret_1(0x18)).at(SP, 0).target(),
    Case::read("LEAVE", 0, |h, _| h.leave()).at(BP, 0).moved(&[SP]).overwrites(),
    Case::read("PUSH m", 0, |h, m| h.push_memory(m)),
    Case::write("POP m", 0, |h, m| {
        h.push_wide(CX)?;
        h.mark()?;
        h.pop_memory(m)
    })
    .pushed(1),
    Case::read("JMP m", 0, |h, m| h.go(m, false)).target(),
    Case::read("CALL m", 0, |h, m| h.go(m, true)).target().at(SI, 0x10),
    Case::read("a load among pushes", 0, |h, m| {
        h.push_wide(CX)?;
        h.push_wide(DX)?;
        h.mark()?;
        h.get(AX, m)?;
        h.pop_wide(DX)?;
        h.pop_wide(CX)
    })
    .pushed(2),
];

const LONG_STACK: &[Case] = &[
    Case::write("PUSH r15", 8, |h, _| h.push(r15)).at(SP, 8),
    Case::read("POP r8", 8, |h, _| h.pop(r8)).at(SP, 0),
    Case::write("PUSH r16 by a prefix", 2, |h, _| h.push(r9w)).at(SP, 2),
    Case::read("MOV rsp, m", 8, |h, m| h.mov(rsp, qword_ptr(m))).at(11, 0),
    Case::write("XCHG m, rsp", 8, |h, m| h.xchg(qword_ptr(m), rsp)).at(11, 0),
    Case::read("MOV r, [rsp + index]", 8, |h, _| h.mov(rax, qword_ptr(rsp + r9 * 4 - 8))).at(SP, 0).set(&[(9, 2)]),
    Case::write("ADD [rsp + disp], r", 8, |h, _| h.add(qword_ptr(rsp + 0x100), r9)).at(SP, -0x100),
];

const STRINGS: &[Case] = &[
    Case::read("MOVSB from", 1, |h, _| h.movsb()).at(SI, 0).set(&[(DI, GOOD + 0x80)]),
    Case::write("MOVSB to", 1, |h, _| h.movsb()).at(DI, 0).set(&[(SI, GOOD)]),
    Case::read("MOVSD from", 4, |h, _| h.movsd()).at(SI, 0).set(&[(DI, GOOD + 0x80)]),
    Case::write("MOVSD to", 4, |h, _| h.movsd()).at(DI, 0).set(&[(SI, GOOD)]),
    Case::write("STOSB", 1, |h, _| h.stosb()).at(DI, 0),
    Case::write("STOSW", 2, |h, _| h.stosw()).at(DI, 0),
    Case::write("STOSD", 4, |h, _| h.stosd()).at(DI, 0),
    Case::read("LODSB", 1, |h, _| h.lodsb()).at(SI, 0),
    Case::read("LODSD", 4, |h, _| h.lodsd()).at(SI, 0),
    Case::read("SCASW", 2, |h, _| h.scasw()).at(DI, 0),
    Case::read("SCASD", 4, |h, _| h.scasd()).at(DI, 0),
    Case::read("CMPSB, first", 1, |h, _| h.cmpsb()).at(SI, 0).set(&[(DI, GOOD)]),
    Case::read("CMPSD, second", 4, |h, _| h.cmpsd()).at(DI, 0).set(&[(SI, GOOD)]),
    Case::read("REP MOVSB from", 16, |h, _| h.rep().movsb()).at(SI, 0).set(&[(DI, GOOD + 0x80), (CX, 16)]).elements(1),
    Case::write("REP MOVSD to", 16, |h, _| h.rep().movsd()).at(DI, 0).set(&[(SI, GOOD), (CX, 4)]).elements(4),
    Case::write("REP STOSB", 16, |h, _| h.rep().stosb()).at(DI, 0).set(&[(CX, 16)]).elements(1),
    Case::write("REP STOSD", 16, |h, _| h.rep().stosd()).at(DI, 0).set(&[(CX, 4)]).elements(4),
    Case::read("REP LODSW", 16, |h, _| h.rep().lodsw()).at(SI, 0).set(&[(CX, 8)]).aligned(),
    Case::read("REPNE SCASB", 16, |h, _| h.repne().scasb()).at(DI, 0).set(&[(CX, 16), (AX, 0x99)]).aligned(),
    Case::read("REPE CMPSD", 16, |h, _| h.repe().cmpsd()).at(SI, 0).set(&[(CX, 4), (DI, GOOD)]).aligned(),
];

const LONG_STRINGS: &[Case] = &[
    Case::read("LODSQ", 8, |h, _| h.lodsq()).at(SI, 0),
    Case::write("STOSQ", 8, |h, _| h.stosq()).at(DI, 0),
    Case::write("MOVSQ to", 8, |h, _| h.movsq()).at(DI, 0).set(&[(SI, GOOD)]),
    Case::write("REP STOSQ", 32, |h, _| h.rep().stosq()).at(DI, 0).set(&[(CX, 4)]).elements(8),
    Case::read("REP MOVSQ from", 32, |h, _| h.rep().movsq()).at(SI, 0).set(&[(CX, 4), (DI, GOOD + 0x80)]).elements(8),
];

const VECTORS: &[Case] = &[
    Case::read("MOVUPS from", 16, |h, m| h.movups(xmm0, xmmword_ptr(m))),
    Case::write("MOVUPS to", 16, |h, m| h.movups(xmmword_ptr(m), xmm0)),
    Case::read("MOVAPS from", 16, |h, m| h.movaps(xmm0, xmmword_ptr(m))).aligned(),
    Case::write("MOVDQA to", 16, |h, m| h.movdqa(xmmword_ptr(m), xmm0)).aligned(),
    Case::write("MOVNTPS", 16, |h, m| h.movntps(xmmword_ptr(m), xmm0)).aligned(),
    Case::read("MOVSS from", 4, |h, m| h.movss(xmm0, dword_ptr(m))),
    Case::write("MOVSS to", 4, |h, m| h.movss(dword_ptr(m), xmm0)),
    Case::read("MOVQ from", 8, |h, m| h.movq(xmm0, qword_ptr(m))),
    Case::write("MOVQ to", 8, |h, m| h.movq(qword_ptr(m), xmm0)),
    Case::write("MOVD to", 4, |h, m| h.movd(dword_ptr(m), xmm0)),
    Case::write("MOVHPS to", 8, |h, m| h.movhps(qword_ptr(m), xmm0)),
    Case::read("PADDD", 16, |h, m| h.paddd(xmm0, xmmword_ptr(m))).aligned(),
    Case::read("PSHUFB", 16, |h, m| h.pshufb(xmm0, xmmword_ptr(m))).aligned(),
    Case::read("PMOVZXBW", 8, |h, m| h.pmovzxbw(xmm0, qword_ptr(m))),
    Case::read("ADDSS", 4, |h, m| h.addss(xmm0, dword_ptr(m))),
    Case::read("MULSD", 8, |h, m| h.mulsd(xmm0, qword_ptr(m))),
    Case::read("CVTSI2SD", 4, |h, m| h.cvtsi2sd(xmm0, dword_ptr(m))),
    Case::read("UCOMISS", 4, |h, m| h.ucomiss(xmm0, dword_ptr(m))),
    Case::read("PINSRD", 4, |h, m| h.pinsrd(xmm0, dword_ptr(m), 2)),
    Case::write("PEXTRW to", 2, |h, m| h.pextrw(word_ptr(m), xmm0, 3)),
    Case::write("STMXCSR", 4, |h, m| h.stmxcsr(dword_ptr(m))),
    Case::read("FILD", 4, |h, m| {
        h.mark()?;
        h.fild(dword_ptr(m))?;
        h.fistp(dword_ptr(GOOD + 0x80))
    }),
    Case::write("FISTP", 8, |h, m| {
        h.fild(dword_ptr(GOOD))?;
        h.mark()?;
        h.fistp(qword_ptr(m))
    }),
];

const AVX: &[Case] = &[
    Case::read("VMOVUPS from", 32, |h, m| h.vmovups(ymm0, ymmword_ptr(m))),
    Case::write("VMOVUPS to", 32, |h, m| h.vmovups(ymmword_ptr(m), ymm0)),
    Case::write("VMOVAPS to", 32, |h, m| h.vmovaps(ymmword_ptr(m), ymm0)).aligned(),
    Case::read("VPADDD", 32, |h, m| h.vpaddd(ymm0, ymm0, ymmword_ptr(m))),
    Case::read("VBROADCASTSS", 4, |h, m| h.vbroadcastss(ymm0, dword_ptr(m))),
    Case::read("VINSERTF128", 16, |h, m| h.vinsertf128(ymm0, ymm0, xmmword_ptr(m), 1)),
    Case::read("VFMADD231SS", 4, |h, m| h.vfmadd231ss(xmm0, xmm0, dword_ptr(m))),
    Case::read("MOVBE from", 4, |h, m| h.movbe(eax, dword_ptr(m))),
    Case::write("MOVBE to", 2, |h, m| h.movbe(word_ptr(m), ax)),
    Case::read("ANDN", 4, |h, m| h.andn(eax, ecx, dword_ptr(m))),
    Case::read("MULX", 4, |h, m| h.mulx(eax, ecx, dword_ptr(m))),
    Case::read("SHLX", 4, |h, m| h.shlx(eax, dword_ptr(m), ecx)),
    Case::read("RORX", 4, |h, m| h.rorx(eax, dword_ptr(m), 7)),
    Case::read("TZCNT", 4, |h, m| h.tzcnt(eax, dword_ptr(m))),
];

fn avx(b: &mut Bench<'_>) -> Checked {
    each(b, EVERYWHERE, |b, place| {
        b.contract = "v3-2026";
        b.state.xcr0 |= xcr0::AVX;
        in_place(b, place, AVX)
    })
}

/// Registers that instructions in front of the one that faults have changed.
const BEHIND: &[Case] = &[
    Case::read("XCHG and INC, then a load", 4, |h, m| {
        h.xchg(ecx, edx)?;
        h.inc(eax)?;
        h.mark()?;
        h.add(eax, dword_ptr(m))
    })
    .set(&[(AX, 7), (CX, 8), (DX, 9)])
    .at_fault(&[(AX, 8), (CX, 9), (DX, 8)]),
    Case::write("good loads and stores, then a store", 4, |h, m| {
        h.mov(eax, dword_ptr(GOOD))?;
        h.mov(dword_ptr(GOOD + 0x80), eax)?;
        h.mov(ecx, dword_ptr(GOOD + 8))?;
        h.mark()?;
        h.mov(dword_ptr(m), ecx)?;
        h.mov(edx, dword_ptr(GOOD))
    })
    .at_fault(&[(AX, 0x0302_0100), (CX, 0x0906_0300)]),
];

const LONG_BEHIND: &[Case] = &[Case::read("high registers", 8, |h, m| {
    h.lea(r8, qword_ptr(r9 + r10))?;
    h.bswap(r11)?;
    h.mark()?;
    h.add(r8, qword_ptr(m))
})
.set(&[(9, 1), (10, 2), (11, 0x0100_0000_0000_0000)])
.at_fault(&[(8, 3), (11, 1)])];
