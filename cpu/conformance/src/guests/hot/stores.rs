//! Every instruction that stores changes hot code, wherever that lies (SDM vol. 3, 8.1.3).
//!
//! What is changed is the number that a `MOV EAX` loads. The storing instruction runs in every round, mostly on
//! [`DUMMY`] and now and then on the code, so that both are warm when it happens.

use super::place::{BX, CX, DI, EVERYWHERE, Hot, Place, SI, SP, each};
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::xcr0;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot code ahead of every kind of store", manual: "vol. 3, 8.1.3", check: ahead },
    Guest { name: "hot code behind every kind of store", manual: "vol. 3, 8.1.3", check: behind },
    Guest { name: "hot code on another page than the store to it", manual: "vol. 3, 8.1.3", check: elsewhere },
    Guest { name: "hot code across pages and every kind of store", manual: "vol. 3, 8.1.3", check: straddling },
    Guest { name: "hot code and every kind of store by another mapping", manual: "vol. 3, 8.1.3", check: aliased },
    Guest { name: "hot code and vector stores of 32 bytes", manual: "vol. 3, 8.1.3", check: wide },
];

/// Rounds, counted down to 1.
const ROUNDS: u32 = 640;
/// What the code loads at first.
const INITIAL: u32 = 0x1234_5678;
/// Where the stores of most rounds go.
const DUMMY: u64 = USER_DATA;
/// The value, with NOPs behind it.
const WIDE: u64 = USER_DATA + 0x100;
const SAVED_SP: u64 = USER_DATA + 0x180;
/// Bytes of 0x80, the mask of MASKMOVDQU.
const MASK: u64 = USER_DATA + 0x1c0;
/// Bytes that a store may write, from the number on.
const ROOM: usize = 32;

/// Whether the store of this round hits the code.
fn hits(round: u32) -> bool {
    round & 0x7f == 0 || round < 16
}

struct Writer {
    name: &'static str,
    /// Stores EDX at the operand, `[DI]`, and may change AX, CX, DX, SI, XMM0 and XMM1.
    emit: fn(&mut Hot, AsmMemoryOperand) -> Result<(), IcedError>,
    /// The number behind it, of the one before and EDX.
    result: fn(u32, u32) -> u32,
}

const fn writer(
    name: &'static str,
    emit: fn(&mut Hot, AsmMemoryOperand) -> Result<(), IcedError>,
    result: fn(u32, u32) -> u32,
) -> Writer {
    Writer { name, emit, result }
}

/// The number is EDX.
const fn plain(name: &'static str, emit: fn(&mut Hot, AsmMemoryOperand) -> Result<(), IcedError>) -> Writer {
    writer(name, emit, |_, new| new)
}

fn low_byte(old: u32, new: u32) -> u32 {
    old & !0xff | new & 0xff
}

/// Puts EDX and NOPs at [`WIDE`] and into XMM0.
fn widen(h: &mut Hot) -> Result<(), IcedError> {
    h.mov(dword_ptr(WIDE), edx)?;
    h.movups(xmm0, xmmword_ptr(WIDE))
}

/// The same, and makes a string store's source of it.
fn string(h: &mut Hot, count: u64) -> Result<(), IcedError> {
    h.mov(dword_ptr(WIDE), edx)?;
    h.load(SI, WIDE)?;
    h.load(CX, count)
}

