//! What translated code may do with the words of its frame.

use super::form::{Place, Right};
use crate::cpu::{Cpu, seg};
use crate::mmu::{ENTRIES, Entry, Privilege};
use crate::translate::frame::{Code, Frame, JUMPS, WORDS, at};
use crate::translate::mode::Mode;
use crate::translate::slots::{SLOTS, Site, Slot};
use crate::translate::strings::THUNKS;
use motu_x86::Segment;
use std::mem::{offset_of, size_of};
use std::ops::Range;

/// Words that code writes, with their bytes.
const WRITTEN: [(i32, i32); 11] = [
    // SWAPGS.
    (at::GS_BASE, 8),
    (at::R9, 8),
    (at::R10, 8),
    (at::R11, 8),
    (at::RCX, 8),
    (at::WAITING, 8),
    (at::BUDGET, 4),
    (at::EXIT, 4),
    (at::BRANCH, 4),
    (at::PUSHED_OVER, 8),
    (at::word(0), 8 * WORDS as i32),
];

/// Whether code may write these bytes.
pub fn may_write(range: &Range<i64>) -> bool {
    WRITTEN.iter().any(|&(at, bytes)| range.start >= at.into() && range.end <= i64::from(at + bytes))
}

/// Whether code may read these bytes.
pub fn may_read(range: &Range<i64>) -> bool {
    range.start >= 0 && range.end <= size_of::<Frame>() as i64
}

/// Whether a place holds nothing but what the guest may know, wherever code is entered.
pub fn is_guests(place: Place) -> bool {
    const OF_GUEST: [i32; 11] = [
        at::R9,
        at::R10,
        at::R11,
        at::RCX,
        at::WAITING,
        at::BUDGET & !7,
        at::CALM & !7,
        at::UNITS & !7,
        at::FS_BASE,
        at::GS_BASE,
        at::PUSHED_OVER,
    ];
    match place {
        Place::Register(number) => !matches!(number, 4 | 10 | 11),
        Place::Word(word) => OF_GUEST.contains(&word) || is_mask(word),
    }
}

/// Registers of the guest, where translated code has them between two instructions.
pub fn of_guest() -> impl Iterator<Item = Place> {
    let registers = (0..16).filter(|n| !matches!(n, 4 | 10 | 11)).map(Place::Register);
    registers.chain([at::R9, at::R10, at::R11].map(Place::Word))
}

/// Whether a word is a mask that was written once and for all.
pub fn is_mask(word: i32) -> bool {
    const MASKS: [i32; 8] = [
        at::ARITHMETIC,
        at::TLB_BITS,
        at::PAGE_BITS,
        at::JUMP_BITS,
        at::LOWER_UNIT,
        at::UPPER_UNIT,
        at::LOW_4,
        at::LOW_5,
    ];
    MASKS.contains(&word)
}

/// Where translated code has general register `number` of the guest.
pub fn home(number: usize) -> Place {
    match number {
        4 => Place::Register(9),
        9 => Place::Word(at::R9),
        10 => Place::Word(at::R10),
        11 => Place::Word(at::R11),
        _ => Place::Register(number as u8),
    }
}

/// Whether code may read, or write, so many bytes of the CPU.
pub fn of_cpu(offset: i64, bytes: i64, write: bool, user: bool) -> bool {
    const BASES: usize = offset_of!(Cpu, bases) + seg::GS * size_of::<u64>();
    const SEGMENT: usize = offset_of!(Cpu, segments) + seg::GS * size_of::<Segment>() + offset_of!(Segment, base);
    let is = |field: usize, length: i64| offset == field as i64 && bytes == length;
    // RFLAGS but for the arithmetic flags; whether events wait; and for SWAPGS, which ring 3 has not.
    is(offset_of!(Cpu, system_flags), 8)
        || (is(offset_of!(Cpu, alerts), 1) && !write)
        || (!user && (is(offset_of!(Cpu, msrs.kernel_gs_base), 8) || is(BASES, 8) || is(SEGMENT, 8)))
}

/// Bytes of an entry.
pub const ENTRY: i64 = size_of::<Entry>() as i64;

/// The part of the TLB that serves code of one privilege.
pub fn tlb(user: bool) -> Range<i64> {
    let privilege = if user { Privilege::User } else { Privilege::Supervisor } as i64;
    let bytes = ENTRIES as i64 * ENTRY;
    let start = i64::from(at::TLB) + privilege * bytes;
    start..start + bytes
}

/// What a word of the TLB is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Tag(Right),
    Addend,
}

/// Which word of an entry lies `offset` bytes from the start of an array, a whole number of entries aside.
pub fn field(offset: i64) -> Option<Field> {
    match offset.rem_euclid(ENTRY) as usize {
        n if n == offset_of!(Entry, read) => Some(Field::Tag(Right::Read)),
        n if n == offset_of!(Entry, write) => Some(Field::Tag(Right::Write)),
        n if n == offset_of!(Entry, addend) => Some(Field::Addend),
        _ => None,
    }
}

/// `offset` without the part inside an entry.
pub fn entry_at(offset: i64) -> i64 {
    offset - offset.rem_euclid(ENTRY)
}

/// The right that an access has by its slot.
pub fn right(site: &Site) -> Right {
    if site.write { Right::Write } else { Right::Read }
}

/// The slot that a word belongs to, and which of its words that is.
pub fn slot(offset: i64) -> Option<(u16, usize)> {
    let from = offset - i64::from(at::slot(0));
    let (number, field) = (from.div_euclid(size_of::<Slot>() as i64), from.rem_euclid(size_of::<Slot>() as i64));
    let number = u16::try_from(number).ok().filter(|&number| usize::from(number) < SLOTS)?;
    Some((number, field as usize))
}

/// Whether the word there is a thunk for REP MOVS or STOS.
pub fn is_string_thunk(at: Option<u64>) -> bool {
    let first = at::STRINGS as u64;
    at.is_some_and(|at| (first..first + 8 * THUNKS as u64).contains(&at) && (at - first).is_multiple_of(8))
}

/// The jump table for code of one mode.
pub fn jumps(mode: Mode) -> Range<i64> {
    let bytes = (JUMPS * size_of::<Code>()) as i64;
    let start = i64::from(at::JUMPS) + mode.number() as i64 * bytes;
    start..start + bytes
}
