//! Where things lie in a test guest. Below 4 MiB linear addresses are guest-physical addresses.

/// Bytes of RAM.
pub const RAM: u64 = 8 << 20;
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
/// The TSS with room for a whole I/O permission map behind it: three pages.
pub const TSS: u64 = 0x3000;
/// Offset of the I/O permission map, as far as the TSS's limit reaches it.
pub const IO_MAP: u64 = 0x68;
/// A page for data of ring 0, and the one after it.
pub const DATA: u64 = 0x8000;
pub const CODE: u64 = 0x1_0000;
pub const HANDLERS: u64 = 0x2_0000;
/// Tops of the stacks; each is 16 KiB.
pub const STACK: u64 = 0x3_8000;
pub const RSP0: u64 = 0x4_0000;
pub const IST1: u64 = 0x4_8000;
pub const IST2: u64 = 0x5_0000;
/// Paging structures are taken from here on.
pub const TABLES: u64 = 0x10_0000;
pub const TABLES_END: u64 = 0x18_0000;
/// From here to 4 MiB user mode has every right.
pub const USER_CODE: u64 = 0x20_0000;
pub const USER_DATA: u64 = 0x22_0000;
pub const USER_STACK: u64 = 0x24_0000;
/// Where the common handler goes next, if not zero; it clears it.
pub const RESUME: u64 = 0x25_0000;
/// Physical memory that is mapped nowhere: for mappings of the tests' own. 2 MiB aligned, 4 MiB long.
pub const FRAMES: u64 = 0x40_0000;
/// Linear addresses without paging structures, 1 GiB aligned.
pub const FREE: u64 = 0x4000_0000;
/// The board's register page ([`crate::board::PAGE`]), open to user mode.
pub const BOARD: u64 = 0x1000_0000;
/// The local APIC's register page.
pub const APIC: u64 = 0x1000_1000;

/// Selectors of the GDT, in the order that SYSCALL and SYSRET want.
pub mod selector {
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    /// 32-bit code of ring 0.
    pub const CODE32: u16 = 0x18;
    /// 32-bit code of ring 3.
    pub const USER_CODE32: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE: u16 = 0x33;
    pub const TASK: u16 = 0x38;
    /// Data of ring 0 that is not present.
    pub const ABSENT: u16 = 0x48;
    /// Conforming 64-bit code of ring 0.
    pub const CONFORMING: u16 = 0x50;
    /// 64-bit code that is not present.
    pub const ABSENT_CODE: u16 = 0x58;
    /// Data without the right to write, ring 0.
    pub const READ_ONLY: u16 = 0x60;
    /// The first selector past the GDT's limit.
    pub const BEYOND: u16 = 0x80;
}

/// Where things lie for processors 1 and up.
pub mod smp {
    /// Code of theirs.
    pub const CODE: u64 = 0x1_8000;
    /// Where they start in real-address mode: a page of the first MiB.
    pub const START: u64 = 0x9_0000;
    /// Of theirs, 4 KiB each.
    const STACKS: u64 = 0xa_0000;

    /// The top of the stack of processor `id`, 1 to 64.
    pub const fn stack(id: u32) -> u64 {
        STACKS + 0x1000 * id as u64
    }
}

/// Where things lie for 16-bit and 32-bit code, beyond what they share with 64-bit code.
pub mod legacy {
    pub const LDT: u64 = 0x6000;
    /// Room for TSSs of other tasks.
    pub const TASKS: u64 = 0x7000;
    /// The common handlers of 16-bit code; those of 32-bit code are at [`super::HANDLERS`].
    pub const HANDLERS16: u64 = 0x2_8000;
    /// Where instructions lie that are to fault, and where it goes on behind each, in pairs of 4 bytes.
    pub const RESUMES: u64 = 0x2_b000;
    /// Base of the 16-bit stack segment; SP starts at [`super::STACK`].
    pub const STACK_BASE: u64 = 0x3_0000;
    /// Handlers of a test's own.
    pub const OWN: u64 = 0x2_c000;
    /// Code in virtual-8086 mode, its stack's segment, where SP starts in it, and data.
    pub const V86_CODE: u64 = 0x6_0000;
    pub const V86_STACK: u64 = 0x7_0000;
    pub const V86_SP: u64 = 0x1000;
    pub const V86_DATA: u64 = 0x8_0000;

    /// Offsets in the TSS: the interrupt redirection map, and the I/O map up to port 0x43f, which opens
    /// every port.
    pub const REDIRECTION: u64 = 0x68;
    pub const IO_MAP: u64 = 0x88;
    pub const TSS_LIMIT: u64 = 0x110;
    pub const GDT_LIMIT: u16 = 0x1ff;

    /// 16-bit code of ring 0 at [`super::CODE`].
    pub const CODE16: u16 = 0x18;
    /// 16-bit data of ring 0 from address 0.
    pub const DATA16: u16 = 0x20;
    /// Not loaded at the start.
    pub const LDT_SELECTOR: u16 = 0x40;
    pub const STACK16: u16 = 0x68;
    /// The first of the GDT's descriptors that are the test's own.
    pub const FREE_SELECTOR: u16 = 0x80;
    /// The first selector past the GDT's limit.
    pub const BEYOND: u16 = 0x200;
}
