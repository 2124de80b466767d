//! Accesses to the stack that one check serves.
//!
//! What a block accesses relative to RSP lies close together. Where RSP changes by constants only, the accesses
//! form a group: the whole range is checked once, where flags are dead if there is such a place, and the host's
//! address kept in the frame.

use super::select::{Kind, Operand, Selected};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Bytes from the lowest to the highest address of a group at most: a longer one crosses a page too often.
const REACH: i64 = 768;

/// An access that belongs to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its address less RSP as it is before the instruction.
    pub from_rsp: i64,
}

/// A range of the stack to be checked before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The lowest address less RSP as it is before that instruction.
    pub from_rsp: i64,
    /// Bytes.
    pub length: i64,
    pub write: bool,
}

/// What the group plan says of one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    pub member: Option<Member>,
    pub check: Option<Check>,
}

/// One access, relative to RSP at the beginning of its group.
#[derive(Clone, Copy)]
struct Access {
    index: usize,
    at: i64,
    /// RSP before the instruction, as far as the group knows.
    rsp: i64,
    size: i64,
    write: bool,
}

/// How an instruction changes RSP.
enum Change {
    By(i64),
    Unknown,
}

fn change(instruction: &Instruction, kind: Kind) -> Change {
    match kind {
        Kind::Push | Kind::PushFlags | Kind::Call | Kind::CallIndirect => return Change::By(-8),
        Kind::Pop if instruction.op0_register() != Register::RSP => return Change::By(8),
        // The interpreter may change any register.
        Kind::Pop | Kind::Leave | Kind::Interpret => return Change::Unknown,
        Kind::Return => return Change::By(i64::from(instruction.stack_pointer_increment())),
        _ => {}
    }
    let first = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register;
    let second = instruction.op_count() > 1 && instruction.op1_kind() == OpKind::Register;
    let is_rsp = |register: Register| register.is_gpr() && register.full_register() == Register::RSP;
    let writes_second =
        matches!(instruction.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg | Mnemonic::Mulx);
    if writes_second && second && is_rsp(instruction.op1_register()) {
        return Change::Unknown;
    }
    if !first || !is_rsp(instruction.op0_register()) {
        return Change::By(0);
    }
    let immediate = instruction.op_count() > 1 && instruction.op0_register() == Register::RSP && {
        matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64)
    };
    match instruction.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt => Change::By(0),
        Mnemonic::Add if immediate => Change::By(instruction.immediate(1) as i64),
        Mnemonic::Sub if immediate => Change::By((instruction.immediate(1) as i64).wrapping_neg()),
        Mnemonic::Lea
            if instruction.op0_register() == Register::RSP
                && instruction.memory_base() == Register::RSP
                && instruction.memory_index() == Register::None =>
        {
            Change::By(instruction.memory_displacement64() as i64)
        }
        _ => Change::Unknown,
    }
}

/// The access to the stack that an instruction makes at a constant distance from RSP: distance, size, write.
fn access(instruction: &Instruction, selected: &Selected) -> Option<(i64, i64, bool)> {
    match selected.kind {
        // With a memory operand the pushed value's own access is checked by itself.
        Kind::Push | Kind::PushFlags | Kind::Call | Kind::CallIndirect => Some((-8, 8, true)),
        Kind::Pop | Kind::Return => Some((0, 8, false)),
        Kind::Copy | Kind::JumpIndirect | Kind::Divide => {
            let Operand { size, write, alignment } = selected.operand?;
            let plain = alignment == 1
                && instruction.memory_base() == Register::RSP
                && instruction.memory_index() == Register::None
                && !matches!(instruction.memory_segment(), Register::FS | Register::GS);
            plain.then_some((instruction.memory_displacement64() as i64, size.into(), write))
        }
        _ => None,
    }
}

/// Plans the groups of a block. `live` has the flags that matter before each instruction.
pub fn plan(instructions: &[(Instruction, Selected)], live: &[u32]) -> Vec<Planned> {
    let mut planned = vec![Planned::default(); instructions.len()];
    let mut rsp = 0i64;
    let mut positions: Vec<i64> = Vec::with_capacity(instructions.len());
    let mut group: Vec<Access> = Vec::new();
    let mut start = 0;
    for (index, (instruction, selected)) in instructions.iter().enumerate() {
        positions.push(rsp);
        if let Some((distance, size, write)) = access(instruction, selected) {
            let new = Access { index, at: rsp.wrapping_add(distance), rsp, size, write };
            let low = group.iter().map(|a| a.at).fold(new.at, i64::min);
            let high = group.iter().map(|a| a.at + a.size).fold(new.at.saturating_add(size), i64::max);
            if high.saturating_sub(low) <= REACH {
                group.push(new);
            }
        }
        match change(instruction, selected.kind) {
            Change::By(bytes) if rsp.checked_add(bytes).is_some_and(|sum| sum.unsigned_abs() < 1 << 30) => rsp += bytes,
            _ => {
                close(&mut planned, &mut group, &positions, live, start);
                start = index + 1;
                rsp = 0;
            }
        }
    }
    close(&mut planned, &mut group, &positions, live, start);
    planned
}

fn close(planned: &mut [Planned], group: &mut Vec<Access>, positions: &[i64], live: &[u32], start: usize) {
    let Some(first) = group.first().map(|a| a.index) else { return };
    let low = group.iter().map(|a| a.at).min().unwrap_or_default();
    let high = group.iter().map(|a| a.at + a.size).max().unwrap_or_default();
    // The latest place where flags are dead, or the first access if they never are.
    let place = (start..=first).rev().find(|&n| live.get(n) == Some(&0)).unwrap_or(first);
    let write = group.iter().any(|a| a.write);
    let from_rsp = low - positions.get(place).copied().unwrap_or_default();
    if let Some(slot) = planned.get_mut(place) {
        slot.check = Some(Check { from_rsp, length: high - low, write });
    }
    for access in group.drain(..) {
        if let Some(slot) = planned.get_mut(access.index) {
            slot.member = Some(Member { from_rsp: access.at - access.rsp });
        }
    }
}
