//! What CPUID answers (SDM vol. 2, CPUID; leaf 0x40000010 as other hypervisors define it).

use super::{CRYSTAL_HZ, Contract, Feature, TSC_HZ};
use crate::flags::{cr4, misc_enable, xcr0};
use crate::{PKRU_OFFSET, PKRU_SIZE, XSAVE_SIZE};

/// The four registers that CPUID writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl CpuidResult {
    const fn new(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Self {
        Self { eax, ebx, ecx, edx }
    }
}

/// What CPUID answers depends on beside leaf, sub-leaf and contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidInputs {
    /// The initial APIC ID of the processor that asks.
    pub apic_id: u32,
    /// Logical processors of the machine, at least 1. Their APIC IDs are 0 to `cpus` - 1.
    pub cpus: u32,
    /// CR4 of the processor that asks: OSXSAVE and OSPKE show it.
    pub cr4: u64,
    /// IA32_MISC_ENABLE of the processor that asks: it can limit the leaves and hide NX.
    pub misc_enable: u64,
    /// XCR0 of the processor that asks.
    pub xcr0: u64,
    /// IA32_APIC_BASE bit 11 of the processor that asks.
    pub apic_enabled: bool,
}

/// The highest basic leaf: processor frequency.
const MAX_BASIC: u32 = 0x16;
const MAX_EXTENDED: u32 = 0x8000_0008;
const HYPERVISOR_FIRST: u32 = 0x4000_0000;
const MAX_HYPERVISOR: u32 = 0x4000_0010;

/// "GenuineIntel" in the order EBX, EDX, ECX.
const VENDOR: [u32; 3] = [u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ineI"), u32::from_le_bytes(*b"ntel")];
/// "motumotumotu".
const HYPERVISOR: u32 = u32::from_le_bytes(*b"motu");

const HTT: u32 = 1 << 28;
const OSXSAVE: u32 = 1 << 27;
/// Leaf 7 ECX: CR4.PKE is set.
const OSPKE: u32 = 1 << 4;
/// Leaf 0x80000001 EDX.
const NX: u32 = 1 << 20;
const APIC: u32 = 1 << 9;
/// Leaf 6 EAX: the APIC timer never stops (ARAT).
const APIC_TIMER_ALWAYS_RUNS: u32 = 1 << 2;
/// Legacy region and header of an XSAVE area (SDM vol. 1, 13.4).
const XSAVE_SSE_SIZE: u32 = 576;

/// A leaf, or a sub-leaf of one that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub leaf: u32,
    pub subleaf: u32,
    /// What it tells, as the SDM calls it (vol. 2, table 3-8).
    pub tells: &'static str,
}

const fn leaf(leaf: u32, tells: &'static str) -> Leaf {
    Leaf { leaf, subleaf: 0, tells }
}

const fn sub(leaf: u32, subleaf: u32, tells: &'static str) -> Leaf {
    Leaf { leaf, subleaf, tells }
}

/// Every leaf up to the highest of each range. What is not here reads as zero.
pub const LEAVES: &[Leaf] = &[
    leaf(0, "highest basic leaf (2 while IA32_MISC_ENABLE limits it), vendor"),
    leaf(1, "signature; APIC ID, CLFLUSH line; features (OSXSAVE follows CR4, APIC follows IA32_APIC_BASE)"),
    leaf(2, "cache descriptors: see leaf 4"),
    leaf(3, "serial number: none"),
    sub(4, 0, "caches: first level, data"),
    sub(4, 1, "caches: first level, instructions"),
    sub(4, 2, "caches: second level"),
    sub(4, 3, "caches: third level"),
    leaf(5, "MONITOR and MWAIT: none"),
    leaf(6, "power: the APIC timer never stops (ARAT)"),
    sub(7, 0, "structured features (OSPKE follows CR4)"),
    sub(7, 1, "structured features: none"),
    sub(7, 2, "structured features: BHI_CTRL"),
    leaf(8, "reserved"),
    leaf(9, "direct cache access: none"),
    leaf(0xa, "performance monitoring: version 0, no counters"),
    sub(0xb, 0, "topology: threads of a core"),
    sub(0xb, 1, "topology: cores of the package"),
    sub(0xb, 2, "topology: end"),
    leaf(0xc, "reserved"),
    sub(0xd, 0, "XSAVE: components, size for XCR0, size for all"),
    sub(0xd, 1, "XSAVE: XSAVEOPT, XSAVEC, XSAVES; compacted size for XCR0"),
    sub(0xd, 2, "XSAVE: AVX's size and offset"),
    sub(0xd, 9, "XSAVE: PKRU's size and offset"),
    leaf(0xe, "reserved"),
    leaf(0xf, "resource monitoring: none"),
    leaf(0x10, "resource allocation: none"),
    leaf(0x11, "reserved"),
    leaf(0x12, "SGX: none"),
    leaf(0x13, "reserved"),
    leaf(0x14, "processor trace: none"),
    leaf(0x15, "TSC and crystal: ratio, Hz"),
    leaf(0x16, "frequencies: base, maximum, bus in MHz"),
    leaf(HYPERVISOR_FIRST, "highest hypervisor leaf, name"),
    leaf(MAX_HYPERVISOR, "TSC and APIC timer in kHz"),
    leaf(0x8000_0000, "highest extended leaf"),
    leaf(0x8000_0001, "extended features (NX hides while IA32_MISC_ENABLE disables it)"),
    leaf(0x8000_0002, "brand string"),
    leaf(0x8000_0003, "brand string"),
    leaf(0x8000_0004, "brand string"),
    leaf(0x8000_0005, "reserved"),
    leaf(0x8000_0006, "second-level cache"),
    leaf(0x8000_0007, "invariant TSC"),
    leaf(0x8000_0008, "widths of physical and linear addresses"),
];

