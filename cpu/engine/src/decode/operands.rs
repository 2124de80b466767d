//! Operands of an instruction as operations hold them.

use super::Op;
use crate::cpu::{seg, slot};
use crate::exec::system;
use iced_x86::{Instruction, OpKind, Register};

/// Byte offset of a general register in the register file.
pub fn register_offset(register: Register) -> u8 {
    let number = register.full_register().number() as u8 & 15;
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    number * 8 + u8::from(high)
}

/// Index of a segment register; DS for what is none.
pub fn segment_index(register: Register) -> u8 {
    (match register {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }) as u8
}

/// The shape of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    Register,
    Memory,
    Immediate,
}

/// The shape of operand `index`.
pub fn kind(instruction: &Instruction, index: u32) -> Kind {
    if index >= instruction.op_count() {
        return Kind::None;
    }
    match instruction.op_kind(index) {
        OpKind::Register => Kind::Register,
        OpKind::Memory => Kind::Memory,
        OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Kind::Immediate,
        _ => Kind::None,
    }
}

/// Bytes of operand `index`.
pub fn size(instruction: &Instruction, index: u32) -> usize {
    match kind(instruction, index) {
        Kind::Register => instruction.op_register(index).size(),
        Kind::Memory => instruction.memory_size().size(),
        _ => 0,
    }
}

/// The mask of an address of `bytes` bytes.
pub fn address_mask(bytes: usize) -> u64 {
    match bytes {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The mask of the address size that an instruction without a memory operand has.
pub fn default_address_mask(instruction: &Instruction) -> u64 {
    address_mask(match instruction.code_size() {
        iced_x86::CodeSize::Code16 => 2,
        iced_x86::CodeSize::Code32 => 4,
        _ => 8,
    })
}

/// An operation with operands filled in and no meaning yet. `offset` is the instruction's distance
/// from its block's start.
pub fn operation(instruction: &Instruction, offset: i16) -> Op {
    let mut op = Op {
        run: system::undefined,
        imm: 0,
        disp: 0,
        extra: None,
        address_mask: default_address_mask(instruction),
        offset,
        dst: 0,
        src: 0,
        base: slot::ZERO,
        index: slot::ZERO,
        scale: 0,
        segment: seg::DS as u8,
        len: instruction.len() as u8,
    };
    // A register in front is the destination; the first one behind it the source.
    let mut source = false;
    for i in 0..instruction.op_count() {
        if instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_gpr() {
            let register = register_offset(instruction.op_register(i));
            if i == 0 {
                op.dst = register;
            } else if !source {
                op.src = register;
                source = true;
            }
        }
        if kind(instruction, i) == Kind::Immediate {
            op.imm = instruction.immediate(i);
        }
    }
    memory(instruction, &mut op);
    op
}

/// Fills in the memory operand, explicit or of a string instruction.
fn memory(instruction: &Instruction, op: &mut Op) {
    for i in 0..instruction.op_count() {
        let bytes = match instruction.op_kind(i) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => 8,
            OpKind::Memory => {
                explicit(instruction, op);
                return;
            }
            _ => continue,
        };
        op.address_mask = address_mask(bytes);
        op.segment = segment_index(instruction.memory_segment());
    }
}

/// The segment of an explicit operand. In 64-bit mode prefixes other than FS and GS mean nothing, and the base
/// alone says whether it is the stack's (SDM vol. 1, 3.3.7.1 and 3.7.4).
fn operand_segment(instruction: &Instruction) -> Register {
    let segment = instruction.memory_segment();
    if instruction.code_size() != iced_x86::CodeSize::Code64 || matches!(segment, Register::FS | Register::GS) {
        return segment;
    }
    let on_stack = matches!(instruction.memory_base().full_register(), Register::RSP | Register::RBP);
    if on_stack { Register::SS } else { Register::DS }
}

fn explicit(instruction: &Instruction, op: &mut Op) {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    op.segment = segment_index(operand_segment(instruction));
    op.disp = instruction.memory_displacement64();
    if instruction.is_ip_rel_memory_operand() {
        // The decoder gives the target; the run adds the block's start.
        op.base = slot::BLOCK;
        op.disp = instruction.memory_displacement64().wrapping_sub(instruction.ip().wrapping_sub(op.offset as u64));
        op.address_mask = address_mask(if base == Register::EIP { 4 } else { 8 });
        return;
    }
    let mut bytes = instruction.memory_displ_size() as usize;
    if index != Register::None && index.is_gpr() {
        op.index = register_offset(index) >> 3;
        op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
        bytes = index.size();
    }
    if base != Register::None {
        op.base = register_offset(base) >> 3;
        bytes = base.size();
    }
    op.address_mask = address_mask(bytes);
}
