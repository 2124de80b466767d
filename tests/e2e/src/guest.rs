//! Guests of a few instructions.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where the kernel lies: 1 MiB.
const LOAD: u32 = 0x10_0000;
const HEADERS: usize = 64 + 2 * 56;
const NOTE: usize = 20;
/// Where its first instruction lies.
const ENTRY: u32 = LOAD + NOTE as u32;

/// Instructions of 32-bit protected mode, flat, without paging: the PVH entry state.
#[derive(Clone, Debug, Default)]
pub struct Code(Vec<u8>);

impl Code {
    pub fn new() -> Self {
        Self::default()
    }

    /// `mov dx, port; mov al, value; out dx, al`
    pub fn out8(mut self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.0.extend([0x66, 0xba, low, high, 0xb0, value, 0xee]);
        self
    }

    /// `mov dx, port; mov ax, value; out dx, ax`
    pub fn out16(mut self, port: u16, value: u16) -> Self {
        let ([low, high], [first, second]) = (port.to_le_bytes(), value.to_le_bytes());
        self.0.extend([0x66, 0xba, low, high, 0x66, 0xb8, first, second, 0x66, 0xef]);
        self
    }

    /// `popcnt eax, eax`: one that KVM's emulator does not know.
    pub fn popcnt(mut self) -> Self {
        self.0.extend([0xf3, 0x0f, 0xb8, 0xc0]);
        self
    }

    /// Prints on the first serial port.
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out8(0x3f8, byte))
    }

    /// Switches the machine off: SLP_TYP 5 and SLP_EN in PM1a control.
    pub fn power_off(self) -> Self {
        self.out16(0x604, 5 << 10 | 1 << 13)
    }

    /// Resets the machine by the reset control register.
    pub fn reset(self) -> Self {
        self.out8(0xcf9, 0x06)
    }

    /// `lidt` with a limit of zero, then `ud2`: the exception has no gate, nor has the double fault.
    pub fn triple_fault(mut self) -> Self {
        let zeros = ENTRY + u32::try_from(self.0.len()).expect("a few instructions") + 9;
        self.0.extend([0x0f, 0x01, 0x1d]);
        self.0.extend(zeros.to_le_bytes());
        self.0.extend([0x0f, 0x0b]);
        self.0.extend([0; 6]);
        self
    }

    /// `jmp` to itself.
    pub fn spin(mut self) -> Self {
        self.0.extend([0xeb, 0xfe]);
        self
    }

    /// `jmp` to the instruction at `offset`.
    pub fn jump(mut self, offset: i8) -> Self {
        let here = i8::try_from(self.0.len() + 2).expect("a short jump");
        self.0.extend([0xeb, (offset - here).to_le_bytes()[0]]);
        self
    }
}

/// A PVH kernel file; it is deleted with this.
#[derive(Debug)]
pub struct Kernel {
    folder: TempDir,
}

impl Kernel {
    pub fn new(code: Code) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("kernel"), elf(&code.0)).expect("the kernel is written");
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("kernel")
    }

    /// A folder for what belongs to the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// An ELF file with one segment: the note that names the entry (XEN_ELFNOTE_PHYS32_ENTRY, 18), then
/// the code.
fn elf(code: &[u8]) -> Vec<u8> {
    let len = (NOTE + code.len()) as u64;
    let segment = |kind: u32, len: u64| {
        let words = [kind.to_le_bytes(), 7u32.to_le_bytes()].concat();
        let longs = [HEADERS as u64, LOAD.into(), LOAD.into(), len, len, 4];
        [words, longs.iter().flat_map(|v| v.to_le_bytes()).collect()].concat()
    };
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2u16, 62].iter().flat_map(|v| v.to_le_bytes()));
    elf.extend(1u32.to_le_bytes());
    elf.extend([u64::from(ENTRY), 64, 0].iter().flat_map(|v| v.to_le_bytes()));
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 2, 64, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
    elf.extend(segment(1, len));
    elf.extend(segment(4, NOTE as u64));
    elf.extend([4u32, 4, 18].iter().flat_map(|v| v.to_le_bytes()));
    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf.extend(code);
    elf
}
