//! What a user-mode instruction reads and writes, and how it ended.

use motu_x86::flags::rflags;
use motu_x86::{Vector, XsaveArea};

/// The registers that user mode can change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UserState {
    /// x87, XMM, YMM and MXCSR; the XSTATE_BV of a state that a CPU gave back is 7.
    pub xsave: XsaveArea,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS: the order of their encoding.
    pub selectors: [u16; 6],
}

/// Operating mode of user code, as CS has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    #[default]
    Bits64,
    /// Compatibility mode with flat segments.
    Bits32,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Bits64, Self::Bits32];

    /// Width of code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Bits64 => 64,
            Self::Bits32 => 32,
        }
    }

    /// The selectors that a program begins with, those of Linux.
    pub fn selectors(self) -> [u16; 6] {
        const DATA: u16 = 0x2b;
        match self {
            Self::Bits64 => [DATA, 0x33, DATA, DATA, 0, 0],
            Self::Bits32 => [DATA, 0x23, DATA, DATA, 0, 0],
        }
    }
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It retired; RIP is that of the next instruction.
    Ok,
    /// It raised an exception.
    Exception {
        /// 0 to 31.
        vector: Vector,
        /// Zero for a vector that pushes none.
        error_code: u32,
        /// CR2 of a page fault; zero otherwise.
        address: u64,
    },
}

impl UserState {
    /// Flags that a case may start with: all that POPF may change in user mode but TF.
    pub const SETTABLE_FLAGS: u64 =
        rflags::ARITHMETIC | rflags::DF | rflags::NT | rflags::AC | rflags::ID | rflags::IF | rflags::FIXED_1;

    /// All registers zero, interrupts on, the floating-point state as FNINIT and power-up leave it.
    pub fn new(rip: u64) -> Self {
        let mut xsave = XsaveArea::at_reset();
        xsave.0[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
        xsave.0[XsaveArea::XSTATE_BV] = 7;
        let selectors = Mode::Bits64.selectors();
        Self { xsave, gpr: [0; 16], rip, rflags: rflags::IF | rflags::FIXED_1, selectors }
    }

    /// The mode that CS means.
    pub fn mode(&self) -> Mode {
        if self.selectors[1] == Mode::Bits32.selectors()[1] { Mode::Bits32 } else { Mode::Bits64 }
    }

    /// Writes what XSTATE_BV only implies: components in their initial state (SDM vol. 1, 13.6).
    pub(crate) fn materialize_xsave(&mut self) {
        let image = &mut self.xsave.0;
        let present = image[XsaveArea::XSTATE_BV];
        if present & 1 == 0 {
            image[0..24].fill(0);
            image[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
            image[32..XsaveArea::XMM].fill(0);
        }
        if present & 2 == 0 {
            image[XsaveArea::XMM..416].fill(0);
        }
        if present & 4 == 0 {
            image[XsaveArea::YMM_HIGH..].fill(0);
        }
        image[28..32].fill(0);
        image[416..XsaveArea::YMM_HIGH].fill(0);
        image[XsaveArea::XSTATE_BV] = 7;
    }

    /// FOP, FIP and FDP (SDM vol. 1, 8.1.8 and 8.1.9).
    pub fn x87_pointers(&self) -> [u64; 3] {
        let quad = |at: usize| self.xsave.0[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        [u64::from(u16::from_le_bytes([self.xsave.0[6], self.xsave.0[7]])), quad(8), quad(16)]
    }

    /// MXCSR (SDM vol. 1, 10.2.3).
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.xsave.0[24], self.xsave.0[25], self.xsave.0[26], self.xsave.0[27]])
    }

    pub fn set_mxcsr(&mut self, value: u32) {
        self.xsave.0[24..28].copy_from_slice(&value.to_le_bytes());
    }

    /// The 256 bits of YMM register `index` & 15, lowest byte first.
    pub fn ymm(&self, index: usize) -> [u8; 32] {
        let at = (index & 15) * 16;
        let mut value = [0; 32];
        value[..16].copy_from_slice(&self.xsave.0[XsaveArea::XMM + at..][..16]);
        value[16..].copy_from_slice(&self.xsave.0[XsaveArea::YMM_HIGH + at..][..16]);
        value
    }

    pub fn set_ymm(&mut self, index: usize, value: &[u8; 32]) {
        let at = (index & 15) * 16;
        self.xsave.0[XsaveArea::XMM + at..][..16].copy_from_slice(&value[..16]);
        self.xsave.0[XsaveArea::YMM_HIGH + at..][..16].copy_from_slice(&value[16..]);
    }

    /// The x87 register `index` & 7, counted from the top of the stack, as 80 bits.
    pub fn st(&self, index: usize) -> [u8; 10] {
        let mut value = [0; 10];
        value.copy_from_slice(&self.xsave.0[32 + (index & 7) * 16..][..10]);
        value
    }

    pub fn set_st(&mut self, index: usize, value: &[u8; 10]) {
        self.xsave.0[32 + (index & 7) * 16..][..10].copy_from_slice(value);
    }
}
