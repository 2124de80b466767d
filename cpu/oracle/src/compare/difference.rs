//! Where two results of one case differ.

use super::Outcome;
use super::undefined::{self, Fault, Undefined};
use crate::cases::Case;
use crate::{End, Mode, UserState};
use motu_x86::exception::pf;
use motu_x86::flags::rflags;
use motu_x86::{Exception, XsaveArea};
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

/// One part of the result that is not the same: the host's and the other CPU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    End(End, End),
    Rip(u64, u64),
    /// With what is undefined masked out.
    Flags(u64, u64),
    /// Register number as encoded.
    Gpr(usize, u64, u64),
    /// ES, CS, SS, DS, FS, GS.
    Selectors([u16; 6], [u16; 6]),
    Mxcsr(u32, u32),
    /// Control, status and tag word.
    X87([u16; 3], [u16; 3]),
    /// FOP, FIP and FDP.
    X87Pointers([u64; 3], [u64; 3]),
    St(usize, [u8; 10], [u8; 10]),
    Ymm(usize, [u8; 32], [u8; 32]),
    /// Offset of the first byte that differs.
    Window(usize, Vec<u8>, Vec<u8>),
}

const GPR_NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// From here on (TASK_SIZE_MAX) Linux reports a protection violation whatever the processor said, so that
/// user mode learns nothing about the pages of the kernel.
const KERNEL: u64 = 0x7fff_ffff_f000;

/// RF is set in the flags of a fault and says nothing about the instruction.
const COMPARED_FLAGS: u64 = rflags::DEFINED & !rflags::RF;

/// All differences; none where the CPUs agree.
pub(super) fn find(case: &Case, host: &Outcome<'_>, other: &Outcome<'_>) -> Vec<Difference> {
    let mut undefined = undefined::of(case);
    let mut found = Vec::new();
    if undefined.fault == Fault::Whether && is_memory_fault(host.end) {
        return found;
    }
    let memory_fault = is_memory_fault(host.end) || is_memory_fault(other.end);
    if undefined.fault == Fault::Memory && memory_fault && host.end != other.end {
        return found;
    }
    let out_of_range = matches!(host.end, End::Exception { vector: Exception::BR, .. });
    if undefined.fault == Fault::UnlessOutOfRange && out_of_range && is_memory_fault(other.end) {
        return found;
    }
    let faults = is_memory_fault(host.end) && is_memory_fault(other.end);
    if faults {
        undefined.window = undefined.window.or(undefined.window_on_fault.take());
    } else {
        undefined.vectors_on_fault = [None; 2];
    }
    let (a, b) = (host.after, other.after);
    let ends = (normalized(host.end), normalized(other.end));
    if ends.0 != ends.1 && !(faults && undefined.fault == Fault::WhichPiece) {
        found.push(Difference::End(ends.0, ends.1));
    }
    if a.rip != b.rip {
        found.push(Difference::Rip(a.rip, b.rip));
    }
    let flags = COMPARED_FLAGS & !undefined.flags;
    if (a.rflags ^ b.rflags) & flags != 0 {
        found.push(Difference::Flags(a.rflags & flags, b.rflags & flags));
    }
    if !same_selectors(a, b) {
        found.push(Difference::Selectors(a.selectors, b.selectors));
    }
    for (index, (a, b)) in a.gpr.iter().zip(&b.gpr).enumerate() {
        let open = faults && undefined.gpr_on_fault && index != 4;
        if !open && (a ^ b) & visible(case.before.mode(), index) & !undefined.gpr[index] != 0 {
            found.push(Difference::Gpr(index, *a, *b));
        }
    }
    let open = if faults && undefined.mxcsr_on_fault {
        u32::MAX
    } else if undefined.flags_after_exception && is_simd_exception(host.end) && is_simd_exception(other.end) {
        MXCSR_FLAGS
    } else if both_raise_xm(host.end, other.end, a.mxcsr()) {
        MXCSR_PE
    } else {
        0
    };
    if (a.mxcsr() ^ b.mxcsr()) & !open != 0 {
        found.push(Difference::Mxcsr(a.mxcsr(), b.mxcsr()));
    }
    if !(faults && undefined.x87_on_fault) {
        floating_point(a, b, &mut found);
    }
    vectors(&undefined, a, b, &mut found);
    window(&undefined, host.window, other.window, &mut found);
    found
}

/// A signal on the host takes the RPL of null selectors away, as every IRET to user mode does.
fn same_selectors(host: &UserState, other: &UserState) -> bool {
    host.selectors.iter().zip(&other.selectors).all(|(host, other)| host == other || *host == 0 && *other < 4)
}

