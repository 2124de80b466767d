//! A decoded instruction, ready to run.

use crate::cpu::{Cpu, Done};
use crate::exec::guard::Guard;
use crate::native::Thunk;
use iced_x86::Instruction;

/// Runs one instruction.
pub type Handler = fn(&mut Cpu, &Op) -> Done;

/// One instruction with its operands resolved as far as decoding can.
///
/// Register operands are byte offsets into the register file; base and index of a memory operand
/// are slots of it.
#[derive(Clone, Debug)]
pub struct Op {
    pub run: Handler,
    /// Immediate, sign-extended as the instruction has it; for near branches the target's distance
    /// from the block's start.
    pub imm: u64,
    /// Displacement of the memory operand; relative to the block's start for RIP-relative ones.
    pub disp: u64,
    /// What only rare instructions need.
    pub extra: Option<Box<Extra>>,
    /// Address mask of the effective address before the segment base is added.
    pub address_mask: u64,
    /// Bytes from the block's start to this instruction: less than zero if the block has followed a jump back.
    pub offset: i16,
    pub dst: u8,
    pub src: u8,
    pub base: u8,
    pub index: u8,
    /// Shift count of the index, 0 to 3.
    pub scale: u8,
    /// Segment register of the memory operand; see [`crate::cpu::seg`].
    pub segment: u8,
    /// Instruction length in bytes, 1 to 15.
    pub len: u8,
}

/// The instruction itself, for handlers that look at it while running.
#[derive(Clone, Debug)]
pub struct Extra {
    pub instruction: Instruction,
    pub thunk: Option<Thunk>,
    pub guard: Option<Guard>,
    /// What runs where the host's debugger does not stop: see [`crate::debugger`].
    pub held: Option<Handler>,
}

impl Op {
    /// Linear address of the memory operand.
    #[inline(always)]
    pub fn linear(&self, cpu: &Cpu) -> u64 {
        let base = cpu.bases[(self.segment & 7) as usize];
        self.effective(cpu).wrapping_add(base) & cpu.linear_mask
    }

    /// Effective address: the offset within the segment.
    #[inline(always)]
    pub fn effective(&self, cpu: &Cpu) -> u64 {
        let index = cpu.gpr(self.index) << (self.scale & 3);
        cpu.gpr(self.base).wrapping_add(index).wrapping_add(self.disp) & self.address_mask
    }

    /// Whether it may stop for the host's debugger.
    pub fn is_held(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.held.is_some())
    }

    /// Address of the next instruction.
    #[inline(always)]
    pub fn next_rip(&self, cpu: &Cpu) -> u64 {
        self.end(cpu.rip) & cpu.ip_mask()
    }

    /// Address of this instruction.
    pub fn rip(&self, cpu: &Cpu) -> u64 {
        self.begin(cpu.rip) & cpu.ip_mask()
    }

    /// Where the instruction begins if its block begins at `start`.
    #[inline(always)]
    pub fn begin(&self, start: u64) -> u64 {
        start.wrapping_add_signed(self.offset.into())
    }

    /// Where it ends.
    #[inline(always)]
    pub fn end(&self, start: u64) -> u64 {
        self.begin(start).wrapping_add(self.len.into())
    }
}
