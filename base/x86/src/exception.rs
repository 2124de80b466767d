//! Exceptions and their error codes (Intel SDM vol. 3, 6.3 and 6.15).

/// An exception or interrupt vector, 0 to 255.
pub type Vector = u8;

/// An exception that an instruction raised. `cr2` belongs to page faults only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// 0 to 31.
    pub vector: Vector,
    /// Present for #DF, #TS, #NP, #SS, #GP, #PF and #AC.
    pub error_code: Option<u32>,
    /// The linear address that faulted; zero unless `vector` is [`Exception::PF`].
    pub cr2: u64,
}

impl Exception {
    /// Divide error.
    pub const DE: Vector = 0;
    /// Debug.
    pub const DB: Vector = 1;
    pub const NMI: Vector = 2;
    /// Breakpoint (`int3`).
    pub const BP: Vector = 3;
    /// Overflow (`into`).
    pub const OF: Vector = 4;
    /// BOUND range exceeded.
    pub const BR: Vector = 5;
    /// Invalid opcode.
    pub const UD: Vector = 6;
    /// Device not available.
    pub const NM: Vector = 7;
    /// Double fault.
    pub const DF: Vector = 8;
    /// Invalid TSS.
    pub const TS: Vector = 10;
    /// Segment not present.
    pub const NP: Vector = 11;
    /// Stack-segment fault.
    pub const SS: Vector = 12;
    /// General protection.
    pub const GP: Vector = 13;
    /// Page fault.
    pub const PF: Vector = 14;
    /// x87 floating-point error.
    pub const MF: Vector = 16;
    /// Alignment check.
    pub const AC: Vector = 17;
    /// Machine check.
    pub const MC: Vector = 18;
    /// SIMD floating-point exception.
    pub const XM: Vector = 19;

    /// An exception without an error code.
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, error_code: None, cr2: 0 }
    }

    /// An exception with an error code, such as #GP(selector).
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, error_code: Some(code), cr2: 0 }
    }

    /// A page fault at linear address `cr2` with the error code of [`pf`].
    pub const fn page_fault(code: u32, cr2: u64) -> Self {
        Self { vector: Self::PF, error_code: Some(code), cr2 }
    }
}

/// Page-fault error code bits (SDM vol. 3, 4.7).
pub mod pf {
    /// Clear: the page was not present. Set: a protection violation.
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a paging entry.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch (only where NX or SMEP is on).
    pub const FETCH: u32 = 1 << 4;
    /// A protection key forbade it.
    pub const PROTECTION_KEY: u32 = 1 << 5;
}