/// The bits of general register `index` that a program sees.
fn visible(mode: Mode, index: usize) -> u64 {
    match (mode, index) {
        (Mode::Bits64, _) => u64::MAX,
        (Mode::Bits32, 0..8) => 0xffff_ffff,
        (Mode::Bits32, _) => 0,
    }
}

/// Whether all but the windows is the same, which spares finding out what may differ.
pub(super) fn are_equal(host: &Outcome<'_>, other: &Outcome<'_>) -> bool {
    let (a, b) = (host.after, other.after);
    host.end == other.end
        && (a.rflags ^ b.rflags) & COMPARED_FLAGS == 0
        && a.rip == b.rip
        && a.gpr == b.gpr
        && same_selectors(a, b)
        && a.mxcsr() == b.mxcsr()
        && a.xsave.0[..5] == b.xsave.0[..5]
        && pointers(a) == pointers(b)
        && (0..8).all(|index| a.st(index) == b.st(index))
        && a.xsave.0[XsaveArea::XMM..416] == b.xsave.0[XsaveArea::XMM..416]
        && a.xsave.0[XsaveArea::YMM_HIGH..] == b.xsave.0[XsaveArea::YMM_HIGH..]
}

fn floating_point(a: &UserState, b: &UserState, found: &mut Vec<Difference>) {
    let words = |state: &UserState| {
        let image = &state.xsave.0;
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        [word(0), word(2), u16::from(image[4])]
    };
    if words(a) != words(b) {
        found.push(Difference::X87(words(a), words(b)));
    }
    if pointers(a) != pointers(b) && keeps_pointers_as_we_do() {
        found.push(Difference::X87Pointers(a.x87_pointers(), b.x87_pointers()));
    }
    for index in 0..8 {
        if a.st(index) != b.st(index) {
            found.push(Difference::St(index, a.st(index), b.st(index)));
        }
    }
}

/// FOP, FIP and FDP as far as they are compared.
fn pointers(state: &UserState) -> [u64; 3] {
    /// ModRM's mod and rm, which the software CPU takes from the shortest encoding of the instruction: a known
    /// deviation.
    const FOP_MODRM: u64 = 0xc7;
    /// Bits of a linear address: hosts with five-level paging keep more of FIP than the contracts have.
    const UNUSED: u32 = 64 - 48;
    let [opcode, instruction, data] = state.x87_pointers();
    [opcode & !FOP_MODRM, instruction << UNUSED, data]
}

/// Whether the host records FDP with unmasked exceptions only, and no selectors (CPUID.7.EBX, bits 6 and 13), as the
/// contracts say. Others record more, or lose the pointers where no exception is pending.
fn keeps_pointers_as_we_do() -> bool {
    const DEPRECATED: u32 = 1 << 6 | 1 << 13;
    static KEEPS: OnceLock<bool> = OnceLock::new();
    // Leaf 7 is there where AVX is.
    *KEEPS.get_or_init(|| std::arch::x86_64::__cpuid_count(7, 0).ebx & DEPRECATED == DEPRECATED)
}

fn vectors(undefined: &Undefined, a: &UserState, b: &UserState, found: &mut Vec<Difference>) {
    let same = |range: Range<usize>| a.xsave.0[range.clone()] == b.xsave.0[range];
    if same(XsaveArea::XMM..416) && same(XsaveArea::YMM_HIGH..motu_x86::XSAVE_SIZE) {
        return;
    }
    for index in 0..16 {
        if a.ymm(index) != b.ymm(index) && !undefined.vectors_on_fault.contains(&Some(index)) {
            found.push(Difference::Ymm(index, a.ymm(index), b.ymm(index)));
        }
    }
}

fn window(undefined: &Undefined, a: &[u8], b: &[u8], found: &mut Vec<Difference>) {
    if a == b {
        return;
    }
    let ignored = undefined.window.clone().unwrap_or(0..0);
    let first = a.iter().zip(b).enumerate().position(|(at, (a, b))| a != b && !ignored.contains(&at));
    if let Some(first) = first {
        let end = (first + 32).min(a.len());
        found.push(Difference::Window(first, a[first..end].to_vec(), b[first..end].to_vec()));
    }
}

const MXCSR_PE: u32 = 1 << 5;
/// All exception flags of MXCSR.
const MXCSR_FLAGS: u32 = 0x3f;

