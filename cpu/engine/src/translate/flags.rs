//! Which arithmetic flags matter where.
//!
//! A check that the translator adds may change the flags where none of them is read before all are written
//! again. Flags that an instruction leaves undefined count as written.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic as M, OpKind, RflagsBits};

/// All arithmetic flags.
pub const ALL: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// The same flags as bits of RFLAGS.
pub fn in_rflags(flags: u32) -> u64 {
    use motu_x86::flags::rflags;
    let bit = |flag: u32, bit: u64| if flags & flag != 0 { bit } else { 0 };
    bit(RflagsBits::OF, rflags::OF)
        | bit(RflagsBits::SF, rflags::SF)
        | bit(RflagsBits::ZF, rflags::ZF)
        | bit(RflagsBits::AF, rflags::AF)
        | bit(RflagsBits::CF, rflags::CF)
        | bit(RflagsBits::PF, rflags::PF)
}

/// Instructions that are looked at beyond a block's end.
const LOOK_AHEAD: usize = 6;
/// Bytes that they have at most.
pub const REACH: u64 = 15 * LOOK_AHEAD as u64;

/// Flags that are written whatever the operands are.
pub fn written(instruction: &Instruction) -> u32 {
    let by_count = matches!(
        instruction.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    );
    if by_count {
        let last = instruction.op_count() - 1;
        // A count of zero leaves the flags alone; a byte or word may be rotated by a multiple of its width.
        let counted = instruction.op_kind(last) == OpKind::Immediate8 && instruction.immediate8() & 0x1f != 0;
        if !counted {
            return 0;
        }
    }
    instruction.rflags_modified() & ALL
}

/// The flags that matter before an instruction, given those that do behind it.
pub fn before(instruction: &Instruction, behind: u32) -> u32 {
    (behind & !written(instruction)) | (instruction.rflags_read() & ALL)
}

/// The flags that matter at `code`, code of 64 or 32 bits up to its page's end.
pub fn at(code: &[u8], bits: u32) -> u32 {
    let mut open = ALL;
    let mut live = 0;
    let mut decoder = Decoder::with_ip(bits, code, 0, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    for _ in 0..LOOK_AHEAD {
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        live |= open & instruction.rflags_read();
        // What goes elsewhere, is interpreted or may deliver something shows its flags there.
        let straight = matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        let quiet = matches!(instruction.mnemonic(), M::Cli | M::Swapgs);
        if !straight || (instruction.is_privileged() && !quiet) {
            break;
        }
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
        open &= !written(&instruction);
        if open == 0 {
            return live & ALL;
        }
    }
    (live | open) & ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_dead_where_all_are_written_before_any_is_read() {
        // ADD RAX, RBX.
        assert_eq!(at(&[0x48, 0x01, 0xd8], 64), 0);
        // MOV, then ADD.
        assert_eq!(at(&[0x48, 0x89, 0xd8, 0x48, 0x01, 0xd8], 64), 0);
        // ADC reads CF and writes all.
        assert_eq!(at(&[0x48, 0x11, 0xd8], 64), RflagsBits::CF);
        // INC leaves CF; then RET, behind which all may matter.
        assert_eq!(at(&[0x48, 0xff, 0xc0, 0xc3], 64), RflagsBits::CF);
        // A shift by CL may write nothing.
        assert_eq!(at(&[0x48, 0xd3, 0xe0], 64), ALL);
        assert_eq!(at(&[0x48, 0xc1, 0xe0, 0x40], 64), ALL, "a count of 64 is none");
        // INC EAX, then ADD; REX.W is DEC EAX there.
        assert_eq!(at(&[0x40, 0x01, 0xd8], 32), 0);
        assert_eq!(at(&[0x48, 0xf5], 32), RflagsBits::CF);
        // PUSHFQ shows them.
        assert_eq!(at(&[0x9c], 64), ALL);
    }
}
