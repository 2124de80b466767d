//! Instructions whose result or flags depend on MXCSR, and what its exceptions mean.

use iced_x86::Mnemonic;
use motu_x86::XsaveArea;

/// Offset of MXCSR in the legacy region (SDM vol. 1, table 10-2).
const MXCSR: usize = 24;
/// Bits that may be set; the guest's MXCSR_MASK (SDM vol. 1, 11.6.6).
pub(super) const MXCSR_MASK: u32 = 0xffff;
/// MXCSR at reset: all exceptions masked, round to nearest.
pub(super) const MXCSR_DEFAULT: u32 = 0x1f80;
/// IE, DE and ZE: found before the computation (SDM vol. 1, 4.9.2).
const PRE_COMPUTATION: u32 = 0b111;
/// All six exception flags.
const EXCEPTION_FLAGS: u32 = 0x3f;
pub(super) const UNDERFLOW_FLAG: u32 = 1 << 4;
pub(super) const UNDERFLOW_MASK: u32 = 1 << 11;
pub(super) const FLUSH_TO_ZERO: u32 = 1 << 15;

/// MXCSR of the guest.
pub fn mxcsr(fpu: &XsaveArea) -> u32 {
    let [.., a, b, c, d] = fpu.0.first_chunk::<{ MXCSR + 4 }>().copied().unwrap_or([0; MXCSR + 4]);
    u32::from_le_bytes([a, b, c, d])
}

/// Sets MXCSR of the guest. Reserved bits are dropped: the caller raised #GP(0) for them.
pub(super) fn set_mxcsr(fpu: &mut XsaveArea, value: u32) {
    if let Some(bytes) = fpu.0.get_mut(MXCSR..MXCSR + 4) {
        bytes.copy_from_slice(&(value & MXCSR_MASK).to_le_bytes());
    }
}

/// Records the flags of an instruction that raised an unmasked exception. An unmasked exception found
/// before the computation keeps those after it from being found (SDM vol. 1, 4.9.2 and 11.5.2).
pub(super) fn record_unmasked(fpu: &mut XsaveArea, raised: u32) {
    let old = mxcsr(fpu);
    let unmasked = raised & !(old >> 7) & EXCEPTION_FLAGS;
    let seen = if unmasked & PRE_COMPUTATION != 0 { raised & PRE_COMPUTATION } else { raised };
    set_mxcsr(fpu, old | (seen & EXCEPTION_FLAGS));
}

/// Whether one of the lowest `lanes` floats of vector register `register` is exactly a denormal of half precision.
pub(super) fn has_exact_tiny_half(fpu: &XsaveArea, register: usize, lanes: usize) -> bool {
    let start = register * 16;
    let part = |from: usize| fpu.0.get(from + start..from + start + 16).unwrap_or_default();
    let bytes = part(XsaveArea::XMM).iter().chain(part(XsaveArea::YMM_HIGH));
    let bytes: Vec<u8> = bytes.take(4 * lanes).copied().collect();
    bytes.as_chunks().0.iter().any(|lane| is_tiny_half(u32::from_le_bytes(*lane)))
}

/// Less than 2^-14, the least normal number, and a multiple of 2^-24, the least denormal one.
fn is_tiny_half(float: u32) -> bool {
    const LEAST: u32 = 127 - 24;
    const NORMAL: u32 = 127 - 14;
    let exponent = float >> 23 & 0xff;
    let below = || (1u32 << (126 - exponent)) - 1;
    (LEAST..NORMAL).contains(&exponent) && float & below() & 0x7f_ffff == 0
}

