//! A run of instructions that is entered at its first.

use super::Op;
use super::cache::granules;
use super::gate;
use super::lower::{hold, lower};
use super::way::Way;
use crate::cpu::{CodeSize, Cpu, Faulting};
use crate::debugger::Debugger;
use crate::exec::system;
use crate::mmu::{PAGE, PAGE_MASK, shared};
use crate::native::NativeCache;
use iced_x86::{Decoder, DecoderError, Instruction};
use motu_x86::contract::Contract;
use std::sync::Arc;

/// Instructions of one block at most.
pub const MAX_OPS: usize = 64;
/// Bytes of one instruction at most (SDM vol. 2, 2.3.11).
pub const MAX_LEN: usize = 15;
/// Bytes of one block at most.
pub const MAX_CODE: usize = MAX_OPS * MAX_LEN;

/// Decoded instructions, keyed by where they lie in guest-physical memory.
#[derive(Debug)]
pub struct Block {
    pub ops: Arc<[Op]>,
    /// The bytes that they were decoded from, one behind the other: the guest's memory may hold others by now.
    pub code: Arc<[u8]>,
    /// Bytes of code up to where a branch was followed.
    pub len: u32,
    /// Pieces of the page, as bits, in which there is code that branches led to.
    pub followed: u64,
    /// Guest-physical address of the first byte.
    pub physical: u64,
    /// [`Cpu::decode_key`] it was decoded under.
    pub key: u32,
    /// The page that a last instruction runs over into.
    pub second_page: Option<u64>,
    pub reach: Reach,
    /// Never the same for two blocks; zero until the cache gives it.
    pub id: u64,
    pub translated: Translated,
}

/// What the translator knows of a block.
#[derive(Debug, Default)]
pub struct Translated {
    /// How often the interpreter ran it, up to when it was translated or found not to be translatable.
    pub runs: u32,
    /// Its translations by the linear address that they were made for.
    pub at: Vec<(u64, u32)>,
    /// Pieces of its page beside its own that the translations depend on, and a hash of what they held.
    pub looked_at: u64,
    looked: u64,
    /// Translations of parts of it.
    pub singles: Vec<Single>,
    /// It was found running once, and often enough to be made anew as what runs most: its accesses may have slots then.
    pub found: bool,
    pub hot: bool,
    /// Operations, as bits, whose accesses no slot serves.
    pub scattered: u64,
}

/// A translation of the rest of a block, which checks each access by itself.
#[derive(Debug)]
pub struct Single {
    /// The linear address of the block, and the operation that the rest begins with.
    pub rip: u64,
    pub rest: u16,
    pub number: u32,
}

impl Translated {
    /// [`Translated::runs`] of a block that is not to be translated.
    pub const NEVER: u32 = u32::MAX;

    /// Of a block that another CPU has found worth translating.
    pub fn due() -> Self {
        Self { runs: Self::NEVER - 1, ..Self::default() }
    }

    /// The translations depend on more pieces of the page, which holds `now`.
    pub fn look_at(&mut self, pieces: u64, now: &[u8]) {
        self.looked_at |= pieces;
        self.looked = hash(self.looked_at, now);
    }

    /// All translations.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.at.iter().map(|&(_, number)| number).chain(self.singles.iter().map(|single| single.number))
    }
}

impl Block {
    /// Whether the page at `page`, which holds `now`, has what the block and its translations were made of, as far as they were of
    /// that page.
    pub fn is_in(&self, page: u64, now: &[u8]) -> bool {
        let start = (self.physical & PAGE_MASK) as usize;
        let (first, second) = self.code.split_at(self.code.len().min(PAGE as usize - start));
        if self.physical & !PAGE_MASK != page {
            return now.get(..second.len()) == Some(second);
        }
        let Translated { looked_at, looked, .. } = self.translated;
        let holds = match self.reach {
            Reach::Path => self.pieces().all(|(at, piece)| now.get(at..at + piece.len()) == Some(piece)),
            _ => now.get(start..start + first.len()) == Some(first),
        };
        holds && (looked_at == 0 || hash(looked_at, now) == looked)
    }

