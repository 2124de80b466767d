//! An instruction in a hot loop, of which everything is known before and looked at behind it, and faults on it.
//!
//! A [`Case`] is run [`ROUNDS`] times. Each round fills a window of memory and all registers with the same values,
//! runs the instruction and digests what it left; every digest must be that of the first round. In some rounds an
//! [`Event`] happens right before: a page goes away, say. Then the instruction must fault with everything as it was
//! before; the handler logs that, mends it without INVLPG (SDM vol. 3, 4.10.4.1, a page fault invalidates what it
//! used) and returns.

use super::case::{Access, Case, Event};
use super::place::{AX, BX, CX, DI, Hot, Place, SI, SP};
use crate::bench::{Bench, Checked, Problem, Run, same};
use crate::board::register;
use crate::layout::*;
use iced_x86::RflagsBits;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::rflags;

/// Times that each case runs. Events begin when it is warm.
const ROUNDS: u32 = 240;
const FIRST_EVENT: usize = 100;
/// Rounds from which on the events come one right after the other.
const IN_A_ROW: usize = 180;

/// Two pages that operands lie in, their frames, and the other mapping of these, which is always good.
pub const PAGES: u64 = FREE;
pub const SECOND: u64 = PAGES + 0x1000;
const PAGE_FRAMES: [u64; 2] = [FRAMES, FRAMES + 0x3000];
const VIEW: u64 = FREE + 0x8000;

const WORK: u64 = USER_DATA + 0x1000;
const ROUND: u64 = WORK;
const BASE: u64 = WORK + 0x08;
const NORM: u64 = WORK + 0x10;
const WINDOW: u64 = WORK + 0x18;
const DIGEST: u64 = WORK + 0x20;
const FIX: u64 = WORK + 0x28;
/// Where in [`RECORD`] the register lies that [`FIX`] is for.
const FIX_SLOT: u64 = WORK + 0x30;
const COMPARED: u64 = WORK + 0x38;
const MXCSR: u64 = WORK + 0x40;
/// The event of each round, a byte each.
const SCHEDULE: u64 = WORK + 0x100;
/// What the instruction left: registers, flags, XMM0, the window.
const LEFT: u64 = WORK + 0x200;
const LEFT_FLAGS: u64 = LEFT + 0x80;
const LEFT_XMM: u64 = LEFT + 0x88;
const LEFT_WINDOW: u64 = LEFT + 0x98;
const LEFT_WORDS: u32 = 0xd8 / 4;
/// Registers and XMM0 as the handler found them.
const RECORD: u64 = WORK + 0x400;
/// Good memory for other operands.
pub const GOOD: u64 = WORK + 0x800;
/// The events of each case.
const EVENTS: u64 = USER_DATA + 0x2000;
const EVENT_SIZE: u64 = 0x80;
const EVENTS_A_CASE: u64 = 16;
const HANDLER: u64 = legacy::OWN;
const SPOILER: u64 = legacy::OWN + 0x1000;
const SPOIL: u8 = 0x80;

/// The window is 64 bytes from this much before the operand.
pub const BEFORE: u64 = 16;
const WINDOW_WORDS: usize = 16;

/// What CMP leaves that runs before the instruction: 0x10 - 0x8000_0001.
const FLAGS: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::SF | rflags::OF;

/// What the log tells next.
const FAULT: u32 = 0x0fa0_17ed;
const DIFFERENT: u32 = 0x0d1f_f000;
const DONE: u32 = 0x0d0d_e000;

/// A page-table entry of the pages.
pub fn entry(place: Place, page: usize, without: u64) -> u64 {
    (PAGE_FRAMES[page] | place.rights()) & !without
}

/// The number at `index` of the window before the instruction.
fn pattern(index: usize) -> u32 {
    0x0102_0305u32.wrapping_mul(index as u32 + 3)
}

