//! Operands that an instruction has without naming them, and inputs that make it do something.

use super::draft::Draft;
use super::{operand, place};
use crate::layout::WINDOW_SIZE;
use crate::rng::Rng;
use iced_x86::{MemorySize, Mnemonic, OpKind, Register};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

impl Draft {
    /// Points the registers of implied memory operands into the window.
    pub(super) fn place_implied(&mut self, rng: &mut Rng) {
        let instruction = self.encoded.instruction;
        if instruction.is_stack_instruction() {
            let word = u64::from(self.encoded.mode.bits() / 8);
            let at = place::operand(rng, self.wanted(word, false));
            self.fill_around(at, word, rng);
            let pushed = u64::try_from(-instruction.stack_pointer_increment()).unwrap_or(0);
            self.state.gpr[RSP] = at.wrapping_add(pushed);
            self.place_frame(rng);
        }
        for kind in instruction.op_kinds() {
            match kind {
                OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
                    self.place_pointer(RSI, kind == OpKind::MemorySegESI, rng);
                }
                OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => {
                    self.place_pointer(RDI, kind == OpKind::MemoryESEDI, rng);
                }
                OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
                    self.place_pointer(RDI, kind == OpKind::MemorySegEDI, rng);
                }
                _ => (),
            }
        }
        if instruction.mnemonic() == Mnemonic::Xlatb {
            let narrow = instruction.memory_base() == Register::EBX;
            self.place_pointer(RBX, narrow, rng);
            self.state.gpr[RBX] = self.state.gpr[RBX].wrapping_sub(self.state.gpr[RAX] & 0xff);
        }
        if instruction.is_string_instruction() {
            self.place_count(rng);
        }
    }

    /// RBP for ENTER and LEAVE.
    fn place_frame(&mut self, rng: &mut Rng) {
        if matches!(self.mnemonic(), Mnemonic::Leave | Mnemonic::Enter) {
            let at = place::operand(rng, self.wanted(8, false));
            self.fill_around(at, 8, rng);
            self.state.gpr[RBP] = at;
        }
    }

    fn place_pointer(&mut self, register: usize, narrow: bool, rng: &mut Rng) {
        let size = self.encoded.instruction.memory_size().size() as u64;
        let at = place::operand(rng, self.wanted(size.max(1), narrow));
        self.fill_around(at, size, rng);
        let upper = if narrow { rng.pick(&[0, 0, rng.clone().next() << 32]) } else { 0 };
        self.state.gpr[register] = at | upper;
    }

    /// RCX of a string instruction: few repeats, at times enough to leave the window.
    fn place_count(&mut self, rng: &mut Rng) {
        let count = match rng.below(20) {
            0..2 => 0,
            2..15 => rng.below(8),
            15..19 => rng.below(600),
            _ => rng.below(2 * WINDOW_SIZE),
        };
        let narrow = self
            .encoded
            .instruction
            .op_kinds()
            .any(|kind| matches!(kind, OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI));
        let upper = if narrow { rng.pick(&[0, rng.clone().next() << 32]) } else { 0 };
        self.state.gpr[RCX] = count | upper;
    }

    /// Inputs without which an instruction would nearly always do the same.
    pub(super) fn adapt(&mut self, rng: &mut Rng) {
        use Mnemonic as M;
        match self.mnemonic() {
            M::Div | M::Idiv if rng.chance(70) => self.adapt_division(rng),
            M::Loop | M::Loope | M::Loopne | M::Jrcxz | M::Jecxz => {
                self.state.gpr[RCX] = rng.pick(&[0, 1, 2, 1 << 32, 1 << 32 | 1, 0xffff_ffff, u64::MAX]);
            }
            M::Mov | M::Pop if self.encoded.instruction.op0_register().is_segment_register() && rng.chance(80) => {
                self.adapt_selector(rng);
            }
            M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs | M::Lar | M::Verr | M::Verw if rng.chance(80) => {
                self.adapt_selector(rng);
            }
            M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b if rng.chance(50) => self.adapt_compare(),
            M::Fxrstor | M::Fxrstor64 if rng.chance(85) => self.store_mxcsr(24, rng),
            M::Ldmxcsr | M::Vldmxcsr if rng.chance(85) => self.store_mxcsr(0, rng),
            M::Popf | M::Popfd | M::Popfq => {
                let upper = rng.next() as u8 & !1;
                self.store(self.state.gpr[RSP].wrapping_add(1), &[upper]);
            }
            _ => (),
        }
    }

    /// A selector that means something, mostly.
    fn adapt_selector(&mut self, rng: &mut Rng) {
        use Mnemonic as M;
        const SELECTORS: [u16; 18] =
            [0, 1, 2, 3, 0x23, 0x20, 0x2b, 0x2b, 0x28, 0x29, 0x33, 0x08, 0x10, 0x1b, 0x43, 0x63, 0x2f, 0x83];
        let instruction = self.encoded.instruction;
        let selector = rng.pick(&SELECTORS).to_le_bytes();
        let pointer = match instruction.memory_size() {
            MemorySize::SegPtr16 => 2,
            MemorySize::SegPtr32 => 4,
            MemorySize::SegPtr64 => 8,
            _ => 0,
        };
        let source = instruction.op_count() - 1;
        if instruction.mnemonic() == M::Pop {
            self.store(self.state.gpr[RSP], &selector);
        } else if let Some(address) = operand::explicit_address(&instruction, &self.state) {
            self.store(address.wrapping_add(pointer), &selector);
        } else if let Some(register) = self.gpr_mut(instruction.op_register(source)) {
            *register = *register & !0xffff | u64::from(u16::from_le_bytes(selector));
        }
    }

    /// A dividend whose quotient fits, mostly.
    fn adapt_division(&mut self, rng: &mut Rng) {
        let instruction = self.encoded.instruction;
        let size = if instruction.op0_kind() == OpKind::Memory {
            instruction.memory_size().size()
        } else {
            instruction.op0_register().size()
        };
        let signed = instruction.mnemonic() == Mnemonic::Idiv;
        let bits = 8 * size as u32;
        let sign = |value: u64| if signed && value >> (bits - 1) & 1 != 0 { u64::MAX } else { 0 };
        let high = if rng.chance(50) { rng.below(4) } else { sign(self.state.gpr[RAX]) };
        if size == 1 {
            self.state.gpr[RAX] = self.state.gpr[RAX] & !0xff00 | (high & 0xff) << 8;
        } else {
            self.state.gpr[RDX] = high;
        }
    }

    /// The destination holds what the accumulator holds.
    fn adapt_compare(&mut self) {
        let instruction = self.encoded.instruction;
        let (rax, rdx) = (self.state.gpr[RAX], self.state.gpr[RDX]);
        if instruction.op0_kind() != OpKind::Memory {
            if let Some(register) = self.gpr_mut(instruction.op0_register()) {
                *register = rax;
            }
            return;
        }
        let half = if instruction.mnemonic() == Mnemonic::Cmpxchg8b { 4 } else { 8 };
        let mut data = [0; 16];
        data[..8].copy_from_slice(&rax.to_le_bytes());
        data[half..half + 8].copy_from_slice(&rdx.to_le_bytes());
        if let Some(address) = operand::explicit_address(&self.encoded.instruction, &self.state) {
            self.store(address, &data[..2 * half]);
        }
    }

    /// A value of MXCSR without reserved bits.
    fn store_mxcsr(&mut self, offset: u64, rng: &mut Rng) {
        let value = (rng.next() as u32 & 0xffff).to_le_bytes();
        if let Some(address) = operand::explicit_address(&self.encoded.instruction, &self.state) {
            self.store(address.wrapping_add(offset), &value);
        }
    }

    fn bit_string_register(&self) -> Option<Register> {
        let instruction = &self.encoded.instruction;
        let tests = matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
        let in_memory = instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register;
        (tests && in_memory).then(|| instruction.op1_register())
    }

    /// The bit offset in a register moves the operand by as much as it says (SDM vol. 2, BT).
    pub(super) fn place_bit_string(&mut self, size: u64, rng: &mut Rng) {
        let Some(register) = self.bit_string_register() else { return };
        let instruction = self.encoded.instruction;
        let base = instruction.memory_base().full_register();
        let index = instruction.memory_index().full_register();
        if register.full_register() == base || register.full_register() == index {
            return;
        }
        let reach = rng.pick(&[8 * size, 8 * size, 8 * WINDOW_SIZE]);
        let offset = rng.below(2 * reach).wrapping_sub(reach);
        if let Some(value) = self.gpr_mut(register) {
            *value = offset;
        }
    }

    /// Whether the addressed bit is in the window or nowhere.
    pub(super) fn bit_string_is_harmless(&mut self) -> bool {
        let Some(register) = self.bit_string_register() else { return true };
        let value = operand::register_value(&self.state, register, 0, 0);
        let offset = match register.size() {
            8 => value as i64,
            4 => i64::from(value as i32),
            _ => i64::from(value as i16),
        };
        let size = register.size() as i64;
        let moved = (offset >> 3) & -size;
        let Some(address) = operand::explicit_address(&self.encoded.instruction, &self.state) else { return false };
        let narrow = self.encoded.instruction.memory_base().is_gpr32()
            || self.encoded.instruction.memory_index().is_gpr32()
            || self.encoded.instruction.memory_displ_size() == 4;
        let at = address.wrapping_add(moved as u64);
        let at = if narrow { u64::from(at as u32) } else { at };
        self.touch(at, size as u64);
        place::is_harmless_range(self.encoded.mode, at, size as u64)
    }
}
