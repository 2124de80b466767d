//! What AMD's processors do in a way of their own. The contracts are of Intel's (ADR 2), so that this is not compared where a host
//! of AMD's is the judge. Seen on family 25 (Zen 3).

use super::Outcome;
use super::difference::{Difference, is_memory_fault};
use crate::cases::Case;
use crate::{End, Mode};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic};
use motu_x86::{Exception, Vector};
use std::sync::OnceLock;

/// MXCSR.MM, which is AMD's alone (APM vol. 1, 4.2.2).
const MISALIGNED_MASK: u32 = 1 << 17;

/// Whether the host's processor is one of AMD's.
pub(super) fn is_the_host() -> bool {
    static IS_AMD: OnceLock<bool> = OnceLock::new();
    *IS_AMD.get_or_init(|| {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    })
}

/// Whether such a processor may differ so in this case.
pub(super) fn is_its_way(case: &Case, differences: &[Difference], host: &Outcome<'_>, other: &Outcome<'_>) -> bool {
    use Mnemonic as M;
    // What is checked for alignment, and before which other fault: VEX-coded instructions are (APM vol. 2, 8.2.18).
    if is(host.end, Exception::AC) || is(other.end, Exception::AC) {
        return true;
    }
    let instruction = case.instruction();
    match instruction.mnemonic() {
        // Of code that is no instruction: whether it is too long, or undefined, is seen first. A near branch with a size prefix is
        // shorter.
        M::INVALID => host.end == End::Ok || is(host.end, Exception::UD) || is(other.end, Exception::UD),
        // Prefetches of a register, which is undefined (APM vol. 3, PREFETCHlevel).
        M::Reservednop | M::Nop => is(host.end, Exception::UD),
        // REX.B makes it an exchange, whatever prefix there is.
        M::Pause => true,
        // A store checks its memory before it looks for unmasked exceptions.
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp => {
            is_memory_fault(host.end) && other.end == End::Ok
        }
        M::Vcvtps2ph => is_memory_fault(host.end) && is(other.end, Exception::XM),
        // Flags are as of the last comparison where a later one faults.
        _ if instruction.is_string_instruction() => {
            is_memory_fault(host.end)
                && differences.iter().all(|difference| matches!(difference, Difference::Flags(..)))
        }
        // The pointers are kept where an exception is pending only, and MXCSR_MASK has one bit more.
        M::Fxsave | M::Fxsave64 | M::Fnsave | M::Fnstenv => {
            differences.iter().all(|difference| matches!(difference, Difference::Window(..)))
        }
        M::Ldmxcsr | M::Vldmxcsr | M::Fxrstor | M::Fxrstor64 => host.after.mxcsr() & MISALIGNED_MASK != 0,
        // It reads 32 bits whatever it needs.
        M::Movsxd => instruction.code() == Code::Movsxd_r16_rm16 && host.end != End::Ok,
        // VEX.W is not ignored outside of 64-bit mode.
        M::Vpextrd | M::Vpinsrd => case.before.mode() == Mode::Bits32 && is(host.end, Exception::UD),
        // Near branches have an operand size of 16 bits with a prefix that says so (APM vol. 3, 1.2.2), and other conditions or none
        // with a repeat prefix.
        _ if is_near_branch(instruction) => {
            let has = |wanted| prefixes(case.code()).any(|&prefix| prefix == wanted);
            (case.before.mode() == Mode::Bits64 && has(0x66)) || has(0xf2) || has(0xf3)
        }
        _ => case.before.mode() == Mode::Bits32 && wraps_round(host.end, other.end),
    }
}

fn is(end: End, wanted: Vector) -> bool {
    matches!(end, End::Exception { vector, .. } if vector == wanted)
}

/// What reaches from the last bytes of 4 GiB to the first is beyond a flat segment's limit, and not a page that is missing.
fn wraps_round(host: End, other: End) -> bool {
    const LAST_BYTES: u64 = 0xffff_ffe0;
    let beyond = is(host, Exception::GP) || is(host, Exception::SS);
    beyond && matches!(other, End::Exception { vector: Exception::PF, address: LAST_BYTES.., .. })
}

fn is_near_branch(instruction: &Instruction) -> bool {
    use FlowControl as F;
    matches!(
        instruction.flow_control(),
        F::UnconditionalBranch | F::ConditionalBranch | F::IndirectBranch | F::Call | F::IndirectCall | F::Return
    )
}

fn prefixes(code: &[u8]) -> impl Iterator<Item = &u8> {
    const LEGACY: [u8; 11] = [0x66, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67, 0xf0];
    let is_rex = |byte: &u8| byte & 0xf0 == 0x40;
    code.iter().take_while(move |byte| LEGACY.contains(byte) || is_rex(byte))
}