/// A cache as leaf 4 tells it. `kind`: 1 data, 2 instruction, 3 unified.
struct Cache {
    kind: u32,
    level: u32,
    ways: u32,
    sets: u32,
    shared_by_all: bool,
}

/// The first two levels of Intel's cores from Nehalem to Broadwell, and a third of 32 MiB.
const CACHES: [Cache; 4] = [
    Cache { kind: 1, level: 1, ways: 8, sets: 64, shared_by_all: false },
    Cache { kind: 2, level: 1, ways: 8, sets: 64, shared_by_all: false },
    Cache { kind: 3, level: 2, ways: 8, sets: 512, shared_by_all: false },
    Cache { kind: 3, level: 3, ways: 16, sets: 32768, shared_by_all: true },
];
const LINE: u32 = 64;

/// Bits of an APIC ID that number the cores of the one package.
fn core_bits(cpus: u32) -> u32 {
    cpus.max(1).checked_next_power_of_two().map_or(31, u32::trailing_zeros)
}

pub(super) fn cpuid(contract: &Contract, leaf: u32, subleaf: u32, at: &CpuidInputs) -> CpuidResult {
    match leaf {
        HYPERVISOR_FIRST..=0x4fff_ffff => hypervisor(leaf),
        0x8000_0000..=MAX_EXTENDED => extended(contract, leaf, at),
        _ if leaf <= max_basic(at) => basic(contract, leaf, subleaf, at),
        // SDM vol. 2, CPUID: past either range, the highest basic leaf answers.
        _ => basic(contract, max_basic(at), subleaf, at),
    }
}

fn basic(contract: &Contract, leaf: u32, subleaf: u32, at: &CpuidInputs) -> CpuidResult {
    match leaf {
        0 => CpuidResult::new(max_basic(at), VENDOR[0], VENDOR[2], VENDOR[1]),
        1 => version(contract, at),
        // Descriptor 0xff: see leaf 4. 0xf0: prefetches of 64 bytes.
        2 => CpuidResult::new(0x0000_ff01, 0x0000_00f0, 0, 0),
        4 => cache(subleaf, at),
        6 => CpuidResult::new(APIC_TIMER_ALWAYS_RUNS, 0, 0, 0),
        7 => structured_features(contract, subleaf, at),
        0xb => topology(subleaf, at),
        0xd => xsave(contract, subleaf, at),
        0x15 => CpuidResult::new(1, (TSC_HZ / CRYSTAL_HZ) as u32, CRYSTAL_HZ as u32, 0),
        // Base and maximum frequency, and the reference bus, all in MHz.
        0x16 => CpuidResult::new((TSC_HZ / 1_000_000) as u32, (TSC_HZ / 1_000_000) as u32, 100, 0),
        _ => CpuidResult::default(),
    }
}

/// The highest basic leaf (SDM vol. 4, table 2-2, IA32_MISC_ENABLE bit 22).
fn max_basic(at: &CpuidInputs) -> u32 {
    if at.misc_enable & misc_enable::LIMIT_CPUID != 0 { 2 } else { MAX_BASIC }
}

fn structured_features(contract: &Contract, subleaf: u32, at: &CpuidInputs) -> CpuidResult {
    let mut result = contract.features.flags(7, subleaf);
    if subleaf == 0 {
        result.eax = contract.features.last_subleaf(7);
        if at.cr4 & cr4::PKE != 0 {
            result.ecx |= OSPKE;
        }
    }
    result
}

fn version(contract: &Contract, at: &CpuidInputs) -> CpuidResult {
    let mut result = contract.features.flags(1, 0);
    let ids = (1u32 << core_bits(at.cpus).min(7)).min(255);
    result.eax = contract.signature;
    result.ebx = (at.apic_id & 0xff) << 24 | ids << 16 | (LINE / 8) << 8;
    if at.cpus > 1 {
        result.edx |= HTT;
    }
    if at.cr4 & cr4::OSXSAVE != 0 {
        result.ecx |= OSXSAVE;
    }
    if !at.apic_enabled {
        result.edx &= !APIC;
    }
    result
}