/// Runs cases in one place, in ring 3 with `flags`. `events` gives what happens to each: first what is calm, in two ways.
pub fn run(
    b: &mut Bench<'_>,
    (place, flags): (Place, u64),
    cases: &[Case],
    events: impl Fn(&Case) -> Vec<Event>,
) -> Checked {
    for (page, frame) in PAGE_FRAMES.into_iter().enumerate() {
        let linear = 0x1000 * page as u64;
        b.map(PAGES + linear, frame, place.rights())?;
        b.map(VIEW + linear, frame, place.rights())?;
    }
    b.write(COMPARED, 0x10)?;
    b.write(MXCSR, 0x1f80)?;
    for index in 0..32 {
        b.write(GOOD + 8 * index, 0x0706_0504_0302_0100u64.wrapping_mul(2 * index + 1))?;
    }
    let all: Vec<Vec<Event>> = cases.iter().map(events).collect();
    for (n, (case, events)) in cases.iter().zip(&all).enumerate() {
        // Where others have more events, nothing happens.
        let calm = Event::calm(events.first().map_or(PAGES, |event| event.operand));
        for m in 0..EVENTS_A_CASE {
            let event = events.get(m as usize).unwrap_or(&calm);
            write_event(b, (place, case), event, EVENTS + EVENT_SIZE * (EVENTS_A_CASE * n as u64 + m))?;
        }
    }
    spoiler(b, place)?;
    handlers(b, place)?;
    let most = all.iter().map(Vec::len).max().unwrap_or(0);
    b.ram.write(Gpa(SCHEDULE), &schedule(most))?;
    let (code, sites) = place.start(b, flags, |h| {
        cases.iter().enumerate().map(|(n, case)| emit(h, case, n as u64)).collect::<Checked<Vec<_>>>()
    })?;
    let run = b.run()?;
    let mut log = Log::of(&run);
    for ((case, events), site) in cases.iter().zip(&all).zip(sites) {
        let site = Site { place, case, at: code.at(&site.label)?, flags: site.flags };
        site.check(&mut log, events).map_err(|problem| Problem::Other(format!("{}: {problem}", case.name)))?;
    }
    Ok(())
}

/// Which event each round has, when a case has `most` of them.
fn schedule(most: usize) -> [u8; ROUNDS as usize] {
    let mut schedule = [0; ROUNDS as usize];
    schedule[40..60].fill(1);
    for event in 2..most {
        schedule[FIRST_EVENT + 8 * (event - 2)] = event as u8;
        schedule[IN_A_ROW + event - 2] = event as u8;
    }
    schedule
}

/// The handler's and the loop's table: pointer, base to subtract behind, window, whether anything happens; entries,
/// CR0, CR4, MXCSR; the mended pointer.
fn write_event(b: &mut Bench<'_>, (place, case): (Place, &Case), event: &Event, at: u64) -> Checked {
    let pointer = |operand: u64| operand.wrapping_add_signed(case.offset(place));
    let seen = if event.fixed == 0 { event.operand } else { event.fixed };
    let window = if (PAGES..PAGES + 0x2000).contains(&seen) { seen - PAGES + VIEW } else { VIEW + 0x800 };
    let active = u64::from(event.entries != [0; 2] || event.cr0 | event.cr4 | event.mxcsr != 0);
    let fixed = if event.fixed == 0 { 0 } else { pointer(event.fixed) };
    let words = [
        pointer(event.operand),
        pointer(seen),
        window,
        active,
        event.entries[0],
        event.entries[1],
        event.cr0,
        event.cr4,
        event.mxcsr,
        fixed,
    ];
    (0..).zip(words).try_for_each(|(n, word)| b.write(at + 8 * n, word))
}

/// The software interrupt that makes the event at BX happen.
fn spoiler(b: &mut Bench<'_>, place: Place) -> Checked {
    let entries = [b.entry(PAGES, 1)?, b.entry(SECOND, 1)?];
    place.handle(b, (SPOIL, SPOILER, 0), |h| {
        h.push_wide(AX)?;
        for (page, entry) in entries.into_iter().enumerate() {
            let skip = if_set(h, 4 + page as i32)?;
            h.store(entry, AX)?;
            h.invlpg(byte_ptr(PAGES + 0x1000 * page as u64))?;
            skip.end(h)?;
        }
        for (word, to_cr) in [(6, cr0), (7, cr4)] {
            let skip = if_set(h, word)?;
            if h.place.long() {
                h.mov(to_cr, rax)?
            } else {
                h.mov(to_cr, eax)?
            }
            skip.end(h)?;
        }
        let skip = if_set(h, 8)?;
        let operand = h.at(BX) + 0x40;
        h.ldmxcsr(dword_ptr(operand))?;
        skip.end(h)?;
        h.pop_wide(AX)?;
        Ok(h.iret_wide()?)
    })?;
    Ok(())
}

