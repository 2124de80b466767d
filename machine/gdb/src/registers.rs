//! The registers that gdb sees, and where they are in a [`CpuState`].

use crate::description::TABLE;
use gdbstub::arch::{Arch, RegId, Registers};
use motu_x86::flags::{cr0, rflags, xcr0};
use motu_x86::{CpuState, Segment, XsaveArea};
use std::num::NonZeroUsize;

/// Which part of the state a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// By its number in [`CpuState::gpr`].
    General(usize),
    Rip,
    Rflags,
    Selector(Seg),
    Base(Seg),
    /// ST(n).
    Stack(usize),
    X87(X87),
    Xmm(usize),
    Mxcsr,
    YmmHigh(usize),
    KernelGsBase,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seg {
    Cs,
    Ss,
    Ds,
    Es,
    Fs,
    Gs,
}

/// What FXSAVE has beside the stack, in gdb's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X87 {
    Control,
    Status,
    Tag,
    InstructionSegment,
    InstructionOffset,
    OperandSegment,
    OperandOffset,
    Opcode,
}

/// x86-64 with the registers of [`TABLE`].
#[derive(Debug)]
pub enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Bytes;
    type BreakpointKind = usize;
    type RegId = Number;

    fn target_description_xml() -> Option<&'static str> {
        Some(&TABLE.xml)
    }
}

/// A register by its number.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let register = TABLE.registers.get(id)?;
        Some((Self(id), NonZeroUsize::new(register.bytes())))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// All registers as gdb's `g` packet has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl Default for Bytes {
    fn default() -> Self {
        Self(vec![0; TABLE.bytes])
    }
}