const WRITERS: &[Writer] = &[
    plain("MOV of 4 bytes", |h, m| h.mov(dword_ptr(m), edx)),
    writer("MOV of a byte", |h, m| h.mov(byte_ptr(m), dl), low_byte),
    writer("MOV of 2 bytes", |h, m| h.mov(word_ptr(m), dx), |old, new| old & !0xffff | new & 0xffff),
    writer("MOV of the last byte", |h, m| h.mov(byte_ptr(m + 3), dl), |old, new| old & 0xff_ffff | new << 24),
    writer("MOV of a number", |h, m| h.mov(dword_ptr(m), 0x4711), |_, _| 0x4711),
    plain("MOVNTI", |h, m| h.movnti(dword_ptr(m), edx)),
    plain("XCHG", |h, m| h.xchg(dword_ptr(m), edx)),
    writer("XADD", |h, m| h.lock().xadd(dword_ptr(m), edx), u32::wrapping_add),
    writer("XADD without LOCK", |h, m| h.xadd(dword_ptr(m), edx), u32::wrapping_add),
    writer("LOCK ADD", |h, m| h.lock().add(dword_ptr(m), edx), u32::wrapping_add),
    writer("SUB", |h, m| h.sub(dword_ptr(m), edx), u32::wrapping_sub),
    writer("XOR of a byte", |h, m| h.xor(byte_ptr(m), dl), |old, new| old ^ new & 0xff),
    writer(
        "ADC with carry",
        |h, m| {
            h.stc()?;
            h.adc(dword_ptr(m), 6)
        },
        |old, _| old.wrapping_add(7),
    ),
    writer("INC", |h, m| h.inc(dword_ptr(m)), |old, _| old.wrapping_add(1)),
    writer("LOCK DEC", |h, m| h.lock().dec(dword_ptr(m)), |old, _| old.wrapping_sub(1)),
    writer("NOT", |h, m| h.not(dword_ptr(m)), |old, _| !old),
    writer("NEG", |h, m| h.neg(dword_ptr(m)), |old, _| old.wrapping_neg()),
    writer("ROL", |h, m| h.rol(dword_ptr(m), 5), |old, _| old.rotate_left(5)),
    writer(
        "SHR by CL",
        |h, m| {
            h.mov(ecx, 1)?;
            h.shr(dword_ptr(m), cl)
        },
        |old, _| old >> 1,
    ),
    writer("SHLD", |h, m| h.shld(dword_ptr(m), edx, 8), |old, new| old << 8 | new >> 24),
    writer("LOCK BTS", |h, m| h.lock().bts(dword_ptr(m), 9), |old, _| old | 1 << 9),
    writer(
        "BTC by a register",
        |h, m| {
            h.and(edx, 31)?;
            h.btc(dword_ptr(m), edx)
        },
        |old, new| old ^ 1 << (new & 31),
    ),
    writer(
        "SETcc",
        |h, m| {
            h.test(dl, 1)?;
            h.setne(byte_ptr(m))
        },
        |old, new| low_byte(old, new & 1),
    ),
    plain("LOCK CMPXCHG", |h, m| {
        h.mov(eax, dword_ptr(m))?;
        h.lock().cmpxchg(dword_ptr(m), edx)
    }),
    writer(
        "CMPXCHG that fails",
        |h, m| {
            h.mov(eax, dword_ptr(m))?;
            h.not(eax)?;
            h.cmpxchg(dword_ptr(m), edx)
        },
        |old, _| old,
    ),
    plain("STOSD", |h, _| {
        h.mov(eax, edx)?;
        h.stosd()
    }),
    plain("MOVSD", |h, _| {
        string(h, 0)?;
        h.movsd()
    }),
    plain("REP MOVSB", |h, _| {
        string(h, ROOM as u64)?;
        h.rep().movsb()
    }),
    plain("REP MOVSD", |h, _| {
        string(h, 8)?;
        h.rep().movsd()
    }),
    writer(
        "REP STOSB",
        |h, _| {
            h.mov(al, dl)?;
            h.load(CX, 4)?;
            h.rep().stosb()
        },
        |_, new| (new & 0xff) * 0x0101_0101,
    ),
    plain("POP", |h, m| {
        h.mov(dword_ptr(WIDE), edx)?;
        h.push_memory(ptr(WIDE))?;
        h.pop_memory(m)
    }),
    plain("PUSH", |h, m| {
        h.mov(dword_ptr(WIDE), edx)?;
        h.fetch(SI, WIDE)?;
        h.store(SAVED_SP, SP)?;
        let word = h.place.word();
        h.lea_wide(SP, m + word)?;
        h.push_wide(SI)?;
        h.fetch(SP, SAVED_SP)
    }),
    plain("PUSH of memory", |h, m| {
        h.mov(dword_ptr(WIDE), edx)?;
        h.store(SAVED_SP, SP)?;
        let word = h.place.word();
        h.lea_wide(SP, m + word)?;
        h.push_memory(ptr(WIDE))?;
        h.fetch(SP, SAVED_SP)
    }),
    plain("FISTP", |h, m| {
        h.mov(dword_ptr(WIDE), edx)?;
        h.fild(dword_ptr(WIDE))?;
        h.fistp(dword_ptr(m))
    }),
    plain("MOVD", |h, m| {
        h.movd(xmm0, edx)?;
        h.movd(dword_ptr(m), xmm0)
    }),
    plain("MOVSS", |h, m| {
        widen(h)?;
        h.movss(dword_ptr(m), xmm0)
    }),
    plain("MOVQ", |h, m| {
        widen(h)?;
        h.movq(qword_ptr(m), xmm0)
    }),
    plain("MOVUPS", |h, m| {
        widen(h)?;
        h.movups(xmmword_ptr(m), xmm0)
    }),
    plain("MOVDQU", |h, m| {
        widen(h)?;
        h.movdqu(xmmword_ptr(m), xmm0)
    }),
    plain("MASKMOVDQU", |h, _| {
        widen(h)?;
        h.movups(xmm1, xmmword_ptr(MASK))?;
        h.maskmovdqu(xmm0, xmm1)
    }),
];

