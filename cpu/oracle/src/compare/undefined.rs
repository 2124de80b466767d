//! What the manuals leave open: results that may differ between processors and are not compared.

use crate::cases::Case;
use crate::cases::operand::{explicit_address, register_value};
use crate::layout;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register, RflagsBits};
use motu_x86::flags::rflags;
use std::ops::Range;

/// The parts of a result that are not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Undefined {
    pub(super) flags: u64,
    /// The bits of each general register.
    pub(super) gpr: [u64; 16],
    /// A range of the window.
    pub(super) window: Option<Range<usize>>,
    /// The same, where the instruction faults.
    pub(super) window_on_fault: Option<Range<usize>>,
    pub(super) fault: Fault,
    /// All general registers but RSP, where the instruction faults.
    pub(super) gpr_on_fault: bool,
    /// The x87 state, where the instruction faults.
    pub(super) x87_on_fault: bool,
    /// MXCSR, where a memory operand faults.
    pub(super) mxcsr_on_fault: bool,
    /// The exception flags of MXCSR after #XM.
    pub(super) flags_after_exception: bool,
    /// Vector registers, by number, that a fault may leave in any state.
    pub(super) vectors_on_fault: [Option<usize>; 2],
}

/// What is open about a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    Nothing,
    /// Which one of several pieces of memory faults first: vector, error code and address.
    WhichPiece,
    /// Whether there is one at all.
    Whether,
    /// Whether there is one for memory that need not be accessed.
    Memory,
    /// Whether there is one where #BR is the other answer.
    UnlessOutOfRange,
}

pub(super) fn of(case: &Case) -> Undefined {
    let instruction = case.instruction();
    let mut undefined = Undefined { flags: flags(instruction.rflags_undefined()), ..Undefined::default() };
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar => shift(case, &mut undefined),
        M::Rol | M::Ror | M::Rcl | M::Rcr => rotate(case, &mut undefined),
        M::Shld | M::Shrd => double_shift(case, &mut undefined),
        // SDM vol. 2: with a source of zero the destination is undefined. Processors leave it as it
        // is, and software relies on that; only the upper half of a 32-bit one varies.
        M::Bsf | M::Bsr if instruction.op0_register().is_gpr32() && source_may_be_zero(case) => {
            undefined.ignore_gpr(instruction.op0_register(), UPPER_HALF);
        }
        // SDM vol. 2, BSWAP: undefined with a 16-bit register.
        M::Bswap if instruction.op0_register().is_gpr16() => {
            undefined.ignore_gpr(instruction.op0_register(), 0xffff);
        }
        _ if instruction.is_string_instruction() => undefined.fault = Fault::WhichPiece,
        // Images that are read and written piece by piece, in an order that is the processor's own.
        M::Fldenv | M::Fnstenv | M::Frstor | M::Fnsave | M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => {
            pieces(case, &mut undefined);
        }
        M::Fbld | M::Fbstp => pieces(case, &mut undefined),
        M::Fld | M::Fstp if instruction.memory_size() == MemorySize::Float80 => pieces(case, &mut undefined),
        // The flags are set before the store faults; running it again sets them again.
        M::Vcvtps2ph => undefined.mxcsr_on_fault = true,
        // A processor stops at the first step with an unmasked exception; the software CPU runs all of them and
        // may report a flag of a later one. A known deviation.
        M::Dpps | M::Dppd | M::Vdpps | M::Vdppd => undefined.flags_after_exception = true,
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => undefined.fault = Fault::WhichPiece,
        // SDM vol. 2, MASKMOVDQU: whether bytes that are not stored may fault is the processor's own choice.
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => undefined.fault = Fault::Whether,
        M::Call => call(case, &mut undefined),
        M::Push | M::Pop if instruction.op0_register().is_segment_register() => selector_on_stack(case, &mut undefined),
        // Which of operand and stack faults first.
        M::Push | M::Pop => undefined.fault = Fault::WhichPiece,
        // The lower bound is enough to be out of range: whether the upper one is read then is not said.
        M::Bound => undefined.fault = Fault::UnlessOutOfRange,
        // What was popped before the fault may be in its registers already.
        M::Popa | M::Popad => undefined.gpr_on_fault = true,
        M::Pusha | M::Pushad => {
            undefined.fault = Fault::WhichPiece;
            let bytes = if instruction.mnemonic() == M::Pusha { 16 } else { 32 };
            undefined.window_on_fault = window_range(case.before.gpr[4].wrapping_sub(bytes as u64), bytes);
        }
        _ if instruction.is_vsib() => {
            // SDM vol. 2, VGATHERDPS: elements may be gathered in any order, and a fault comes in between.
            undefined.fault = Fault::WhichPiece;
            undefined.vectors_on_fault = [0, 2].map(|operand| Some(instruction.op_register(operand).number()));
        }
        _ => (),
    }
    // A store from an MMX register may have left x87 mode before it faults.
    undefined.x87_on_fault = instruction
        .op_kinds()
        .enumerate()
        .any(|(operand, kind)| kind == OpKind::Register && instruction.op_register(operand as u32).is_mm());
    if instruction.is_string_instruction() && has_narrow_pointer(instruction) {
        // Where nothing was moved, or not all, processors differ in whether the upper halves are cleared.
        for register in [Register::RCX, Register::RSI, Register::RDI] {
            undefined.ignore_gpr(register, UPPER_HALF);
        }
    }
    undefined
}

