//! Bits of RFLAGS, CR0, CR4, EFER, XCR0, IA32_DEBUGCTL and IA32_MISC_ENABLE (Intel SDM vol. 3, 2.3, 2.5, 2.2.1,
//! 2.6, 17.4.1; vol. 4, 2.1).

/// RFLAGS bits (SDM vol. 1, 3.4.3).
pub mod rflags {
    pub const CF: u64 = 1 << 0;
    /// Always one.
    pub const FIXED_1: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six flags that arithmetic writes.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// Every bit that can be one.
    pub const DEFINED: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}

/// CR0 bits (SDM vol. 3, 2.5).
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits (SDM vol. 3, 2.5).
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const PKE: u64 = 1 << 22;
}

/// IA32_EFER bits (SDM vol. 3, 2.2.1).
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// XCR0 bits (SDM vol. 3, 2.6).
pub mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const PKRU: u64 = 1 << 9;
}

/// IA32_DEBUGCTL bits (SDM vol. 3, 17.4.1).
pub mod debugctl {
    /// Last-branch recording.
    pub const LBR: u64 = 1 << 0;
    /// With RFLAGS.TF: a step is a branch, not an instruction.
    pub const BTF: u64 = 1 << 1;
}

/// IA32_MISC_ENABLE bits (SDM vol. 4, table 2-2).
pub mod misc_enable {
    pub const FAST_STRINGS: u64 = 1 << 0;
    pub const THERMAL_CONTROL: u64 = 1 << 3;
    /// Performance monitoring is available: read-only.
    pub const PERFMON_AVAILABLE: u64 = 1 << 7;
    /// Branch trace storage is unavailable: read-only.
    pub const BTS_UNAVAILABLE: u64 = 1 << 11;
    /// Processor event based sampling is unavailable: read-only.
    pub const PEBS_UNAVAILABLE: u64 = 1 << 12;
    pub const SPEEDSTEP: u64 = 1 << 16;
    pub const MONITOR: u64 = 1 << 18;
    /// CPUID leaf 0 tells 2 as the highest leaf.
    pub const LIMIT_CPUID: u64 = 1 << 22;
    pub const XTPR_DISABLE: u64 = 1 << 23;
    /// NX is neither told nor to be had.
    pub const XD_DISABLE: u64 = 1 << 34;
    pub const TURBO_DISABLE: u64 = 1 << 38;

    /// Bits that software may change. That for MONITOR stays zero, as no contract has it.
    pub const WRITABLE: u64 =
        FAST_STRINGS | THERMAL_CONTROL | SPEEDSTEP | LIMIT_CPUID | XTPR_DISABLE | XD_DISABLE | TURBO_DISABLE;
    /// Bits that a write must leave as they are.
    const FIXED: u64 = BTS_UNAVAILABLE | PEBS_UNAVAILABLE;
    /// Bits that the model has; the others are reserved.
    const DEFINED: u64 = WRITABLE | FIXED | PERFMON_AVAILABLE | MONITOR;

    /// What the register holds once `value` is written to it over `old`; `None` if that raises #GP(0) (SDM vol. 4, table 2-2).
    pub const fn written(old: u64, value: u64) -> Option<u64> {
        if value & !DEFINED != 0 || (value ^ old) & FIXED != 0 {
            return None;
        }
        Some((old & !WRITABLE) | (value & WRITABLE))
    }
}
