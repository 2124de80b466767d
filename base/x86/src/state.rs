//! The whole architectural state of one logical processor.

/// Bytes of the standard-format XSAVE image for x87, SSE and AVX: legacy region 512, header 64,
/// high halves of YMM 256 (SDM vol. 1, 13.4).
pub const XSAVE_SIZE: usize = 832;

/// Where PKRU is in an XSAVE area of the standard format, past the components that no contract has (SDM
/// vol. 1, 13.5.7; CPUID leaf 0xd, sub-leaf 9).
pub const PKRU_OFFSET: usize = 2688;

/// Bytes of PKRU's component: the register and four that are zero.
pub const PKRU_SIZE: usize = 8;

/// An XSAVE image in the standard (not compacted) format.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; XSAVE_SIZE]);

impl XsaveArea {
    /// Offset of MXCSR_MASK (SDM vol. 1, 11.6.6).
    const MXCSR_MASK: usize = 28;
    /// Offset of XMM0 (SDM vol. 1, 10.5.1.2).
    pub const XMM: usize = 160;
    /// Offset of XSTATE_BV.
    pub const XSTATE_BV: usize = 512;
    /// Offset of the high half of YMM0.
    pub const YMM_HIGH: usize = 576;

    /// The state after power-up (SDM vol. 3, table 9-1): FCW 0x40, MXCSR 0x1f80. XSTATE_BV says that x87
    /// and SSE are there, since FCW is not the initial configuration's 0x37f.
    pub fn at_reset() -> Self {
        let mut image = [0; XSAVE_SIZE];
        image[0..2].copy_from_slice(&0x0040u16.to_le_bytes());
        image[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        image[Self::XSTATE_BV] = 3;
        let mut area = Self(image);
        area.set_mxcsr_mask();
        area
    }

    /// Says which bits of MXCSR there are: those of every contract. An image that a host's processor has made says what its own
    /// are, of which AMD's has one more (APM vol. 1, 4.2.2: MM, bit 17), and no processor reads it back.
    pub fn set_mxcsr_mask(&mut self) {
        self.0[Self::MXCSR_MASK..Self::MXCSR_MASK + 4].copy_from_slice(&0x0000_ffffu32.to_le_bytes());
    }
}

/// A segment register with its hidden part (SDM vol. 3, 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// In bytes, granularity already applied.
    pub limit: u32,
    /// Bits 8 to 23 of the descriptor's high half, moved to bits 0 to 15: type 0-3, S 4, DPL 5-6,
    /// P 7, (limit 8-11, zero), AVL 12, L 13, D/B 14, G 15. Bit 16 set: unusable (null).
    pub attributes: u32,
}

impl Segment {
    pub const S: u32 = 1 << 4;
    pub const PRESENT: u32 = 1 << 7;
    pub const L: u32 = 1 << 13;
    pub const DB: u32 = 1 << 14;
    pub const G: u32 = 1 << 15;
    pub const UNUSABLE: u32 = 1 << 16;

    /// Descriptor type, 0 to 15.
    pub fn kind(&self) -> u32 {
        self.attributes & 0xf
    }

    /// Descriptor privilege level, 0 to 3.
    pub fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }

    /// A flat 32-bit or 64-bit code segment of privilege 0.
    pub const fn flat_code(selector: u16, long: bool) -> Self {
        let mode = if long { Self::L } else { Self::DB };
        Self { selector, base: 0, limit: 0xffff_ffff, attributes: 0xb | Self::S | Self::PRESENT | Self::G | mode }
    }

    /// A flat writable data segment of privilege 0.
    pub const fn flat_data(selector: u16) -> Self {
        Self { selector, base: 0, limit: 0xffff_ffff, attributes: 0x3 | Self::S | Self::PRESENT | Self::G | Self::DB }
    }

    /// A null segment.
    pub const fn null() -> Self {
        Self { selector: 0, base: 0, limit: 0, attributes: Self::UNUSABLE }
    }
}

/// The six segment registers, the LDT and the task register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ldtr: Segment,
    pub tr: Segment,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    pub base: u64,
    pub limit: u16,
}

/// MSRs that hold state. Those that a contract fixes are not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u32,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub mcg_status: u64,
    pub debugctl: u64,
    pub tsc_adjust: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [(u64, u64); 8],
}

/// The local APIC: registers as in the MMIO page, 32 bits each at every 16 bytes (SDM vol. 3, table 11-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapic {
    pub base_msr: u64,
    /// Index is the MMIO offset divided by 16.
    pub registers: [u32; 64],
    /// Guest TSC value at which the timer fires in TSC-deadline mode; 0 when disarmed.
    pub tsc_deadline: u64,
}

impl Default for Lapic {
    fn default() -> Self {
        Self { base_msr: 0xfee0_0900, registers: [0; 64], tsc_deadline: 0 }
    }
}

/// What the processor does between instructions (SDM vol. 3, 25.4.2 names the same states).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Active,
    /// In HLT, until an interrupt.
    Halted,
    /// An application processor before its SIPI.
    WaitForSipi,
    /// After a triple fault.
    Shutdown,
}

/// Whether the instruction before holds events off for one more (SDM vol. 3, 25.4.2 has the same).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shadow {
    #[default]
    None,
    /// Behind STI: interrupts.
    Sti,
    /// Behind MOV SS and POP SS: debug exceptions, too.
    MovSs,
}

/// One logical processor at an instruction boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of their encoding.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: Segments,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    /// PDPTEs of PAE paging as the last load of CR3 found them (SDM vol. 3, 4.4.1); those in memory at CR3 if there are none.
    pub pdptes: Option<[u64; 4]>,
    pub cr4: u64,
    pub xcr0: u64,
    /// DR0 to DR3, then DR6 and DR7 at 6 and 7.
    pub dr: [u64; 8],
    pub msrs: Msrs,
    pub xsave: XsaveArea,
    /// The protection-key rights of user pages: XSAVE's component 9, kept apart from its image.
    pub pkru: u32,
    pub lapic: Lapic,
    /// Guest TSC at the time of saving.
    pub tsc: u64,
    pub activity: Activity,
    pub interrupt_shadow: Shadow,
    /// Vector of an external interrupt that the processor has asked for and not yet begun to handle: it comes next,
    /// whatever IF is. One of the local APIC's is in service there already.
    pub interrupt: Option<u8>,
    /// Bits of DR6 (B0 to B3, BS, BT) of the debug trap that is due before the next instruction (SDM vol. 3, 25.4.2,
    /// "pending debug exceptions"). They are not in DR6 yet.
    pub pending_debug: u64,
    pub nmi_pending: bool,
    pub nmi_blocked: bool,
}

impl Default for CpuState {
    /// All zero but for what hardware fixes: RFLAGS bit 1, DR6, DR7, XCR0, PAT, the FPU's reset image.
    fn default() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: crate::flags::rflags::FIXED_1,
            segments: Segments::default(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: crate::flags::cr0::ET,
            cr2: 0,
            cr3: 0,
            pdptes: None,
            cr4: 0,
            xcr0: crate::flags::xcr0::X87,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            msrs: Msrs { pat: 0x0007_0406_0007_0406, ..Msrs::default() },
            xsave: XsaveArea::at_reset(),
            pkru: 0,
            lapic: Lapic::default(),
            tsc: 0,
            activity: Activity::Active,
            interrupt_shadow: Shadow::None,
            interrupt: None,
            pending_debug: 0,
            nmi_pending: false,
            nmi_blocked: false,
        }
    }
}
