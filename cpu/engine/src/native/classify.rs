//! Which instructions the host may execute for the guest, and what each needs around it.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

/// Why an instruction is not run by the host's own instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNative {
    /// It is not a computation on registers and one memory operand, or it belongs to no feature that
    /// a contract can contain: the interpreter knows it or it is #UD.
    #[error("the instruction is not one that the host executes for the guest")]
    Interpreted,
    /// Masked moves and gathers: memory is accessed element by element, see [`super::run_elements`].
    #[error("the instruction accesses memory element by element")]
    PerElement,
    /// FNSTENV, FNSAVE, FXSAVE, XSAVE and their counterparts, see [`super::fnstenv_image`] and [`super::xsave_image`].
    #[error("the instruction moves an FPU state image")]
    StateImage,
    /// The host lacks the feature, so that the stub would fault in the host.
    #[error("the host CPU lacks {0:?}")]
    HostLacks(CpuidFeature),
}

/// The part of the CPU an instruction uses: decides which of #UD and #NM the interpreter checks first
/// (SDM vol. 2, 2.4 and 2.5; vol. 3, 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// General registers only (BMI, ADX, POPCNT, CRC32, MOVBE, MOVNTI): no check beyond CPUID.
    Integer,
    /// #NM if CR0.TS or CR0.EM.
    X87,
    /// `wait`: #NM only if both CR0.MP and CR0.TS.
    Wait,
    /// #UD if CR0.EM, #NM if CR0.TS.
    Mmx,
    /// #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
    Sse,
    /// #UD if not CR4.OSXSAVE or XCR0 lacks SSE or AVX, #NM if CR0.TS.
    Avx,
}

/// The unit an instruction belongs to; its operands decide, not its CPUID bit (MOVNTI is SSE2 and
/// uses no SSE state).
pub fn unit(instruction: &Instruction) -> Unit {
    let code = instruction.code();
    if code == Code::Wait {
        return Unit::Wait;
    }
    let features = code.cpuid_features();
    if features.iter().any(|f| matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387)) {
        return Unit::X87;
    }
    if features.contains(&CpuidFeature::MMX) || operand_kinds(code).any(is_mmx_kind) {
        return Unit::Mmx;
    }
    let vector = |i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_vector_register();
    let mnemonic = instruction.mnemonic();
    let vex = code.encoding() == EncodingKind::VEX;
    if (0..instruction.op_count()).any(vector)
        || matches!(mnemonic, Mnemonic::Vzeroupper | Mnemonic::Vzeroall | Mnemonic::Vldmxcsr | Mnemonic::Vstmxcsr)
        || matches!(mnemonic, Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr)
        || super::simd::depends_on_mxcsr(mnemonic)
    {
        return if vex { Unit::Avx } else { Unit::Sse };
    }
    Unit::Integer
}

fn operand_kinds(code: Code) -> impl Iterator<Item = OpCodeOperandKind> {
    let info = code.op_code();
    (0..info.op_count()).map(|i| info.op_kind(i))
}

fn is_mmx_kind(kind: OpCodeOperandKind) -> bool {
    matches!(kind, OpCodeOperandKind::mm_reg | OpCodeOperandKind::mm_rm | OpCodeOperandKind::mm_or_mem)
}

/// Says whether the host may execute `instruction`. An allow list: whatever is not named here is the
/// interpreter's.
pub(super) fn admit(instruction: &Instruction) -> Result<(), NotNative> {
    let code = instruction.code();
    if !matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return Err(NotNative::Interpreted);
    }
    if is_per_element(instruction) {
        return Err(NotNative::PerElement);
    }
    if is_state_image(instruction.mnemonic()) {
        return Err(NotNative::StateImage);
    }
    if code == Code::Wait {
        return Ok(());
    }
    let features = code.cpuid_features();
    // CMOV alone is the integer CMOVcc; it is here for FCMOVcc and FCOMI.
    if features.iter().all(|&f| f == CpuidFeature::CMOV) {
        return Err(NotNative::Interpreted);
    }
    for &feature in features {
        match host_has(feature) {
            None => return Err(NotNative::Interpreted),
            Some(false) => return Err(NotNative::HostLacks(feature)),
            Some(true) => {}
        }
    }
    let touches_rip_or_flow = instruction.is_stack_instruction()
        || instruction.is_string_instruction()
        || instruction.is_privileged()
        || instruction.flow_control() != iced_x86::FlowControl::Next;
    if touches_rip_or_flow || is_encoder_only(code) {
        return Err(NotNative::Interpreted);
    }
    Ok(())
}

