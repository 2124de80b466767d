//! Masked moves and gathers: memory is touched only where the mask says so, element by element, so that
//! faults come in the right order and a gather can be resumed (SDM vol. 2: VMASKMOV, VPMASKMOV, MASKMOVDQU,
//! MASKMOVQ, VGATHER, VPGATHER).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use motu_x86::XsaveArea;

use super::x87;

/// The guest's memory as such an instruction sees it. Addresses are offsets in the operand's segment, already
/// wrapped to the address size; `Fault` is the exception an access raised.
pub trait ElementMemory {
    type Fault;
    /// Reads 1 to 8 bytes.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Self::Fault>;
    /// Raises what writing `bytes` bytes would, without writing.
    fn check_write(&mut self, offset: u64, bytes: usize) -> Result<(), Self::Fault>;
    /// Writes 1 to 16 bytes, all or nothing.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Fault>;
}

/// How offsets are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementAddress {
    /// Base plus displacement; for a gather without its index. RDI for MASKMOVDQU and MASKMOVQ.
    pub base: u64,
    /// All ones up to the address size: 0xffff, 0xffff_ffff or `u64::MAX`.
    pub mask: u64,
}

impl ElementAddress {
    fn at(self, offset: u64) -> u64 {
        self.base.wrapping_add(offset) & self.mask
    }
}

/// Runs an instruction that [`super::NativeCache::compile`] refused as
/// [`PerElement`](super::NotNative::PerElement). #UD and #NM follow [`super::unit`] as for a thunk. A fault
/// leaves what is architecturally allowed: elements before it are done, and a gather's mask says which.
pub fn run_elements<M: ElementMemory>(
    instruction: &Instruction,
    fpu: &mut XsaveArea,
    address: ElementAddress,
    memory: &mut M,
) -> Result<(), M::Fault> {
    match instruction.mnemonic() {
        Mnemonic::Maskmovq => {
            let (source, mask) = (mmx(fpu, instruction.op1_register()), mmx(fpu, instruction.op2_register()));
            store_bytes(&source, &mask, address, memory)?;
            x87::enter_mmx(fpu);
            Ok(())
        }
        Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => {
            let source = low(fpu, instruction.op1_register());
            let mask = low(fpu, instruction.op2_register());
            store_bytes(&source, &mask, address, memory)
        }
        _ if instruction.is_vsib() => gather(instruction, fpu, address, memory),
        _ if instruction.op0_kind() == OpKind::Memory => masked_store(instruction, fpu, address, memory),
        _ => masked_load(instruction, fpu, address, memory),
    }
}

/// All 32 bytes of a vector register.
type Ymm = [u8; 32];

fn number(register: Register) -> usize {
    register.number() & 15
}

fn low(fpu: &XsaveArea, register: Register) -> [u8; 16] {
    let start = XsaveArea::XMM + number(register) * 16;
    fpu.0.get(start..).and_then(|b| b.first_chunk()).copied().unwrap_or_default()
}

fn vector(fpu: &XsaveArea, register: Register) -> Ymm {
    let mut value = [0; 32];
    let start = XsaveArea::YMM_HIGH + number(register) * 16;
    let high = fpu.0.get(start..start + 16).unwrap_or_default();
    for (target, source) in value.iter_mut().zip(low(fpu, register).iter().chain(high)) {
        *target = *source;
    }
    value
}

/// Writes a register as VEX does: bytes from `length` on become zero.
fn set_vector(fpu: &mut XsaveArea, register: Register, value: &Ymm, length: usize) {
    let mut whole = [0; 32];
    for (target, source) in whole.iter_mut().zip(value.iter().take(length)) {
        *target = *source;
    }
    let (low, high) = whole.split_at(16);
    x87::put(fpu, XsaveArea::XMM + number(register) * 16, low);
    x87::put(fpu, XsaveArea::YMM_HIGH + number(register) * 16, high);
}

fn mmx(fpu: &XsaveArea, register: Register) -> [u8; 8] {
    // MM registers are physical; the image counts from the top of the stack.
    let top = usize::from(x87::status(fpu) >> 11 & 7);
    let [value @ .., _, _] = x87::register(fpu, number(register).wrapping_sub(top));
    value
}

/// Bytes of an element of a masked move.
fn element_size(instruction: &Instruction) -> usize {
    match instruction.mnemonic() {
        Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd => 4,
        _ => 8,
    }
}