impl Registers for Bytes {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        let bytes = self.0.get(TABLE.rip..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|&byte| write_byte(Some(byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let all = bytes.get(..TABLE.bytes).ok_or(())?;
        self.0 = all.to_vec();
        Ok(())
    }
}

impl Bytes {
    pub fn of(state: &CpuState) -> Self {
        let mut bytes = Vec::with_capacity(TABLE.bytes);
        for register in &TABLE.registers {
            let value = get(state, register.place).to_le_bytes();
            bytes.extend(value.iter().take(register.bytes()));
        }
        Self(bytes)
    }

    /// Puts all registers into `state`.
    ///
    /// # Errors
    /// One has a value that gdb cannot give it.
    pub fn put(&self, state: &mut CpuState) -> Result<(), Refused> {
        let mut rest = self.0.as_slice();
        for register in &TABLE.registers {
            let (value, behind) = rest.split_at_checked(register.bytes()).ok_or(Refused)?;
            put(state, register.place, value)?;
            rest = behind;
        }
        Ok(())
    }
}

/// A value that a register cannot have, or not by a debugger's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Flags that a debugger may change; the others make another mode.
const FLAGS: u64 = rflags::ARITHMETIC
    | rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::NT
    | rflags::RF
    | rflags::AC
    | rflags::ID;
/// The same of CR0.
const CR0: u64 = cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM;
/// Bits 51 to 0: those of an address and of CR3's flags.
const CR3: u64 = (1 << 52) - 1;
/// Bits of MXCSR that any processor has.
const MXCSR: u32 = 0xffff;

/// Where a part of the image is said to be in its initial state, makes it hold just that (SDM vol. 1, 13.6).
fn settle(image: &mut XsaveArea, component: u64) {
    let present = image.0.get(XsaveArea::XSTATE_BV).is_some_and(|&bits| u64::from(bits) & component != 0);
    if present {
        return;
    }
    let (ranges, word): (&[(usize, usize)], _) = match component {
        xcr0::X87 => (&[(0, 24), (32, 160)], Some(0x37fu16)),
        xcr0::SSE => (&[(XsaveArea::XMM, XsaveArea::XMM + 256)], None),
        _ => (&[(XsaveArea::YMM_HIGH, XsaveArea::YMM_HIGH + 256)], None),
    };
    for &(first, end) in ranges {
        image.0.get_mut(first..end).unwrap_or_default().fill(0);
    }
    if let Some(word) = word {
        field_put(image, 0, &word.to_le_bytes());
    }
    if let Some(bits) = image.0.get_mut(XsaveArea::XSTATE_BV) {
        *bits |= component as u8;
    }
}

fn field<const N: usize>(image: &XsaveArea, at: usize) -> [u8; N] {
    image.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

fn field_put(image: &mut XsaveArea, at: usize, value: &[u8]) {
    if let Some(place) = image.0.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn wide(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u128::from(byte))
}

/// Where ST(n) is in the image.
fn stack_at(n: usize) -> usize {
    32 + 16 * n
}

/// FTW as FSAVE has it, of the one of FXSAVE (SDM vol. 1, 8.1.7 and 10.5.1).
fn full_tags(image: &XsaveArea) -> u16 {
    let [abridged] = field::<1>(image, 4);
    let top = usize::from(u16::from_le_bytes(field(image, 2)) >> 11 & 7);
    (0..8).rev().fold(0, |tags, physical| {
        let value = wide(&field::<10>(image, stack_at((physical + 8 - top) & 7)));
        let (exponent, mantissa) = ((value >> 64) as u16 & 0x7fff, value as u64);
        let tag = match (exponent, mantissa) {
            _ if abridged & 1 << physical == 0 => 3,
            (0, 0) => 1,
            (1..0x7fff, _) if mantissa >> 63 != 0 => 0,
            _ => 2,
        };
        tags << 2 | tag
    })
}

fn x87_offset(part: X87) -> (usize, usize) {
    match part {
        X87::Control => (0, 2),
        X87::Status => (2, 2),
        X87::Tag => (4, 1),
        X87::Opcode => (6, 2),
        X87::InstructionOffset => (8, 4),
        X87::InstructionSegment => (12, 2),
        X87::OperandOffset => (16, 4),
        X87::OperandSegment => (20, 2),
    }
}

fn segment(state: &CpuState, seg: Seg) -> &Segment {
    let s = &state.segments;
    match seg {
        Seg::Cs => &s.cs,
        Seg::Ss => &s.ss,
        Seg::Ds => &s.ds,
        Seg::Es => &s.es,
        Seg::Fs => &s.fs,
        Seg::Gs => &s.gs,
    }
}

fn segment_mut(state: &mut CpuState, seg: Seg) -> &mut Segment {
    let s = &mut state.segments;
    match seg {
        Seg::Cs => &mut s.cs,
        Seg::Ss => &mut s.ss,
        Seg::Ds => &mut s.ds,
        Seg::Es => &mut s.es,
        Seg::Fs => &mut s.fs,
        Seg::Gs => &mut s.gs,
    }
}

/// What a register holds.
pub fn get(state: &CpuState, place: Place) -> u128 {
    let settled = |component| {
        let mut image = state.xsave.clone();
        settle(&mut image, component);
        image
    };
    match place {
        Place::General(n) => state.gpr.get(n).copied().unwrap_or(0).into(),
        Place::Rip => state.rip.into(),
        Place::Rflags => state.rflags.into(),
        Place::Selector(seg) => segment(state, seg).selector.into(),
        Place::Base(seg) => segment(state, seg).base.into(),
        Place::Stack(n) => wide(&field::<10>(&settled(xcr0::X87), stack_at(n))),
        Place::X87(X87::Tag) => full_tags(&settled(xcr0::X87)).into(),
        Place::X87(part) => {
            let (at, bytes) = x87_offset(part);
            wide(field::<4>(&settled(xcr0::X87), at).get(..bytes).unwrap_or_default())
        }
        Place::Xmm(n) => wide(&field::<16>(&settled(xcr0::SSE), XsaveArea::XMM + 16 * n)),
        Place::Mxcsr => u32::from_le_bytes(field(&state.xsave, 24)).into(),
        Place::YmmHigh(n) => wide(&field::<16>(&settled(xcr0::AVX), XsaveArea::YMM_HIGH + 16 * n)),
        Place::KernelGsBase => state.msrs.kernel_gs_base.into(),
        Place::Cr0 => state.cr0.into(),
        Place::Cr2 => state.cr2.into(),
        Place::Cr3 => state.cr3.into(),
        Place::Cr4 => state.cr4.into(),
        Place::Cr8 => (state.lapic.registers[8] >> 4 & 0xf).into(),
        Place::Efer => state.msrs.efer.into(),
    }
}

fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// Gives a register a value: little-endian bytes, as many as the register has.
///
/// # Errors
/// The register cannot have it, or would change the CPU's mode.
pub fn put(state: &mut CpuState, place: Place, bytes: &[u8]) -> Result<(), Refused> {
    let value = wide(bytes);
    if value == get(state, place) & mask(bytes.len()) {
        return Ok(());
    }
    let word = value as u64;
    let long = state.segments.cs.attributes & Segment::L != 0 && state.msrs.efer & motu_x86::flags::efer::LMA != 0;
    let address = |word: u64| {
        let right = if long { is_canonical(word) } else { word >> 32 == 0 };
        if right { Ok(word) } else { Err(Refused) }
    };
    // Only these bits may differ from what is there.
    let within = |old: u64, bits: u64| if (old ^ word) & !bits == 0 { Ok(word) } else { Err(Refused) };
    match place {
        Place::General(n) => *state.gpr.get_mut(n).ok_or(Refused)? = word,
        Place::Rip => state.rip = address(word)?,
        Place::Rflags => state.rflags = within(state.rflags, FLAGS)?,
        Place::Selector(seg) => {
            let real = state.cr0 & cr0::PE == 0 || state.rflags & rflags::VM != 0;
            let selector = u16::try_from(word).ok().filter(|_| real).ok_or(Refused)?;
            // What loading it does there (SDM vol. 3, 20.1.1).
            let register = segment_mut(state, seg);
            (register.selector, register.base) = (selector, u64::from(selector) << 4);
        }
        Place::Base(seg) => segment_mut(state, seg).base = address(word)?,
        Place::Stack(n) => {
            settle(&mut state.xsave, xcr0::X87);
            field_put(&mut state.xsave, stack_at(n), bytes.get(..10).ok_or(Refused)?);
        }
        Place::X87(part) => {
            settle(&mut state.xsave, xcr0::X87);
            let (at, size) = x87_offset(part);
            let abridged = || (0..8).fold(0, |tags, n| tags | u8::from(word >> (2 * n) & 3 != 3) << n);
            match part {
                X87::Tag => field_put(&mut state.xsave, at, &[abridged()]),
                _ => field_put(&mut state.xsave, at, bytes.get(..size).ok_or(Refused)?),
            }
        }
        Place::Xmm(n) => {
            settle(&mut state.xsave, xcr0::SSE);
            field_put(&mut state.xsave, XsaveArea::XMM + 16 * n, bytes.get(..16).ok_or(Refused)?);
        }
        Place::Mxcsr => {
            let mxcsr = u32::try_from(word).ok().filter(|mxcsr| mxcsr & !MXCSR == 0).ok_or(Refused)?;
            field_put(&mut state.xsave, 24, &mxcsr.to_le_bytes());
        }
        // Without AVX there is none of it to restore.
        Place::YmmHigh(_) if state.xcr0 & xcr0::AVX == 0 => return Err(Refused),
        Place::YmmHigh(n) => {
            settle(&mut state.xsave, xcr0::AVX);
            field_put(&mut state.xsave, XsaveArea::YMM_HIGH + 16 * n, bytes.get(..16).ok_or(Refused)?);
        }
        Place::KernelGsBase => state.msrs.kernel_gs_base = if is_canonical(word) { word } else { return Err(Refused) },
        Place::Cr0 => state.cr0 = within(state.cr0, CR0)?,
        Place::Cr2 => state.cr2 = word,
        Place::Cr3 => state.cr3 = within(0, CR3)?,
        Place::Cr4 | Place::Cr8 | Place::Efer => return Err(Refused),
    }
    Ok(())
}

fn mask(bytes: usize) -> u128 {
    if bytes >= 16 { u128::MAX } else { (1 << (8 * bytes)) - 1 }
}
