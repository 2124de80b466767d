//! The bytes of an instruction form: whatever decodes to it, found by trying.

use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, MandatoryPrefix, OpCodeInfo, OpCodeOperandKind, OpCodeTableKind,
};

/// As long as an instruction can be.
pub type Bytes = [u8; 15];

/// Some bytes that are `code` in code of `bits` bits; zeros follow them. `None` if there are none.
pub fn encode(code: Code, bits: u32) -> Option<Bytes> {
    let op = code.op_code();
    let heads: Vec<Vec<u8>> = match code.encoding() {
        EncodingKind::VEX => vex_heads(op).collect(),
        _ => legacy_heads(op, bits).collect(),
    };
    let groups = group_bits(op);
    for head in heads {
        for modrm in 0..=u8::MAX {
            let mut bytes = Bytes::default();
            let tail = [modrm & !groups.0 | groups.1, 0, 0];
            for (slot, byte) in bytes.iter_mut().zip(head.iter().chain(&tail)) {
                *slot = *byte;
            }
            if is(&bytes, code, bits) {
                return Some(bytes);
            }
        }
    }
    None
}

fn is(bytes: &Bytes, code: Code, bits: u32) -> bool {
    Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE).decode().code() == code
}

/// Bits of ModRM that belong to the opcode, as mask and value.
fn group_bits(op: &OpCodeInfo) -> (u8, u8) {
    let mut bits = (0, 0);
    if op.is_group() {
        bits = (0x38, (op.group_index() as u8 & 7) << 3);
    }
    if op.is_rm_group() {
        bits = (bits.0 | 7, bits.1 | op.rm_group_index() as u8 & 7);
    }
    bits
}

/// The opcode; where it names a register, the second one, since the first of XCHG is NOP.
fn opcode(op: &OpCodeInfo) -> impl Iterator<Item = u8> {
    use OpCodeOperandKind as K;
    const IN_OPCODE: [OpCodeOperandKind; 4] = [K::r8_opcode, K::r16_opcode, K::r32_opcode, K::r64_opcode];
    let register = op.op_kinds().iter().any(|kind| IN_OPCODE.contains(kind));
    let value = op.op_code() | u32::from(register);
    (op.op_code_len() == 2).then_some((value >> 8) as u8).into_iter().chain([value as u8])
}

fn mandatory(op: &OpCodeInfo) -> Option<u8> {
    match op.mandatory_prefix() {
        MandatoryPrefix::P66 => Some(0x66),
        MandatoryPrefix::PF3 => Some(0xf3),
        MandatoryPrefix::PF2 => Some(0xf2),
        _ => None,
    }
}

/// Prefixes, escapes and opcode: with and without operand size, address size and REX.W.
fn legacy_heads(op: &OpCodeInfo, bits: u32) -> impl Iterator<Item = Vec<u8>> {
    let widths = if bits == 64 { 8u8 } else { 4 };
    (0..widths).map(move |sizes| {
        let mut head = Vec::new();
        head.extend((sizes & 1 != 0).then_some(0x66));
        head.extend((sizes & 2 != 0).then_some(0x67));
        head.extend(mandatory(op));
        head.extend((sizes & 4 != 0).then_some(0x48));
        head.extend(match op.table() {
            OpCodeTableKind::T0F => &[0x0f][..],
            OpCodeTableKind::T0F38 => &[0x0f, 0x38],
            OpCodeTableKind::T0F3A => &[0x0f, 0x3a],
            _ => &[],
        });
        head.extend(opcode(op));
        head
    })
}

/// Three-byte VEX prefixes with either W, either L, both address sizes, and two registers in vvvv, so that
/// gathers have registers that differ.
fn vex_heads(op: &OpCodeInfo) -> impl Iterator<Item = Vec<u8>> {
    let map = match op.table() {
        OpCodeTableKind::T0F => 1,
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => 0,
    };
    let prefix = match mandatory(op) {
        Some(0x66) => 1,
        Some(0xf3) => 2,
        Some(0xf2) => 3,
        _ => 0,
    };
    (0..16u8).map(move |choice| {
        let vvvv = if choice & 4 == 0 { 0xf } else { 0xc };
        let last = (choice & 1) << 7 | vvvv << 3 | (choice & 2) << 1 | prefix;
        // R, X and B are stored inverted.
        let size = (choice & 8 != 0).then_some(0x67);
        size.into_iter().chain([0xc4, 0xe0 | map, last]).chain(opcode(op)).collect()
    })
}