/// Whether overflow or underflow raised #XM. The precision exception that mostly comes with them is
/// then not reported by every processor.
fn both_raise_xm(a: End, b: End, mxcsr: u32) -> bool {
    const OVERFLOW_UNDERFLOW: u32 = 0x18;
    is_simd_exception(a) && is_simd_exception(b) && mxcsr & !(mxcsr >> 7) & OVERFLOW_UNDERFLOW != 0
}

fn is_simd_exception(end: End) -> bool {
    matches!(end, End::Exception { vector: Exception::XM, .. })
}

pub(super) fn is_memory_fault(end: End) -> bool {
    use Exception as E;
    matches!(end, End::Exception { vector: E::SS | E::GP | E::PF | E::AC, .. })
}

fn normalized(end: End) -> End {
    match end {
        End::Exception { vector: Exception::PF, error_code, address } if address >= KERNEL => {
            End::Exception { vector: Exception::PF, error_code: error_code | pf::PRESENT, address }
        }
        end => end,
    }
}

impl Difference {
    /// What differs, without the values: mismatches of one cause have the same kinds.
    pub(super) fn kind(&self) -> String {
        let ends = |end: &End| match end {
            End::Ok => "retired".to_owned(),
            End::Exception { vector, error_code, .. } => format!("{vector}({error_code:#x})"),
        };
        match self {
            Self::End(a, b) if ends(a) == ends(b) => format!("address of {}", ends(a)),
            Self::End(a, b) => format!("{} for {}", ends(b), ends(a)),
            Self::Rip(..) => "rip".into(),
            Self::Flags(..) => "flags".into(),
            Self::Gpr(..) => "general register".into(),
            Self::Selectors(..) => "segment register".into(),
            Self::Mxcsr(..) => "mxcsr".into(),
            Self::X87(..) => "x87 words".into(),
            Self::X87Pointers(..) => "x87 pointers".into(),
            Self::St(..) => "x87 register".into(),
            Self::Ymm(..) => "vector register".into(),
            Self::Window(..) => "memory".into(),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End(a, b) => write!(f, "end: host {a}, other {b}"),
            Self::Rip(a, b) => write!(f, "rip: host {a:#x}, other {b:#x}"),
            Self::Flags(a, b) => write!(f, "flags: host {a:#x}, other {b:#x}, differing {:#x}", a ^ b),
            Self::Gpr(index, a, b) => write!(f, "{}: host {a:#x}, other {b:#x}", GPR_NAMES[index & 15]),
            Self::Selectors(a, b) => write!(f, "es, cs, ss, ds, fs, gs: host {a:04x?}, other {b:04x?}"),
            Self::Mxcsr(a, b) => write!(f, "mxcsr: host {a:#x}, other {b:#x}"),
            Self::X87(a, b) => write!(f, "control, status, tags: host {a:04x?}, other {b:04x?}"),
            Self::X87Pointers(a, b) => write!(f, "fop, fip, fdp: host {a:x?}, other {b:x?}"),
            Self::St(index, a, b) => write!(f, "st{index}: host {}, other {}", number(a), number(b)),
            Self::Ymm(index, a, b) => write!(f, "ymm{index}: host {}\n      other {}", number(a), number(b)),
            Self::Window(at, a, b) => {
                write!(f, "window + {at:#x}, lowest byte first: host {}, other {}", bytes(a), bytes(b))
            }
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("retired"),
            Self::Exception { vector, error_code, address } => {
                write!(f, "exception {vector}, error code {error_code:#x}, address {address:#x}")
            }
        }
    }
}

/// A little-endian number in hexadecimal, 32 bits at a time.
pub(super) fn number(value: &[u8]) -> String {
    value.chunks(4).rev().map(|word| word.iter().rev().map(|b| format!("{b:02x}")).collect::<String>() + " ").collect()
}

fn bytes(value: &[u8]) -> String {
    value.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// The registers of a state that are not zero, for a person.
pub(super) fn describe(state: &crate::UserState) -> String {
    let mut text = format!("  {:?}, selectors {:04x?}\n", state.mode(), state.selectors);
    text += &format!("  rip {:#x} rflags {:#x} mxcsr {:#x}", state.rip, state.rflags, state.mxcsr());
    let image = &state.xsave.0;
    text += &format!(" fcw {:02x}{:02x} fsw {:02x}{:02x} ftw {:02x}", image[1], image[0], image[3], image[2], image[4]);
    for (index, value) in state.gpr.iter().enumerate() {
        let separator = if index % 4 == 0 { "\n  " } else { " " };
        text += &format!("{separator}{:>3} {value:016x}", GPR_NAMES[index]);
    }
    text
}
