//! From a decoded instruction to an operation.

use super::op::{Extra, Handler, Op};
use super::operands::operation;
use super::{gate, lower_integer, lower_locked, lower_system};
use crate::debugger;
use crate::exec::{guard, host, system};
use crate::native::NativeCache;
use iced_x86::Instruction;
use motu_x86::contract::Contract;

/// Lowers `instruction`, which lies `offset` bytes from its block's start. What the contract lacks, and
/// what is no instruction, becomes #UD. What `key` (see [`crate::cpu::key`]) wants checked gets a guard.
pub fn lower(instruction: &Instruction, offset: i16, key: u32, contract: &Contract, native: &mut NativeCache) -> Op {
    let mut op = lower_unguarded(instruction, offset, contract, native);
    // #UD comes before anything that a guard finds.
    let exists = !std::ptr::fn_addr_eq(op.run, system::undefined as Handler);
    if exists && let Some(guard) = guard::guard(instruction, key, &op) {
        let extra = op.extra.get_or_insert_with(|| bare(instruction));
        extra.guard = Some(guard);
        if extra.thunk.is_none() {
            op.run = guard::guarded;
        }
    }
    op
}

/// Has an operation stop where the host's debugger wants it to.
pub fn hold(instruction: &Instruction, op: &mut Op) {
    op.extra.get_or_insert_with(|| bare(instruction)).held = Some(op.run);
    op.run = debugger::held;
}

fn bare(instruction: &Instruction) -> Box<Extra> {
    Box::new(Extra { instruction: *instruction, thunk: None, guard: None, held: None })
}

fn lower_unguarded(instruction: &Instruction, offset: i16, contract: &Contract, native: &mut NativeCache) -> Op {
    let mut op = operation(instruction, offset);
    if instruction.is_invalid() || !gate::allows(contract, instruction) {
        op.run = system::undefined;
        return op;
    }
    let found = lower_locked::handler(instruction, &mut op)
        .or_else(|| lower_integer::handler(instruction, &mut op))
        .or_else(|| lower_system::handler(instruction, &mut op));
    if let Some(handler) = found {
        op.run = handler;
        return op;
    }
    let (handler, thunk) = host::lower(instruction, native);
    op.run = handler;
    op.extra = Some(Box::new(Extra { thunk, ..*bare(instruction) }));
    op
}

/// Bytes of a loop, more or less: a jump further back leads out of the way, as to a compiler's unlikely code.
const LONGEST_LOOP: u64 = 512;

/// Whether an instruction is a conditional jump that closes no loop, so that what comes behind it is the way on.
pub fn is_way_out(instruction: &Instruction) -> bool {
    let back = instruction.ip().wrapping_sub(instruction.near_branch_target());
    instruction.is_jcc_short_or_near() && !(0..=LONGEST_LOOP).contains(&back)
}

/// Whether decoding stops behind `instruction`: RIP goes elsewhere, or what follows may decode or
/// translate differently after it ran.
pub fn ends_block(instruction: &Instruction) -> bool {
    use iced_x86::{FlowControl, Mnemonic};
    let harmless = matches!(instruction.mnemonic(), Mnemonic::Cli | Mnemonic::Sti | Mnemonic::Swapgs | Mnemonic::Rdmsr);
    instruction.flow_control() != FlowControl::Next || (instruction.is_privileged() && !harmless)
}