    /// Where the bytes of each operation are in the page, and what they were.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let start = (self.physical & PAGE_MASK) as usize;
        let mut code = &*self.code;
        self.ops.iter().map_while(move |op| {
            let (piece, rest) = code.split_at_checked(op.len.into())?;
            code = rest;
            Some((start.checked_add_signed(op.offset.into())?, piece))
        })
    }
}

/// Of the 64-byte pieces of a page that holds `now`. Two pages that differ in one word never have the same.
fn hash(pieces: u64, now: &[u8]) -> u64 {
    let chosen = now.chunks_exact(64).enumerate().filter(|(n, _)| pieces >> (n & 63) & 1 != 0);
    let words = chosen.flat_map(|(_, piece)| piece.as_chunks().0).map(|&word| u64::from_le_bytes(word));
    words.fold(0, |hash: u64, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// How far a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// One instruction.
    Instruction,
    /// Up to the first jump.
    Block,
    /// Behind conditional jumps that close no loop: what is run often is worth that.
    Extended,
    /// And where jumps, calls and the returns from these lead in the page: what runs most of the time is worth that.
    Path,
}

/// What decoding depends on beside the bytes.
pub struct Context<'a> {
    pub code_size: CodeSize,
    /// [`Cpu::decode_key`].
    pub key: u32,
    pub contract: &'static Contract,
    pub native: &'a mut NativeCache,
    pub debugger: &'a Debugger,
    /// What lies before the code in its page.
    pub before: u64,
}

impl Cpu {
    /// What decoding depends on now, of code behind so many bytes of its page.
    fn decode_context(&mut self, before: usize) -> Context<'_> {
        Context {
            code_size: self.code_size,
            key: self.key,
            contract: self.contract,
            native: &mut self.native,
            debugger: &self.debugger,
            before: before as u64,
        }
    }

    /// Decodes the block at the current instruction, whose first byte is at `physical` in `host_page`.
    ///
    /// # Errors
    /// The first instruction runs over into a page that cannot be fetched.
    pub fn decode_block(&mut self, physical: u64, host_page: *const u8, reach: Reach) -> Faulting<Block> {
        let rip = self.rip;
        let start = (physical & PAGE_MASK) as usize;
        let rest = PAGE as usize - start;
        let first = rest.min(MAX_OPS * MAX_LEN);
        let mut bytes = [0u8; MAX_OPS * MAX_LEN + MAX_LEN];
        if let Some(room) = bytes.get_mut(..first) {
            // SAFETY: `host_page` is a whole page of guest RAM, of which `first` bytes from `start` on are copied because the
            // guest may change it while we look.
            unsafe { shared::copy_in(host_page.add(start), room) };
        }
        let mut ops = std::mem::take(&mut self.decoded);
        ops.clear();
        let mut context = self.decode_context(start);
        let code = Code { bytes: bytes.get(..first).unwrap_or(&[]), start: 0, rip };
        let mut len = decode_run(&code, reach, &mut context, &mut ops);
        let mut second_page = None;
        if ops.is_empty() {
            // The first instruction does not fit into the page, of which fewer than MAX_LEN bytes are left.
            let next = rip.wrapping_add(rest as u64);
            let (next_physical, next_host, _) = self.fetch_page(self.code_linear(next))?;
            second_page = Some(next_physical & !PAGE_MASK);
            if let Some(room) = bytes.get_mut(first..first + MAX_LEN) {
                // SAFETY: as above.
                unsafe { shared::copy_in(next_host, room) };
            }
            let code = bytes.get(..first + MAX_LEN).unwrap_or(&[]);
            len = decode_one(code, rip, &mut self.decode_context(start), &mut ops);
        }
        let block = self.block_of(ops, physical, reach);
        Ok(Block { code: bytes.get(..len).unwrap_or(&[]).into(), len: len as u32, second_page, ..block })
    }

    /// Decodes the block at the current instruction with what its branches lead to. `None` if it does not begin with a whole
    /// instruction in its page.
    pub fn decode_path(&mut self, physical: u64, host_page: *const u8) -> Option<Block> {
        let mut bytes = [0; PAGE as usize];
        // SAFETY: `host_page` is a whole page of guest RAM, which is copied because the guest may change it while we look.
        unsafe { shared::copy_in(host_page, &mut bytes) };
        let start = (physical & PAGE_MASK) as usize;
        let mut ops = std::mem::take(&mut self.decoded);
        ops.clear();
        let code = Code { bytes: &bytes, start, rip: self.rip };
        let len = decode_run(&code, Reach::Path, &mut self.decode_context(0), &mut ops);
        let block = self.block_of(ops, physical, Reach::Path);
        let places = block.ops.iter().map(|op| (start.wrapping_add_signed(op.offset.into()), usize::from(op.len)));
        let code = places.clone().filter_map(|(at, len)| bytes.get(at..at + len)).flatten().copied().collect();
        let behind = places.filter(|&(at, _)| !(start..start + len).contains(&at));
        let followed = behind.fold(0, |all, (at, len)| all | granules(at as u64, (at + len - 1) as u64));
        (len > 0).then_some(Block { code, len: len as u32, followed, ..block })
    }

    /// A block of `ops`, whose room is for the next one.
    fn block_of(&mut self, mut ops: Vec<Op>, physical: u64, reach: Reach) -> Block {
        let of_block = ops.drain(..).collect();
        self.decoded = ops;
        Block {
            ops: of_block,
            code: [].into(),
            len: 0,
            followed: 0,
            physical,
            key: self.decode_key(),
            second_page: None,
            reach,
            id: 0,
            translated: Translated::default(),
        }
    }
}