const UPPER_HALF: u64 = 0xffff_ffff_0000_0000;

impl Undefined {
    fn ignore_gpr(&mut self, register: Register, bits: u64) {
        let full = register.full_register();
        if full.is_gpr64() {
            self.gpr[full.number() & 15] |= bits;
        }
    }
}

fn has_narrow_pointer(instruction: &Instruction) -> bool {
    instruction.op_kinds().any(|kind| matches!(kind, OpKind::MemorySegESI | OpKind::MemoryESEDI))
}

/// From the decoder's bits to those of RFLAGS.
fn flags(bits: u32) -> u64 {
    const MAP: [(u32, u64); 6] = [
        (RflagsBits::OF, rflags::OF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
    ];
    MAP.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, flag)| flag).sum()
}

/// Where the target is not canonical, the return address may be stored all the same before the fault.
fn call(case: &Case, undefined: &mut Undefined) {
    undefined.fault = Fault::WhichPiece;
    let bytes = u64::from(case.before.mode().bits() / 8);
    undefined.window_on_fault = window_range(case.before.gpr[4].wrapping_sub(bytes), bytes as usize);
}

/// SDM vol. 2, PUSH: the upper bytes of a selector's slot are zeroed or left alone. What is left alone faults not.
fn selector_on_stack(case: &Case, undefined: &mut Undefined) {
    undefined.fault = Fault::Memory;
    let bytes = case.instruction().stack_pointer_increment().unsigned_abs() as usize;
    if case.instruction().mnemonic() == Mnemonic::Push {
        let slot = case.before.gpr[4].wrapping_sub(bytes as u64);
        undefined.window = window_range(slot.wrapping_add(2), bytes.saturating_sub(2).max(1));
    }
}

/// Memory that is read or written in several pieces: those before the fault are done.
fn pieces(case: &Case, undefined: &mut Undefined) {
    undefined.fault = Fault::WhichPiece;
    let bytes = case.instruction().memory_size().size();
    undefined.window_on_fault =
        explicit_address(case.instruction(), &case.before).and_then(|address| window_range(address, bytes));
}

/// Where `bytes` bytes at `address` lie in the window, as far as they do.
fn window_range(address: u64, bytes: usize) -> Option<Range<usize>> {
    let size = layout::WINDOW_SIZE as usize;
    if let Some(start) = layout::window_offset(address) {
        return Some(start as usize..(start as usize + bytes).min(size));
    }
    let end = layout::window_offset(address.wrapping_add(bytes as u64).wrapping_sub(1))?;
    Some(0..end as usize + 1)
}

/// The count of a shift after masking (SDM vol. 2, SAL/SAR/SHL/SHR), and the operand's bits.
fn count(case: &Case) -> (u64, u64) {
    let instruction = case.instruction();
    let bits = 8 * match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size() as u64,
        _ => instruction.memory_size().size() as u64,
    };
    let last = instruction.op_count() - 1;
    let raw = match instruction.op_kind(last) {
        OpKind::Register => register_value(&case.before, instruction.op_register(last), 0, 0),
        _ => instruction.immediate(last),
    };
    (raw & if bits == 64 { 63 } else { 31 }, bits)
}

fn shift(case: &Case, undefined: &mut Undefined) {
    undefined.flags = match count(case) {
        (0, _) => 0,
        (1, _) => rflags::AF,
        // A count of the operand's size or more leaves CF undefined, but not for SAR.
        (n, bits) if n >= bits && case.instruction().mnemonic() != Mnemonic::Sar => {
            rflags::AF | rflags::OF | rflags::CF
        }
        _ => rflags::AF | rflags::OF,
    };
}

fn rotate(case: &Case, undefined: &mut Undefined) {
    undefined.flags = match count(case).0 {
        0 | 1 => 0,
        _ => rflags::OF,
    };
}

fn double_shift(case: &Case, undefined: &mut Undefined) {
    let instruction = case.instruction();
    let (count, bits) = count(case);
    undefined.flags = match count {
        0 => 0,
        1 => rflags::AF,
        n if n > bits => rflags::ARITHMETIC,
        _ => rflags::AF | rflags::OF,
    };
    if count > bits {
        undefined.ignore_gpr(instruction.op0_register(), 0xffff);
        undefined.window = explicit_address(instruction, &case.before).and_then(|address| window_range(address, 2));
    }
}

fn source_may_be_zero(case: &Case) -> bool {
    let instruction = case.instruction();
    match instruction.op1_kind() {
        OpKind::Register => register_value(&case.before, instruction.op1_register(), 0, 0) == 0,
        // BSF and BSR tell a zero source by ZF, which is compared; the bits are cheap to give up.
        _ => true,
    }
}