/// What is jumped over.
struct Skip(CodeLabel);

impl Skip {
    fn end(mut self, h: &mut Hot) -> Checked {
        Ok(h.set_label(&mut self.0)?)
    }
}

/// Loads AX with a word of the event at BX; what follows is for words that are not 0.
fn if_set(h: &mut Hot, word: i32) -> Checked<Skip> {
    let skip = h.create_label();
    let operand = h.at(BX) + 8 * word;
    h.get(AX, operand)?;
    h.test_wide(AX, AX)?;
    h.je(skip)?;
    Ok(Skip(skip))
}

/// Handlers of what the cases fault with.
fn handlers(b: &mut Bench<'_>, place: Place) -> Checked {
    /// Vector, and whether there is an error code.
    const VECTORS: [(u8, bool); 8] =
        [(0, false), (6, false), (7, false), (12, true), (13, true), (14, true), (17, true), (19, false)];
    let entries = [b.entry(PAGES, 1)?, b.entry(SECOND, 1)?];
    let (cr0_good, cr4_good) = (b.state.cr0, b.state.cr4);
    let common = HANDLER + 0x800;
    for (n, (vector, with_error)) in (0..).zip(VECTORS) {
        place.handle(b, (vector, HANDLER + 0x20 * n, 1), |h| {
            if !with_error {
                h.push(0)?;
            }
            h.push(i32::from(vector))?;
            Ok(h.jmp(common)?)
        })?;
    }
    let mut h = place.assembler()?;
    let word = place.word();
    for register in (0..place.registers()).filter(|register| *register != SP) {
        h.store(RECORD + 8 * register as u64, register)?;
    }
    let frame = h.at(SP);
    if place == Place::Kernel32 {
        h.lea_wide(AX, frame + 5 * word)?;
    } else {
        h.get(AX, frame + 5 * word)?;
    }
    h.store(RECORD + 8 * SP as u64, AX)?;
    let mut pages = h.create_label();
    let mut mended = h.create_label();
    h.cmp(dword_ptr(frame), 14)?;
    h.je(pages)?;
    for (to_cr, value) in [(cr0, cr0_good), (cr4, cr4_good)] {
        h.load(AX, value)?;
        if place.long() { h.mov(to_cr, rax)? } else { h.mov(to_cr, eax)? }
    }
    h.ldmxcsr(dword_ptr(MXCSR))?;
    h.jmp(mended)?;
    h.set_label(&mut pages)?;
    for (page, at) in entries.into_iter().enumerate() {
        h.load(AX, entry(place, page, 0))?;
        h.store(at, AX)?;
    }
    h.set_label(&mut mended)?;
    h.movups(xmmword_ptr(RECORD + 0x80), xmm0)?;
    h.log_word(FAULT)?;
    for offset in [0, 1, 2, 4] {
        h.get(AX, frame + offset * word)?;
        h.tell(AX)?;
    }
    if place.long() {
        h.mov(rax, cr2)?
    } else {
        h.mov(eax, cr2)?
    }
    h.tell(AX)?;
    for register in 0..place.registers() as u64 {
        h.fetch(AX, RECORD + 8 * register)?;
        h.tell(AX)?;
    }
    h.fetch(DI, WINDOW)?;
    let window = h.at(DI) - BEFORE;
    for index in 0..WINDOW_WORDS as u64 {
        h.mov(eax, dword_ptr(window + 4 * index))?;
        h.mov(dword_ptr(BOARD + register::LOG), eax)?;
    }
    for half in [0, 4] {
        h.mov(eax, dword_ptr(RECORD + 0x80 + half))?;
        h.mov(dword_ptr(BOARD + register::LOG), eax)?;
    }
    let skip = h.create_label();
    h.fetch(AX, FIX)?;
    h.test_wide(AX, AX)?;
    h.je(skip)?;
    h.fetch(CX, FIX_SLOT)?;
    let slot = h.at(CX);
    h.put(slot, AX)?;
    Skip(skip).end(&mut h)?;
    if place != Place::Kernel32 {
        h.fetch(AX, RECORD + 8 * SP as u64)?;
        h.put(frame + 5 * word, AX)?;
    }
    for register in (0..place.registers()).filter(|register| *register != SP) {
        h.fetch(register, RECORD + 8 * register as u64)?;
    }
    h.lea_wide(SP, frame + 2 * word)?;
    h.iret_wide()?;
    h.put_in_place(b, common)?;
    Ok(())
}