const LONG_WRITERS: &[Writer] = &[
    plain("MOV of 8 bytes", |h, _| {
        widen(h)?;
        h.movq(rdx, xmm0)?;
        h.mov(qword_ptr(rdi), rdx)
    }),
    plain("XCHG of 8 bytes", |h, _| {
        widen(h)?;
        h.movq(rdx, xmm0)?;
        h.xchg(qword_ptr(rdi), rdx)
    }),
    plain("MOVSQ", |h, _| {
        string(h, 0)?;
        h.movsq()
    }),
    plain("REP STOSQ", |h, _| {
        widen(h)?;
        h.movq(rax, xmm0)?;
        h.load(CX, 1)?;
        h.rep().stosq()
    }),
    plain("MOV by a 32-bit address", |h, _| h.mov(dword_ptr(edi), edx)),
];

/// `MOV EAX, INITIAL` and the bytes behind it that a store may write.
fn slot() -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(INITIAL.to_le_bytes());
    code.resize(1 + ROOM, 0x90);
    code
}

/// Where the code is that is changed.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Ahead,
    Behind,
    /// A function; where it is called, and where it is written.
    Function {
        at: u64,
        written: u64,
    },
}

/// The loop of one store; logs the sum of what the code loads.
fn emit(h: &mut Hot, target: Target, writer: &Writer) -> Checked {
    if let Target::Function { at, .. } = target {
        // Another store has been at it before.
        h.load(SI, at)?;
        let operand = h.at(SI) + 1;
        h.mov(dword_ptr(operand), INITIAL as i32)?;
    }
    let mut slot_at = h.create_label();
    h.mov(dword_ptr(DUMMY), 0)?;
    h.xor(ebx, ebx)?;
    h.mov(ebp, ROUNDS)?;
    let again = h.here()?;
    if target == Target::Behind {
        slot_at = again;
        h.db(&slot())?;
        h.add(ebx, eax)?;
    }
    match target {
        Target::Ahead | Target::Behind => {
            h.address(SI, slot_at)?;
            h.inc(esi)?;
        }
        Target::Function { written, .. } => h.load(SI, written + 1)?,
    }
    h.mov(edx, ebp)?;
    h.load(DI, DUMMY)?;
    h.test(ebp, 0x7f)?;
    h.cmove_wide(DI, SI)?;
    h.cmp(ebp, 16)?;
    h.cmovb_wide(DI, SI)?;
    let operand = h.at(DI);
    (writer.emit)(h, operand)?;
    match target {
        Target::Ahead => {
            h.set_label(&mut slot_at)?;
            h.db(&slot())?;
        }
        Target::Function { at, .. } => {
            h.load(SI, at)?;
            if h.place.long() { h.call(rsi)? } else { h.call(esi)? }
        }
        Target::Behind => {}
    }
    if target != Target::Behind {
        h.add(ebx, eax)?;
    }
    h.dec(ebp)?;
    h.jne(again)?;
    Ok(h.tell(BX)?)
}

/// The sum that the loop must give.
fn sum(target: Target, writer: &Writer) -> u64 {
    let (mut number, mut sum) = (INITIAL, 0u32);
    for round in (1..=ROUNDS).rev() {
        if target == Target::Behind {
            sum = sum.wrapping_add(number);
        }
        if hits(round) {
            number = (writer.result)(number, round);
        }
        if target != Target::Behind {
            sum = sum.wrapping_add(number);
        }
    }
    u64::from(sum)
}

