//! Which instruction forms are compared, and why the others are not.

use crate::Mode;
use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind};
use motu_x86::contract::{Contract, Feature};
use std::fmt;

/// Why a form is not compared with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// It does not exist in this mode.
    NotInThisMode,
    /// Only one vendor's processors have it.
    OneVendorOnly,
    /// No CPU contract has it.
    OutsideContract,
    /// It needs ring 0 or an I/O permission.
    Privileged,
    /// It reads what differs on every run: time, processor number, random numbers.
    NotDeterministic,
    /// It reads or writes descriptor tables or control registers, which differ from the host's.
    SystemState,
    /// It changes the FS or GS base, where the host thread keeps its own data.
    ThreadBase,
    /// It enters the host's kernel.
    EntersKernel,
    /// It depends on what state components the host has enabled.
    ExtendedState,
    /// A far transfer: it depends on the host's descriptor table.
    FarTransfer,
    /// FWAIT and another instruction, which the decoder gives as two.
    TwoInstructions,
    /// No bytes that the generator makes decode to it.
    NotEncodable,
    /// Its opcode has no agreed length across vendors.
    UndecidedLength,
    /// The host's CPU has not this feature.
    HostLacks(&'static str),
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInThisMode => "does not exist in this mode",
            Self::OneVendorOnly => "exists on one vendor's processors only",
            Self::OutsideContract => "in no CPU contract",
            Self::Privileged => "needs ring 0 or an I/O permission",
            Self::NotDeterministic => "differs on every run (time, random numbers, processor number)",
            Self::SystemState => "depends on descriptor tables or control registers of the host",
            Self::ThreadBase => "changes the FS or GS base, which the host thread needs",
            Self::EntersKernel => "enters the host's kernel",
            Self::ExtendedState => "depends on the state components that the host enabled",
            Self::FarTransfer => "far transfer, depends on the host's descriptor table",
            Self::TwoInstructions => "is FWAIT and another instruction, each compared by itself",
            Self::NotEncodable => "no bytes of the generator decode to it",
            Self::UndecidedLength => "its length differs between vendors",
            Self::HostLacks(feature) => return write!(f, "the host CPU has no {feature}"),
        })
    }
}

/// The contract whose instructions are compared: the highest, `v3-2026`.
const CONTRACT: &Contract = &Contract::ALL[0];

/// Every form that the decoder knows, with the reason where it is skipped.
pub fn all(mode: Mode) -> impl Iterator<Item = (Code, Option<Skip>)> {
    Code::values().filter(|code| code.op_code().is_instruction()).map(move |code| (code, skip(code, mode)))
}

fn skip(code: Code, mode: Mode) -> Option<Skip> {
    let op = code.op_code();
    let (exists, on_both) = match mode {
        Mode::Bits64 => (op.mode64(), op.intel_decoder64() && op.amd_decoder64()),
        Mode::Bits32 => (op.mode32(), op.intel_decoder32() && op.amd_decoder32()),
    };
    if !exists {
        return Some(Skip::NotInThisMode);
    }
    if let Some(reason) = skip_by_name(code) {
        return Some(reason);
    }
    if op.must_be_cpl0() || code.is_privileged() || op.is_input_output() {
        return Some(Skip::Privileged);
    }
    if !matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return Some(Skip::OutsideContract);
    }
    if op.decoder_option() != 0 || !on_both {
        return Some(Skip::OneVendorOnly);
    }
    if op.fwait() {
        return Some(Skip::TwoInstructions);
    }
    if op.op_kinds().iter().any(|kind| SYSTEM_OPERANDS.contains(kind)) {
        return Some(Skip::SystemState);
    }
    code.cpuid_features().iter().find_map(|feature| match support(*feature) {
        Support::Present => None,
        Support::HostLacks(name) => Some(Skip::HostLacks(name)),
        Support::OutsideContract => Some(Skip::OutsideContract),
    })
}