/// The instruction in its loop.
struct Emitted {
    label: CodeLabel,
    /// The flags that count when it faults.
    flags: u64,
}

fn emit(h: &mut Hot, case: &Case, number: u64) -> Checked<Emitted> {
    let mut calm = h.create_label();
    h.mov(dword_ptr(ROUND), 0)?;
    h.load(AX, RECORD + 8 * case.at as u64)?;
    h.store(FIX_SLOT, AX)?;
    let again = h.here()?;
    h.mov(ecx, dword_ptr(ROUND))?;
    let event = h.indexed(SCHEDULE, CX, 1);
    h.movzx(ecx, byte_ptr(event))?;
    h.shl(ecx, 7)?;
    let event = h.indexed(EVENTS + EVENT_SIZE * EVENTS_A_CASE * number, CX, 1);
    h.lea_wide(BX, event)?;
    let event = h.at(BX);
    for (word, to) in [(0, BASE), (1, NORM), (2, WINDOW), (9, FIX)] {
        h.get(AX, event + 8 * word)?;
        h.store(to, AX)?;
    }
    h.fetch(DI, WINDOW)?;
    let window = h.at(DI) - BEFORE;
    for index in 0..WINDOW_WORDS {
        h.mov(dword_ptr(window + 4 * index), pattern(index) as i32)?;
    }
    let mut after = h.create_label();
    if case.target {
        h.address(AX, after)?;
        let operand = h.at(DI);
        h.put(operand, AX)?;
    }
    h.movups(xmm0, xmmword_ptr(GOOD))?;
    h.cmp(dword_ptr(event + 0x18), 0)?;
    h.je(calm)?;
    h.int(i32::from(SPOIL))?;
    h.set_label(&mut calm)?;
    for register in (0..h.place.registers()).filter(|register| *register != SP && *register != case.at) {
        h.load(register, case.value(h.place, register))?;
    }
    h.fetch(case.at, BASE)?;
    h.cmp(dword_ptr(COMPARED), 0x8000_0001u32 as i32)?;
    let start = h.here()?;
    h.site = None;
    h.next = Some(after);
    let operand = h.at(case.at) - case.offset(h.place);
    (case.emit)(h, operand)?;
    let last = h.instructions().last().copied().unwrap_or_default();
    h.set_label(&mut after)?;
    for register in 0..h.place.registers() {
        h.store(LEFT + 8 * register as u64, register)?;
    }
    let stack = h.place.stack();
    h.load(SP, stack)?;
    h.push_flags()?;
    h.pop_memory(ptr(LEFT_FLAGS))?;
    h.and(dword_ptr(LEFT_FLAGS), (rflags::ARITHMETIC & !arithmetic(last.rflags_undefined())) as i32)?;
    h.movups(xmmword_ptr(LEFT_XMM), xmm0)?;
    h.fetch(AX, NORM)?;
    for register in case.moved.iter().chain(Some(&case.at).filter(|_| !case.overwrites)) {
        h.sub_from(ptr(LEFT + 8 * *register as u64), AX)?;
    }
    h.fetch(DI, WINDOW)?;
    for index in 0..WINDOW_WORDS as u64 {
        h.mov(eax, dword_ptr(window + 4 * index))?;
        h.mov(dword_ptr(LEFT_WINDOW + 4 * index), eax)?;
    }
    compare(h)?;
    h.inc(dword_ptr(ROUND))?;
    h.cmp(dword_ptr(ROUND), ROUNDS as i32)?;
    h.jb(again)?;
    h.log_word(DONE)?;
    let live = match h.site {
        Some(_) => 0,
        None => rflags::ARITHMETIC & (!arithmetic(last.rflags_modified()) | arithmetic(last.rflags_read())),
    };
    Ok(Emitted { label: h.site.unwrap_or(start), flags: live })
}