/// Instructions with IEEE 754 semantics: they read rounding and denormal control from MXCSR and raise its
/// flags. RCPPS and RSQRTPS do neither, nor do moves, shuffles and logic (SDM vol. 1, appendix C.3).
pub(super) fn depends_on_mxcsr(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Addps
            | M::Vaddps
            | M::Addpd
            | M::Vaddpd
            | M::Addss
            | M::Vaddss
            | M::Addsd
            | M::Vaddsd
            | M::Subps
            | M::Vsubps
            | M::Subpd
            | M::Vsubpd
            | M::Subss
            | M::Vsubss
            | M::Subsd
            | M::Vsubsd
            | M::Mulps
            | M::Vmulps
            | M::Mulpd
            | M::Vmulpd
            | M::Mulss
            | M::Vmulss
            | M::Mulsd
            | M::Vmulsd
            | M::Divps
            | M::Vdivps
            | M::Divpd
            | M::Vdivpd
            | M::Divss
            | M::Vdivss
            | M::Divsd
            | M::Vdivsd
            | M::Sqrtps
            | M::Vsqrtps
            | M::Sqrtpd
            | M::Vsqrtpd
            | M::Sqrtss
            | M::Vsqrtss
            | M::Sqrtsd
            | M::Vsqrtsd
            | M::Maxps
            | M::Vmaxps
            | M::Maxpd
            | M::Vmaxpd
            | M::Maxss
            | M::Vmaxss
            | M::Maxsd
            | M::Vmaxsd
            | M::Minps
            | M::Vminps
            | M::Minpd
            | M::Vminpd
            | M::Minss
            | M::Vminss
            | M::Minsd
            | M::Vminsd
            | M::Cmpps
            | M::Vcmpps
            | M::Cmppd
            | M::Vcmppd
            | M::Cmpss
            | M::Vcmpss
            | M::Cmpsd
            | M::Vcmpsd
            | M::Roundps
            | M::Vroundps
            | M::Roundpd
            | M::Vroundpd
            | M::Roundss
            | M::Vroundss
            | M::Roundsd
            | M::Vroundsd
            | M::Addsubps
            | M::Vaddsubps
            | M::Addsubpd
            | M::Vaddsubpd
            | M::Haddps
            | M::Vhaddps
            | M::Haddpd
            | M::Vhaddpd
            | M::Hsubps
            | M::Vhsubps
            | M::Hsubpd
            | M::Vhsubpd
            | M::Dpps
            | M::Vdpps
            | M::Dppd
            | M::Vdppd
            | M::Comiss
            | M::Vcomiss
            | M::Comisd
            | M::Vcomisd
            | M::Ucomiss
            | M::Vucomiss
            | M::Ucomisd
            | M::Vucomisd
            | M::Cvtdq2pd
            | M::Vcvtdq2pd
            | M::Cvtdq2ps
            | M::Vcvtdq2ps
            | M::Cvtpd2dq
            | M::Vcvtpd2dq
            | M::Cvtpd2pi
            | M::Cvtpd2ps
            | M::Vcvtpd2ps
            | M::Cvtpi2pd
            | M::Cvtpi2ps
            | M::Cvtps2dq
            | M::Vcvtps2dq
            | M::Cvtps2pd
            | M::Vcvtps2pd
            | M::Cvtps2pi
            | M::Cvtsd2si
            | M::Vcvtsd2si
            | M::Cvtsd2ss
            | M::Vcvtsd2ss
            | M::Cvtsi2sd
            | M::Vcvtsi2sd
            | M::Cvtsi2ss
            | M::Vcvtsi2ss
            | M::Cvtss2sd
            | M::Vcvtss2sd
            | M::Cvtss2si
            | M::Vcvtss2si
            | M::Cvttpd2dq
            | M::Vcvttpd2dq
            | M::Cvttpd2pi
            | M::Cvttps2dq
            | M::Vcvttps2dq
            | M::Cvttps2pi
            | M::Cvttsd2si
            | M::Vcvttsd2si
            | M::Cvttss2si
            | M::Vcvttss2si
            | M::Vfmadd132pd
            | M::Vfmadd132ps
            | M::Vfmadd132sd
            | M::Vfmadd132ss
            | M::Vfmadd213pd
            | M::Vfmadd213ps
            | M::Vfmadd213sd
            | M::Vfmadd213ss
            | M::Vfmadd231pd
            | M::Vfmadd231ps
            | M::Vfmadd231sd
            | M::Vfmadd231ss
            | M::Vfmaddsub132pd
            | M::Vfmaddsub132ps
            | M::Vfmaddsub213pd
            | M::Vfmaddsub213ps
            | M::Vfmaddsub231pd
            | M::Vfmaddsub231ps
            | M::Vfmsub132pd
            | M::Vfmsub132ps
            | M::Vfmsub132sd
            | M::Vfmsub132ss
            | M::Vfmsub213pd
            | M::Vfmsub213ps
            | M::Vfmsub213sd
            | M::Vfmsub213ss
            | M::Vfmsub231pd
            | M::Vfmsub231ps
            | M::Vfmsub231sd
            | M::Vfmsub231ss
            | M::Vfmsubadd132pd
            | M::Vfmsubadd132ps
            | M::Vfmsubadd213pd
            | M::Vfmsubadd213ps
            | M::Vfmsubadd231pd
            | M::Vfmsubadd231ps
            | M::Vfnmadd132pd
            | M::Vfnmadd132ps
            | M::Vfnmadd132sd
            | M::Vfnmadd132ss
            | M::Vfnmadd213pd
            | M::Vfnmadd213ps
            | M::Vfnmadd213sd
            | M::Vfnmadd213ss
            | M::Vfnmadd231pd
            | M::Vfnmadd231ps
            | M::Vfnmadd231sd
            | M::Vfnmadd231ss
            | M::Vfnmsub132pd
            | M::Vfnmsub132ps
            | M::Vfnmsub132sd
            | M::Vfnmsub132ss
            | M::Vfnmsub213pd
            | M::Vfnmsub213ps
            | M::Vfnmsub213sd
            | M::Vfnmsub213ss
            | M::Vfnmsub231pd
            | M::Vfnmsub231ps
            | M::Vfnmsub231sd
            | M::Vfnmsub231ss
            | M::Vcvtph2ps
            | M::Vcvtps2ph
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_halves_are_the_denormals() {
        let tiny = |value: f32| is_tiny_half(value.to_bits());
        let least = 2f32.powi(-24);
        for count in [1f32, 2.0, 3.0, 1023.0] {
            assert!(tiny(count * least) && tiny(-count * least), "{count}");
        }
        for no in [0.0, least / 2.0, least * 1.5, 2f32.powi(-14), 1.0, f32::INFINITY, f32::MIN_POSITIVE] {
            assert!(!tiny(no), "{no}");
        }
    }
}
