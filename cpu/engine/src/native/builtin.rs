//! Control instructions of the FPU that need no host instruction: they move words of the state image.

use iced_x86::{Instruction, Mnemonic};
use motu_x86::XsaveArea;

use super::simd;
use super::x87;
use super::{Outcome, Staging};

/// A control instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    Fninit,
    Fnclex,
    Fnstcw,
    /// To memory.
    Fnstsw,
    FnstswAx,
    Fldcw,
    Ldmxcsr,
    Stmxcsr,
    /// How many registers the mode has: 8 or 16 (SDM vol. 2, VZEROUPPER).
    Vzeroupper(u8),
    Vzeroall(u8),
    /// Ends all loads and stores before it.
    Fence,
    /// Prefetches, cache line flushes, FWAIT without a pending exception, FNENI and the like.
    Nop,
}

impl Builtin {
    /// The control instruction that `instruction` is, if it is one.
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        use Mnemonic as M;
        let registers = if instruction.code_size() == iced_x86::CodeSize::Code64 { 16 } else { 8 };
        Some(match instruction.mnemonic() {
            M::Fninit => Self::Fninit,
            M::Fnclex => Self::Fnclex,
            M::Fnstcw => Self::Fnstcw,
            M::Fnstsw if instruction.op_kind(0) == iced_x86::OpKind::Register => Self::FnstswAx,
            M::Fnstsw => Self::Fnstsw,
            M::Fldcw => Self::Fldcw,
            M::Ldmxcsr | M::Vldmxcsr => Self::Ldmxcsr,
            M::Stmxcsr | M::Vstmxcsr => Self::Stmxcsr,
            M::Vzeroupper => Self::Vzeroupper(registers),
            M::Vzeroall => Self::Vzeroall(registers),
            M::Lfence | M::Mfence | M::Sfence => Self::Fence,
            M::Wait | M::Fneni | M::Fndisi | M::Fnsetpm => Self::Nop,
            M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => Self::Nop,
            _ => return None,
        })
    }

    /// Whether the memory operand is one only by its encoding: nothing is read and no fault taken.
    pub(super) fn ignores_memory(self) -> bool {
        matches!(self, Self::Nop | Self::Fence)
    }

    pub(super) fn run(self, rax: &mut u64, fpu: &mut XsaveArea, memory: &mut Staging) -> Outcome {
        match self {
            Self::Fninit => x87::initialise(fpu),
            Self::Fnclex => x87::set_status(fpu, x87::status(fpu) & 0x7f00),
            Self::Fnstcw => memory.set_word(x87::control(fpu)),
            Self::Fnstsw => memory.set_word(x87::status(fpu)),
            Self::FnstswAx => *rax = (*rax & !0xffff) | u64::from(x87::status(fpu)),
            Self::Fldcw => {
                x87::set_control(fpu, memory.word());
                x87::update_summary(fpu);
            }
            Self::Ldmxcsr => {
                let value = memory.dword();
                if value & !simd::MXCSR_MASK != 0 {
                    return Outcome::GeneralProtection;
                }
                simd::set_mxcsr(fpu, value);
            }
            Self::Stmxcsr => memory.set_dword(simd::mxcsr(fpu)),
            Self::Vzeroupper(registers) => clear(fpu, XsaveArea::YMM_HIGH, registers),
            Self::Vzeroall(registers) => {
                clear(fpu, XsaveArea::XMM, registers);
                clear(fpu, XsaveArea::YMM_HIGH, registers);
            }
            Self::Fence => std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst),
            Self::Nop => {}
        }
        Outcome::Done
    }
}

fn clear(fpu: &mut XsaveArea, offset: usize, registers: u8) {
    if let Some(bytes) = fpu.0.get_mut(offset..offset + usize::from(registers) * 16) {
        bytes.fill(0);
    }
}
