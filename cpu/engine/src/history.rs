//! The last blocks that ran, for crash reports.

use crate::cpu::{CodeSize, Cpu, seg};
use crate::mmu::{Access, PAGE_MASK, Privilege};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use motu_hv::RecentInstruction;

/// Blocks remembered.
const BLOCKS: usize = 32;
/// Instructions of a block that a report shows.
const SHOWN: usize = 8;
/// Bytes of one instruction at most (SDM vol. 2, 2.3.11).
const MAX_LEN: usize = 15;

/// Where a block began: its address in the code segment, and that segment's base.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    rip: u64,
    base: u64,
    /// 16, 32 or 64.
    bits: u32,
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

    /// The instructions of the remembered blocks, oldest first, as far as their code can still be read.
    pub fn instructions(&self, cpu: &Cpu) -> Vec<RecentInstruction> {
        let count = self.next.min(BLOCKS);
        (self.next - count..self.next).flat_map(|n| disassemble(cpu, self.ring[n % BLOCKS], SHOWN)).collect()
    }
}

impl Place {
    #[inline(always)]
    fn of(rip: u64, cpu: &Cpu) -> Self {
        Self { rip, base: cpu.bases[seg::CS], bits: cpu.code_size as u32 }
    }
}

impl Cpu {
    /// The instruction at RIP, if someone wants to know each.
    pub fn traced_instruction(&self) -> Option<RecentInstruction> {
        self.tracer.as_ref().filter(|tracer| tracer.wants_instructions())?;
        disassemble(self, Place::of(self.rip, self), 1).pop()
    }
}

/// The first instructions at a place, up to a branch and at most `limit`. The page tables are those of now.
fn disassemble(cpu: &Cpu, Place { rip, base, bits }: Place, limit: usize) -> Vec<RecentInstruction> {
    let mask = if bits == CodeSize::Bits64 as u32 { u64::MAX } else { 0xffff_ffff };
    let linear = rip.wrapping_add(base) & mask;
    let Ok(page) = cpu.mmu.walk(linear, Access::Read, Privilege::SupervisorWithUser) else { return Vec::new() };
    let mut bytes = Vec::new();
    for offset in (linear & PAGE_MASK..=PAGE_MASK).take(limit * MAX_LEN) {
        let Some([byte]) = cpu.mmu.ram.read::<1>(page.physical + offset) else { break };
        bytes.push(byte);
    }
    let mut formatter = IntelFormatter::new();
    let mut found = Vec::new();
    let decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(limit) {
        if instruction.is_invalid() {
            break;
        }
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        found.push(RecentInstruction { rip: instruction.ip(), text });
        if instruction.flow_control() != iced_x86::FlowControl::Next {
            break;
        }
    }
    found
}