/// The elements of `mask` with whether their sign bit is set.
fn selected(mask: &[u8], size: usize) -> impl Iterator<Item = (usize, bool)> + '_ {
    mask.chunks_exact(size).enumerate().map(move |(i, e)| (i * size, e.last().is_some_and(|&byte| byte >> 7 != 0)))
}

fn masked_load<M: ElementMemory>(
    instruction: &Instruction,
    fpu: &mut XsaveArea,
    address: ElementAddress,
    memory: &mut M,
) -> Result<(), M::Fault> {
    let (size, length) = (element_size(instruction), instruction.op0_register().size());
    let mask = vector(fpu, instruction.op1_register());
    let mut value = [0; 32];
    for (offset, wanted) in selected(&mask, size).take_while(|&(offset, _)| offset < length) {
        if let (true, Some(element)) = (wanted, value.get_mut(offset..offset + size)) {
            memory.read(address.at(offset as u64), element)?;
        }
    }
    set_vector(fpu, instruction.op0_register(), &value, length);
    Ok(())
}

fn masked_store<M: ElementMemory>(
    instruction: &Instruction,
    fpu: &XsaveArea,
    address: ElementAddress,
    memory: &mut M,
) -> Result<(), M::Fault> {
    let (size, length) = (element_size(instruction), instruction.op2_register().size());
    let mask = vector(fpu, instruction.op1_register());
    let source = vector(fpu, instruction.op2_register());
    let written =
        || selected(&mask, size).filter(|&(offset, wanted)| wanted && offset < length).map(|(offset, _)| offset);
    // Nothing is written if any element may not be.
    for offset in written() {
        memory.check_write(address.at(offset as u64), size)?;
    }
    for offset in written() {
        if let Some(element) = source.get(offset..offset + size) {
            memory.write(address.at(offset as u64), element)?;
        }
    }
    Ok(())
}

fn store_bytes<M: ElementMemory>(
    source: &[u8],
    mask: &[u8],
    address: ElementAddress,
    memory: &mut M,
) -> Result<(), M::Fault> {
    for ((offset, byte), mask) in source.iter().enumerate().zip(mask) {
        if mask >> 7 != 0 {
            memory.write(address.at(offset as u64), std::slice::from_ref(byte))?;
        }
    }
    Ok(())
}

/// Bytes of an index and of an element of a gather, and how many there are.
struct GatherShape {
    index: usize,
    element: usize,
    count: usize,
}

impl GatherShape {
    fn of(instruction: &Instruction) -> Self {
        use Mnemonic as M;
        let (index, element) = match instruction.mnemonic() {
            M::Vpgatherdd | M::Vgatherdps => (4, 4),
            M::Vpgatherdq | M::Vgatherdpd => (4, 8),
            M::Vpgatherqd | M::Vgatherqps => (8, 4),
            _ => (8, 8),
        };
        let indices = instruction.memory_index().size() / index;
        let elements = instruction.op0_register().size() / element;
        Self { index, element, count: indices.min(elements) }
    }
}

fn gather<M: ElementMemory>(
    instruction: &Instruction,
    fpu: &mut XsaveArea,
    address: ElementAddress,
    memory: &mut M,
) -> Result<(), M::Fault> {
    let shape = GatherShape::of(instruction);
    let (target, mask_register) = (instruction.op0_register(), instruction.op2_register());
    let indices = vector(fpu, instruction.memory_index());
    let scale = u64::from(instruction.memory_index_scale());
    let (mut value, mut mask) = (vector(fpu, target), vector(fpu, mask_register));
    let length = shape.count * shape.element;
    let mut result = Ok(());
    for (i, index) in indices.chunks_exact(shape.index).take(shape.count).enumerate() {
        let bytes = i * shape.element..(i + 1) * shape.element;
        let (Some(element), Some(mask)) = (value.get_mut(bytes.clone()), mask.get_mut(bytes)) else { break };
        let wanted = mask.last().is_some_and(|&byte| byte >> 7 != 0);
        if wanted && result.is_ok() {
            let index = sign_extended(index).wrapping_mul(scale);
            result = memory.read(address.at(index), element);
        }
        // What is still to be done after a fault keeps its mask.
        mask.fill(if wanted && result.is_err() { 0xff } else { 0 });
    }
    set_vector(fpu, target, &value, if result.is_ok() { length } else { 32 });
    set_vector(fpu, mask_register, &mask, length);
    result
}

fn sign_extended(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<8>(), bytes.first_chunk::<4>()) {
        (Some(&wide), _) => u64::from_le_bytes(wide),
        (None, Some(&narrow)) => i64::from(i32::from_le_bytes(narrow)) as u64,
        _ => 0,
    }
}