/// `None`: no feature whose instructions are run natively.
fn host_has(feature: CpuidFeature) -> Option<bool> {
    Some(match feature {
        CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX => true,
        CpuidFeature::SSE | CpuidFeature::SSE2 | CpuidFeature::CMOV => true,
        CpuidFeature::SSE3 => is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::POPCNT => is_x86_feature_detected!("popcnt"),
        CpuidFeature::LZCNT => is_x86_feature_detected!("lzcnt"),
        CpuidFeature::BMI1 => is_x86_feature_detected!("bmi1"),
        CpuidFeature::BMI2 => is_x86_feature_detected!("bmi2"),
        CpuidFeature::ADX => is_x86_feature_detected!("adx"),
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::SHA => is_x86_feature_detected!("sha"),
        CpuidFeature::AVX => is_x86_feature_detected!("avx"),
        CpuidFeature::AVX2 => is_x86_feature_detected!("avx2"),
        CpuidFeature::FMA => is_x86_feature_detected!("fma"),
        CpuidFeature::F16C => is_x86_feature_detected!("f16c"),
        CpuidFeature::MOVBE => is_x86_feature_detected!("movbe"),
        _ => return None,
    })
}

/// Forms that exist for assemblers only: the decoder gives `wait` and the `fn` form separately.
fn is_encoder_only(code: Code) -> bool {
    matches!(
        code,
        Code::Fstenv_m14byte
            | Code::Fstenv_m28byte
            | Code::Fstcw_m2byte
            | Code::Feni
            | Code::Fdisi
            | Code::Fclex
            | Code::Finit
            | Code::Fsetpm
            | Code::Fsave_m94byte
            | Code::Fsave_m108byte
            | Code::Fstsw_m2byte
            | Code::Fstsw_AX
    )
}

/// Masked moves and gathers.
pub(super) fn is_per_element(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => true,
        Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq => true,
        _ => instruction.is_vsib(),
    }
}

fn is_state_image(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Fnstenv
            | Mnemonic::Fldenv
            | Mnemonic::Fnsave
            | Mnemonic::Frstor
            | Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
    )
}

/// x87 instructions that do not check for a pending exception (SDM vol. 1, 8.3.12).
pub(super) fn is_non_waiting(instruction: &Instruction) -> bool {
    // With a memory operand these touch no MMX register (SDM vol. 2, CVTPI2PS).
    let converts = matches!(instruction.mnemonic(), Mnemonic::Cvtpi2ps | Mnemonic::Cvtpi2pd);
    is_non_waiting_control(instruction.mnemonic()) || (converts && instruction.op1_kind() == OpKind::Memory)
}

fn is_non_waiting_control(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Fninit
            | Mnemonic::Fnclex
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fneni
            | Mnemonic::Fndisi
            | Mnemonic::Fnsetpm
    )
}

/// x87 control instructions leave the instruction and data pointers alone (SDM vol. 1, 8.1.8).
pub(super) fn is_x87_control(mnemonic: Mnemonic) -> bool {
    is_non_waiting_control(mnemonic)
        || matches!(mnemonic, Mnemonic::Fldcw | Mnemonic::Fldenv | Mnemonic::Frstor | Mnemonic::Wait)
}

/// Bytes to which the memory operand must be aligned, else #GP(0) (SDM vol. 2, 2.4 and 2.5: exception
/// classes 1, 2 and 4 without VEX; class 1 with VEX).
pub fn required_alignment(instruction: &Instruction, size: u16) -> u16 {
    use Mnemonic as M;
    if instruction.code().encoding() == EncodingKind::VEX {
        return match instruction.mnemonic() {
            M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => size,
            _ => 1,
        };
    }
    let unaligned = matches!(
        instruction.mnemonic(),
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Pcmpestri
            | M::Pcmpestri64
            | M::Pcmpestrm
            | M::Pcmpestrm64
            | M::Pcmpistri
            | M::Pcmpistrm
    );
    if size == 16 && !unaligned { 16 } else { 1 }
}

/// The register an operand names, if it is a general register.
pub(super) fn general_operand(instruction: &Instruction, operand: u32) -> Option<Register> {
    let register = instruction.op_register(operand);
    (instruction.op_kind(operand) == OpKind::Register && register.is_gpr()).then_some(register)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn a_conversion_from_memory_into_a_general_register_uses_mxcsr() {
        let unit_of = |code: &[u8]| unit(&Decoder::new(64, code, DecoderOptions::NONE).decode());
        // CVTSD2SI EAX, [RAX] and its VEX form; MOVNTI [RAX], EAX.
        assert_eq!(unit_of(&[0xf2, 0x0f, 0x2d, 0x00]), Unit::Sse);
        assert_eq!(unit_of(&[0xc5, 0xfb, 0x2d, 0x00]), Unit::Avx);
        assert_eq!(unit_of(&[0x0f, 0xc3, 0x00]), Unit::Integer);
    }
}