/// All of the stores on one target in one place.
fn check(b: &mut Bench<'_>, place: Place, target: Target, writers: &[&Writer]) -> Checked {
    b.ram.write(Gpa(WIDE), &[0x90; ROOM])?;
    b.ram.write(Gpa(MASK), &[0x80; 16])?;
    place.start(b, 2, |h| writers.iter().try_for_each(|writer| emit(h, target, writer)))?;
    let values = b.run()?.values();
    for (n, writer) in writers.iter().enumerate() {
        same(format!("the sum with {}", writer.name), values.get(n).copied(), Some(sum(target, writer)))?;
    }
    Ok(())
}

fn everywhere(b: &mut Bench<'_>, prepare: impl Fn(&mut Bench<'_>, Place) -> Checked<Vec<Target>>) -> Checked {
    each(b, EVERYWHERE, |b, place| {
        let long = if place.long() { LONG_WRITERS } else { &[] };
        let writers: Vec<&Writer> = WRITERS.iter().chain(long).collect();
        prepare(b, place)?.into_iter().try_for_each(|target| check(b, place, target, &writers))
    })
}

/// Puts the function in two frames that do not lie next to each other, at `offset` of the first.
fn function(b: &mut Bench<'_>, place: Place, offset: u64) -> Checked<u64> {
    b.map(FREE, FRAMES, place.rights())?;
    b.map(FREE + 0x1000, FRAMES + 0x5000, place.rights())?;
    let code = [slot(), vec![0xc3]].concat();
    let (first, second) = code.split_at(code.len().min((0x1000 - offset) as usize));
    b.ram.write(Gpa(FRAMES + offset), first)?;
    b.ram.write(Gpa(FRAMES + 0x5000), second)?;
    Ok(FREE + offset)
}

fn ahead(b: &mut Bench<'_>) -> Checked {
    everywhere(b, |_, _| Ok(vec![Target::Ahead]))
}

fn behind(b: &mut Bench<'_>) -> Checked {
    everywhere(b, |_, _| Ok(vec![Target::Behind]))
}

fn elsewhere(b: &mut Bench<'_>) -> Checked {
    everywhere(b, |b, place| {
        let at = function(b, place, 0x800)?;
        Ok(vec![Target::Function { at, written: at }])
    })
}

fn straddling(b: &mut Bench<'_>) -> Checked {
    each(b, EVERYWHERE, |b, place| {
        for before in [1, 3] {
            let at = function(b, place, 0x1000 - before)?;
            let writers: Vec<&Writer> = WRITERS.iter().collect();
            check(b, place, Target::Function { at, written: at }, &writers)?;
        }
        Ok(())
    })
}

fn aliased(b: &mut Bench<'_>) -> Checked {
    const ALIAS: u64 = FREE + 0x20_0000;
    everywhere(b, |b, place| {
        b.map(ALIAS, FRAMES, place.rights())?;
        b.map(ALIAS + 0x1000, FRAMES + 0x5000, place.rights())?;
        let at = function(b, place, 0xffe)?;
        Ok(vec![Target::Function { at, written: at - FREE + ALIAS }])
    })
}

fn wide(b: &mut Bench<'_>) -> Checked {
    const WRITERS: [Writer; 3] = [
        plain("VMOVUPS of 32 bytes", |h, m| {
            h.mov(dword_ptr(WIDE), edx)?;
            h.vmovups(ymm0, ymmword_ptr(WIDE))?;
            h.vmovups(ymmword_ptr(m), ymm0)
        }),
        plain("VMOVD", |h, m| {
            h.vmovd(xmm0, edx)?;
            h.vmovd(dword_ptr(m), xmm0)
        }),
        plain("MOVBE", |h, m| {
            h.bswap(edx)?;
            h.movbe(dword_ptr(m), edx)
        }),
    ];
    each(b, EVERYWHERE, |b, place| {
        b.contract = "v3-2026";
        b.state.xcr0 |= xcr0::AVX;
        let at = function(b, place, 0xffc)?;
        for target in [Target::Ahead, Target::Behind, Target::Function { at, written: at }] {
            check(b, place, target, &WRITERS.each_ref())?;
        }
        Ok(())
    })
}