fn cache(subleaf: u32, at: &CpuidInputs) -> CpuidResult {
    let Some(cache) = CACHES.get(subleaf as usize) else { return CpuidResult::default() };
    let ids = 1u32 << core_bits(at.cpus).min(12);
    let sharing = if cache.shared_by_all { ids.min(4096) - 1 } else { 0 };
    // Bit 8: self-initialising.
    let eax = cache.kind | cache.level << 5 | 1 << 8 | sharing << 14 | (ids.min(64) - 1) << 26;
    CpuidResult::new(eax, (cache.ways - 1) << 22 | (LINE - 1), cache.sets - 1, 0)
}

/// One package, one thread a core.
fn topology(subleaf: u32, at: &CpuidInputs) -> CpuidResult {
    let (shift, processors, kind) = match subleaf {
        0 => (0, 1, 1),
        1 => (core_bits(at.cpus), at.cpus & 0xffff, 2),
        _ => (0, 0, 0),
    };
    CpuidResult::new(shift, processors, (subleaf & 0xff) | kind << 8, at.apic_id)
}

fn xsave(contract: &Contract, subleaf: u32, at: &CpuidInputs) -> CpuidResult {
    if !contract.has(Feature::Xsave) {
        return CpuidResult::default();
    }
    let supported = contract.xcr0_mask();
    let has = |component: u64| supported & component != 0;
    match subleaf {
        0 => CpuidResult::new(supported as u32, area(at.xcr0), area(supported), (supported >> 32) as u32),
        1 => {
            let mut result = contract.features.flags(0xd, 1);
            if contract.has(Feature::Xsavec) {
                result.ebx = compacted_area(at.xcr0);
            }
            result
        }
        2 if has(xcr0::AVX) => CpuidResult::new(XSAVE_SIZE as u32 - XSAVE_SSE_SIZE, XSAVE_SSE_SIZE, 0, 0),
        9 if has(xcr0::PKRU) => CpuidResult::new(PKRU_SIZE as u32, PKRU_OFFSET as u32, 0, 0),
        _ => CpuidResult::default(),
    }
}

/// Bytes of an XSAVE area of the standard format with these components.
fn area(components: u64) -> u32 {
    if components & xcr0::PKRU != 0 {
        (PKRU_OFFSET + PKRU_SIZE) as u32
    } else if components & xcr0::AVX != 0 {
        XSAVE_SIZE as u32
    } else {
        XSAVE_SSE_SIZE
    }
}

/// Bytes of one of the compacted format: no component asks for alignment (SDM vol. 1, 13.4.3).
fn compacted_area(components: u64) -> u32 {
    let avx = if components & xcr0::AVX != 0 { XSAVE_SIZE as u32 - XSAVE_SSE_SIZE } else { 0 };
    let pkru = if components & xcr0::PKRU != 0 { PKRU_SIZE as u32 } else { 0 };
    XSAVE_SSE_SIZE + avx + pkru
}

fn hypervisor(leaf: u32) -> CpuidResult {
    match leaf {
        HYPERVISOR_FIRST => CpuidResult::new(MAX_HYPERVISOR, HYPERVISOR, HYPERVISOR, HYPERVISOR),
        MAX_HYPERVISOR => CpuidResult::new((TSC_HZ / 1000) as u32, (CRYSTAL_HZ / 1000) as u32, 0, 0),
        _ => CpuidResult::default(),
    }
}

fn extended(contract: &Contract, leaf: u32, at: &CpuidInputs) -> CpuidResult {
    match leaf {
        0x8000_0000 => CpuidResult::new(MAX_EXTENDED, 0, 0, 0),
        0x8000_0001 => {
            let mut result = contract.features.flags(leaf, 0);
            if at.misc_enable & misc_enable::XD_DISABLE != 0 {
                result.edx &= !NX;
            }
            result
        }
        0x8000_0002..=0x8000_0004 => brand(contract, leaf - 0x8000_0002),
        // Second-level cache: KiB, 8-way (encoded 6), bytes a line.
        0x8000_0006 => CpuidResult::new(0, 0, 256 << 16 | 6 << 12 | LINE, 0),
        0x8000_0007 => contract.features.flags(leaf, 0),
        0x8000_0008 => {
            CpuidResult::new(contract.physical_address_bits() | contract.linear_address_bits() << 8, 0, 0, 0)
        }
        _ => CpuidResult::default(),
    }
}

/// Sixteen of the 48 bytes of the brand string, which ends in zeros.
fn brand(contract: &Contract, part: u32) -> CpuidResult {
    let word = |index: u32| {
        let from = (part * 16 + index * 4) as usize;
        let mut bytes = [0; 4];
        for (byte, source) in bytes.iter_mut().zip(contract.brand.as_bytes().iter().skip(from)) {
            *byte = *source;
        }
        u32::from_le_bytes(bytes)
    };
    CpuidResult::new(word(0), word(1), word(2), word(3))
}
