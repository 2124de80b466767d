//! Which instructions a contract has: the rest is #UD, or what older CPUs take the bytes for.

use iced_x86::{CpuidFeature, DecoderOptions, Instruction};
use motu_x86::contract::{Contract, Feature};

/// Whether the contract has everything that `instruction` needs.
pub fn allows(contract: &Contract, instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().all(|&feature| match requirement(feature) {
        Requirement::Always => true,
        Requirement::Never => false,
        Requirement::Has(feature) => contract.has(feature),
    })
}

/// Decoder options under which prefixes of instructions that the contract lacks are ignored, as CPUs
/// without them do: TZCNT is BSF then, LZCNT is BSR.
pub fn decoder_options(contract: &Contract) -> u32 {
    let without = |feature, option| if contract.has(feature) { DecoderOptions::NONE } else { option };
    without(Feature::Bmi1, DecoderOptions::NO_MPFX_0FBC) | without(Feature::Lzcnt, DecoderOptions::NO_MPFX_0FBD)
}

enum Requirement {
    /// Every contract has it.
    Always,
    Has(Feature),
    Never,
}

fn requirement(feature: CpuidFeature) -> Requirement {
    use CpuidFeature as C;
    use Requirement::{Always, Has, Never};
    match feature {
        C::INTEL8086 | C::INTEL186 | C::INTEL286 | C::INTEL386 | C::INTEL486 => Always,
        C::X64 | C::CPUID | C::MSR | C::TSC | C::SMM | C::PAUSE | C::MULTIBYTENOP | C::RDPMC | C::UDBG => Always,
        C::CMOV | C::FPU | C::FPU287 | C::FPU387 | C::MMX | C::FXSR | C::SEP | C::CX8 => Always,
        // Encodings from the hint space: NOP where the feature is absent.
        C::CET_IBT | C::CET_SS | C::PREFETCHW | C::PREFETCHWT1 | C::CLDEMOTE | C::WBNOINVD => Always,
        C::SSE => Has(Feature::Sse),
        C::SSE2 => Has(Feature::Sse2),
        C::SSE3 => Has(Feature::Sse3),
        C::SSSE3 => Has(Feature::Ssse3),
        C::SSE4_1 => Has(Feature::Sse4_1),
        C::SSE4_2 => Has(Feature::Sse4_2),
        C::POPCNT => Has(Feature::Popcnt),
        C::LZCNT => Has(Feature::Lzcnt),
        C::BMI1 => Has(Feature::Bmi1),
        C::BMI2 => Has(Feature::Bmi2),
        C::ADX => Has(Feature::Adx),
        C::AES => Has(Feature::Aes),
        C::PCLMULQDQ => Has(Feature::Pclmul),
        C::SHA => Has(Feature::Sha),
        C::AVX => Has(Feature::Avx),
        C::AVX2 => Has(Feature::Avx2),
        C::FMA => Has(Feature::Fma),
        C::F16C => Has(Feature::F16c),
        C::MOVBE => Has(Feature::Movbe),
        C::CMPXCHG16B => Has(Feature::Cx16),
        C::CLFSH => Has(Feature::Clflush),
        C::CLFLUSHOPT => Has(Feature::Clflushopt),
        C::CLWB => Has(Feature::Clwb),
        C::RDRAND => Has(Feature::Rdrand),
        C::RDSEED => Has(Feature::Rdseed),
        C::RDTSCP => Has(Feature::Rdtscp),
        C::RDPID => Has(Feature::Rdpid),
        C::FSGSBASE => Has(Feature::Fsgsbase),
        C::XSAVE => Has(Feature::Xsave),
        C::XSAVEOPT => Has(Feature::Xsaveopt),
        C::XSAVEC => Has(Feature::Xsavec),
        C::XSAVES => Has(Feature::Xsaves),
        C::SYSCALL => Has(Feature::Syscall),
        C::INVPCID => Has(Feature::Invpcid),
        C::SMAP => Has(Feature::Smap),
        C::PKU => Has(Feature::Pku),
        C::MONITOR => Has(Feature::Monitor),
        _ => Never,
    }
}
