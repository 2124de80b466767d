//! Which way a block goes on behind a branch.

use super::Op;
use super::block::{MAX_OPS, Reach};
use super::lower::{ends_block, is_way_out};
use crate::mmu::PAGE;
use iced_x86::{Code, CodeSize, Instruction};

/// Conditional jumps that an extended block goes on behind.
pub const MAX_WAYS_OUT: usize = 4;
/// Calls one in the other that a block follows.
const MAX_CALLS: usize = 4;
/// Rounds of a loop that a block consists of.
const MAX_ROUNDS: usize = 4;

/// The branches so far of a block that is being decoded.
pub struct Way {
    reach: Reach,
    /// Where the block begins, and what lies before it in its page.
    start: u64,
    before: u64,
    ways_out: usize,
    /// Rounds so far of a loop that begins where the block does.
    rounds: usize,
    /// The functions that it is in: where each begins, and where it returns to.
    calls: Vec<(u64, u64)>,
}

impl Way {
    pub fn new(reach: Reach, start: u64, before: u64) -> Self {
        Self { reach, start, before, ways_out: 0, rounds: 0, calls: Vec::new() }
    }

    /// Where the block goes on behind `instruction`, the last of `ops`; `None` if it ends there.
    pub fn behind(&mut self, instruction: &Instruction, ops: &[Op]) -> Option<u64> {
        if self.reach >= Reach::Extended && is_way_out(instruction) {
            self.ways_out += 1;
            return (self.ways_out <= MAX_WAYS_OUT).then_some(instruction.next_ip());
        }
        if !instruction.is_invalid() && !ends_block(instruction) {
            return Some(instruction.next_ip()).filter(|&next| next != self.start);
        }
        if self.reach < Reach::Path { None } else { self.follow(instruction, ops) }
    }

    /// Where a branch leads that is not conditional, if it stays in the page and does not close a loop; or a conditional one that
    /// leads to where the block begins.
    fn follow(&mut self, branch: &Instruction, ops: &[Op]) -> Option<u64> {
        let (target, back) = (branch.near_branch_target(), branch.next_ip());
        match branch.code() {
            _ if branch.is_jcc_short_or_near() => {
                self.rounds += 1;
                // All rounds are as long as the first.
                let goes_on = self.rounds < MAX_ROUNDS && ops.len() + ops.len() / self.rounds <= MAX_OPS;
                (target == self.start && goes_on && branch.code_size() != CodeSize::Code16).then_some(target)
            }
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => {
                let closes = ops.iter().any(|op| op.begin(self.start) == target);
                (self.is_near(target) && !closes).then_some(target)
            }
            Code::Call_rel32_64 | Code::Call_rel32_32 => {
                let recurs = target == self.start || self.calls.iter().any(|&(function, _)| function == target);
                if self.calls.len() >= MAX_CALLS || recurs || !self.is_near(target) || !self.is_near(back) {
                    return None;
                }
                self.calls.push((target, back));
                Some(target)
            }
            Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16 => self.calls.pop().map(|(_, back)| back),
            _ => None,
        }
    }

    /// Whether an address is in the page.
    fn is_near(&self, rip: u64) -> bool {
        rip.wrapping_sub(self.start).wrapping_add(self.before) < PAGE
    }
}