fn decoder<'a>(code: &'a [u8], rip: u64, context: &Context<'_>) -> Decoder<'a> {
    let options = gate::decoder_options(context.contract);
    Decoder::with_ip(context.code_size as u32, code, rip, options)
}

/// Code of one page.
struct Code<'a> {
    bytes: &'a [u8],
    /// Where in it the block begins, and its address.
    start: usize,
    rip: u64,
}

/// Decodes up to the end of the block or of `code`. Gives the bytes up to where it does not go straight on; none if not even one
/// instruction is whole.
fn decode_run(code: &Code<'_>, reach: Reach, context: &mut Context<'_>, ops: &mut Vec<Op>) -> usize {
    let Code { bytes, start, rip } = *code;
    let mut decoder = decoder(bytes, rip.wrapping_sub(start as u64), context);
    let mut instruction = Instruction::default();
    let mut way = Way::new(reach, rip, context.before + start as u64);
    let (mut at, mut straight) = (start, None);
    let most = if reach == Reach::Instruction { 1 } else { MAX_OPS };
    while ops.len() < most {
        let from = rip.wrapping_add(at as u64).wrapping_sub(start as u64);
        if straight.is_some() || at == start {
            if decoder.set_position(at).is_err() {
                break;
            }
            decoder.set_ip(from);
        }
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() - at < MAX_LEN {
            break;
        }
        let offset = (at as i64 - start as i64) as i16;
        let mut op = lower(&instruction, offset, context.key, context.contract, context.native);
        let rest = bytes.get(at..).unwrap_or(&[]);
        if instruction.is_invalid() && is_too_long(rest, context) {
            if rest.len() < MAX_LEN {
                break;
            }
            op.run = system::too_long;
        }
        if context.debugger.may_stop_at((context.before + at as u64) & PAGE_MASK) {
            hold(&instruction, &mut op);
        }
        ops.push(op);
        let behind = at + instruction.len().max(1);
        let Some(next) = way.behind(&instruction, ops) else {
            at = behind;
            break;
        };
        at = start.wrapping_add(next.wrapping_sub(rip) as usize);
        if at != behind {
            straight.get_or_insert(behind);
        }
    }
    straight.unwrap_or(at) - start
}

