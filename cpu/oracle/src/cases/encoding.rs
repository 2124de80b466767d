//! Bytes for an instruction form: opcode from the decoder's table, everything else at random.
//!
//! What the encoder of an assembler would never write is wanted here: redundant prefixes, prefixes
//! in any order, SIB bytes without need, long displacements. The decoder says which of the attempts
//! are the form that was asked for.

use crate::Mode;
use crate::native::MAX_INSTRUCTION;
use crate::rng::Rng;
use iced_x86::{
    Code, CodeSize, ConstantOffsets, Decoder, DecoderOptions, EncodingKind, Instruction, MandatoryPrefix, Mnemonic,
    OpCodeInfo, OpCodeOperandKind, OpCodeTableKind,
};

/// One instruction, as bytes and decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded {
    bytes: [u8; MAX_INSTRUCTION],
    pub(super) instruction: Instruction,
    pub(super) offsets: ConstantOffsets,
    pub(super) mode: Mode,
}

impl Encoded {
    /// Decodes the instruction at the start of `bytes`.
    pub(super) fn decode(bytes: [u8; MAX_INSTRUCTION], rip: u64, mode: Mode) -> Self {
        let mut decoder = Decoder::with_ip(mode.bits(), &bytes, rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let offsets = decoder.get_constant_offsets(&instruction);
        Self { bytes, instruction, offsets, mode }
    }

    /// The instruction; as much as an instruction may have where the decoder knows none.
    pub(super) fn bytes(&self) -> &[u8] {
        let len = if self.instruction.is_invalid() { MAX_INSTRUCTION } else { self.instruction.len() };
        &self.bytes[..len]
    }

    pub(super) fn all_bytes(&self) -> [u8; MAX_INSTRUCTION] {
        self.bytes
    }

    /// The same form at `self.instruction.ip()` with other bytes from `offset` on, unless that changes the form.
    pub(super) fn patch(&mut self, offset: usize, with: &[u8]) -> bool {
        let mut bytes = self.bytes;
        let Some(target) = bytes.get_mut(offset..offset + with.len()) else { return false };
        target.copy_from_slice(with);
        let patched = Self::decode(bytes, self.instruction.ip(), self.mode);
        let same = patched.instruction.code() == self.instruction.code()
            && patched.instruction.len() == self.instruction.len();
        if same {
            *self = patched;
        }
        same
    }
}

/// How often to try before a form counts as one that cannot be made.
const ATTEMPTS: u32 = 500;

/// Random bytes at `rip` that decode to `code`.
pub(super) fn encode(code: Code, rip: u64, mode: Mode, rng: &mut Rng) -> Option<Encoded> {
    (0..ATTEMPTS).find_map(|_| {
        let encoded = Encoded::decode(attempt(code, mode, rng), rip, mode);
        let wanted = encoded.instruction.code() == code && is_harmless(&encoded.instruction);
        wanted.then_some(encoded)
    })
}

/// In 64-bit mode FS and GS hold the host thread's own data; XACQUIRE would begin a transaction.
pub(super) fn is_harmless(instruction: &Instruction) -> bool {
    use iced_x86::Register::{FS, GS};
    (instruction.code_size() != CodeSize::Code64 || !matches!(instruction.segment_prefix(), FS | GS))
        && !instruction.has_xacquire_prefix()
        && !instruction.has_xrelease_prefix()
}

/// VMCALL and VMMCALL with prefixes that the decoder refuses: where the host is itself a guest, its hypervisor
/// answers them as it likes.
pub(super) fn may_call_hypervisor(encoded: &Encoded) -> bool {
    encoded.bytes.windows(3).any(|bytes| matches!(bytes, [0x0f, 0x01, 0xc1 | 0xd9]))
}

/// Bytes being written; what does not fit is left out.
struct Bytes {
    bytes: [u8; MAX_INSTRUCTION],
    len: usize,
}

impl Bytes {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }
}

fn attempt(code: Code, mode: Mode, rng: &mut Rng) -> [u8; MAX_INSTRUCTION] {
    let op = code.op_code();
    let mut bytes = Bytes { bytes: [0; MAX_INSTRUCTION], len: 0 };
    if code.encoding() == EncodingKind::VEX {
        vex_prefixes(op, mode, rng, &mut bytes);
    } else {
        legacy_prefixes(code, op, mode, rng, &mut bytes);
    }
    opcode(op, rng, &mut bytes);
    let tail = bytes.len;
    rng.fill(&mut bytes.bytes[tail..]);
    if let Some(modrm) = bytes.bytes.get_mut(tail) {
        if op.is_group() {
            *modrm = *modrm & !0x38 | (op.group_index() as u8) << 3;
        }
        if op.is_rm_group() {
            *modrm = *modrm & !7 | op.rm_group_index() as u8;
        }
    }
    bytes.bytes
}