/// Flags as bits of RFLAGS.
fn arithmetic(bits: u32) -> u64 {
    let of = [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ];
    of.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, flag)| flag).sum()
}

/// Digests what the instruction left, and logs the round if that is not what the first one left.
fn compare(h: &mut Hot) -> Checked {
    let (mut later, mut equal) = (h.create_label(), h.create_label());
    h.xor(eax, eax)?;
    h.mov(ecx, LEFT_WORDS)?;
    let next = h.here()?;
    let word = h.indexed(LEFT - 4, CX, 4);
    h.rol(eax, 5)?;
    h.xor(eax, dword_ptr(word))?;
    h.dec(ecx)?;
    h.jne(next)?;
    h.mov(ecx, dword_ptr(ROUND))?;
    h.test(ecx, ecx)?;
    h.jne(later)?;
    h.mov(dword_ptr(DIGEST), eax)?;
    h.set_label(&mut later)?;
    h.cmp(eax, dword_ptr(DIGEST))?;
    h.je(equal)?;
    h.log_word(DIFFERENT)?;
    h.tell(CX)?;
    Ok(h.set_label(&mut equal)?)
}

/// The values that the guest logged, one after the other.
struct Log(std::vec::IntoIter<u64>);

impl Log {
    fn of(run: &Run) -> Self {
        Self(run.values().into_iter())
    }

    fn next(&mut self) -> Checked<u64> {
        self.0.next().ok_or_else(|| Problem::Other("the log ends early".into()))
    }
}

/// A case where it lies.
struct Site<'c> {
    place: Place,
    case: &'c Case,
    at: u64,
    flags: u64,
}

impl Site<'_> {
    /// The faults are those of the events, in order, and nothing else is told.
    fn check(&self, log: &mut Log, events: &[Event]) -> Checked {
        for event in events.iter().skip(2).chain(events.iter().skip(2)) {
            let Some(fault) = event.fault else { continue };
            self.expect(log, FAULT, event)?;
            self.fault(log, event, fault).map_err(|problem| Problem::Other(format!("{event:x?}: {problem}")))?;
        }
        self.expect(log, DONE, &Event::default())
    }

    fn expect(&self, log: &mut Log, told: u32, event: &Event) -> Checked {
        let found = log.next()?;
        if found == u64::from(DIFFERENT) {
            let round = log.next()?;
            return Err(Problem::Other(format!("round {round} leaves something else than the first one")));
        }
        same(format!("what is told before {event:x?}"), found, u64::from(told))
    }

    fn fault(&self, log: &mut Log, event: &Event, (vector, error, address): (u64, u64, Option<u64>)) -> Checked {
        let case = self.case;
        same("the vector", log.next()?, vector)?;
        same("the error code", log.next()?, error)?;
        same("RIP", log.next()?, self.at)?;
        same("the flags that count", log.next()? & self.flags, FLAGS & self.flags)?;
        let found = log.next()?;
        if let Some(address) = address {
            same("CR2", found, address)?;
        }
        let pointer = event.operand.wrapping_add_signed(case.offset(self.place));
        for register in 0..self.place.registers() {
            let own = case.at_fault.iter().find(|(of, _)| *of == register).map(|(_, value)| *value);
            let mut expected = own.unwrap_or(case.value(self.place, register));
            if register == case.at {
                expected = pointer;
            } else if register == SP {
                expected -= case.pushed * self.place.word();
            }
            if event.through != 0 {
                match register {
                    CX => expected -= event.through,
                    SI if case.strings().0 => expected += event.through * case.element,
                    DI if case.strings().1 => expected += event.through * case.element,
                    _ => {}
                }
            }
            let expected = self.place.truncate(expected);
            same(format!("general register {register}"), log.next()?, expected)?;
        }
        for index in 0..WINDOW_WORDS {
            let found = log.next()?;
            let is_target = self.case.target && (4..4 + self.place.word() as usize / 4).contains(&index);
            if !is_target && (event.through == 0 || case.access == Access::Read) {
                same(format!("word {index} of the window"), found, u64::from(pattern(index)))?;
            }
        }
        same("XMM0", [log.next()?, log.next()?], [0x0302_0100, 0x0706_0504])
    }
}