const SYSTEM_OPERANDS: [OpCodeOperandKind; 4] = {
    use OpCodeOperandKind as K;
    [K::cr_reg, K::dr_reg, K::tr_reg, K::bnd_reg]
};

fn skip_by_name(code: Code) -> Option<Skip> {
    use Mnemonic as M;
    Some(match code.mnemonic() {
        M::Rdtsc | M::Rdtscp | M::Rdrand | M::Rdseed | M::Rdpid | M::Cpuid | M::Rdpmc => Skip::NotDeterministic,
        M::Xgetbv | M::Xsetbv | M::Xsave | M::Xsave64 | M::Xrstor | M::Xrstor64 => Skip::ExtendedState,
        M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 => Skip::ExtendedState,
        M::Syscall | M::Sysenter | M::Sysexit | M::Sysret | M::Int | M::Int1 | M::Int3 | M::Into => Skip::EntersKernel,
        M::Iret | M::Iretd | M::Iretq | M::Retf => Skip::FarTransfer,
        // Linux keeps the processor's number in the limit of a segment that anybody may ask for.
        M::Lsl => Skip::NotDeterministic,
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => Skip::SystemState,
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => Skip::ThreadBase,
        M::Ud0 => Skip::UndecidedLength,
        _ if code.is_jmp_far() || code.is_jmp_far_indirect() || code.is_call_far() || code.is_call_far_indirect() => {
            Skip::FarTransfer
        }
        _ => return None,
    })
}

enum Support {
    Present,
    HostLacks(&'static str),
    OutsideContract,
}

macro_rules! host {
    ($name:tt) => {
        if std::arch::is_x86_feature_detected!($name) { Ok(()) } else { Err($name) }
    };
}

/// Whether [`CONTRACT`] and this host have a feature.
fn support(feature: CpuidFeature) -> Support {
    use CpuidFeature as F;
    let (ours, host) = match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => return Support::Present,
        F::FPU | F::FPU287 | F::FPU387 | F::CMOV | F::CX8 | F::MMX | F::FXSR | F::SSE | F::SSE2 => {
            return Support::Present;
        }
        // Hints are no-operations where their feature is absent; no host switches CET on for the test.
        F::CLFSH | F::MULTIBYTENOP | F::PAUSE | F::PREFETCHW | F::PREFETCHWT1 | F::CLDEMOTE => return Support::Present,
        F::CET_IBT | F::CET_SS => return Support::Present,
        F::CMPXCHG16B => (Feature::Cx16, host!("cmpxchg16b")),
        F::SSE3 => (Feature::Sse3, host!("sse3")),
        F::SSSE3 => (Feature::Ssse3, host!("ssse3")),
        F::SSE4_1 => (Feature::Sse4_1, host!("sse4.1")),
        F::SSE4_2 => (Feature::Sse4_2, host!("sse4.2")),
        F::POPCNT => (Feature::Popcnt, host!("popcnt")),
        F::AVX => (Feature::Avx, host!("avx")),
        F::AVX2 => (Feature::Avx2, host!("avx2")),
        F::FMA => (Feature::Fma, host!("fma")),
        F::F16C => (Feature::F16c, host!("f16c")),
        F::BMI1 => (Feature::Bmi1, host!("bmi1")),
        F::BMI2 => (Feature::Bmi2, host!("bmi2")),
        F::LZCNT => (Feature::Lzcnt, host!("lzcnt")),
        F::MOVBE => (Feature::Movbe, host!("movbe")),
        F::AES => (Feature::Aes, host!("aes")),
        F::PCLMULQDQ => (Feature::Pclmul, host!("pclmulqdq")),
        F::SHA => (Feature::Sha, host!("sha")),
        F::ADX => (Feature::Adx, host!("adx")),
        _ => return Support::OutsideContract,
    };
    match (CONTRACT.has(ours), host) {
        (false, _) => Support::OutsideContract,
        (true, Ok(())) => Support::Present,
        (true, Err(name)) => Support::HostLacks(name),
    }
}