fn opcode(op: &OpCodeInfo, rng: &mut Rng, bytes: &mut Bytes) {
    use OpCodeOperandKind as K;
    const IN_OPCODE: [OpCodeOperandKind; 5] =
        [K::r8_opcode, K::r16_opcode, K::r32_opcode, K::r64_opcode, K::sti_opcode];
    let value = op.op_code();
    if op.op_code_len() == 2 {
        bytes.push((value >> 8) as u8);
    }
    let in_opcode = op.op_kinds().iter().any(|kind| IN_OPCODE.contains(kind));
    bytes.push(value as u8 | if in_opcode { rng.below(8) as u8 } else { 0 });
}

fn mandatory(op: &OpCodeInfo) -> Option<u8> {
    match op.mandatory_prefix() {
        MandatoryPrefix::P66 => Some(0x66),
        MandatoryPrefix::PF3 => Some(0xf3),
        MandatoryPrefix::PF2 => Some(0xf2),
        _ => None,
    }
}

fn legacy_prefixes(code: Code, op: &OpCodeInfo, mode: Mode, rng: &mut Rng, bytes: &mut Bytes) {
    let mut prefixes = Vec::with_capacity(6);
    prefixes.extend(mandatory(op));
    if op.operand_size() == 16 || rng.chance(2) {
        prefixes.push(0x66);
    }
    let other_size = if mode == Mode::Bits64 { 32 } else { 16 };
    if op.address_size() == other_size || rng.chance(8) {
        prefixes.push(0x67);
    }
    prefixes.extend(segment_override(rng));
    let lock = op.can_use_lock_prefix() && rng.chance(30);
    if lock {
        prefixes.push(0xf0);
    }
    let repeat = if code.is_string_instruction() { 65 } else { 2 };
    if !lock && code.mnemonic() != Mnemonic::Xchg && rng.chance(repeat) {
        prefixes.push(rng.pick(&[0xf2, 0xf3]));
    }
    for index in (1..prefixes.len()).rev() {
        prefixes.swap(index, rng.below(index as u64 + 1) as usize);
    }
    prefixes.iter().for_each(|prefix| bytes.push(*prefix));
    if mode == Mode::Bits64 {
        rex(op, rng, bytes);
    }
    match op.table() {
        OpCodeTableKind::T0F => bytes.push(0x0f),
        OpCodeTableKind::T0F38 => [0x0f, 0x38].into_iter().for_each(|b| bytes.push(b)),
        OpCodeTableKind::T0F3A => [0x0f, 0x3a].into_iter().for_each(|b| bytes.push(b)),
        _ => (),
    }
}

fn rex(op: &OpCodeInfo, rng: &mut Rng, bytes: &mut Bytes) {
    let wide = op.operand_size() == 64 && !op.default_op_size64() && !op.force_op_size64() || op.w() == 1;
    let w = if wide != rng.chance(6) { 8 } else { 0 };
    let rxb = if rng.chance(60) { rng.below(8) as u8 } else { 0 };
    if w | rxb != 0 || rng.chance(15) {
        bytes.push(0x40 | w | rxb);
    }
}

/// CS, DS, ES and SS overrides, which 64-bit mode ignores (SDM vol. 1, 3.4.2.1).
fn segment_override(rng: &mut Rng) -> Option<u8> {
    rng.chance(3).then(|| rng.pick(&[0x26, 0x2e, 0x36, 0x3e]))
}

fn vex_prefixes(op: &OpCodeInfo, mode: Mode, rng: &mut Rng, bytes: &mut Bytes) {
    if rng.chance(8) {
        bytes.push(0x67);
    }
    if let Some(prefix) = segment_override(rng) {
        bytes.push(prefix);
    }
    let w = if op.is_wig() { rng.chance(20) } else { op.w() == 1 };
    let l = if op.is_lig() { rng.chance(50) } else { op.l() == 1 };
    let vvvv = if rng.chance(50) { 0xf } else { rng.below(16) as u8 };
    let pp = match mandatory(op) {
        Some(0x66) => 1,
        Some(0xf3) => 2,
        Some(0xf2) => 3,
        _ => 0,
    };
    let low = vvvv << 3 | u8::from(l) << 2 | pp;
    // R, X and B are stored inverted.
    let rxb = if rng.chance(70) { rng.below(8) as u8 } else { 7 };
    // Elsewhere R and X clear make it LES or LDS.
    let rxb = if mode == Mode::Bits64 { rxb } else { rxb | 6 };
    let map = match op.table() {
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => 1,
    };
    if map == 1 && !w && rxb & 3 == 3 && rng.chance(60) {
        bytes.push(0xc5);
        bytes.push((rxb >> 2) << 7 | low);
    } else {
        bytes.push(0xc4);
        bytes.push(rxb << 5 | map);
        bytes.push(u8::from(w) << 7 | low);
    }
}