/// Decodes one instruction, whatever it is.
fn decode_one(code: &[u8], rip: u64, context: &mut Context<'_>, ops: &mut Vec<Op>) -> usize {
    let mut decoder = decoder(code, rip, context);
    let instruction = decoder.decode();
    let mut op = lower(&instruction, 0, context.key, context.contract, context.native);
    if instruction.is_invalid() && is_too_long(code, context) {
        op.run = system::too_long;
    }
    if context.debugger.may_stop_at(context.before) {
        hold(&instruction, &mut op);
    }
    ops.push(op);
    instruction.len().max(1)
}

/// Whether bytes that decode to nothing are an instruction of more than 15 bytes, which is #GP and not #UD.
///
/// Only prefixes without effect make one so long: decoded without those, and as an opcode of the same shape
/// that exists, it shows its length, which depends on no LOCK, REP or mandatory prefix. Where `code` ends before
/// 15 bytes, zeros stand for what follows.
fn is_too_long(code: &[u8], context: &Context<'_>) -> bool {
    let mut bytes = [0; MAX_LEN];
    bytes.iter_mut().zip(code).for_each(|(byte, &given)| *byte = given);
    let is_rex = |byte: u8| context.code_size == CodeSize::Bits64 && byte & 0xf0 == 0x40;
    let is_legacy = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let count = bytes.iter().take_while(|&&byte| is_rex(byte) || is_legacy(byte)).count();
    if let Some([0xc6 | 0xc7, modrm, ..]) = bytes.get_mut(count..) {
        // Whatever group 11 lacks has the operands of its MOV.
        *modrm &= !0x38;
    }
    let (prefixes, opcode) = bytes.split_at(count);
    let short_address = prefixes.contains(&0x67).then_some(0x67);
    let rex = prefixes.last().copied().filter(|&byte| is_rex(byte));
    let Shape { stand_in, replaced } = shape(opcode, context.code_size);
    let rest = opcode.get(replaced..).unwrap_or(&[]);
    // In the opcode maps behind 0F any prefix may be what makes the opcode exist; elsewhere 66 counts.
    let mandatory: &[Option<u8>] = match (opcode, prefixes.contains(&0x66)) {
        _ if replaced > 0 => &[None],
        // A near Jcc with an operand size of 16 bits has a shorter displacement.
        ([0x0f, 0x80..=0x8f, ..], true) if context.code_size != CodeSize::Bits64 => &[Some(0x66)],
        ([0x0f, ..], _) => &[None, Some(0x66), Some(0xf2), Some(0xf3)],
        (_, true) => &[Some(0x66)],
        (_, false) => &[None],
    };
    mandatory.iter().any(|&mandatory| {
        let kept: Vec<u8> = [mandatory, short_address, rex].into_iter().flatten().collect();
        let all: Vec<u8> = kept.iter().chain(stand_in).chain(rest).copied().collect();
        let mut decoder = decoder(&all, 0, context);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return all.len() < MAX_LEN && decoder.last_error() == DecoderError::NoMoreBytes;
        }
        let behind_prefixes = instruction.len() - kept.len() - stand_in.len() + replaced;
        count + behind_prefixes > MAX_LEN
    })
}

/// An opcode that exists and is followed by the same bytes: `replaced` bytes give way to `stand_in`.
struct Shape {
    stand_in: &'static [u8],
    replaced: usize,
}

