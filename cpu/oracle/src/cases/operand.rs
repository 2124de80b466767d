//! The explicit memory operand: registers and displacement are solved for the address it shall have.

use super::draft::Draft;
use super::place;
use crate::UserState;
use crate::rng::Rng;
use iced_x86::{Instruction, OpKind, Register};

impl Draft {
    /// Gives the memory operand, if there is one, an address from [`place::operand`].
    pub(super) fn place_memory(&mut self, rng: &mut Rng) -> Option<()> {
        let instruction = self.encoded.instruction;
        if !instruction.op_kinds().any(|kind| kind == OpKind::Memory) {
            return Some(());
        }
        let size = size(&instruction);
        if instruction.is_vsib() {
            self.place_vector_index(size, rng)?;
        } else if !is_in_bytes(&instruction) {
            self.place_registers(size, rng)?;
        }
        self.place_bit_string(size, rng);
        let address = explicit_address(&self.encoded.instruction, &self.state)?;
        self.fill_around(address, size, rng);
        Some(())
    }

    /// Base, index or both.
    fn place_registers(&mut self, size: u64, rng: &mut Rng) -> Option<()> {
        let instruction = self.encoded.instruction;
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let scale = u64::from(instruction.memory_index_scale());
        let narrow = base.is_gpr32() || index.is_gpr32();
        let target = place::operand(rng, self.wanted(size, narrow));
        let rest = target.wrapping_sub(instruction.memory_displacement64());
        let (register, value) = if base == Register::None {
            (index, if narrow { u64::from(rest as u32) / scale } else { (rest as i64 / scale as i64) as u64 })
        } else if base == index {
            (base, divide_wrapping(rest, scale + 1))
        } else {
            let index = if index == Register::None { 0 } else { register_value(&self.state, index, 0, 0) };
            (base, rest.wrapping_sub(index.wrapping_mul(scale)))
        };
        // With 32-bit addresses the upper half of a register is not looked at.
        let upper = if narrow { rng.pick(&[0, 0, rng.clone().next() << 32]) } else { 0 };
        let low = if narrow { u64::from(value as u32) } else { value };
        *self.gpr_mut(register)? = upper | low;
        Some(())
    }

    /// A base in the window and the indices near it.
    fn place_vector_index(&mut self, size: u64, rng: &mut Rng) -> Option<()> {
        let instruction = self.encoded.instruction;
        let base = instruction.memory_base();
        let narrow = base.is_gpr32() || base == Register::None;
        let scale = u64::from(instruction.memory_index_scale());
        let target = place::operand(rng, self.wanted(size, narrow));
        let rest = target.wrapping_sub(instruction.memory_displacement64());
        let element = if instruction.is_vsib64() { 8 } else { 4 };
        let reach = rng.pick(&[64, 64, 512, 16 * 1024, 1 << 20]);
        let mut value = [0; 32];
        for lane in value.chunks_mut(element) {
            let distance = rng.below(2 * reach).wrapping_sub(reach);
            let from = if base == Register::None { rest.wrapping_add(distance) } else { distance };
            let index = (from as i64 / scale as i64).to_le_bytes();
            lane.copy_from_slice(&index[..element]);
        }
        self.state.set_ymm(instruction.memory_index().number(), &value);
        if base != Register::None {
            *self.gpr_mut(base)? = if narrow { u64::from(rest as u32) } else { rest };
        }
        Some(())
    }
}

/// The address of the explicit memory operand, of the first lane where there are many.
pub(crate) fn explicit_address(instruction: &Instruction, state: &UserState) -> Option<u64> {
    let operand = instruction.op_kinds().position(|kind| kind == OpKind::Memory)?;
    instruction.virtual_address(operand as u32, 0, |register, element, size| {
        Some(register_value(state, register, element, size))
    })
}

/// What `register` holds, zero-extended; of a vector register, element `element` of `size` bytes.
pub(crate) fn register_value(state: &UserState, register: Register, element: usize, size: usize) -> u64 {
    if register.is_vector_register() {
        let value = state.ymm(register.number());
        let mut bytes = [0; 8];
        let from = value.get(element * size..(element + 1) * size).unwrap_or(&[]);
        bytes[..from.len()].copy_from_slice(from);
        return u64::from_le_bytes(bytes);
    }
    let full = register.full_register();
    if !full.is_gpr64() {
        return 0;
    }
    let value = state.gpr[full.number() & 15];
    match register.size() {
        8 => value,
        4 => u64::from(value as u32),
        2 => u64::from(value as u16),
        _ if matches!(register, Register::AH | Register::CH | Register::DH | Register::BH) => {
            u64::from((value >> 8) as u8)
        }
        _ => u64::from(value as u8),
    }
}

/// Bytes of the memory operand, generous where the decoder does not say.
pub(super) fn size(instruction: &Instruction) -> u64 {
    match instruction.memory_size().size() as u64 {
        0 => 64,
        bytes => bytes,
    }
}

/// Whether the address of the memory operand is in the instruction alone.
pub(super) fn is_in_bytes(instruction: &Instruction) -> bool {
    let absolute = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    let explicit = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    explicit && (absolute || instruction.is_ip_rel_memory_operand())
}

/// A value that gives `product` or one less when multiplied by `factor` (2, 3, 5 or 9), modulo 2^64.
fn divide_wrapping(product: u64, factor: u64) -> u64 {
    if factor == 2 {
        return product >> 1;
    }
    // Newton's iteration for the inverse of an odd number: every step doubles the correct bits.
    let inverse = (0..6).fold(factor, |x, _| x.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(x))));
    product.wrapping_mul(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_undoes_multiplication() {
        for factor in [3, 5, 9] {
            for product in [0, 1, 7, u64::MAX, 0x1234_5678_9abc_def0] {
                assert_eq!(divide_wrapping(product, factor).wrapping_mul(factor), product);
            }
        }
        assert_eq!(divide_wrapping(10, 2), 5);
    }
}
