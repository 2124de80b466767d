//! The last blocks that ran, for crash reports; the instruction that is about to run, for traces.

use crate::cpu::{CodeSize, Cpu, seg};
use crate::mmu::{Access, PAGE_MASK, Privilege};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, IntelFormatter};
use motu_hv::RecentInstruction;
use std::collections::VecDeque;

/// Blocks remembered.
const BLOCKS: usize = 32;
/// Instructions that a report shows.
const SHOWN: usize = 64;
/// Instructions of a block at most.
const LONGEST: usize = 64;
/// Bytes of an instruction at most (SDM vol. 2, 2.3.11).
const LONGEST_INSTRUCTION: usize = 15;

/// Where a block began: its address in the code segment, and that segment.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    rip: u64,
    base: u64,
    selector: u16,
    /// 16, 32 or 64.
    bits: u16,
}

/// A ring of block addresses, cheap enough to be kept always.
#[derive(Debug, Default)]
pub struct History {
    ring: [Place; BLOCKS],
    next: usize,
}

impl History {
    #[inline(always)]
    pub fn note(&mut self, rip: u64, cpu: &Cpu) {
        self.ring[self.next % BLOCKS] = Place::of(rip, cpu);
        self.next = self.next.wrapping_add(1);
    }

    /// The last instructions of the remembered blocks, oldest first, as far as their code can still be read.
    pub fn instructions(&self, cpu: &Cpu) -> Vec<RecentInstruction> {
        let mut shown = VecDeque::new();
        let count = self.next.min(BLOCKS);
        let mut after: Option<Place> = None;
        for place in (self.next - count..self.next).rev().map(|n| self.ring[n % BLOCKS]) {
            let mut block = disassemble(cpu, place, LONGEST);
            // The newest block ran up to RIP, each one before it up to where the next one began, or a jump to there.
            let ran = match after {
                None => block.iter().position(|i| i.shown.rip == cpu.rip).map(|last| last + 1),
                Some(next) => {
                    let ran = block.iter().enumerate().find_map(|(n, i)| match i {
                        _ if i.jumps_to == Some(next.rip) => Some(n + 1),
                        _ if n > 0 && i.shown.rip == next.rip => Some(n),
                        _ => None,
                    });
                    // Code that was left before its first instruction, which another one then ran.
                    let nothing = next.rip == place.rip && block.last().is_none_or(|last| !last.leads_anywhere);
                    ran.or(nothing.then_some(0))
                }
            };
            block.truncate(ran.unwrap_or(block.len()));
            block.into_iter().rev().for_each(|instruction| shown.push_front(instruction.shown));
            if shown.len() >= SHOWN {
                shown.drain(..shown.len() - SHOWN);
                break;
            }
            after = Some(place);
        }
        shown.into()
    }
}

impl Place {
    #[inline(always)]
    fn of(rip: u64, cpu: &Cpu) -> Self {
        let selector = cpu.segments[seg::CS].selector;
        Self { rip, base: cpu.bases[seg::CS], selector, bits: cpu.code_size as u16 }
    }

    /// The linear address of `rip` in this segment.
    fn linear(&self, rip: u64) -> u64 {
        let mask = if self.bits == CodeSize::Bits64 as u16 { u64::MAX } else { 0xffff_ffff };
        rip.wrapping_add(self.base) & mask
    }
}

impl Cpu {
    /// The instruction at RIP, if someone wants to know each.
    pub fn traced_instruction(&self) -> Option<RecentInstruction> {
        self.tracer.as_ref().filter(|tracer| tracer.wants_instructions())?;
        disassemble(self, Place::of(self.rip, self), 1).pop().map(|instruction| instruction.shown)
    }
}

struct Disassembled {
    shown: RecentInstruction,
    /// Where a direct jump leads.
    jumps_to: Option<u64>,
    /// Where it leads is not in its bytes.
    leads_anywhere: bool,
}

/// The first instructions at a place, up to a branch that is always taken or what is no instruction, and at most `limit`. The
/// page tables are those of now.
fn disassemble(cpu: &Cpu, place: Place, limit: usize) -> Vec<Disassembled> {
    let bytes = code_bytes(cpu, place, limit * LONGEST_INSTRUCTION);
    let mut formatter = IntelFormatter::new();
    let mut found = Vec::new();
    let decoder = Decoder::with_ip(place.bits.into(), &bytes, place.rip, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(limit) {
        let rip = instruction.ip();
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let shown = RecentInstruction { cs: place.selector, rip, linear: place.linear(rip), text };
        let flow = instruction.flow_control();
        let conditional = flow == FlowControl::ConditionalBranch;
        let direct = conditional || matches!(flow, FlowControl::UnconditionalBranch | FlowControl::Call);
        found.push(Disassembled {
            shown,
            jumps_to: direct.then(|| instruction.near_branch_target()),
            leads_anywhere: !direct && flow != FlowControl::Next,
        });
        if instruction.is_invalid() || !(conditional || flow == FlowControl::Next) {
            break;
        }
    }
    found
}

/// As many bytes of code as can be read, at most `limit`.
fn code_bytes(cpu: &Cpu, place: Place, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(limit);
    let mut page = None;
    while bytes.len() < limit {
        let linear = place.linear(place.rip.wrapping_add(bytes.len() as u64));
        if linear & PAGE_MASK == 0 {
            page = None;
        }
        let found = page.or_else(|| cpu.mmu.walk(linear, Access::Read, Privilege::SupervisorWithUser).ok());
        let Some(start) = found.map(|page| page.physical) else { break };
        let Some([byte]) = cpu.mmu.ram.read::<1>(start + (linear & PAGE_MASK)) else { break };
        bytes.push(byte);
        page = found;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{UserHarness, UserPage};

    #[test]
    fn a_block_is_shown_up_to_the_jump_that_was_taken() {
        const CODE: u64 = 0x40_0000;
        let page = UserPage { linear: CODE, frame: 0, writable: false };
        let mut harness = UserHarness::new("v2-2026", &[page]).unwrap();
        // NOP; JE +1; NOP; JNE +1; NOP; RET.
        harness.write(0, &[0x90, 0x74, 0x01, 0x90, 0x75, 0x01, 0x90, 0xc3]);
        // NOP; JMP to itself.
        harness.write(16, &[0x90, 0xeb, 0xfe]);
        let shown = |harness: &mut UserHarness, blocks: &[u64], rip: u64| {
            let cpu = harness.cpu();
            let mut history = History::default();
            blocks.iter().for_each(|block| history.note(CODE + block, cpu));
            cpu.rip = CODE + rip;
            history.instructions(cpu).iter().map(|i| i.rip - CODE).collect::<Vec<u64>>()
        };
        // The first jump was taken, over the second NOP; nothing was, up to the RET; the second was.
        assert_eq!(shown(&mut harness, &[0, 4], 4), [0, 1, 4]);
        assert_eq!(shown(&mut harness, &[0], 7), [0, 1, 3, 4, 6, 7]);
        assert_eq!(shown(&mut harness, &[0, 7], 7), [0, 1, 3, 4, 7]);
        // Code that was left at once, and what was left to.
        assert_eq!(shown(&mut harness, &[16, 16], 17), [16, 17]);
        // A block that ended where the next one began.
        assert_eq!(shown(&mut harness, &[0, 3], 3), [0, 1, 3]);
    }
}