/// In the maps 0F 38 and 0F 3A, and behind EVEX, all opcodes have ModR/M and some an immediate byte, as PSHUFB
/// and PALIGNR have.
fn shape(opcode: &[u8], code_size: CodeSize) -> Shape {
    // Outside of 64-bit code 62 is EVEX only before what no memory operand of BOUND begins with.
    // No processor has a map 4.
    let evex = |payload: u8| payload & 7 != 4 && (code_size == CodeSize::Bits64 || payload >= 0xc0);
    let (immediate, replaced) = match *opcode {
        [0x0f, 0x38, _, ..] => (false, 3),
        [0x0f, 0x3a, _, ..] => (true, 3),
        [0x62, payload, _, _, number, ..] if evex(payload) => {
            let in_first_map = matches!(number, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6);
            (matches!(payload & 7, 3 | 7) || (payload & 7 == 1 && in_first_map), 5)
        }
        _ => return Shape { stand_in: &[], replaced: 0 },
    };
    Shape { stand_in: if immediate { &[0x0f, 0x3a, 0x0f] } else { &[0x0f, 0x38, 0x00] }, replaced }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Handler;

    /// Whether bytes that decode to nothing are too long to be an instruction.
    fn too_long(code: &[u8], code_size: CodeSize) -> bool {
        let contract = Contract::by_name("v2-2026").unwrap();
        let mut native = NativeCache::new().unwrap();
        let debugger = &Debugger::default();
        let key = code_size as u32;
        let mut context = Context { code_size, key, contract, native: &mut native, debugger, before: 0 };
        let mut ops = Vec::new();
        let mut bytes = code.to_vec();
        bytes.resize(2 * MAX_LEN, 0);
        decode_one(&bytes, 0x1000, &mut context, &mut ops);
        let is = |handler: Handler| std::ptr::fn_addr_eq(ops[0].run, handler);
        assert!(is(system::too_long) || is(system::undefined), "it is an instruction");
        is(system::too_long)
    }

    #[test]
    fn what_is_no_instruction_is_measured_as_processors_do() {
        use CodeSize::{Bits32, Bits64};
        // LOCK BOUND of 13 bytes, not EVEX, outside of 64-bit code.
        let bound = [0xf0, 0x36, 0xf2, 0x26, 0x26, 0x2e, 0x26, 0x2e, 0x26, 0x2e, 0x62, 0x52, 0x0a, 0xdf, 0x0e];
        assert!(!too_long(&bound, Bits32));
        // LOCK Jcc with a displacement of 16 bits: 15 bytes. In 64-bit code it has 32 bits whatever 66 says.
        let jcc = [0xf3, 0xf3, 0x3e, 0xf0, 0x26, 0x66, 0x3e, 0xf2, 0x66, 0x66, 0x2e, 0x0f, 0x81, 0xc7, 0x69];
        assert!(!too_long(&jcc, Bits32));
        assert!(too_long(&jcc, Bits64));
        // MOV with a number in ModR/M that its group does not have: 17 bytes.
        let group = [0xf0, 0x42, 0x40, 0x48, 0x44, 0x42, 0x41, 0xc7, 0xaa, 0xfb, 0x9d, 0x4b, 0x95, 0xcf, 0xb7];
        assert!(too_long(&group, Bits64));
        // EVEX of a map that does not exist, whatever would follow.
        let map_4 = [0x26, 0xf3, 0x66, 0x3e, 0x43, 0x62, 0xbc, 0xde, 0xda, 0x7d, 0x94, 0xe9, 0xc4, 0xe3, 0xbd];
        assert!(!too_long(&map_4, Bits64));
        // Fifteen prefixes.
        assert!(too_long(&[0x2e; 15], Bits64));
    }

    /// Instructions of a run over `code`, which ends where the page does.
    fn decoded_before_page_end(code: &[u8]) -> usize {
        decoded(code, false)
    }

    fn decoded(code: &[u8], extended: bool) -> usize {
        offsets(code, 0, if extended { Reach::Extended } else { Reach::Block }).len()
    }

    /// Where the instructions of a block are that begins at byte `start` of `code`, relative to that.
    fn offsets(code: &[u8], start: usize, reach: Reach) -> Vec<i16> {
        let contract = Contract::by_name("v2-2026").unwrap();
        let mut native = NativeCache::new().unwrap();
        let code_size = CodeSize::Bits64;
        let debugger = &Debugger::default();
        let key = code_size as u32;
        let mut context = Context { code_size, key, contract, native: &mut native, debugger, before: 0 };
        let mut ops = Vec::new();
        let code = Code { bytes: code, start, rip: 0x1000 + start as u64 };
        decode_run(&code, reach, &mut context, &mut ops);
        ops.iter().map(|op| op.offset).collect()
    }

    #[test]
    fn what_is_no_instruction_needs_the_next_page_only_if_it_is_too_long() {
        // PCMPISTRI with REX.W behind F2: 16 bytes, of which 13 lie in the page.
        let too_long = [0x66, 0xf2, 0x67, 0x42, 0x66, 0x67, 0x48, 0x0f, 0x3a, 0x61, 0x97, 0x3f, 0x08];
        assert_eq!(decoded_before_page_end(&too_long), 0);
        // UD2, and SIDT of a register: none of their bytes is missing.
        assert_eq!(decoded_before_page_end(&[0x0f, 0x0b]), 1);
        assert_eq!(decoded_before_page_end(&[0x0f, 0x01, 0xcf]), 1);
    }

    #[test]
    fn an_extended_block_goes_on_behind_jumps_that_close_no_loop() {
        // JE +1; NOP; RET.
        let forwards = [0x74, 0x01, 0x90, 0xc3];
        assert_eq!((decoded(&forwards, false), decoded(&forwards, true)), (1, 3));
        // JE to far back; RET.
        let far_back = [0x0f, 0x84, 0x00, 0xf8, 0xff, 0xff, 0xc3];
        assert_eq!(decoded(&far_back, true), 2);
        // NOP; JE to the NOP; RET. JE to itself; RET.
        assert_eq!(decoded(&[0x90, 0x74, 0xfd, 0xc3], true), 2);
        assert_eq!(decoded(&[0x74, 0xfe, 0xc3], true), 1);
        // As many as it may, and one more.
        let many = [0x74u8, 0x01].repeat(crate::decode::way::MAX_WAYS_OUT + 3);
        assert_eq!(decoded(&many, true), crate::decode::way::MAX_WAYS_OUT + 1);
    }

    #[test]
    fn a_path_follows_jumps_calls_and_their_returns() {
        // NOP; JMP +1 over INT3; CALL the function behind HLT, and once more; HLT; NOP; RET.
        let code = [0x90, 0xeb, 0x01, 0xcc, 0xe8, 6, 0, 0, 0, 0xe8, 1, 0, 0, 0, 0xf4, 0x90, 0xc3];
        assert_eq!(offsets(&code, 0, Reach::Path), [0, 1, 4, 15, 16, 9, 15, 16, 14]);
        assert_eq!(offsets(&code, 0, Reach::Extended), [0, 1]);
        // A return that belongs to no call of the block's ends it.
        assert_eq!(offsets(&code, 15, Reach::Path), [0, 1]);
        // So does a jump to where the block has been, and a call of what it is in.
        assert_eq!(offsets(&[0x90, 0xeb, 0xfd], 0, Reach::Path), [0, 1]);
        assert_eq!(offsets(&[0x90, 0xe8, 0xfa, 0xff, 0xff, 0xff], 0, Reach::Path), [0, 1]);
        // NOP; NOP; JMP to the first one: the block begins at the second.
        assert_eq!(offsets(&[0x90, 0x90, 0xeb, 0xfc], 1, Reach::Path), [0, 1, -1]);
        // NOP; JE to the NOP: a loop's first rounds, as many as fit.
        assert_eq!(offsets(&[0x90, 0x74, 0xfd, 0xf4], 0, Reach::Path), [0, 1, 0, 1, 0, 1, 0, 1]);
        let long: Vec<u8> = [0x90; 25].into_iter().chain([0x74, 0xe5, 0xf4]).collect();
        assert_eq!(offsets(&long, 0, Reach::Path).len(), 2 * 26);
        // Into another page.
        assert_eq!(offsets(&[0xe9, 0xf6, 0x0f, 0, 0, 0x90], 0, Reach::Path), [0]);
        assert_eq!(offsets(&[0x90, 0xeb, 0xfc], 0, Reach::Path), [0, 1]);
    }
}
